"""Exact objectives and hyper-gradients of a bi-level problem on a known tabular model.

Every function takes plain numbers and arrays and returns double precision (NumPy), whatever `jax_enable_x64`
says; inside a JAX transformation it follows the ambient precision. All raise `ValueError` for an x of the wrong
structure or outside of the feasible set, a policy that is none, or a weight that is not positive, and `OracleError`
where the computation does not converge.

Source: docs/explanation/method.md, sections 1–3 and 7.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.exact.evaluation import PolicySystem, inflow, occupancy
from bilevel_rl.exact.oracle import oracle
from bilevel_rl.exact.penalized import penalized_response
from bilevel_rl.exact.soft_mdp import SoftSolution, entropy, optimal_limit, soft_optimal, soft_return
from bilevel_rl.exact.tables import following_value_table, linear_cost, reward_table
from bilevel_rl.formulation import BilevelProblem


def best_response(problem: BilevelProblem, x: PyTree, entropy_weight: Float[ArrayLike, ""]) -> SoftSolution:
    """The follower's best response π_τ*(x)."""
    reward = reward_table(problem, x)
    return soft_optimal(problem.environment_at(x), reward, jnp.asarray(entropy_weight, reward.dtype))


@oracle
def lower_policy(problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""]) -> Float[Array, "S A"]:
    """The follower's best response π_τ*(x), as probabilities."""
    return best_response(problem, x, entropy_weight).policy


@oracle
def penalized_policy(
    problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""], penalty: Float[ArrayLike, ""]
) -> Float[Array, "S A"]:
    """π^L = argmin_π L_{w,τ}(x, π), as probabilities."""
    return penalized_response(problem, x, entropy_weight, penalty).policy


@oracle
def upper_value(problem: BilevelProblem, x: PyTree, policy: Float[ArrayLike, "S A"]) -> Float[Array, ""]:
    """f(x, π)."""
    policy = jnp.asarray(policy)
    d = occupancy(problem.environment_at(x), policy)
    return problem.upper.value(problem.mdp, x, d, jnp.log(policy))


class Evaluation(NamedTuple):
    """What a policy brings in, and where it is, at one x; all normalized by 1 − γ, so per step.

    Attributes:
        upper_value: f(x, π), what the leader pays.
        lower_return: J_τ(x, π), what the follower earns, its entropy included where τ > 0.
        occupancy: d^π(s, a), the share of the discounted time; sums to 1, terminal states included.
    """

    upper_value: Float[ArrayLike, ""]
    lower_return: Float[ArrayLike, ""]
    occupancy: Float[Any, "S A"]


def evaluate(
    problem: BilevelProblem, x: PyTree, policy: Float[ArrayLike, "S A"], *, entropy_weight: float | None = None
) -> Evaluation:
    """A policy against x: what the leader pays, what the follower earns, and where it is.

    Args:
        problem: with a `TabularMDP`.
        x: the upper variable.
        policy: probabilities, a row for each state.
        entropy_weight: τ ≥ 0, what the follower earns for a nat of entropy; by default the problem's own, or 0.

    Raises:
        TypeError, ValueError: as all oracles, and `entropy_weight` is negative.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> found = brl.exact.evaluate(problem, problem.initial_x, np.full((9, 5), 0.2))
        >>> found.occupancy.shape, round(float(found.occupancy.sum()), 9)
        ((9, 5), 1.0)
    """
    own = 0.0 if problem.entropy_weight is None else problem.entropy_weight
    weight = checks.number("entropy_weight", own if entropy_weight is None else entropy_weight, at_least=0)
    return _evaluated(problem, x, policy, weight=weight)


@oracle
def _evaluated(problem: BilevelProblem, x: PyTree, policy: Float[ArrayLike, "S A"], *, weight: ArrayLike) -> Evaluation:
    mdp, policy = problem.environment_at(x), jnp.asarray(policy)
    log_policy, d = jnp.log(policy), occupancy(mdp, policy)
    lower_return = soft_return(mdp, reward_table(problem, x), log_policy, weight)
    return Evaluation(problem.upper.value(problem.mdp, x, d, log_policy), lower_return, d)


