"""The kernel at one x, in NumPy: what can follow what, where the follower drifts, and some walks of it."""

from dataclasses import dataclass

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, PyTree

from bilevel_rl.exact.oracle import in_double_precision
from bilevel_rl.formulation import BilevelProblem

NUM_WALKS, MOST_STEPS = 8, 40


@dataclass(frozen=True)
class Kernel:
    """P_x of a `TabularMDP`; terminal states lead to themselves."""

    successors: Int[np.ndarray, "S A K"]
    probabilities: Float[np.ndarray, "S A K"]
    initial: Float[np.ndarray, " S"]
    terminal: Bool[np.ndarray, " S"]
    discount: float

    @classmethod
    def of(cls, problem: BilevelProblem, x: PyTree) -> "Kernel":
        """That of a problem at x."""
        mdp = problem.mdp
        is_fixed = problem.outcome_probabilities is None
        probabilities = mdp.probabilities if is_fixed else in_double_precision(_probabilities, problem, x)
        shape = mdp.num_states, mdp.num_actions, probabilities.shape[-1]
        return cls(
            np.broadcast_to(mdp.successors, shape),
            np.broadcast_to(probabilities, shape),
            mdp.initial,
            mdp.terminal,
            mdp.discount,
        )

    def edges(self) -> Int[np.ndarray, "E 2"]:
        """(from, to) of every transition that can happen between two different states, as often as it is listed."""
        sources = np.broadcast_to(np.arange(len(self.initial))[:, None, None], self.successors.shape)
        happens = (self.probabilities > 0) & (sources != self.successors) & ~self.terminal[:, None, None]
        return np.unique(np.stack([sources[happens], self.successors[happens]], axis=1), axis=0)

    def flows(self, occupancy: Float[np.ndarray, "S A"], edges: Int[np.ndarray, "E 2"]) -> Float[np.ndarray, " E"]:
        """How much of the discounted time ends with each edge."""
        S = len(self.initial)
        sources = np.broadcast_to(np.arange(S)[:, None, None], self.successors.shape)
        numbers = edges[:, 0].astype(np.int64) * S + edges[:, 1]  # Sorted, as the edges are.
        asked = sources.astype(np.int64) * S + self.successors
        place = np.minimum(np.searchsorted(numbers, asked), max(len(numbers) - 1, 0))
        weights = occupancy[..., None] * self.probabilities * ~self.terminal[:, None, None]
        if not len(numbers):
            return np.zeros(0)
        weights = np.where(numbers[place] == asked, weights, 0.0)
        return np.bincount(place.ravel(), weights.ravel(), minlength=len(edges))

    def drift(
        self, policy: Float[np.ndarray, "S A"], places: Float[np.ndarray, "S 2"], longest: float = np.inf
    ) -> Float[np.ndarray, "S 2"]:
        """Mean step in a picture; steps from or to states that lie nowhere count as none, and longer ones than
        `longest` in x or y, such as jumps back to the start, as steps of that length."""
        steps = np.nan_to_num(places[self.successors] - places[:, None, None])
        steps = steps / np.maximum(1.0, np.abs(steps).max(axis=-1, keepdims=True) / longest)
        mean = np.einsum("sa,sak,sakd->sd", policy, self.probabilities, steps)
        return np.where(self.terminal[:, None], 0.0, mean)

    def walks(self, policy: Float[np.ndarray, "S A"]) -> Int[np.ndarray, "walks T"]:
        """Walks of about three horizons; terminal states are not left. Always the same random numbers."""
        random = np.random.default_rng(0)
        num_steps = min(MOST_STEPS, int(np.ceil(3 / (1 - self.discount))))
        uniforms = random.uniform(size=(num_steps, 2, NUM_WALKS))
        # Spread evenly over the start distribution, so that a few walks show all of it.
        spread = (random.permutation(NUM_WALKS) + 0.5) / NUM_WALKS
        states = [_drawn(self.initial[None].repeat(NUM_WALKS, 0), spread)]
        for of_action, of_outcome in uniforms:
            actions = _drawn(policy[states[-1]], of_action)
            outcomes = _drawn(self.probabilities[states[-1], actions], of_outcome)
            states.append(self.successors[states[-1], actions, outcomes])
        return np.stack(states, axis=1).astype(np.int32)


@eqx.filter_jit
def _probabilities(problem: BilevelProblem, x: PyTree) -> Float[ArrayLike, "S A K"]:
    return problem.environment_at(x).probabilities


def _drawn(laws: Float[np.ndarray, "walks n"], uniforms: Float[np.ndarray, " walks"]) -> Int[np.ndarray, " walks"]:
    """By inverse CDF; rounding of the last sum leads to the last possible entry."""
    sums = np.cumsum(laws, axis=1)
    return np.minimum((sums <= (uniforms * sums[:, -1])[:, None]).sum(1), laws.shape[1] - 1)
