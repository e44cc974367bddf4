"""Measurements of a running algorithm: the columns of a metric row (docs/reference/metrics.md).

Models that a dense solve can hold are measured exactly at every log point. Larger ones are measured from the samples
that the algorithm takes anyway, since an exact Φ would take longer than the run between two log points.
"""

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from bilevel_rl.algorithms import Algorithm
from bilevel_rl.algorithms.step_sizes import StepSizeValues
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.descent_left import descent_left
from bilevel_rl.exact.evaluation import DENSE_LIMIT, occupancy, start_mean
from bilevel_rl.exact.objectives import implicit_gradient
from bilevel_rl.exact.oracle import in_double_precision
from bilevel_rl.exact.soft_mdp import SoftSolution, entropy, soft_optimal, soft_values
from bilevel_rl.exact.tables import linear_cost, reward_table
from bilevel_rl.exact.upper_noise import upper_noise
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.bounds import exceeded, largest_at
from bilevel_rl.runs.folder import Row


class Measurement(NamedTuple):
    """Exact values at one iteration. x_k, w_k, τ_k, π_θ, π_θᴸ are those of the iteration, τ_eval is fixed.

    What is said of π_θᴸ is None where a method has no such policy.

    Attributes:
        upper_objective: Φ_{τ_eval}(x_k), what the leader gets once the follower has optimized; lower is better.
        regularized_objective: Φ_{τ_k}(x_k).
        hyper_gradient_norm: ‖∇Φ_{τ_k}(x_k)‖, Euclidean, without projection.
        upper_value: f(x_k, π_θ), what the leader gets from the policy learned so far.
        lower_residual: J_{τ_k}(x_k, π_τ*) − J_{τ_k}(x_k, π_θ) ≥ 0.
        penalized_residual: the same for π_θᴸ under the reward r_x − w_k c, c the slope of f at π_θᴸ (`linear_cost`).
        optimal_entropy: E_{s ~ d^{π_θ}}[H(π_τ*(·|s))], the entropy of the best answer at τ_k where the follower now is.
        missed_occupancy: share of the best answer's time in states that π_θ visits `RARELY` as often, or less.
        hyper_gradient_norm_at_first_entropy: ‖∇Φ_{τ_0}(x_k)‖, the slope that the first entropy weight would show.
        upper_noise: root of the variance of (U)'s direction, from one pair of samples under π_θ and π_θᴸ.
        descent_left: what the best exact step from x_k, no longer than x has come from its start, lowers Φ_{τ_eval} by.
        descent_seen: what the same step lowers Φ_{τ_k} by; negative where it raises it.
    """

    upper_objective: Float[Array, "*seeds"]
    regularized_objective: Float[Array, "*seeds"]
    hyper_gradient_norm: Float[Array, "*seeds"]
    upper_value: Float[Array, "*seeds"]
    lower_residual: Float[Array, "*seeds"]
    penalized_residual: Float[Array, "*seeds"] | None
    optimal_entropy: Float[Array, "*seeds"]
    missed_occupancy: Float[Array, "*seeds"]
    hyper_gradient_norm_at_first_entropy: Float[Array, "*seeds"]
    upper_noise: Float[Array, "*seeds"] | None
    descent_left: Float[Array, "*seeds"]
    descent_seen: Float[Array, "*seeds"]


RARELY = 0.01
"""A state counts as missed where the lower policy is less than this share of the time that the best answer is there."""

Diagnostics = Literal["auto", "exact", "sampled"]
"""How metric rows are measured; "auto" is exact for tabular models of at most `DENSE_LIMIT` states, else sampled."""


def are_exact(diagnostics: Diagnostics, problem: BilevelProblem) -> bool:
    """Whether metric rows of a problem hold exact measurements.

    Raises:
        ValueError: they are asked for, and the environment has no tables.
    """
    environment = problem.environment
    can_be = (
        isinstance(environment, TabularMDP) and environment.num_states <= DENSE_LIMIT and problem.upper.has_exact_value
    )
    if diagnostics == "exact" and not isinstance(environment, TabularMDP):
        raise ValueError(
            f"diagnostics must not be 'exact' in a {type(environment).__name__}, of which there are no tables; "
            "use 'auto' or 'sampled'"
        )
    return diagnostics == "exact" or (diagnostics == "auto" and can_be)


