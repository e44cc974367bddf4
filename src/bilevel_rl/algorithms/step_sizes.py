"""Step sizes of the single-loop method: five sequences and the conditions that keep them in order.

Source: arXiv 2601.16399, Algorithm 1; the validity conditions are ours (docs/explanation/method.md, section 4).

| symbol | name      | what it scales                                          |
|--------|-----------|---------------------------------------------------------|
| ζ_k    | `upper`   | step on the upper variable x                            |
| α_k    | `actor`   | step on both policies                                   |
| β_k    | `critic`  | step on both critics                                    |
| w_k    | `penalty` | penalty parameter: smaller means a harder penalty       |
| τ_k    | `entropy` | entropy weight of the lower-level problem               |
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Real

from bilevel_rl import checks

SEQUENCES = ("upper", "actor", "critic", "penalty", "entropy")

_DECAYING_EXPONENTS = (9 / 10, 1 / 2, 1 / 2, 3 / 20, 1 / 20)
_CONSTANT_ENTROPY_EXPONENTS = (2 / 3, 1 / 2, 1 / 2, 1 / 6, 0.0)
_FIXED_TARGET_EXPONENTS = (1 / 2, 0.0, 0.0, 0.0, 0.0)


class ScheduleWarning(UserWarning):
    """The step sizes violate a condition that the method's convergence relies on."""


def as_leaf(name: str) -> Callable[[ArrayLike], ArrayLike]:
    """Converter of a field: a number as an array, which `vmap` maps and one compiled program takes all values of."""
    # NumPy float64 leaves: traced by jit, mapped by vmap, and still exact when an oracle runs in double precision.
    return partial(checks.real, name)


def check_leaf(name: str, value: ArrayLike, *, allow_zero: bool = False, allow_infinite: bool = False):
    """Raises `ValueError` unless all numbers of a field are positive, or 0 where allowed, and finite unless allowed."""
    if isinstance(value, Tracer):
        return
    array = np.asarray(value)
    fits = (array > 0) | (allow_zero & (array == 0))
    if not array.size or not np.all(fits) or not (allow_infinite or np.all(np.isfinite(array))):
        sign = "non-negative" if allow_zero else "positive"
        wanted = f"{sign} (may be infinite)" if allow_infinite else f"finite and {sign}"
        raise ValueError(f"{name} must be {wanted}, got {checks.shown(value)}")


