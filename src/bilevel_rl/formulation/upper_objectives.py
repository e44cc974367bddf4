"""What the leader minimizes: four kinds of upper objective f(x, π). Source: docs/explanation/method.md, section 6.

All are functions of x, of the occupancy d^π and of the policy itself, so that one implicit gradient serves all of them
(`exact.hyper_gradient`); how each is estimated from samples is told in `algorithms/upper_estimates.py`.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.checks.arrays import whole_numbers
from bilevel_rl.checks.functions import scalar, takes
from bilevel_rl.environments import Episode, HostEpisode, ObservedEnvironment, TabularMDP, over_axes
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.segments import Segments

StateActionFunction = Callable[[PyTree, Any, Any], Float[ArrayLike, ""]]
"""A plain JAX function (x, state, action) -> scalar; state and action are integer scalars in a `TabularMDP`, and one
state and one action of the environment in a `FunctionalEnvironment`, one observation and one action on the host."""

Regularizer = Callable[[PyTree], Float[ArrayLike, ""]]
"""g: a plain JAX function x -> scalar, what the leader pays for x itself."""


def no_regularizer(x: PyTree) -> float:
    """g(x) = 0: x itself costs the leader nothing."""
    return 0.0


def accrued(
    function: StateActionFunction,
    environment: TabularMDP | ObservedEnvironment,
    x: PyTree,
    states: Int[ArrayLike, "*#batch"] | Episode | HostEpisode,
    actions: Shaped[ArrayLike, "..."],
) -> Float[Array, "*batch"]:
    """A function's values for a batch of pairs; 0 in terminal states.

    Args:
        function: of x, one state and one action.
        environment: tells which states are terminal.
        x: upper variable.
        states: of the batch; an `Episode` in a `FunctionalEnvironment`, a `HostEpisode` in a `HostEnvironment`.
        actions: of the batch; where they are vectors, their axis is the last.
    """
    x = jax.tree.map(jnp.asarray, x)  # An array of NumPy cannot be indexed by a state that is traced.
    if isinstance(environment, ObservedEnvironment):
        assert isinstance(states, Episode | HostEpisode)
        is_terminal = environment.is_terminal(states)  # pyright: ignore[reportArgumentType]
        of_pairs = over_axes(lambda s, a: jnp.asarray(function(x, s, a), dtype=float), is_terminal.ndim)
        return jnp.where(is_terminal, 0.0, of_pairs(states.state, actions))
    states, actions = jnp.asarray(states), jnp.asarray(actions)
    values = jnp.vectorize(lambda s, a: jnp.asarray(function(x, s, a), dtype=float))(states, actions)
    return jnp.where(environment.is_terminal(states), 0.0, values)


class UpperObjective(eqx.Module):
    """f(x, π), the leader's objective; lower is better.

    Attributes:
        regularizer: g(x), what the leader pays for x itself; part of every f.

    Raises:
        TypeError: what should be a function is none, or a number is of another type.
        ValueError: a number is out of its range.
    """

    regularizer: Regularizer = eqx.field(default=no_regularizer, kw_only=True)

    def __check_init__(self):
        takes("regularizer", self.regularizer, "x")

    @abc.abstractmethod
    def value(
        self, environment: TabularMDP, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """f(x, π), exactly, from d^π and log π of every pair."""

    @abc.abstractmethod
    def bound_to(self, environment: Any, x: PyTree) -> "UpperObjective":
        """The same objective, checked and made ready for a problem with this environment and start x.

        Raises:
            ValueError: a function does not return a scalar, or a number or an index is out of its range.
        """

    @property
    def step_cost_bound(self) -> Float[ArrayLike, ""]:
        """An upper bound of what the penalized follower pays per step; infinite for none."""
        return 0.0

    @property
    def has_exact_value(self) -> bool:
        """Whether `value` can be worked out."""
        return True


class OccupancyCost(UpperObjective):
    """`f(x, π) = E_{d^π}[cost(x, s, a)] + regularizer(x)`, linear in the occupancy d^π.

    Attributes:
        cost: c_x(s, a), per-step cost that the leader pays for what the follower does.
        cost_bound: an upper bound of |c_x(s, a)| over all x, s, a; it bounds the penalized critic. Infinite: no bound.
    """

    cost: StateActionFunction
    cost_bound: float = eqx.field(default=float("inf"), kw_only=True)

    def __check_init__(self):
        takes("cost", self.cost, "x", "state", "action")
        checks.number("cost_bound", self.cost_bound, above=0, allow_infinite=True)

    def value(
        self, environment: TabularMDP, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """Σ d(s, a) c_x(s, a) + g(x)."""
        S, A = environment.num_states, environment.num_actions
        costs = accrued(self.cost, environment, x, jnp.arange(S)[:, None], jnp.arange(A))
        return jnp.sum(occupancy * costs) + self.regularizer(x)

    @property
    def step_cost_bound(self) -> Float[ArrayLike, ""]:
        """`cost_bound`."""
        return self.cost_bound

    def bound_to(self, environment: TabularMDP | ObservedEnvironment, x: PyTree) -> "OccupancyCost":
        """The same objective, checked and made ready for a problem; `ValueError` for what does not fit."""
        scalar("upper.cost", self.cost, {"x": x, **example_pair(environment)}, of="one state and one action")
        return OccupancyCost(
            cost=open_function(self.cost), regularizer=open_function(self.regularizer), cost_bound=self.cost_bound
        )


class OccupancyFunctional(UpperObjective):
    """`f(x, π) = functional(x, d^π) + regularizer(x)`, for instance the divergence from a wanted visitation.

    Sampled methods keep a running estimate of d and let the penalized follower pay `c(s, a) = ∂functional/∂d(s, a)` at
    it; the estimate's noise makes a functional that is not linear a little biased. An iteration costs O(S A) here.

    Attributes:
        functional: F, a plain JAX function (x, d) -> scalar; d has shape (S, A) and sums to 1.
        cost_bound: an upper bound of |∂F/∂d(s, a)|. Infinite: no bound.
        tracking_step: share of the running estimate that the visits of one iteration replace: larger follows the policy
            faster, smaller is less noisy. It decays as 1/√k after 20,000 iterations.
    """

    functional: Callable[[PyTree, Float[Array, "S A"]], Float[ArrayLike, ""]]
    cost_bound: float = eqx.field(default=float("inf"), kw_only=True)
    tracking_step: float = eqx.field(
        static=True, default=1e-3, converter=partial(checks.number, "tracking_step", above=0, at_most=1)
    )

    def __check_init__(self):
        takes("functional", self.functional, "x", "d")
        checks.number("cost_bound", self.cost_bound, above=0, allow_infinite=True)

    def value(
        self, environment: TabularMDP, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """F(x, d) + g(x)."""
        return jnp.asarray(self.functional(x, occupancy) + self.regularizer(x))

    @property
    def step_cost_bound(self) -> Float[ArrayLike, ""]:
        """`cost_bound`."""
        return self.cost_bound

    def bound_to(self, environment: TabularMDP, x: PyTree) -> "OccupancyFunctional":
        """The same objective, checked and made ready for a problem; `ValueError` for what does not fit."""
        d = jnp.full((environment.num_states, environment.num_actions), 1.0)
        scalar("upper.functional", self.functional, {"x": x, "d": d / d.size}, of="one occupancy")
        return OccupancyFunctional(
            functional=open_function(self.functional),
            regularizer=open_function(self.regularizer),
            cost_bound=self.cost_bound,
            tracking_step=self.tracking_step,
        )


def negative_log_likelihood(
    x: PyTree, log_policy: Float[Array, " A"], state: Int[ArrayLike, ""], action: Int[ArrayLike, ""]
) -> Float[Array, ""]:
    """−log π(a|s) of a demonstrated pair."""
    return -log_policy[action]


class PolicyLoss(UpperObjective):
    """`f(x, π) = mean over demonstrations of loss(x, log π(·|s), s, a) + regularizer(x)`.

    With the negative log-likelihood, the default, and a follower of entropy weight τ this is maximum-entropy inverse
    reinforcement learning: the reward whose soft-optimal policy would most likely have acted as was demonstrated.

    Attributes:
        states: of the demonstrated pairs, in an array of any shape, such as (trajectories, steps).
        actions: of the demonstrated pairs, in an array of the same shape.
        loss: a plain JAX function (x, log π(·|s), s, a) -> scalar.

    Raises:
        ValueError: `states` or `actions` are none, differ in shape, or are not whole numbers from 0.
    """

    states: Int[np.ndarray, "*N"] = eqx.field(converter=partial(whole_numbers, "states"))
    actions: Int[np.ndarray, "*N"] = eqx.field(converter=partial(whole_numbers, "actions"))
    loss: Callable[[PyTree, Array, Array, Array], Float[ArrayLike, ""]] = negative_log_likelihood

    def __check_init__(self):
        takes("loss", self.loss, "x", "log π(·|s)", "state", "action")
        if self.states.shape != self.actions.shape:
            raise ValueError(
                "states and actions must have the same shape, one action for each state, got "
                f"{self.states.shape} and {self.actions.shape}"
            )

    def value(
        self, environment: TabularMDP, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """Mean loss of all demonstrations, and g(x)."""
        states, actions = jnp.ravel(self.states), jnp.ravel(self.actions)
        losses = jax.vmap(lambda s, a: jnp.asarray(self.loss(x, log_policy[s], s, a), float))(states, actions)
        return jnp.mean(losses) + self.regularizer(x)

    def bound_to(self, environment: TabularMDP, x: PyTree) -> "PolicyLoss":
        """The same objective, checked and made ready for a problem; `ValueError` for what does not fit."""
        for name, indices, count in (
            ("states", self.states, environment.num_states),
            ("actions", self.actions, environment.num_actions),
        ):
            if indices.max() >= count:
                raise ValueError(f"upper.{name} must lie in 0..{count - 1}, got {indices.min()}..{indices.max()}")
        uniform = jnp.full(environment.num_actions, -jnp.log(environment.num_actions))
        arguments = {"x": x, "log π(·|s)": uniform, **example_pair(environment)}
        scalar("upper.loss", self.loss, arguments, of="one demonstration")
        return PolicyLoss(
            states=self.states.ravel(),
            actions=self.actions.ravel(),
            loss=open_function(self.loss),
            regularizer=open_function(self.regularizer),
        )


class TrajectoryLoss(UpperObjective):
    """`f(x, π) = E_{y∼π}[loss(x, states, actions)] + regularizer(x)`: y is a tuple of independent short trajectories.

    For instance the loss of a reward model on preferences between two of the follower's own trajectories. They start
    from ρ, are drawn afresh, and cost transitions of their own. Small models are enumerated for the exact value.

    Attributes:
        loss: ℓ, a plain JAX function (x, states, actions) -> scalar; both of shape (num_trajectories, num_steps).
        num_steps: H, of each trajectory.
        num_trajectories: how many a loss is about: 1, or 2 for a comparison.
    """

    loss: Callable[[PyTree, Array, Array], Float[ArrayLike, ""]]
    num_steps: int = eqx.field(static=True)
    num_trajectories: int = eqx.field(static=True, default=2)
    segments: Segments | None = None

    def __check_init__(self):
        takes("loss", self.loss, "x", "states", "actions")
        checks.integer("num_steps", self.num_steps, at_least=1)
        checks.integer("num_trajectories", self.num_trajectories, at_least=1, at_most=2)

    def value(
        self, environment: TabularMDP, x: PyTree, occupancy: Float[Array, "S A"], log_policy: Float[Array, "S A"]
    ) -> Float[Array, ""]:
        """Sum over all trajectories, or pairs of them, and g(x).

        Raises:
            ValueError: there are too many.
        """
        if self.segments is None:
            raise ValueError(
                f"upper has more than {Segments.MAX_COMBINATIONS:,} combinations of {self.num_trajectories} "
                f"trajectories of {self.num_steps} steps, too many for an exact value; measure runs with "
                "diagnostics='sampled', or shorten num_steps"
            )
        return self.segments.mean(lambda s, a: self.loss(x, s, a), log_policy) + self.regularizer(x)

    def bound_to(self, environment: TabularMDP, x: PyTree) -> "TrajectoryLoss":
        """The same objective, checked and made ready for a problem; `ValueError` for what does not fit."""
        trajectory = jax.ShapeDtypeStruct((self.num_trajectories, self.num_steps), jnp.int32)
        arguments = {"x": x, "states": trajectory, "actions": trajectory}
        scalar("upper.loss", self.loss, arguments, of="one tuple of trajectories")
        return TrajectoryLoss(
            loss=open_function(self.loss),
            num_steps=self.num_steps,
            num_trajectories=self.num_trajectories,
            regularizer=open_function(self.regularizer),
            segments=Segments.of(environment, self.num_steps, self.num_trajectories),
        )

    @property
    def has_exact_value(self) -> bool:
        """Whether the trajectories are few enough to be enumerated."""
        return self.segments is not None


def example_pair(environment: TabularMDP | ObservedEnvironment) -> dict[str, Any]:
    """Some state and action, or their shapes and types, by the names that messages give them."""
    if isinstance(environment, ObservedEnvironment):
        return {"state": environment.example_state, "action": environment.example_action}
    return {"state": jnp.int32(0), "action": jnp.int32(0)}