ROLES = "lower", "penalized"
"""Policies of a method, in the order of an Info's axis; a method may have the first alone."""

MAX_LOGGED_COMPONENTS = 16
"""x is written to the metric rows where it has at most this many numbers."""


def metric_columns(
    algorithm: Algorithm, states: PyTree, info: PyTree, evaluation_entropy_weight: float, diagnostics: Diagnostics
) -> dict[str, np.ndarray]:
    """Columns of the metric rows, one entry a seed; every column is described in docs/reference/metrics.md.

    Args:
        states: the algorithm's states as NumPy arrays, leading axis the seeds.
        info: mean of the algorithm's Info since the last log point, likewise.
        evaluation_entropy_weight: τ_eval.
        diagnostics: how they are measured.
    """
    is_exact, x = are_exact(diagnostics, algorithm.problem), algorithm.recommend(states)
    step_sizes, prices, log_policies = jax.tree.map(np.asarray, _of_states(algorithm, states, is_exact))
    if is_exact:
        measured = measure(
            algorithm.problem,
            x,
            log_policies,
            penalty=step_sizes.penalty,
            entropy_weight=step_sizes.entropy,
            first_entropy_weight=float(algorithm.step_sizes(0).entropy),
            evaluation_entropy_weight=evaluation_entropy_weight,
        )
        measured = {name: values for name, values in measured._asdict().items() if values is not None}
        measured["evaluation_entropy_weight"] = np.full(len(states.num_iterations), evaluation_entropy_weight)
    else:
        measured = {"upper_value": info.mean_cost[:, 0] + prices}
    columns = {
        "num_iterations": states.num_iterations,
        "num_transitions": np.asarray(states.num_iterations, np.int64) * algorithm.num_transitions_per_iteration,
        **{f"{name}_step": getattr(step_sizes, name) for name in ("upper", "actor", "critic")},
        "penalty": step_sizes.penalty,
        "entropy_weight": step_sizes.entropy,
        "is_sampled": np.full(len(states.num_iterations), int(not is_exact)),
        **measured,
    }
    columns["x_distance"] = distances(x, algorithm.problem.initial_x)
    num_seeds = len(states.num_iterations)
    components = np.concatenate([np.reshape(leaf, (num_seeds, -1)) for leaf in jax.tree.leaves(x)], axis=1)
    if components.shape[1] <= MAX_LOGGED_COMPONENTS:
        columns |= {f"x{i}": components[:, i] for i in range(components.shape[1])}
    found = info._asdict()
    if "upper_gradient" in found:
        found["upper_variance"] = _variance(found.pop("squared_upper_gradient"), found.pop("upper_gradient"))
    for name, values in found.items():
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{role}_{name}": column for role, column in zip(ROLES, values.T, strict=False)}
    return {name: np.asarray(column) for name, column in columns.items()}


@eqx.filter_jit
def _of_states(algorithm: Algorithm, states: PyTree, with_policies: bool) -> tuple[StepSizeValues, Array, Array | None]:
    """Of every seed: the step sizes, the price g(x), and log π of its policies."""

    def one_seed(state: PyTree) -> tuple[StepSizeValues, Array, Array | None]:
        price = jnp.asarray(algorithm.problem.upper.regularizer(algorithm.recommend(state)), float)
        return (
            algorithm.step_sizes(state.num_iterations),
            price,
            algorithm.log_policies(state) if with_policies else None,
        )

    return jax.lax.map(one_seed, states)


