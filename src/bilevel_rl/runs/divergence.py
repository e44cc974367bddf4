"""Divergence as a result: which seed left the finite numbers, at which iteration, in which quantity, and likely why."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

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
            f"finite state is kept. Likely cause: {self.likely_cause}."
        )


def locate(finite_after: Callable[[int], PyTree], seed: int, first: int, last: int) -> Divergence:
    """Halves the iterations first … last that a seed left the finite numbers in.

    Args:
        finite_after: from a number of iterations to which leaves of which seeds' states are finite then.
        seed: which seed.
        first: iterations after which it was still finite.
        last: iterations after which it was not.
    """

    def is_finite(num_iterations: int) -> bool:
        return all(leaf[seed] for leaf in jax.tree.leaves(finite_after(num_iterations)))

    spoiled = bisect.bisect_left(range(first + 1, last), True, key=lambda k: not is_finite(k)) + first + 1
    return explain(finite_after(spoiled), seed, spoiled - 1)


def explain(is_finite: PyTree, seed: int, num_iterations: int) -> Divergence:
    """What a seed was stopped for.

    Args:
        is_finite: which leaves of which seeds' states would have been finite after the next iteration.
        seed: which seed.
        num_iterations: iterations that it has done.
    """
    # A network has many arrays; that they are its weights says enough.
    names = dict.fromkeys(
        jax.tree_util.keystr(path[:MAX_DEPTH_OF_NAMES]).lstrip(".")
        for path, leaf in jax.tree.leaves_with_path(is_finite)
        if not np.asarray(leaf)[seed]
    )
    spoiled_by = (cause for name, cause in LIKELY_CAUSES.items() if any(leaf.startswith(name) for leaf in names))
    cause = next(spoiled_by, LIKELY_CAUSES["x"])
    return Divergence(seed, num_iterations, " and ".join(names), cause)
