"""A bi-level problem: a follower's environment, the reward that the leader sets, and what the leader minimizes."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Shaped

from bilevel_rl.environments import DrivenMDP, Episode, HostEpisode, ObservedEnvironment, TabularMDP
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.upper_objectives import (
    OccupancyCost,
    StateActionFunction,
    TrajectoryLoss,
    UpperObjective,
    accrued,
    check_bound,
    example_call,
)
from bilevel_rl.formulation.upper_variables import ROUNDING, as_arrays, distance_to

Upper = TypeVar("Upper", bound=PyTree)
"""The upper variable x: any pytree of floating-point arrays."""

OutcomeFunction = Callable[[PyTree, Int[ArrayLike, ""], Int[ArrayLike, ""]], Float[ArrayLike, " K"]]
"""A plain JAX function (x, state, action) -> probabilities of the K outcomes of the pair."""


def _unconstrained(x: Upper) -> Upper:
    return x


class BilevelProblem(eqx.Module):
    """min_x Φ(x) = f(x, π*(x)) subject to π*(x) being optimal in the MDP with reward r_x.

    The functions are plain JAX functions: gradients with respect to x come from autodiff. In terminal states of the
    environment reward and cost are zero, whatever the functions say. NumPy arrays that a function closes over become
    leaves of the problem, so that runs use them in single and oracles in double precision.

    Attributes:
        environment: what the follower lives in, without reward. Oracles and exact metrics need a `TabularMDP`.
        reward: r_x(s, a) as `reward(x, state, action)`; state and action are numbers in a `TabularMDP`, and one state
            and one action of a `FunctionalEnvironment`, one observation and one action of a `HostEnvironment`.
        upper: the leader's objective f.
        initial_x: x_0, any pytree of arrays; a list or tuple of numbers, also a nested one, counts as one array. In the
            feasible set.
        project: Π_X, maps any x to the nearest feasible one; the identity by default.
        reward_bound: an upper bound of |r_x(s, a)| over all feasible x; it bounds the critics. Infinite: no bound.
        initial_spread: standard deviation of the normal noise that is added to every entry of x_0, anew for each seed.
        outcome_probabilities: P_x, as `outcome_probabilities(x, state, action)`: how likely each of the K outcomes is
            that the environment lists for a pair, instead of the environment's own probabilities. None where x leaves
            the dynamics alone. An outcome of probability 0 is never sampled, and what its gradient says is lost.
        entropy_weight: λ of a follower that values entropy itself: Φ_λ is then what the leader minimizes, not a
            smoothed Φ. None for a follower that maximizes its reward alone. Oracles and step sizes are told their τ.

    Raises:
        ValueError: a function does not return a scalar, `initial_x` is no pytree of finite numbers or not feasible, a
            bound or `entropy_weight` is not positive, `initial_spread` is negative or not finite, `project` changes
            shapes, `upper` does not fit the environment, or `outcome_probabilities` gives no distribution or is beside
            a `TrajectoryLoss` or in a `FunctionalEnvironment` or `HostEnvironment`, which also ask for an
            `OccupancyCost`.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> swap_or_stay = np.array([[[0.2, 0.8], [1.0, 0.0]], [[0.7, 0.3], [0.0, 1.0]]])
        >>> problem = brl.BilevelProblem(
        ...     environment=brl.TabularMDP.from_dense(swap_or_stay, initial=[1.0, 0.0], discount=0.9),
        ...     reward=lambda x, s, a: x * (s == 1),
        ...     upper=brl.OccupancyCost(cost=lambda x, s, a: 1.0 * (s == 0), regularizer=lambda x: 0.1 * x**2),
        ...     initial_x=0.0,
        ... )
        >>> problem.rewards(2.0, np.array([0, 1]), np.array([0, 0])).tolist()
        [0.0, 2.0]
    """

    environment: TabularMDP | ObservedEnvironment
    reward: StateActionFunction
    upper: UpperObjective
    initial_x: PyTree[Float[np.ndarray, "..."]]
    project: Callable[[PyTree], PyTree] = _unconstrained
    reward_bound: float = float("inf")
    initial_spread: float = eqx.field(static=True, default=0.0)
    entropy_weight: float | None = None
    outcome_probabilities: OutcomeFunction | None = None

    def __init__(
        self,
        environment: TabularMDP | ObservedEnvironment,
        reward: StateActionFunction,
        upper: UpperObjective,
        initial_x: PyTree[ArrayLike],
        project: Callable[[PyTree], PyTree] = _unconstrained,
        reward_bound: float = float("inf"),
        initial_spread: float = 0.0,
        entropy_weight: float | None = None,
        outcome_probabilities: OutcomeFunction | None = None,
    ):
        self.environment = environment
        self.reward = open_function(reward)
        self.upper = upper
        self.project = open_function(project)
        self.initial_x = self._feasible(as_arrays("initial_x", initial_x))
        self.reward_bound = reward_bound
        self.initial_spread = initial_spread
        self.outcome_probabilities = None if outcome_probabilities is None else open_function(outcome_probabilities)
        self.entropy_weight = entropy_weight
        self._validate()
        self.upper = upper.bound_to(environment, jax.tree.map(jnp.asarray, self.initial_x))

    def start(self, key: Array) -> PyTree:
        """x_0 of one seed: `initial_x`, with noise where `initial_spread` > 0, projected then."""
        x = jax.tree.map(jnp.asarray, self.initial_x)
        if self.initial_spread == 0:
            return x
        flat, unravel = jax.flatten_util.ravel_pytree(x)
        return self.project(unravel(flat + self.initial_spread * jax.random.normal(key, flat.shape)))

    def rewards(
        self, x: PyTree, states: Int[ArrayLike, "*#batch"] | Episode | HostEpisode, actions: Shaped[ArrayLike, "..."]
    ) -> Float[Array, "*batch"]:
        """r_x(s, a) for a batch of pairs; 0 in terminal states."""
        return accrued(self.reward, self.environment, x, states, actions)

    def costs(
        self, x: PyTree, states: Int[ArrayLike, "*#batch"] | Episode | HostEpisode, actions: Shaped[ArrayLike, "..."]
    ) -> Float[Array, "*batch"]:
        """c_x(s, a) for a batch of pairs; 0 in terminal states.

        Raises:
            ValueError: the upper objective is not an `OccupancyCost`.
        """
        if not isinstance(self.upper, OccupancyCost):
            raise ValueError(f"upper is a {type(self.upper).__name__}, which has no cost of its own per step")
        return accrued(self.upper.cost, self.environment, x, states, actions)

    @property
    def mdp(self) -> TabularMDP:
        """The environment, where it is tabular.

        Raises:
            ValueError: it is not.
        """
        if not isinstance(self.environment, TabularMDP):
            raise ValueError(
                f"environment is a {type(self.environment).__name__}, which has no tables; oracles and exact metrics "
                "need a TabularMDP: measure runs with diagnostics='sampled'"
            )
        return self.environment

    def environment_at(self, x: PyTree) -> TabularMDP:
        """The follower's MDP at x, its whole table worked out: for oracles.

        Raises:
            ValueError: the environment is not a `TabularMDP`.
        """
        if self.outcome_probabilities is None:
            return self.mdp
        return DrivenMDP(self.mdp, self.outcome_probabilities, x).whole()

    def driven_environment(self, x: PyTree) -> TabularMDP | DrivenMDP | ObservedEnvironment:
        """The follower's environment at x, whose probabilities are worked out pair by pair: for sampling."""
        if self.outcome_probabilities is None:
            return self.environment
        return DrivenMDP(self.mdp, self.outcome_probabilities, x)

    def _feasible(self, x: PyTree[Float[np.ndarray, "..."]]) -> PyTree[Float[np.ndarray, "..."]]:
        """x_0 where `project` leaves it, which differs by rounding at most."""
        _check_finite("initial_x", x)
        # In double precision, in which a feasible x_0 keeps its bits.
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            nearest = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.project(x))
        if jax.tree.map(np.shape, nearest) != jax.tree.map(np.shape, x):
            raise ValueError(f"project must keep the structure and shapes of x, got {nearest} for {x}")
        distance = distance_to(nearest, x)
        if not distance <= ROUNDING:
            raise ValueError(
                f"initial_x must lie in the feasible set, got {x}, which project moves to {nearest}; start from there"
            )
        return nearest

    def _validate(self):
        x = jax.tree.map(jnp.asarray, self.initial_x)
        functions = {
            "reward": example_call(self.reward, self.environment, x),
            "upper.regularizer": lambda: self.upper.regularizer(x),
        }
        for name, call in functions.items():
            shape = jax.eval_shape(lambda call=call: jnp.asarray(call())).shape
            if shape != ():
                raise ValueError(f"{name} must return a scalar for one state and one action, got shape {shape}")
        if isinstance(self.environment, ObservedEnvironment):
            if not isinstance(self.upper, OccupancyCost):
                raise ValueError(f"upper must be an OccupancyCost in this environment, got {type(self.upper).__name__}")
            if self.outcome_probabilities is not None:
                raise ValueError("outcome_probabilities need a TabularMDP, whose outcomes are listed")
        if self.outcome_probabilities is not None:
            if isinstance(self.upper, TrajectoryLoss):
                raise ValueError("upper must not be a TrajectoryLoss where outcome_probabilities depend on x")
            self._validate_outcomes(x)
        check_bound("reward_bound", self.reward_bound)
        if not 0 <= self.initial_spread < float("inf"):
            raise ValueError(f"initial_spread must be finite and not negative, got {self.initial_spread}")
        if self.entropy_weight is not None and not 0 < self.entropy_weight < float("inf"):
            raise ValueError(f"entropy_weight must be finite and positive, or None, got {self.entropy_weight}")

    def _validate_outcomes(self, x: PyTree):
        num_outcomes = self.mdp.probabilities.shape[-1]
        function = self.outcome_probabilities
        shape = jax.eval_shape(lambda: jnp.asarray(function(x, jnp.int32(0), jnp.int32(0)))).shape  # pyright: ignore
        if shape != (num_outcomes,):
            raise ValueError(
                "outcome_probabilities must return a number for each outcome that the environment lists for a pair, "
                f"shape {(num_outcomes,)}, got shape {shape}"
            )
        table = np.asarray(DrivenMDP(self.mdp, function, x).whole().probabilities)  # pyright: ignore
        worst = np.unravel_index(np.argmax(np.abs(table.sum(-1) - 1)), table.shape[:2])
        if not (np.all(np.isfinite(table)) and table.min() >= 0 and abs(table[worst].sum() - 1) < 1e-4):
            raise ValueError(
                "outcome_probabilities must be non-negative and sum to 1 over the outcomes, got "
                f"{table[worst]} at initial_x in state {worst[0]}, action {worst[1]}"
            )


def _check_finite(name: str, x: PyTree[Float[np.ndarray, "..."]]):
    for path, leaf in jax.tree.leaves_with_path(x):
        if not np.all(np.isfinite(leaf)):
            raise ValueError(f"{name}{jax.tree_util.keystr(path)} must be finite, got {leaf}")