def hyper_objective(
    problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""]
) -> Float[Array, ""] | np.float64:
    """Φ_τ(x) = f(x, π_τ*(x)). `entropy_weight=0` gives Φ(x), ties broken by the maximum-entropy limit τ → 0.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.goal_position()
        >>> print(f"{brl.exact.hyper_objective(problem, (7, 3), entropy_weight=0.1):.6f}")
        0.049012
    """
    if not isinstance(entropy_weight, Tracer) and np.ndim(entropy_weight) == 0 and entropy_weight == 0:
        return _unregularized_objective(problem, x)
    return _regularized_objective(problem, x, entropy_weight=entropy_weight)


@oracle
def _regularized_objective(problem: BilevelProblem, x: PyTree, *, entropy_weight: ArrayLike) -> Float[Array, ""]:
    return upper_value(problem, x, best_response(problem, x, entropy_weight).policy)


@oracle
def _unregularized_objective(problem: BilevelProblem, x: PyTree) -> Float[Array, ""]:
    solution = optimal_limit(problem.environment_at(x), reward_table(problem, x))
    return upper_value(problem, x, jnp.where(jnp.isfinite(solution.values)[:, None], solution.policy, jnp.nan))


@oracle
def hyper_gradient(problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""]) -> PyTree:
    """∇Φ_τ(x) by the implicit formula (IG), one adjoint solve for any dimension of x.

    Where the dynamics depend on x, ∂_x r stands for ∂_x r + γ (∂_x P) V, and ∂_x c for ∂_x c + γ (∂_x P) U with the
    values U of the cost.

    (IG) weighs ∂_x Q by m(s, a) = d(s, a) A_c(s, a) / τ. With Q = r + γPV and ∂V = (I − γP^π)^{-1} ∂r^π,

        Σ m ∂Q = Σ_{s,a} (m(s, a) + z(s) π(a|s)) ∂_x r(s, a),     (I − γP^π)ᵀ z = γ Pᵀ m.

    The cost-advantage A_c is that of the unnormalized values; ∂_x Q is unnormalized too, d is normalized. Where f is
    not linear in d^π, c is its `linear_cost` at π_τ*.
    """
    return implicit_gradient(problem, x, best_response(problem, x, entropy_weight).log_policy, entropy_weight)[1]


def implicit_gradient(
    problem: BilevelProblem, x: PyTree, log_policy: Float[Array, "S A"], entropy_weight: Float[ArrayLike, ""]
) -> tuple[Float[Array, ""], PyTree]:
    """Φ_τ(x) and ∇Φ_τ(x), given log π of the follower's best response π_τ*(x)."""
    mdp, reward, policy = problem.environment_at(x), reward_table(problem, x), jnp.exp(log_policy)
    system = PolicySystem(mdp, policy)
    d = system.occupancy()
    cost = linear_cost(problem, x, d, log_policy)
    cost_values, cost_advantage = system.advantages(cost)
    sensitivity = d * cost_advantage / entropy_weight
    flow = system.inflow(mdp.discount * inflow(mdp, sensitivity))
    bonus = jnp.where(mdp.terminal, 0.0, jnp.asarray(entropy_weight) * entropy(log_policy))
    values = system.values(jnp.sum(policy * reward, axis=-1) + bonus)
    through_policy = _pulled_back(problem, x, values, sensitivity + flow[:, None] * policy)
    direct = direct_gradient(problem, x, d, log_policy, cost_values)
    gradient = jax.tree.map(jnp.add, direct, through_policy)  # (IG)
    return problem.upper.value(problem.mdp, x, d, log_policy), gradient


