"""Transitions of a `FunctionalEnvironment` that depend on the upper variable, by the two ways to differentiate them.

Source: docs/explanation/method.md, section 5. Both estimate the same part of (HG), γ ∇_x E[V(s')] at fixed V.
"""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.checks.functions import takes

NextState = Callable[[PyTree, PyTree, Array, Array], PyTree]
"""A plain JAX function (x, state, action, key) → next state."""


class PathwiseTransition(eqx.Module):
    """Next states that x moves smoothly, the noise held fixed: γ E[∇_x V(s'_x(s, a, noise))], by the critic's slope.

    It has little noise, and asks for a critic whose slope in the state is right. What x does to a choice that jumps,
    such as a comparison with a uniform number, has no derivative and is lost: use a `ScoreTransition` there.

    Attributes:
        next_state: (x, state, action, key) → next state, differentiable in x.

    Raises:
        TypeError: `next_state` is no function of four arguments.

    Example:
        >>> import jax, jax.numpy as jnp, bilevel_rl as brl
        >>> from bilevel_rl.environments import PathwiseTransition
        >>> def next_state(x, s, a, key):  # A push a against friction x.
        ...     return jnp.stack([s[0] + 0.1 * s[1], s[1] - x * s[1] + a[0]])
        >>> cart = brl.FunctionalEnvironment(
        ...     initial=lambda key: jnp.zeros(2),
        ...     transition=PathwiseTransition(next_state),
        ...     observe=lambda s: s,
        ...     discount=0.9,
        ...     num_action_dimensions=1,
        ... )
        >>> rough = cart.at(0.5)
        >>> pushed = rough.step(rough.reset(0.3), jnp.array([1.0]), 0.3)
        >>> rough.step(pushed, jnp.array([0.0]), 0.3).state.round(3)
        Array([0.1, 0.5], dtype=float32)
    """

    next_state: NextState

    def __check_init__(self):
        takes("next_state", self.next_state, "x", "state", "action", "key")


class ScoreTransition(eqx.Module):
    """Next states with a density that x moves: γ E[∇_x log p_x(s'|s, a) (V(s') − V(s))], by the critic's values.

    It needs no slope of the critic, and nothing that is smooth but the density. Its noise grows as the noise of the
    transition shrinks: where next states hardly vary use a `PathwiseTransition`.

    Attributes:
        next_state: (x, state, action, key) → next state; never differentiated.
        log_density: (x, state, action, next_state) → log p_x(s'|s, a), up to what does not depend on x. For next states
            that are numbered, the logarithm of a probability.

    Raises:
        TypeError: a function takes other arguments.
    """

    next_state: NextState
    log_density: Callable[[PyTree, PyTree, Array, PyTree], Float[ArrayLike, ""]]

    def __check_init__(self):
        takes("next_state", self.next_state, "x", "state", "action", "key")
        takes("log_density", self.log_density, "x", "state", "action", "next_state")


class TransitionAt(eqx.Module):
    """Next states at one x: a function (state, action, key)."""

    next_state: NextState
    x: PyTree

    def __call__(self, state: PyTree, action: Array, key: Array) -> PyTree:
        """The next state."""
        return self.next_state(self.x, state, action, key)