def _variance(mean_of_squares: Float[np.ndarray, " seeds"], means: PyTree) -> Float[np.ndarray, " seeds"]:
    """E‖g − E[g]‖² of every seed; rounding may leave it just below 0."""
    squares = [np.sum(np.reshape(leaf, (len(leaf), -1)) ** 2, axis=1) for leaf in jax.tree.leaves(means)]
    return np.maximum(mean_of_squares - sum(squares), 0.0)


def distances(x: PyTree, others: PyTree) -> Float[np.ndarray, " seeds"]:
    """‖x − x'‖ of every seed, Euclidean over all numbers of x. Leading axis of every leaf: the seed."""
    squares = jax.tree.map(lambda a, b: ((np.asarray(a, np.float64) - b) ** 2).reshape(len(a), -1).sum(1), x, others)
    return np.sqrt(sum(jax.tree.leaves(squares)))


class Meter:
    """Measures log point after log point of a run.

    Args:
        algorithm: what runs.
        evaluation_entropy_weight: τ at which Φ is measured.
        diagnostics: how.
    """

    def __init__(self, algorithm: Algorithm, evaluation_entropy_weight: float, diagnostics: Diagnostics):
        self._algorithm, self._weight = algorithm, evaluation_entropy_weight
        self._diagnostics: Diagnostics = diagnostics
        self._has_warned = False
        self.last_x: PyTree = None
        """where x was at the last log point, from which its movement is measured"""

    @property
    def num_transitions_per_iteration(self) -> int:
        """Of one seed."""
        return self._algorithm.num_transitions_per_iteration

    def begin(self, states: PyTree):
        """The states that the next log point's movement of x is measured from; leading axis the seeds."""
        self.last_x = self.x_of(states)

    def x_of(self, states: PyTree) -> PyTree:
        """The upper variables that are measured; leading axis the seeds."""
        return self._algorithm.recommend(states)

    def rows(
        self,
        states: PyTree,
        info: PyTree,
        is_running: Bool[np.ndarray, " seeds"],
        gather: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda columns: columns,
    ) -> list[Row]:
        """One metric row a running seed.

        Args:
            states: NumPy arrays of this process's seeds, leading axis the seeds.
            info: mean of the algorithm's Info since the last log point, likewise.
            is_running: of all seeds.
            gather: from columns of this process's seeds to those of all.
        """
        columns = metric_columns(self._algorithm, states, info, self._weight, self._diagnostics)
        x = self._algorithm.recommend(states)
        self._warn_of_bounds(x, info, int(np.max(states.num_iterations)))
        columns = gather(columns | {"x_movement": distances(x, self.last_x)})
        self.last_x = x
        return metric_rows(columns, is_running)

    def _warn_of_bounds(self, x: PyTree, info: PyTree, num_iterations: int):
        """Once a run."""
        problem = self._algorithm.problem
        if self._has_warned or not (np.isfinite(problem.reward_bound) or np.isfinite(problem.upper.step_cost_bound)):
            return
        for text in exceeded(problem, largest_at(problem, x, info), f"at iteration {num_iterations}"):
            warnings.warn(text, stacklevel=3)
            self._has_warned = True


def metric_rows(columns: dict[str, np.ndarray], is_running: Bool[np.ndarray, " seeds"]) -> list[Row]:
    """One row a running seed; what is infinite is NaN."""
    for name, column in columns.items():
        if not np.all(np.isfinite(column[is_running])):
            warnings.warn(f"{name} is NaN: its exact computation does not converge at this state", stacklevel=3)
    written = {
        name: np.where(np.isinf(column), np.nan, column) if np.any(np.isinf(column)) else column
        for name, column in columns.items()
    }
    return [
        {"seed": int(seed), **{name: column[seed].item() for name, column in written.items()}}
        for seed in np.flatnonzero(is_running)
    ]