@oracle
def penalty_objective(
    problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""], penalty: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """Φ_{w,τ}(x) = min_π f(x, π) + (J_τ(x, π_τ*) − J_τ(x, π)) / w."""
    mdp, reward = problem.environment_at(x), reward_table(problem, x)
    lower = best_response(problem, x, entropy_weight)
    penalized = penalized_response(problem, x, entropy_weight, penalty)
    best = soft_return(mdp, reward, lower.log_policy, entropy_weight)
    gap = best - soft_return(mdp, reward, penalized.log_policy, entropy_weight)
    return upper_value(problem, x, penalized.policy) + gap / penalty


@oracle
def penalty_gradient(
    problem: BilevelProblem, x: PyTree, *, entropy_weight: Float[ArrayLike, ""], penalty: Float[ArrayLike, ""]
) -> PyTree:
    """∇Φ_{w,τ}(x) by the first-order formula (HG); it differs from ∇Φ_τ(x) by O(w).

    Where the dynamics depend on x, each ∂_x r stands for ∂_x r + γ (∂_x P) V with the values of its own policy. Those
    of the penalized policy are of r_x − w c_x, so that they carry f's dependence on x through P too.
    """
    mdp = problem.environment_at(x)
    lower = best_response(problem, x, entropy_weight)
    penalized = penalized_response(problem, x, entropy_weight, penalty)
    of_lower, of_penalized = (occupancy(mdp, response.policy) for response in (lower, penalized))
    direct = direct_gradient(problem, x, of_penalized, penalized.log_policy)
    through_lower = _pulled_back(problem, x, lower.values, of_lower / penalty)
    through_penalized = _pulled_back(problem, x, penalized.values, of_penalized / penalty)
    return jax.tree.map(lambda d, r, p: d + r - p, direct, through_lower, through_penalized)  # (HG)


@oracle
def lower_residual(
    problem: BilevelProblem,
    x: PyTree,
    policy: Float[ArrayLike, "S A"],
    *,
    entropy_weight: Float[ArrayLike, ""],
    penalty: Float[ArrayLike, ""] | None = None,
) -> Float[Array, ""]:
    """J_τ(x, π_τ*) − J_τ(x, π) ≥ 0; with `penalty`, the same for the penalized follower's reward r_x − w c.

    c is f's `linear_cost` at π, so the residual is 0 where π is a stationary point, π^L.
    """
    mdp, reward, policy = problem.environment_at(x), reward_table(problem, x), jnp.asarray(policy)
    log_policy = jnp.log(policy)
    if penalty is not None:
        reward = reward - penalty * linear_cost(problem, x, occupancy(mdp, policy), log_policy)
    best = soft_optimal(mdp, reward, jnp.asarray(entropy_weight, reward.dtype))
    return soft_return(mdp, reward, best.log_policy, entropy_weight) - soft_return(
        mdp, reward, log_policy, entropy_weight
    )


def direct_gradient(
    problem: BilevelProblem,
    x: PyTree,
    state_action_occupancy: Float[Array, "S A"],
    log_policy: Float[Array, "S A"],
    cost_values: Float[Array, " S"] | None = None,
) -> PyTree:
    """∇_x f(x, π) at a fixed policy with these values of its cost; without them, as if x left the dynamics alone."""

    def upper(x: PyTree) -> Array:
        value = problem.upper.value(problem.mdp, x, state_action_occupancy, log_policy)
        if cost_values is not None and problem.outcome_probabilities is not None:
            value += jnp.sum(state_action_occupancy * following_value_table(problem, x, cost_values))
        return value

    return jax.grad(upper)(x)


def _pulled_back(
    problem: BilevelProblem, x: PyTree, values: Float[Array, " S"], weights: Float[Array, "S A"]
) -> PyTree:
    """Σ weights(s, a) (∂_x r + γ (∂_x P) V)(s, a)."""

    def table(x: PyTree) -> Array:
        reward = reward_table(problem, x)
        return reward if problem.outcome_probabilities is None else reward + following_value_table(problem, x, values)

    return jax.vjp(table, x)[1](weights)[0]
