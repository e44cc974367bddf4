"""The leader's objective over a follower that controls a linear system, its exact gradient, and the penalty form's.

    Φ_τ(x) = tr(C_x Z*) + g(x),   ∇Φ_τ by differentiating Riccati's fixed point and Lyapunov's equation implicitly  (IG)
    ∇Φ_{w,τ}(x) = ∇_x [tr(C_x Z^L) + g(x)] + (∇_x R_x(Z*, P*) − ∇_x R_x(Z^L, P^L)) / w                          (HG)
    R_x(Z, P) = −tr(W_x Z) − γ (tr(F̃_xᵀ P F̃_x Z) + tr(P_ss G_x G_xᵀ)) = E[r_x + γ V(s')],  Z and P fixed

π^L is the best law for the reward r_x − w c_x, and P^L its value there. The second term of R is how x acts through the
dynamics: γ E[∇_x log P_x(s'|s,a) V(s')], which is γ E[∇_x V(s'(x))] too (docs/explanation/method.md, section 5).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.optimize
from jaxtyping import Array, Float

from bilevel_rl import checks
from bilevel_rl.exact.lqr.model import LinearQuadratic, LinearQuadraticProblem
from bilevel_rl.exact.lqr.riccati import LinearGaussian, action_losses, best_answer
from bilevel_rl.exact.oracle import OUTSIDE, OracleError, check_weights, in_double_precision
from bilevel_rl.exact.solver import Solution
from bilevel_rl.formulation.upper_variables import as_arrays, distance_to


def lower_policy(problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float) -> LinearGaussian:
    """π_τ*(x), with its value and its visits, as NumPy arrays.

    Args:
        problem: the leader's.
        x: upper variable.
        entropy_weight: τ.

    Raises:
        TypeError: `problem` is none.
        ValueError: x has another shape or is not feasible, or a weight is not positive.
        OracleError: the follower gains without end, or the leader's cost has no mean.
    """
    return _call(_lower, problem, x, entropy_weight)


def penalized_policy(
    problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float, penalty: float
) -> LinearGaussian:
    """π^L_{w,τ}(x), the best law for the reward r_x − w c_x, with its value there. Raises as `lower_policy`."""
    return _call(_penalized, problem, x, entropy_weight, penalty)


def hyper_objective(problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float) -> float:
    """Φ_τ(x) = E_{d^π*}[c_x(s, a)] + g(x). Raises as `lower_policy`."""
    return float(_call(_objective_and_policy, problem, x, entropy_weight)[0])


def hyper_gradient(
    problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float
) -> Float[np.ndarray, " d"]:
    """∇Φ_τ(x) by implicit differentiation of both fixed points. Raises as `lower_policy`."""
    return _call(_value_and_gradient, problem, x, entropy_weight)[1]


def penalty_objective(
    problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float, penalty: float
) -> float:
    """Φ_{w,τ}(x) ≤ Φ_τ(x), penalty w > 0. Raises as `lower_policy`."""
    return float(_call(_penalty_value, problem, x, entropy_weight, penalty)[0])


def penalty_gradient(
    problem: LinearQuadraticProblem, x: npt.ArrayLike, *, entropy_weight: float, penalty: float
) -> Float[np.ndarray, " d"]:
    """∇Φ_{w,τ}(x) by (HG): first derivatives alone, of both policies held fixed. Raises as `lower_policy`."""
    return _call(_first_order, problem, x, entropy_weight, penalty)[0]


def solve(problem: LinearQuadraticProblem, *, entropy_weight: float, max_iterations: int = 200) -> Solution:
    """Descends from `initial_x` on exact hyper-gradients, by L-BFGS-B in the box. Φ is not convex: a local optimum.

    The residual of the solution is ‖Π(x − ∇Φ/u) − x‖, with u the larger of |Φ| at the start and 1.

    Raises:
        TypeError, ValueError, OracleError: as `lower_policy`, or `max_iterations` is no positive integer.
    """
    checks.integer("max_iterations", max_iterations, at_least=1)

    unit = max(abs(hyper_objective(problem, problem.initial_x, entropy_weight=entropy_weight)), 1.0)

    def of(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = _call(_value_and_gradient, problem, x, entropy_weight)
        return float(value) / unit, gradient / unit

    found = scipy.optimize.minimize(
        of,
        problem.initial_x,
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(problem),
        options={"maxiter": max_iterations, "ftol": 1e-15, "gtol": 1e-9},
    )
    moved = found.x - of(found.x)[1]
    with jax.enable_x64(True):
        moved = moved if problem.feasible is None else np.asarray(problem.feasible(moved))
    is_cut_off = not found.success and found.nit >= max_iterations
    status = "converged" if found.success else "iteration limit" if is_cut_off else "line search failed"
    return Solution(found.x, float(found.fun) * unit, float(np.linalg.norm(moved - found.x)), int(found.nit), status)


def _bounds(problem: LinearQuadraticProblem) -> list[tuple[float, float]] | None:
    if problem.feasible is None:
        return None
    limits = (
        np.broadcast_to(limit, problem.initial_x.shape) for limit in (problem.feasible.lower, problem.feasible.upper)
    )
    return [(float(lower), float(upper)) for lower, upper in zip(*limits, strict=True)]


def _call(
    compiled: Callable, problem: LinearQuadraticProblem, x: npt.ArrayLike, entropy_weight: float, *penalty: float
) -> Any:
    """Checks arguments, computes in double precision, and checks what came out."""
    checks.instance("problem", problem, LinearQuadraticProblem)
    check_weights({"entropy_weight": entropy_weight, **({"penalty": penalty[0]} if penalty else {})})
    x = np.asarray(checks.finite("x", as_arrays("x", x)), np.float64)
    if x.shape != problem.initial_x.shape:
        raise ValueError(f"x must have the shape of initial_x, {problem.initial_x.shape}, got {x.shape}")
    if problem.feasible is not None:
        with jax.enable_x64(True):
            nearest = np.asarray(problem.feasible(x))
        if distance_to(nearest, x) > OUTSIDE:
            raise ValueError(f"x must lie in the feasible set, got {x}; the nearest point of it is {nearest}")
    weights = [np.asarray(weight, np.float64) for weight in (entropy_weight, *penalty)]
    found = in_double_precision(compiled, problem, x, *weights)
    policies = [part for part in (found if type(found) is tuple else (found,)) if isinstance(part, LinearGaussian)]
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found)):
        raise OracleError(
            f"there is no best answer at x = {x}: the follower gains without end, or M_aa is not positive definite; "
            "make its loss convex in the action" + (", or lower the penalty" if penalty else "")
        )
    model = in_double_precision(_model, problem, x)
    for policy in policies:
        n = len(model.transition)
        closed = model.transition[:, :n] - model.transition[:, n:-1] @ policy.gain[:, :n]
        radius = max(abs(np.linalg.eigvals(closed)))
        if problem.discount * radius**2 >= 1:
            raise OracleError(
                f"the state grows by {radius:.3g} a step at x = {x}, more than γ = {problem.discount} lets a mean of "
                "squares have; let the follower's loss see what grows"
            )
    return found


@eqx.filter_jit
def _model(problem: LinearQuadraticProblem, x: Array) -> LinearQuadratic:
    return LinearQuadratic(*(jnp.asarray(part, float) for part in problem.at(x)))


def _answer(problem: LinearQuadraticProblem, model: LinearQuadratic, τ: Array) -> LinearGaussian:
    mean, factor = (jnp.asarray(part, float) for part in (problem.initial_mean, problem.initial_factor))
    states = jnp.append(mean, 1.0)
    start = jnp.outer(states, states).at[:-1, :-1].add(factor @ factor.T)
    return best_answer(model, start, problem.discount, τ, independent=problem.independent)


@eqx.filter_jit
def _lower(problem: LinearQuadraticProblem, x: Array, τ: Array) -> LinearGaussian:
    return _answer(problem, _model(problem, x), τ)


@eqx.filter_jit
def _penalized(problem: LinearQuadraticProblem, x: Array, τ: Array, penalty: Array) -> LinearGaussian:
    model = _model(problem, x)
    return _answer(problem, model._replace(loss=model.loss + penalty * model.cost), τ)


@eqx.filter_jit
def _objective_and_policy(problem: LinearQuadraticProblem, x: Array, τ: Array) -> tuple[Array, LinearGaussian]:
    policy = _lower(problem, x, τ)
    return _upper(problem, x, policy), policy


@eqx.filter_jit
def _value_and_gradient(problem: LinearQuadraticProblem, x: Array, τ: Array) -> tuple[Array, Array, LinearGaussian]:
    """(IG)."""
    of = jax.value_and_grad(lambda x: _objective_and_policy(problem, x, τ), has_aux=True)
    (value, policy), gradient = of(x)
    return value, gradient, policy


@eqx.filter_jit
def _penalty_value(
    problem: LinearQuadraticProblem, x: Array, τ: Array, penalty: Array
) -> tuple[Array, LinearGaussian, LinearGaussian]:
    loss, policies = _model(problem, x).loss, (_lower(problem, x, τ), _penalized(problem, x, τ, penalty))
    lower, penalized = (τ * policy.entropy - jnp.sum(loss * policy.moments) for policy in policies)
    return _upper(problem, x, policies[1]) + (lower - penalized) / penalty, *policies


@eqx.filter_jit
def _first_order(
    problem: LinearQuadraticProblem, x: Array, τ: Array, penalty: Array
) -> tuple[Array, LinearGaussian, LinearGaussian]:
    """(HG)."""
    lower, penalized = _lower(problem, x, τ), _penalized(problem, x, τ, penalty)

    def estimate(x: Array) -> Array:
        model = _model(problem, x)
        gains = (-jnp.sum(action_losses(model, p.values, problem.discount) * p.moments) for p in (lower, penalized))
        return _upper(problem, x, penalized) + (next(gains) - next(gains)) / penalty

    return jax.grad(estimate)(x), lower, penalized


def _upper(problem: LinearQuadraticProblem, x: Array, policy: LinearGaussian) -> Array:
    """f(x, π)."""
    return jnp.sum(_model(problem, x).cost * policy.moments) + jnp.asarray(problem.regularizer(x), float)