def measure(
    problem: BilevelProblem,
    x: PyTree,
    log_policies: Float[ArrayLike, "seeds P S A"],
    *,
    penalty: Float[ArrayLike, " seeds"],
    entropy_weight: Float[ArrayLike, " seeds"],
    first_entropy_weight: float,
    evaluation_entropy_weight: float,
) -> Measurement:
    """Measures every seed in double precision. Leading axis of all arrays, and of every leaf of x: the seeds.

    A value is NaN where an oracle does not converge.
    """
    arguments = x, log_policies, penalty, entropy_weight, first_entropy_weight, evaluation_entropy_weight
    doubles = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), arguments)
    return in_double_precision(_measure, problem, *doubles)


@eqx.filter_jit
def _measure(
    problem: BilevelProblem,
    x: PyTree,
    log_policies: Array,
    penalty: Array,
    entropy_weight: Array,
    first_entropy_weight: Array,
    evaluation_entropy_weight: Array,
) -> Measurement:
    def one_seed(x: PyTree, log_policies: Array, w: Array, τ: Array) -> Measurement:
        mdp = problem.environment_at(x)
        reward = reward_table(problem, x)
        # Normalized again: single-precision logits miss a sum of one by more than an exact residual may be.
        lower, *others = jax.nn.log_softmax(log_policies)
        lower_occupancy = occupancy(mdp, jnp.exp(lower))
        # Every optimal policy is sought from the values of one that is close to it.
        lower_values = soft_values(mdp, reward, lower, τ)
        weights = jnp.stack([evaluation_entropy_weight, τ, first_entropy_weight])

        def at_weight(values: Array, τ: Array) -> tuple[Array, tuple[SoftSolution, Array, PyTree]]:
            answer = soft_optimal(mdp, reward, τ, start_values=values)
            return answer.values, (answer, *implicit_gradient(problem, x, answer.log_policy, τ))

        _, (answers, objectives, gradients) = jax.lax.scan(at_weight, lower_values, weights)
        answer = SoftSolution(*(leaf[1] for leaf in answers))
        steepness = [optax.tree.norm(jax.tree.map(lambda leaf, i=i: leaf[i], gradients)) for i in range(3)]
        distance = optax.tree.norm(jax.tree.map(jnp.subtract, x, problem.initial_x))
        of_evaluation = jax.tree.map(lambda leaf: leaf[0], gradients)
        left = descent_left(problem, x, of_evaluation, distance, weights[:2], objectives[:2], answers.values[:2])
        visits, best_visits = lower_occupancy.sum(1), occupancy(mdp, answer.policy).sum(1)
        penalized_residual = noise = None
        if others:
            (penalized,) = others
            occupancies = lower_occupancy, occupancy(mdp, jnp.exp(penalized))
            penalized_reward = reward - w * linear_cost(problem, x, occupancies[1], penalized)
            penalized_values = soft_values(mdp, penalized_reward, penalized, τ)
            penalized_answer = soft_optimal(mdp, penalized_reward, τ, start_values=penalized_values)
            penalized_residual = start_mean(mdp, penalized_answer.values - penalized_values)
            noise = upper_noise(problem, x, occupancies, (lower_values, penalized_values), w)

        def upper_value(state_action_occupancy: Array, log_policy: Array) -> Array:
            return problem.upper.value(problem.mdp, x, state_action_occupancy, log_policy)

        return Measurement(
            upper_objective=objectives[0],
            regularized_objective=objectives[1],
            hyper_gradient_norm=steepness[1],
            upper_value=upper_value(lower_occupancy, lower),
            lower_residual=start_mean(mdp, answer.values - lower_values),
            penalized_residual=penalized_residual,
            optimal_entropy=jnp.sum(jnp.where(mdp.terminal, 0.0, visits) * entropy(answer.log_policy)),
            missed_occupancy=jnp.sum(jnp.where(visits < RARELY * best_visits, best_visits, 0.0)),
            hyper_gradient_norm_at_first_entropy=steepness[2],
            upper_noise=noise,
            descent_left=left[0],
            descent_seen=left[1],
        )

    # One after the other: under vmap the last bits would depend on how many seeds this process has.
    return jax.lax.map(lambda arguments: one_seed(*arguments), (x, log_policies, penalty, entropy_weight))
