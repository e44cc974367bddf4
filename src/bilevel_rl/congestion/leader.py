"""The leader's objective at the followers' equilibrium, its exact gradient, and that of the penalty form.

    Φ(x) = f(x, flow*(x)),   flow* = L_x(flow*)
    ∇Φ = ∂_x f + (∂_x L)ᵀ (I − ∂L/∂flow)^{-T} ∂f/∂flow                                            (implicit)
    Φ_w(x) = min_d f(x, flow(d)) + (Ψ_x(d) − min Ψ_x) / w
    ∇Φ_w = ∂_x f(x, flow^L) + (∂_xΨ_x(d^L) − ∂_xΨ_x(d*)) / w,   ∂_xΨ_x(d) = −demand Σ n_d ∂_x r_x       (penalty)

The second needs two equilibria and no second derivative, and tends to the first as w → 0: the envelope theorem.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.optimize
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.congestion.equilibrium import Equilibrium, NoEquilibriumError, equilibrium, loaded_flow, upper_variable
from bilevel_rl.congestion.game import CongestionGame
from bilevel_rl.exact.oracle import in_double_precision


def hyper_objective(
    game: CongestionGame, x: npt.ArrayLike, *, entropy_weight: float, start: Equilibrium | None = None
) -> float:
    """Φ(x) = f(x, flow*(x)). Raises as `equilibrium`."""
    found = equilibrium(game, x, entropy_weight=entropy_weight, start=start)
    return float(in_double_precision(_upper, game, upper_variable(game, x), found.flow))


def hyper_gradient(
    game: CongestionGame, x: npt.ArrayLike, *, entropy_weight: float, start: Equilibrium | None = None
) -> Float[np.ndarray, " n"]:
    """∇Φ(x), by implicit differentiation of the equilibrium: one linear system of the size of the roads.

    Raises as `equilibrium`, and `NoEquilibriumError` where that system is singular.
    """
    found = equilibrium(game, x, entropy_weight=entropy_weight, start=start)
    return _gradient_at(game, upper_variable(game, x), found, entropy_weight)


def penalty_objective(game: CongestionGame, x: npt.ArrayLike, *, entropy_weight: float, penalty: float) -> float:
    """Φ_w(x) ≤ Φ(x), penalty w > 0. Raises as `equilibrium`."""
    lower, penalized = _both(game, x, entropy_weight, penalty)
    weights = np.asarray(entropy_weight, np.float64), np.asarray(penalty, np.float64)
    x, occupancies = upper_variable(game, x), (lower.occupancy, penalized.occupancy)
    return float(in_double_precision(_penalized_value, game, x, *occupancies, *weights))


def penalty_gradient(
    game: CongestionGame, x: npt.ArrayLike, *, entropy_weight: float, penalty: float
) -> Float[np.ndarray, " n"]:
    """∇Φ_w(x) of first order, from the two equilibria. Raises as `equilibrium`."""
    lower, penalized = _both(game, x, entropy_weight, penalty)
    x = upper_variable(game, x)
    return in_double_precision(
        _first_order, game, x, lower.occupancy, penalized.occupancy, np.asarray(penalty, np.float64)
    )


@dataclass(frozen=True)
class TollDesign:
    """Where exact descent ended.

    Attributes:
        x: the upper variable.
        objective: Φ(x).
        equilibrium: the followers' at x.
        is_converged: whether L-BFGS-B says that it is stationary.
    """

    x: Float[np.ndarray, " n"]
    objective: float
    equilibrium: Equilibrium
    is_converged: bool


def solve(game: CongestionGame, *, entropy_weight: float, max_iterations: int = 200) -> TollDesign:
    """Descends from `initial_x` on exact hyper-gradients, by L-BFGS-B in the box. Φ is not convex: a local optimum.

    Raises:
        TypeError, ValueError: as `equilibrium`, or `max_iterations` is no positive integer.
        NoEquilibriumError: an equilibrium is not found.
    """
    checks.instance("game", game, CongestionGame)
    checks.integer("max_iterations", max_iterations, at_least=1)
    lower, upper = (
        np.broadcast_to(bound, game.initial_x.shape) for bound in (game.feasible.lower, game.feasible.upper)
    )
    last = equilibrium(game, game.initial_x, entropy_weight=entropy_weight)
    scale = abs(float(in_double_precision(_upper, game, game.initial_x, last.flow))) or 1.0

    def of(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        last = equilibrium(game, x, entropy_weight=entropy_weight, start=last)
        objective = float(in_double_precision(_upper, game, x, last.flow))
        return objective / scale, _gradient_at(game, x, last, entropy_weight) / scale

    found = scipy.optimize.minimize(
        *(of, game.initial_x),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([lower, upper], axis=1),
        options={"maxiter": max_iterations, "ftol": 1e-12, "gtol": 1e-8},
    )
    last = equilibrium(game, found.x, entropy_weight=entropy_weight, start=last)
    return TollDesign(found.x, float(found.fun) * scale, last, bool(found.success))


def _both(game: CongestionGame, x: npt.ArrayLike, τ: float, penalty: float) -> tuple[Equilibrium, Equilibrium]:
    checks.number("penalty", penalty, above=0)
    lower = equilibrium(game, x, entropy_weight=τ)
    return lower, equilibrium(game, x, entropy_weight=τ, penalty=penalty, start=lower)


def _gradient_at(game: CongestionGame, x: np.ndarray, found: Equilibrium, τ: float) -> np.ndarray:
    gradient = in_double_precision(_implicit, game, x, found.flow, found.values, np.asarray(τ, np.float64))
    if not np.all(np.isfinite(gradient)):
        raise NoEquilibriumError(f"the equilibrium at x = {x} has no derivative: its linear system is singular")
    return gradient


@eqx.filter_jit
def _upper(game: CongestionGame, x: Array, flow: Array) -> Array:
    return game.upper(x, flow)


@eqx.filter_jit
def _implicit(game: CongestionGame, x: Array, flow: Array, values: Array, τ: Array) -> Array:
    of_x, of_flow = jax.grad(game.upper, argnums=(0, 1))(x, flow)

    def loaded(x: Array, flow: Array) -> Array:
        return loaded_flow(game, x, flow, values, τ, 0.0)

    jacobian = jnp.eye(len(flow)) - jax.jacfwd(loaded, argnums=1)(x, flow)
    adjoint = jnp.linalg.solve(jacobian.T, of_flow)
    return of_x + jax.vjp(lambda x: loaded(x, flow), x)[1](adjoint)[0]


@eqx.filter_jit
def _penalized_value(game: CongestionGame, x: Array, lower: Array, penalized: Array, τ: Array, penalty: Array) -> Array:
    above = game.potential(x, penalized, τ) - game.potential(x, lower, τ)
    return game.upper(x, game.flow(penalized)) + above / penalty


def first_order_gradient(
    game: CongestionGame,
    x: Float[Array, " n"],
    lower: Float[Array, "S A"],
    penalized: Float[Array, "S A"],
    penalty: Float[ArrayLike, ""],
) -> Float[Array, " n"]:
    """∇Φ_w with any two occupancies in place of the equilibria's. A plain JAX function."""
    direct = jax.grad(game.upper)(x, game.flow(penalized))
    difference = game.visits(lower - penalized) / penalty
    return direct + jax.vjp(game.own_rewards, x)[1](difference)[0]


_first_order = eqx.filter_jit(first_order_gradient)
