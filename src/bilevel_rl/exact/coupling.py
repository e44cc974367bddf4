"""The joint law of two coupled chains, and the variance of (U) under it. Source: docs/explanation/method.md, section 5.

Coupled chains start, restart and take their transitions on the same uniforms (inverse CDF), and choose the same action
as often as their policies allow. The pair of chains is a Markov chain itself, whose stationary law has the two
occupancies as marginals.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import ArrayLike, Float, PyTree

from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.oracle import as_upper_variable, check_weights
from bilevel_rl.formulation import BilevelProblem

MAX_PAIRS = 10**6
"""Largest (S A)² whose joint law is worked out; more would take gigabytes."""

TOLERANCE = 1e-12


class CoupledChains:
    """Two chains of one environment on common random numbers, each with a policy of its own.

    Args:
        mdp: environment of both.
        policy: of the first chain.
        other: of the second.

    Raises:
        ValueError: (S A)² exceeds `MAX_PAIRS`.
    """

    def __init__(self, mdp: TabularMDP, policy: Float[ArrayLike, "S A"], other: Float[ArrayLike, "S A"]):
        S, A = mdp.num_states, mdp.num_actions
        if (S * A) ** 2 > MAX_PAIRS:
            raise ValueError(
                f"mdp has {S * A} pairs of state and action; a joint law takes at most {MAX_PAIRS**0.5:.0f}"
            )
        self._mdp, self._shape = mdp, (S, A, S, A)
        self._actions = _maximal(*(np.asarray(table, np.float64) for table in (policy, other))).transpose(0, 2, 1, 3)
        tables = mdp.probabilities, mdp.successors
        chances, successors = (np.broadcast_to(t, (S, A, t.shape[2])).reshape(S * A, -1) for t in tables)
        outcomes = _overlaps(chances, chances)
        pair, other_pair, k, other_k = np.nonzero(outcomes)
        reached = successors[pair, k] * S + successors[other_pair, other_k]
        self._step = scipy.sparse.csr_matrix(
            (outcomes[pair, other_pair, k, other_k], (reached, pair * (S * A) + other_pair)), (S**2, (S * A) ** 2)
        )
        self._start = np.diag(mdp.initial).ravel()

    def occupancy(self) -> Float[np.ndarray, "S A S A"]:
        """Stationary law of (s, a, sᴸ, aᴸ); sums to 1."""
        γ = self._mdp.discount

        def follow(law: np.ndarray) -> np.ndarray:
            return (1 - γ) * self._start + γ * (self._step @ self._act(law).ravel())

        return self._act(_fixed_point(follow, self._start)).reshape(self._shape)

    def sum_over_time(self, table: Float[np.ndarray, "S A S A"]) -> Float[np.ndarray, "S A S A"]:
        """Σ_{t≥1} E[table_t | (s, a, sᴸ, aᴸ)_0] of a table whose stationary mean is 0."""
        γ = self._mdp.discount

        def expect(values: np.ndarray) -> np.ndarray:
            return γ * (self._step.T @ values) + (1 - γ) * self._start @ values

        def over_actions(pairs: np.ndarray) -> np.ndarray:
            return np.sum(pairs.reshape(self._shape) * self._actions, axis=(1, 3)).ravel()

        present = over_actions(table)
        total = _fixed_point(lambda values: present + over_actions(expect(values)), present)
        return expect(total).reshape(self._shape)

    def _act(self, law: np.ndarray) -> np.ndarray:
        S = self._shape[0]
        return law.reshape(S, 1, S, 1) * self._actions


def upper_variance(
    problem: BilevelProblem,
    x: PyTree,
    policies: tuple[Float[ArrayLike, "S A"], Float[ArrayLike, "S A"]],
    *,
    penalty: float,
    coupled: bool,
    expects_actions: bool = False,
    over_time: bool = False,
) -> float:
    """E‖h − E[h]‖² of the direction h that (U) takes from one pair of chains, at fixed policies.

    h = ∇g(x) + ∇_x c_x(sᴸ,aᴸ) + (∇_x r_x(s,a) − ∇_x r_x(sᴸ,aᴸ)) / w; the mean over B pairs of chains has 1/B of it.

    Args:
        problem: what is solved.
        x: upper variable.
        policies: π_θ and π_θᴸ.
        penalty: w.
        coupled: whether both chains use the same random numbers.
        expects_actions: whether h is the mean over the actions of both states.
        over_time: whether to sum the covariances with all other iterations too: n times the variance of the mean of
            h over n iterations, for large n.

    Raises:
        ValueError: the model is too large, its dynamics depend on x, x has another structure, or the penalty is not
            positive.
    """
    check_weights({"penalty": penalty})
    if problem.outcome_probabilities is not None:
        raise ValueError("problem has outcome_probabilities, whose part of (U) upper_variance does not know")
    mdp = problem.mdp
    reward, cost = _gradient_tables(problem, as_upper_variable(problem, x))
    own, others = reward / penalty, cost - reward / penalty
    if expects_actions:
        own, others = (_over_actions(table, policy) for table, policy in zip((own, others), policies, strict=True))
    if not coupled:  # A chain beside itself on the same numbers is that chain.
        return sum(
            _variance(CoupledChains(mdp, policy, policy), table, np.zeros_like(table), over_time)
            for table, policy in zip((own, others), policies, strict=True)
        )
    return _variance(CoupledChains(mdp, *policies), own, others, over_time)


def _variance(chains: CoupledChains, own: np.ndarray, others: np.ndarray, over_time: bool) -> float:
    """Of own(s, a) + others(sᴸ, aᴸ), summed over the last axis of the tables."""
    law, variance = chains.occupancy(), 0.0
    for first, second in zip(np.moveaxis(own, -1, 0), np.moveaxis(others, -1, 0), strict=True):
        table = first[:, :, None, None] + second
        table = table - np.sum(law * table)
        later = chains.sum_over_time(table) if over_time else 0.0
        variance += float(np.sum(law * table * (table + 2 * later)))
    return variance


def _fixed_point(function: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    value, change = start, np.inf
    while change > TOLERANCE * np.abs(value).max():
        following = function(value)
        change, value = np.abs(following - value).max(), following
    return value


def _overlaps(first: Float[np.ndarray, "I K"], second: Float[np.ndarray, "J K"]) -> Float[np.ndarray, "I J K K"]:
    """Chance that one uniform picks outcome k of row i and outcome l of row j, each by inverse CDF."""
    ends, other_ends = (np.cumsum(table, axis=1) for table in (first, second))
    ends[:, -1] = other_ends[:, -1] = 1.0
    starts, other_starts = (np.pad(table[:, :-1], ((0, 0), (1, 0))) for table in (ends, other_ends))
    high = np.minimum(ends[:, None, :, None], other_ends[None, :, None, :])
    low = np.maximum(starts[:, None, :, None], other_starts[None, :, None, :])
    return np.maximum(high - low, 0.0)


def _maximal(first: Float[np.ndarray, "I K"], second: Float[np.ndarray, "J K"]) -> Float[np.ndarray, "I J K K"]:
    """Chance of outcome k of row i and outcome l of row j, which are equal as often as they can be."""
    common = np.minimum(first[:, None], second)
    rest, other_rest = first[:, None] - common, second - common
    share = np.maximum(rest.sum(-1, keepdims=True), np.finfo(float).tiny)
    return common[..., None] * np.eye(first.shape[1]) + (rest / share)[..., None] * other_rest[..., None, :]


def _over_actions(table: np.ndarray, policy: Float[ArrayLike, "S A"]) -> np.ndarray:
    mean = np.sum(np.asarray(policy)[..., None] * table, axis=1, keepdims=True)
    return np.broadcast_to(mean, table.shape)


def _gradient_tables(problem: BilevelProblem, x: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """∇_x r and ∇_x c of every pair, (S, A, d), in double precision."""
    S, A = problem.mdp.num_states, problem.mdp.num_actions

    def table(function: Callable) -> np.ndarray:
        leaves = jax.tree.leaves(jax.jacobian(lambda x: function(x, jnp.arange(S)[:, None], jnp.arange(A)))(x))
        return np.concatenate([np.reshape(leaf, (S, A, -1)) for leaf in leaves], axis=-1)

    with jax.enable_x64(True):
        return table(problem.rewards), table(problem.costs)
