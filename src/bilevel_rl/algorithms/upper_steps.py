"""How estimates of the upper gradient become steps of x: an optax transformation, a recursive estimator, an average.

Sources: docs/explanation/method.md, section 5; Cutkosky and Orabona, "Momentum-based variance reduction in non-convex
SGD" (STORM), NeurIPS 2019; Shamir and Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013
(averages).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import PowerDecay

PLAIN = optax.sgd(1.0)

ADAM = optax.adam(1.0, eps=1e-18)
"""Blind to the gradient's unit: the offset is only for gradients whose squares single precision rounds to 0."""

Estimate = Callable[[PyTree], PyTree]
"""From x to an estimate of the upper gradient there, from this iteration's samples."""


class Memory(NamedTuple):
    """What the next step needs: of the optimizer; the last direction and x, for a recursion; the average of x."""

    optimizer: PyTree
    last: tuple[PyTree, PyTree] | None
    average: PyTree | None


class UpperSteps(eqx.Module):
    """Directions of x.

    With `recursion` = a the estimate g_k of iteration k is replaced by

        d_k(x_k) = g_k(x_k) + (1 − a_k) (d_{k−1} − g_k(x_{k−1})),

    where g_k(x_{k−1}) is from the samples of iteration k too. It follows x's own move without delay; the policies' move
    reaches it after some 1/a iterations, so a must not be smaller than their steps.

    Raises:
        TypeError: a field is of another type.
        ValueError: `recursion` starts outside of (0, 1], or `averaging` is negative or not finite.

    Attributes:
        optimizer: an optax transformation; its update is multiplied by ζ_k, so its own learning rate is best 1.
        recursion: a_k, in (0, 1]; None for d_k = g_k.
        averaging: p. The method's answer is then the mean of all x_k so far, weighted as k^p: with p = 3 the last sixth
            of the iterations has half of the weight. None: the answer is the last x.
    """

    optimizer: optax.GradientTransformation = eqx.field(static=True, default=PLAIN)
    recursion: PowerDecay | None = None
    averaging: float | None = None

    def __check_init__(self):
        checks.instance("optimizer", self.optimizer, optax.GradientTransformation, remedy="for instance optax.sgd(1.0)")
        if self.recursion is not None:
            checks.instance("recursion", self.recursion, PowerDecay, remedy="write PowerDecay(initial, exponent)")
            initial = self.recursion.initial
            if not isinstance(initial, Tracer) and not np.all((np.asarray(initial) > 0) & (np.asarray(initial) <= 1)):
                raise ValueError(f"recursion must lie in (0, 1], got {initial}; 1 forgets all earlier iterations")
        if self.averaging is not None:
            checks.number("averaging", self.averaging, at_least=0, remedy="None recommends the last x")

    def init(self, x: PyTree) -> Memory:
        """Before the first iteration."""
        last = None if self.recursion is None else (jax.tree.map(jnp.zeros_like, x), x)
        return Memory(self.optimizer.init(x), last, None if self.averaging is None else x)

    def step(
        self,
        estimate: Estimate,
        x: PyTree,
        memory: Memory,
        k: Int[Array, ""],
        step_size: Float[Array, ""],
        project: Callable[[PyTree], PyTree],
    ) -> tuple[PyTree, PyTree, Memory]:
        """x_{k+1} = Π_X[x_k − ζ_k d_k], the estimate of this iteration alone, and the memory for the next one."""
        direction, gradient, memory = self.direction(estimate, x, memory, k)
        x = project(jax.tree.map(lambda x, d: x - step_size * d, x, direction))
        return x, gradient, self.averaged(memory, x, k)

    def direction(
        self, estimate: Estimate, x: PyTree, memory: Memory, k: Int[Array, ""]
    ) -> tuple[PyTree, PyTree, Memory]:
        """What ζ_k multiplies and x loses, the estimate of this iteration alone, and the memory for the next one."""
        gradient = smoothed = estimate(x)
        last = None
        if self.recursion is not None and memory.last is not None:
            last_direction, last_x = memory.last
            kept = jnp.where(k == 0, 0.0, 1 - self.recursion(k))
            smoothed = jax.tree.map(lambda g, d, h: g + kept * (d - h), gradient, last_direction, estimate(last_x))
            last = smoothed, x
        updates, optimizer = self.optimizer.update(smoothed, memory.optimizer, x)
        return jax.tree.map(jnp.negative, updates), gradient, Memory(optimizer, last, memory.average)

    def averaged(self, memory: Memory, x: PyTree, k: Int[Array, ""]) -> Memory:
        """The memory after x_{k+1} has been reached."""
        if self.averaging is None:
            return memory
        weight = (self.averaging + 1) / (k + self.averaging + 2)
        return memory._replace(average=jax.tree.map(lambda mean, x: mean + weight * (x - mean), memory.average, x))
