"""A bi-level problem: a follower's environment, the reward that the leader sets, and what the leader minimizes."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.checks.functions import answer, scalar, takes
from bilevel_rl.environments import (
    DrivenMDP,
    Episode,
    FunctionalEnvironment,
    HostEpisode,
    ObservedEnvironment,
    ScoreTransition,
    TabularMDP,
)
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.names import Names
from bilevel_rl.formulation.upper_objectives import (
    OccupancyCost,
    StateActionFunction,
    TrajectoryLoss,
    UpperObjective,
    accrued,
    example_pair,
)
from bilevel_rl.formulation.upper_variables import ROUNDING, as_arrays, distance_to

Upper = TypeVar("Upper", bound=PyTree)
"""The upper variable x: any pytree of floating-point arrays."""

OutcomeFunction = Callable[[PyTree, Int[ArrayLike, ""], Int[ArrayLike, ""]], Float[ArrayLike, " K"]]
"""A plain JAX function (x, state, action) -> probabilities of the K outcomes of the pair."""


def unconstrained(x: Upper) -> Upper:
    """Π_X of a leader who may choose any x."""
    return x


class BilevelProblem(eqx.Module):
    """min_x Φ(x) = f(x, π*(x)) subject to π*(x) being optimal in the MDP with reward r_x.

    The functions are plain JAX functions: gradients with respect to x come from autodiff. In terminal states of the
    environment reward and cost are zero, whatever the functions say. NumPy arrays that a function closes over become
    leaves of the problem, so that runs use them in single and oracles in double precision.

    Attributes:
        environment: what the follower lives in, without reward. Oracles and exact metrics need a `TabularMDP`. Where x
            moves the dynamics of a `FunctionalEnvironment`, its transition says so.
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
        names: what states, actions and numbers of x are called, and where states lie. Nothing computed depends on it.

    Raises:
        TypeError: an argument is of another type, or a function takes other arguments or returns no numbers.
        ValueError: a function does not return a scalar or cannot be compiled, `initial_x` is no pytree of finite
            numbers or not feasible, a bound or `entropy_weight` is not positive, `initial_spread` is negative or not
            finite, `project` changes shapes, `upper` does not fit the environment, or `outcome_probabilities` gives no
            distribution or is beside a `TrajectoryLoss` or in a `FunctionalEnvironment` or `HostEnvironment`, which
            also ask for an `OccupancyCost`. Or `names` are not as many as there are states, actions or numbers of x.

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
    project: Callable[[PyTree], PyTree] = unconstrained
    reward_bound: float = float("inf")
    initial_spread: float = eqx.field(static=True, default=0.0)
    entropy_weight: float | None = None
    outcome_probabilities: OutcomeFunction | None = None
    names: Names = eqx.field(static=True, default=Names())

    def __init__(
        self,
        environment: TabularMDP | ObservedEnvironment,
        reward: StateActionFunction,
        upper: UpperObjective,
        initial_x: PyTree[ArrayLike],
        project: Callable[[PyTree], PyTree] = unconstrained,
        reward_bound: float = float("inf"),
        initial_spread: float = 0.0,
        entropy_weight: float | None = None,
        outcome_probabilities: OutcomeFunction | None = None,
        names: Names = Names(),  # noqa: B008  Frozen.
    ):
        kinds = TabularMDP, *get_args(ObservedEnvironment)
        self.environment = checks.instance("environment", environment, *kinds)
        self.reward = open_function(takes("reward", reward, "x", "state", "action"))
        self.upper = checks.instance("upper", upper, UpperObjective, remedy="wrap a cost: OccupancyCost(cost)")
        self.project = open_function(takes("project", project, "x"))
        self.initial_x = self._feasible(as_arrays("initial_x", initial_x))
        self.reward_bound = checks.number("reward_bound", reward_bound, above=0, allow_infinite=True)
        self.initial_spread = checks.number("initial_spread", initial_spread, at_least=0)
        self.outcome_probabilities = self.entropy_weight = None
        if outcome_probabilities is not None:
            arguments = "x", "state", "action"
            checked = takes("outcome_probabilities", outcome_probabilities, *arguments)
            self.outcome_probabilities = open_function(checked)
        if entropy_weight is not None:
            remedy = "None is for a follower without one"
            self.entropy_weight = checks.number("entropy_weight", entropy_weight, above=0, remedy=remedy)
        self.names = checks.instance("names", names, Names)
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
        if isinstance(self.environment, FunctionalEnvironment):
            return self.environment.at(x)
        if self.outcome_probabilities is None:
            return self.environment
        return DrivenMDP(self.mdp, self.outcome_probabilities, x)

    def _feasible(self, x: PyTree[Float[np.ndarray, "..."]]) -> PyTree[Float[np.ndarray, "..."]]:
        """x_0 where `project` leaves it, which differs by rounding at most."""
        for path, leaf in jax.tree.leaves_with_path(x):
            checks.finite(f"initial_x{jax.tree_util.keystr(path)}", leaf)
        shapes = answer("project", self.project, {"x": jax.tree.map(jnp.asarray, x)})
        if jax.tree.map(jnp.shape, shapes) != jax.tree.map(np.shape, x):
            raise ValueError(f"project must keep the structure and shapes of x, got {shapes} for {x}")
        if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shapes)):
            raise ValueError(f"project must keep x a floating-point number, got {shapes}")
        # In double precision, in which a feasible x_0 keeps its bits.
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            nearest = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.project(x))
        distance = distance_to(nearest, x)
        if not distance <= ROUNDING:
            raise ValueError(
                f"initial_x must lie in the feasible set, got {x}, which project moves to {nearest}; start from there"
            )
        return nearest

    def _validate(self):
        """Calls every function but `project` for the first time."""
        tabular = self.environment if isinstance(self.environment, TabularMDP) else None
        self.names.check(
            num_entries=sum(np.size(leaf) for leaf in jax.tree.leaves(self.initial_x)),
            num_states=tabular and tabular.num_states,
            num_actions=tabular and tabular.num_actions,
        )
        x, pair = jax.tree.map(jnp.asarray, self.initial_x), example_pair(self.environment)
        scalar("reward", self.reward, {"x": x, **pair}, of="one state and one action")
        scalar("upper.regularizer", self.upper.regularizer, {"x": x})
        if isinstance(self.environment, ObservedEnvironment):
            if not isinstance(self.upper, OccupancyCost):
                raise ValueError(f"upper must be an OccupancyCost in this environment, got {type(self.upper).__name__}")
            if self.outcome_probabilities is not None:
                raise ValueError(
                    "outcome_probabilities need a TabularMDP, whose outcomes are listed; a FunctionalEnvironment whose "
                    "dynamics depend on x has a PathwiseTransition or a ScoreTransition"
                )
            if isinstance(self.environment, FunctionalEnvironment):
                self._validate_transition(self.environment, x, pair)
        if self.outcome_probabilities is not None:
            if isinstance(self.upper, TrajectoryLoss):
                raise ValueError("upper must not be a TrajectoryLoss where outcome_probabilities depend on x")
            self._validate_outcomes(x, pair)

    def _validate_transition(self, environment: FunctionalEnvironment, x: PyTree, pair: dict[str, Any]):
        environment.at(x)
        if isinstance(environment.transition, ScoreTransition):
            arguments = {"x": x, **pair, "next_state": pair["state"]}
            function = environment.transition.log_density
            scalar("environment.transition.log_density", function, arguments, of="one transition")

    def _validate_outcomes(self, x: PyTree, pair: dict[str, Any]):
        num_outcomes, function = self.mdp.probabilities.shape[-1], self.outcome_probabilities
        shape = jnp.shape(answer("outcome_probabilities", function, {"x": x, **pair}))
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
