"""A leader whose follower controls a linear system, with a quadratic reward and a quadratic cost.

With z = (s, a, 1), of n + m + 1 numbers, and x in all four matrices,

    s' = F_x z + G_x ε,  ε ~ N(0, I),      r_x(s, a) = −zᵀ W_x z,      c_x(s, a) = zᵀ C_x z.

The 1 carries what is constant or linear: an outside temperature, a set point, the price of a unit of action.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.checks.functions import answer, scalar, takes
from bilevel_rl.environments import FunctionalEnvironment, PathwiseTransition, ScoreTransition
from bilevel_rl.formulation import BilevelProblem, OccupancyCost
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.problem import unconstrained
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import no_regularizer
from bilevel_rl.formulation.upper_variables import ROUNDING, as_arrays, distance_to


class LinearQuadratic(NamedTuple):
    """The follower's world and both wishes at one x; z = (s, a, 1).

    Attributes:
        transition: F, so that the mean of s' is F z.
        noise: G, so that the covariance of s' is G Gᵀ.
        loss: W, so that the follower's reward is −zᵀ W z.
        cost: C, so that the leader's cost of a step is zᵀ C z.
    """

    transition: Float[Array, "n z"]
    noise: Float[Array, "n k"]
    loss: Float[Array, "z z"]
    cost: Float[Array, "z z"]


class LinearQuadraticProblem(eqx.Module):
    """min_x Φ(x) = E_{d^π*}[c_x(s, a)] + g(x), where π*(x) controls a linear system under entropy weight τ.

    Attributes:
        at: from x to a `LinearQuadratic`, a plain JAX function.
        initial_mean: of the start, s_0 ~ N(mean, L Lᵀ); x does not move it.
        initial_factor: L.
        initial_x: x_0, a vector.
        discount: γ, in [0, 1).
        regularizer: g.
        feasible: a box in which x lies; None: anywhere.
        independent: the follower's m numbers are independent of each other, as those of `policies.Gaussian`. False: it
            may choose any law.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `discount` lies outside of [0, 1), an array is not finite or has another shape than the others
            ask for, or `initial_x` lies outside of `feasible`.

    Example:
        >>> import jax.numpy as jnp
        >>> from bilevel_rl.exact import lqr
        >>> def at(x):  # The follower pulls s to 0, x is how fast it decays by itself, and the leader wants it at 1.
        ...     decay, force = 1.0 - x[0], 0.5
        ...     loss = jnp.diag(jnp.array([1.0, 0.1, 0.0]))
        ...     cost = jnp.array([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]])
        ...     return lqr.LinearQuadratic(jnp.array([[decay, force, 0.1]]), jnp.array([[0.1]]), loss, cost)
        >>> problem = lqr.LinearQuadraticProblem(at, [0.5], [[0.2]], initial_x=[0.1], discount=0.9)
        >>> round(lqr.hyper_objective(problem, [0.1], entropy_weight=0.1), 3)
        0.93
    """

    at: Callable[[Array], LinearQuadratic]
    initial_mean: Float[np.ndarray, " n"]
    initial_factor: Float[np.ndarray, "n k"]
    initial_x: Float[np.ndarray, " d"]
    discount: float = eqx.field(static=True)
    regularizer: Callable[[Array], Float[ArrayLike, ""]] = no_regularizer
    feasible: Box | None = None
    independent: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        at: Callable[[Array], LinearQuadratic],
        initial_mean: npt.ArrayLike,
        initial_factor: npt.ArrayLike,
        *,
        initial_x: npt.ArrayLike,
        discount: float,
        regularizer: Callable[[Array], Float[ArrayLike, ""]] = no_regularizer,
        feasible: Box | None = None,
        independent: bool = False,
    ):
        self.at = open_function(takes("at", at, "x"))
        self.initial_mean = _array("initial_mean", initial_mean, 1)
        self.initial_factor = _array("initial_factor", initial_factor, 2)
        self.initial_x = _array("initial_x", initial_x, 1)
        self.discount = checks.number("discount", discount, at_least=0, below=1)
        self.regularizer = open_function(takes("regularizer", regularizer, "x"))
        self.feasible = feasible if feasible is None else checks.instance("feasible", feasible, Box)
        self.independent = checks.flag("independent", independent)
        self._validate()

    @property
    def num_dimensions(self) -> tuple[int, int]:
        """(n, m): numbers of a state and of an action."""
        shape = jax.eval_shape(self.at, jnp.asarray(self.initial_x)).transition.shape
        return shape[0], shape[1] - shape[0] - 1

    def sampled(self, transition: Literal["pathwise", "score"] = "pathwise") -> BilevelProblem:
        """The same problem for methods that learn from samples; policies see the state itself.

        Args:
            transition: which part of (HG) comes through the dynamics: a `PathwiseTransition`, or a `ScoreTransition`,
                which asks for noise in all directions: G with as many columns as rows, that can be inverted.

        Raises:
            ValueError: there is no such kind, or the noise has other columns than that.
        """
        checks.one_of("transition", transition, ("pathwise", "score"))
        n, m = self.num_dimensions
        num_noises = jax.eval_shape(self.at, jnp.asarray(self.initial_x)).noise.shape[1]
        if transition == "score" and num_noises != n:
            raise ValueError(f"at(x).noise must have {n} columns for a density of the next state, got {num_noises}")

        def lifted(state: Array, action: Array) -> Array:
            return jnp.concatenate([state, action, jnp.ones(1)])

        def next_state(x: Array, state: Array, action: Array, key: Array) -> Array:
            model, noise = self.at(x), jax.random.normal(key, (num_noises,))
            return model.transition @ lifted(state, action) + model.noise @ noise

        def log_density(x: Array, state: Array, action: Array, following: Array) -> Array:
            model = self.at(x)
            noise = jnp.linalg.solve(model.noise, following - model.transition @ lifted(state, action))
            return -jnp.linalg.slogdet(model.noise)[1] - jnp.sum(noise**2) / 2

        def of_pair(name: str) -> Callable[[ArrayLike, Array, Array], Array]:
            def value(x: ArrayLike, state: Array, action: Array) -> Array:
                z = lifted(state, action)
                return z @ getattr(self.at(jnp.asarray(x)), name) @ z

            return value

        def initial(key: Array) -> Array:
            mean, factor = (jnp.asarray(part, float) for part in (self.initial_mean, self.initial_factor))
            return mean + factor @ jax.random.normal(key, (factor.shape[1],))

        is_path, loss = transition == "pathwise", of_pair("loss")
        return BilevelProblem(
            FunctionalEnvironment(
                initial=initial,
                transition=PathwiseTransition(next_state) if is_path else ScoreTransition(next_state, log_density),
                observe=lambda state: state,
                discount=self.discount,
                num_action_dimensions=m,
            ),
            reward=lambda x, state, action: -loss(x, state, action),
            upper=OccupancyCost(of_pair("cost"), regularizer=self.regularizer),
            initial_x=self.initial_x,
            project=self.feasible or unconstrained,
        )

    def _validate(self):
        x = jnp.asarray(self.initial_x)
        scalar("regularizer", self.regularizer, {"x": x})
        found = answer("at", self.at, {"x": x})
        if not isinstance(found, LinearQuadratic):
            raise TypeError(f"at must return a LinearQuadratic, got a {type(found).__name__}")
        n, num_columns = len(self.initial_mean), found.transition.shape[-1]
        square = num_columns, num_columns
        wanted = {"transition": (n, num_columns), "noise": (n, *found.noise.shape[-1:]), "loss": square, "cost": square}
        for name, shape in wanted.items():
            if getattr(found, name).shape != shape:
                raise ValueError(
                    f"at(x).{name} must have shape {shape}, for states of {n} numbers and z = (s, a, 1), got "
                    f"{getattr(found, name).shape}"
                )
        if num_columns < n + 2:
            raise ValueError(f"at(x).transition must have a column for an action and one for the 1, got {square[1]}")
        if len(self.initial_factor) != n:
            raise ValueError(f"initial_factor must have {n} rows, as initial_mean, got {len(self.initial_factor)}")
        if self.feasible is not None:
            with jax.enable_x64(True):
                nearest = np.asarray(self.feasible(jnp.asarray(self.initial_x)))
            if distance_to(nearest, self.initial_x) > ROUNDING:
                raise ValueError(f"initial_x must lie in feasible, got {self.initial_x}; start from {nearest}")


def _array(name: str, value: npt.ArrayLike, num_axes: int) -> np.ndarray:
    array = checks.finite(name, as_arrays(name, value))
    if np.ndim(array) != num_axes:
        raise ValueError(f"{name} must have {num_axes} axes, got shape {np.shape(array)}")
    return np.asarray(array, np.float64)
