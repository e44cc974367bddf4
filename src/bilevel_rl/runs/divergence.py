"""Divergence as a result: which seed left the finite numbers, at which iteration, in which quantity, and likely why."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PyTree

MAX_DEPTH_OF_NAMES = 2
"""A spoiled part of the state is named by that many steps into it."""

NO_ANSWER = (
    "the follower's exact answer did not converge, or its derivative overflowed: the entropy weight is too small for "
    "this precision, or reward or cost is not finite at the last x; raise the final entropy weight, or lower `upper`"
)

LIKELY_CAUSES = {
    "values": NO_ANSWER,
    "optimizer_state": NO_ANSWER,
    "x": "the upper step is too large for its noise, which grows like 1/penalty: lower `upper`, raise `penalty` or "
    "`num_chains`, or bound x by `project`; or the regularizer or the reward has no finite gradient at the last x",
    "parameters": "the policies outrun their critics: lower `actor` and `critic`, keeping actor <= critic; or the "
    "reward or cost is not finite at the last x: check both, and clip the critics by `reward_bound` and `cost_bound`",
}


OVERFLOW = (
    "reward or cost is so large, or its gradient so steep, that the square of a number of the iteration overflows: "
    "lower the step sizes, or measure reward and cost in larger units"
)
"""Where the state itself is fine."""

LARGEST = 1e15
"""What no quantity of a problem in sensible units comes near to; a state beyond it goes on to infinity, or to nothing
that can be measured in single precision."""

SQUARES = "optimizer_state"
"""The part of a state that holds squares of other numbers."""


class Health(NamedTuple):
    """Which leaves of the seeds' states, and of what their iterations said of themselves, can be gone on with."""

    state: PyTree[Bool[ArrayLike, "..."]]
    info: PyTree[Bool[ArrayLike, "..."]] = ()


def healthy(state: PyTree, over: Callable[[Callable], Callable] = lambda function: function) -> PyTree:
    """Which leaves of a state can be gone on with: finite ones, up to `LARGEST`, or its square where they are squares.

    Args:
        state: of one seed, or of several.
        over: `jax.vmap` for several.
    """

    def of_leaf(path: Sequence[Any], leaf: Array) -> Array:
        largest = LARGEST**2 if _named(path[:1]) == SQUARES else LARGEST
        return over(lambda leaf: jnp.all((leaf <= largest) & (leaf >= -largest)))(leaf)

    return jax.tree.map_with_path(of_leaf, state)


@dataclass(frozen=True)
class Divergence:
    """A seed that was stopped because its next iteration would have left the finite numbers.

    Attributes:
        seed: which.
        num_iterations: iterations done; the state kept is that one, the last finite.
        quantity: the part of the state that the next iteration would have spoiled.
        likely_cause: what usually does that, and what to change.
    """

    seed: int
    num_iterations: int
    quantity: str
    likely_cause: str

    def __str__(self) -> str:
        return (
            f"seed {self.seed} diverged: {self.quantity} is not finite after iteration {self.num_iterations}; the last "
            f"finite state is kept (beyond {LARGEST:g} counts as infinite). Likely cause: {self.likely_cause}."
        )


def locate(health_after: Callable[[int], Health], seed: int, first: int, last: int) -> Divergence:
    """Halves the iterations first … last that a seed left the finite numbers in.

    Args:
        health_after: from a number of iterations to what is finite then.
        seed: which seed.
        first: iterations after which it was still finite.
        last: iterations after which it was not.
    """

    def is_finite(num_iterations: int) -> bool:
        return all(leaf[seed] for leaf in jax.tree.leaves(health_after(num_iterations)))

    spoiled = bisect.bisect_left(range(first + 1, last), True, key=lambda k: not is_finite(k)) + first + 1
    return explain(health_after(spoiled), seed, spoiled - 1)


def explain(health: Health, seed: int, num_iterations: int) -> Divergence:
    """What a seed was stopped for.

    Args:
        health: which leaves of which seeds would have been finite after the next iteration.
        seed: which seed.
        num_iterations: iterations that it has done.
    """
    names = _spoiled(health.state, seed)
    if not names:
        # What is measured of an iteration overflows before the state does where it squares it.
        return Divergence(seed, num_iterations, " and ".join(_spoiled(health.info, seed)), OVERFLOW)
    spoiled_by = (cause for name, cause in LIKELY_CAUSES.items() if any(leaf.startswith(name) for leaf in names))
    cause = next(spoiled_by, LIKELY_CAUSES["x"])
    return Divergence(seed, num_iterations, " and ".join(names), cause)


def _spoiled(is_finite: PyTree, seed: int) -> list[str]:
    """Names of the leaves that a seed has spoiled. A network has many arrays; that they are its weights says enough."""
    paths = (path for path, leaf in jax.tree.leaves_with_path(is_finite) if not np.asarray(leaf)[seed])
    return list(dict.fromkeys(_named(path[:MAX_DEPTH_OF_NAMES]) for path in paths))


def _named(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path)).lstrip(".")