class PowerDecay(eqx.Module):
    """The sequence `initial · (1 + k / offset) ** (−exponent)`.

    All three fields are array leaves, so a whole grid of schedules runs under `jax.vmap`. `offset=1` is the paper's
    form c / (k + 1)^p; a larger offset holds the initial value for about `offset` iterations.

    Raises:
        TypeError: a field does not hold real numbers.
        ValueError: a field is not finite, `initial` or `exponent` is negative, or `offset` is not positive.

    Example:
        >>> from bilevel_rl import PowerDecay
        >>> decay = PowerDecay(initial=2.0, exponent=0.5, offset=1.0)
        >>> float(decay(3))
        1.0
    """

    initial: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("initial of a step-size sequence"))
    exponent: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("exponent of a step-size sequence"))
    offset: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("offset of a step-size sequence"), default=1.0)

    def __check_init__(self):
        for name in ("initial", "exponent", "offset"):
            check_leaf(f"{name} of a step-size sequence", getattr(self, name), allow_zero=name != "offset")

    def __call__(self, num_iterations: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Value of the sequence at iteration k (scalar, or any shape that broadcasts)."""
        return jnp.asarray(self.initial) * (1 + jnp.asarray(num_iterations) / self.offset) ** -jnp.asarray(
            self.exponent
        )


class GeometricDecay(eqx.Module):
    """The sequence `initial · (final / initial) ** min(1, k / num_iterations)`: annealing, and then a constant.

    All three fields are array leaves, as those of `PowerDecay`.

    Raises:
        TypeError: a field does not hold real numbers.
        ValueError: a field is not finite and positive.

    Example:
        >>> from bilevel_rl import GeometricDecay
        >>> [round(float(GeometricDecay(initial=8.0, final=2.0, num_iterations=10)(k)), 3) for k in (0, 5, 10, 15)]
        [8.0, 4.0, 2.0, 2.0]
    """

    initial: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("initial of a geometric sequence"))
    final: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("final of a geometric sequence"))
    num_iterations: Float[ArrayLike, "..."] = eqx.field(converter=as_leaf("num_iterations of a geometric sequence"))

    def __check_init__(self):
        for name in ("initial", "final", "num_iterations"):
            check_leaf(f"{name} of a geometric sequence", getattr(self, name))

    @property
    def exponent(self) -> Float[np.ndarray, ""]:
        """0: in the long run the sequence is constant."""
        return np.zeros(())

    def __call__(self, num_iterations: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Value of the sequence at iteration k (scalar, or any shape that broadcasts)."""
        share = jnp.minimum(jnp.asarray(num_iterations) / self.num_iterations, 1.0)
        return jnp.asarray(self.initial) * (jnp.asarray(self.final) / self.initial) ** share


class StepSizeValues(NamedTuple):
    """The five step sizes at one iteration, each a scalar."""

    upper: Float[Array, "..."]
    actor: Float[Array, "..."]
    critic: Float[Array, "..."]
    penalty: Float[Array, "..."]
    entropy: Float[Array, "..."]


class StepSizes(eqx.Module):
    """The five sequences (ζ, α, β, w, τ) of Algorithm 1, called with the iteration number.

    Build one with `StepSizes.decaying()` or `StepSizes.constant_entropy()`, or pass five sequences of your own.

    Raises:
        TypeError: a field is no sequence.
        ValueError: the penalty or the entropy weight is 0.

    Example:
        >>> import bilevel_rl as brl
        >>> step_sizes = brl.StepSizes.decaying(upper=0.01)
        >>> round(float(step_sizes(0).upper), 6)
        0.01
        >>> step_sizes.violations()
        []
    """

    upper: PowerDecay | GeometricDecay
    actor: PowerDecay | GeometricDecay
    critic: PowerDecay | GeometricDecay
    penalty: PowerDecay | GeometricDecay
    entropy: PowerDecay | GeometricDecay

    def __check_init__(self):
        for name in SEQUENCES:
            remedy = "write PowerDecay(initial, exponent), or use StepSizes.decaying"
            checks.instance(name, getattr(self, name), PowerDecay, GeometricDecay, remedy=remedy)
        for name in ("penalty", "entropy"):
            initial = getattr(self, name).initial
            if not isinstance(initial, Tracer) and np.any(np.asarray(initial) == 0):
                raise ValueError(f"step sizes, {name}: initial must be positive, got {initial}")

    @classmethod
    def decaying(
        cls,
        *,
        upper: float = 0.03,
        actor: float = 1.0,
        critic: float = 4.0,
        penalty: float = 1.0,
        entropy: float = 0.1,
        offset: float = 20_000.0,
        exponents: tuple[float, float, float, float, float] = _DECAYING_EXPONENTS,
    ) -> "StepSizes":
        """The paper's schedule: the entropy weight vanishes too, so the *unregularized* Φ is solved.

        Args:
            upper, actor, critic, penalty, entropy: initial values ζ_0, α_0, β_0, w_0, τ_0.
            offset: iterations that the initial values last; 1 is the paper's form c / (k + 1)^p.
            exponents: decay exponents, in the order (ζ, α, β, w, τ).

        Raises:
            TypeError: a value is no number.
            ValueError: a value is not finite, negative, or `penalty`, `entropy` or `offset` is not positive.
        """
        return cls._from_initial((upper, actor, critic, penalty, entropy), exponents, offset)

    @classmethod
    def constant_entropy(
        cls,
        *,
        upper: float = 0.03,
        actor: float = 1.0,
        critic: float = 4.0,
        penalty: float = 1.0,
        entropy: float = 0.1,
        offset: float = 20_000.0,
        exponents: tuple[float, float, float, float, float] = _CONSTANT_ENTROPY_EXPONENTS,
    ) -> "StepSizes":
        """Constant entropy weight: faster, to a stationary point of the *regularized* objective Φ_τ.

        Arguments and errors as for `StepSizes.decaying`.
        """
        return cls._from_initial((upper, actor, critic, penalty, entropy), exponents, offset)

    @classmethod
    def fixed_target(
        cls,
        *,
        upper: float = 0.5,
        actor: float = 1.0,
        critic: float = 4.0,
        penalty: float = 0.3,
        entropy: float = 0.03,
        offset: float = 1_000.0,
        exponents: tuple[float, float, float, float, float] = _FIXED_TARGET_EXPONENTS,
    ) -> "StepSizes":
        """Fixed penalty and entropy weights, and fixed steps of the followers: for methods with an inner loop.

        They solve one regularized problem as well as they can; only ζ decays, which averages the noise of x out. Fewer
        and better steps of x than in a single loop allow a larger ζ. Arguments and errors as for `StepSizes.decaying`.
        """
        return cls._from_initial((upper, actor, critic, penalty, entropy), exponents, offset)

    @classmethod
    def _from_initial(cls, initials: tuple[float, ...], exponents: tuple[float, ...], offset: float) -> "StepSizes":
        if not isinstance(exponents, tuple | list | np.ndarray) or len(exponents) != len(SEQUENCES):
            raise ValueError(f"exponents must hold one number each for {SEQUENCES}, got {checks.shown(exponents)}")
        sequences = []
        for name, initial, exponent in zip(SEQUENCES, initials, exponents, strict=True):
            try:
                sequences.append(PowerDecay(initial, exponent, offset))
            except (TypeError, ValueError) as error:
                raise type(error)(f"step sizes, {name}: {error}") from error
        return cls(*sequences)

    def __call__(self, num_iterations: Real[ArrayLike, "..."]) -> StepSizeValues:
        """The five values at iteration k."""
        return StepSizeValues(*(getattr(self, name)(num_iterations) for name in SEQUENCES))

    @property
    def is_traced(self) -> bool:
        """Whether their values are not known yet, inside of a compiled function."""
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self))

    def overshoots(self, num_chains: int, num_steps: int, num_states: int) -> list[str]:
        """Says what the critics' first step exceeds: more than that, and they overshoot where they are tables.

        Args:
            num_chains: of every follower.
            num_steps: transitions of every chain in an iteration.
            num_states: rows of a table.
        """
        critic_step = float(np.max(np.asarray(self.critic.initial)))
        of_samples = "num_chains" if num_steps == 1 else "num_chains times num_steps"
        return [
            f"critic={critic_step:g} exceeds {limit}, {count}: the steps of an iteration on one state add up to more "
            "than a whole one, and critics overshoot; lower critic and actor"
            for limit, count in ((of_samples, num_chains * num_steps), ("the number of states", num_states))
            if critic_step > count
        ]

    def violations(self) -> list[str]:
        """Names every validity condition (docs/explanation/method.md, section 4) that these sequences violate.

        An empty list means a valid schedule. The conditions are necessary ones, from matching bias, noise and drift;
        with array-valued sequences a condition counts as violated where any entry violates it.
        """
        p = {name: np.asarray(getattr(self, name).exponent) for name in SEQUENCES}
        start = {name: np.asarray(getattr(self, name).initial) for name in SEQUENCES}
        decays = p["entropy"] > 0
        conditions = [
            (p["upper"] <= 1, "p_upper <= 1: otherwise the upper steps sum to a finite distance and x stops short"),
            (p["upper"] > p["actor"], "p_upper > p_actor: otherwise x moves as fast as the policies that answer it"),
            (p["actor"] >= p["critic"], "p_actor >= p_critic: otherwise the critics fall behind the policies"),
            (p["critic"] > p["penalty"], "p_critic > p_penalty: otherwise the penalty moves as fast as the critics"),
            (p["penalty"] > p["entropy"], "p_penalty > p_entropy: otherwise the entropy weight outruns the penalty"),
            (
                ~decays | (p["penalty"] > 2 * p["entropy"]),
                "p_penalty > 2 p_entropy: otherwise the penalty bias w/τ² does not vanish",
            ),
            (p["actor"] > 2 * p["penalty"], "p_actor > 2 p_penalty: otherwise the actor noise over w² does not vanish"),
            (
                ~decays | (p["upper"] - p["actor"] > 2 * p["penalty"]),
                "p_upper - p_actor > 2 p_penalty: otherwise the follower's answer drifts too fast",
            ),
            (
                start["actor"] <= start["critic"],
                "actor <= critic at the start: otherwise policies trust unlearned values",
            ),
        ]
        return [
            f"{text} (got " + ", ".join(f"p_{n}={np.round(v, 4)}" for n, v in p.items()) + f", actor={start['actor']}, "
            f"critic={start['critic']})"
            for holds, text in conditions
            if not np.all(holds)
        ]
