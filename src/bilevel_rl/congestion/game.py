"""A congestion game of very many followers: the reward of each depends on how many others do the same.

    r_x(s, a, d) = r_x(s, a) − t_e(flow_e),   flow_e = demand · Σ_{(s, a) uses e} n(s, a)

n(s, a) is how often a follower takes the pair, discounted, in its lifetime: d(s, a) / (1 − γ). Followers that value
entropy by τ are in equilibrium where none gains by another policy. Each t_e depends on its own flow alone and does not
fall in it, so the equilibrium is the minimum of a convex potential (Beckmann, McGuire and Winsten 1956; with entropy of
the turns Akamatsu 1996; as a game of mean field: Cabannes et al. 2022):

    Ψ_x(d) = Σ_e ∫_0^{flow_e} t_e − demand · Σ_{s, a} n(s, a) (r_x(s, a) + τ H(π(·|s)))

What is proven of it, and what is not: docs/reports/problems/congestion.md.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from bilevel_rl import checks
from bilevel_rl.checks.functions import scalar, takes
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.evaluation import occupancy
from bilevel_rl.exact.soft_mdp import entropy
from bilevel_rl.formulation.closures import open_function
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import StateActionFunction, accrued

TINY = 1e-30
"""Flow beside which an empty road's is none: it keeps second derivatives of f^power finite at 0."""

NOT_AVAILABLE = -1
"""In place of the number of a road: the state has no such action."""


class Latency(eqx.Module):
    """t_e(f) = constant_e + slope_e · f^power_e: minutes on each of E roads, at a flow of f on it.

    Attributes:
        constant: minutes on an empty road; not negative.
        slope: not negative; 0 where there is no congestion.
        power: at least 1.

    Raises:
        ValueError: the three do not broadcast to one number a road, or a number is out of its range.

    Example:
        >>> from bilevel_rl.congestion import Latency
        >>> Latency.bpr(free_flow=6.0, capacity=[100.0, 200.0], b=0.15, power=4)([100.0, 200.0]).tolist()
        [6.9, 6.9]
    """

    constant: Float[np.ndarray, " E"]
    slope: Float[np.ndarray, " E"]
    power: Float[np.ndarray, " E"]

    def __init__(self, constant: npt.ArrayLike, slope: npt.ArrayLike, power: npt.ArrayLike = 1.0):
        given = {"constant": constant, "slope": slope, "power": power}
        arrays = {name: np.asarray(checks.finite(name, value)) for name, value in given.items()}
        try:
            constant, slope, power = np.broadcast_arrays(*(np.atleast_1d(array) for array in arrays.values()))
        except ValueError:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(
                f"constant, slope and power must be numbers or have one shape (E,), got {shapes}"
            ) from None
        if constant.ndim != 1:
            raise ValueError(f"constant must be one number for each road, got shape {constant.shape}")
        for name, array, least in (("constant", constant, 0.0), ("slope", slope, 0.0), ("power", power, 1.0)):
            if array.min() < least:
                raise ValueError(f"{name} must be at least {least:g} on every road, got {array.min():g}")
        self.constant, self.slope, self.power = (np.array(array) for array in (constant, slope, power))

    @classmethod
    def bpr(
        cls,
        free_flow: npt.ArrayLike,
        capacity: npt.ArrayLike,
        b: npt.ArrayLike = 0.15,
        power: npt.ArrayLike = 4.0,
    ) -> "Latency":
        """t_e(f) = free_flow (1 + b (f / capacity)^power), the function of the Bureau of Public Roads.

        Raises:
            ValueError: as the constructor, or a capacity is not positive.
        """
        if np.min(capacity) <= 0:
            raise ValueError(f"capacity must be positive on every road, got {np.min(capacity):g}")
        free_flow, capacity, b, power = (np.asarray(value, np.float64) for value in (free_flow, capacity, b, power))
        return cls(free_flow, free_flow * b / capacity**power, power)

    def __call__(self, flow: Float[Array, " E"] | npt.ArrayLike) -> Any:
        """t(f)."""
        return self.constant + self.slope * (_as_array(flow) + TINY) ** self.power

    def integral(self, flow: Float[Array, " E"] | npt.ArrayLike) -> Any:
        """∫_0^f t."""
        flow = _as_array(flow)
        return self.constant * flow + self.slope * flow ** (self.power + 1) / (self.power + 1)

    def marginal(self) -> "Latency":
        """t + f t': what one more driver costs all. The equilibrium under it is the least total travel time."""
        return Latency(self.constant, self.slope * (self.power + 1), self.power)


def _as_array(flow: Float[Array, " E"] | npt.ArrayLike) -> Any:
    """In double precision, where it is not JAX's already."""
    return flow if isinstance(flow, jax.Array) else np.asarray(flow, np.float64)


class CongestionGame(eqx.Module):
    """A leader that sets x, and followers that share E roads (machines, servers, …) which slow down in use.

    Attributes:
        environment: what one follower lives in. Several origins and destinations: the `Contexts` of one MDP for each
            destination, weighted by its share of the demand, as `road_network` makes it.
        roads: road that a pair (s, a) uses, 0…E−1, of shape (S, A); −1 where state s has no such action. What it says
            in terminal states does not count.
        latency: of the E roads.
        demand: followers that start, for each unit of time.
        reward: r_x(s, a) without congestion, as `reward(x, state, action)`: minus the toll, for instance.
        upper: the leader's objective as `upper(x, flow)`; lower is better. Its part of the hyper-gradient is exact for
            any; the penalized equilibrium is the minimum that it should be where it is convex in the flow.
        initial_x: x_0, one array of numbers.
        feasible: the box that x stays in.

    Raises:
        TypeError: an argument is of another type, or a function takes other arguments or returns no number.
        ValueError: shapes disagree, a road is out of range or a state has no action, `demand` is not positive, or
            `initial_x` lies outside of the box.
    """

    environment: TabularMDP
    roads: Int[np.ndarray, "S A"]
    latency: Latency
    demand: float
    reward: StateActionFunction
    upper: Callable[[Any, Any], Any]
    initial_x: Float[np.ndarray, " n"]
    feasible: Box

    def __init__(
        self,
        environment: TabularMDP,
        roads: npt.ArrayLike,
        latency: Latency,
        demand: float,
        reward: StateActionFunction,
        upper: Callable[[Any, Any], Any],
        initial_x: npt.ArrayLike,
        feasible: Box,
    ):
        self.environment = checks.instance("environment", environment, TabularMDP)
        self.latency = checks.instance("latency", latency, Latency)
        self.demand = checks.number("demand", demand, above=0)
        self.feasible = checks.instance("feasible", feasible, Box)
        self.roads = self._checked_roads(np.asarray(roads))
        self.initial_x = np.array(checks.finite("initial_x", initial_x))
        if self.initial_x.ndim != 1:
            raise ValueError(f"initial_x must be one array of numbers, got shape {self.initial_x.shape}")
        if not np.allclose(self.feasible(self.initial_x), self.initial_x):
            raise ValueError(f"initial_x must lie in the box `feasible`, got {self.initial_x}; move it inside")
        x, flow = jnp.asarray(self.initial_x), jnp.zeros(len(latency.constant))
        state = action = jnp.zeros((), jnp.int32)
        scalar("reward", takes("reward", reward, "x", "state", "action"), {"x": x, "state": state, "action": action})
        scalar("upper", takes("upper", upper, "x", "flow"), {"x": x, "flow": flow})
        self.reward, self.upper = open_function(reward), open_function(upper)

    @property
    def is_available(self) -> Bool[Array, "S A"]:
        """Whether a state has an action; all count where nothing is left to do."""
        return (jnp.asarray(self.roads) != NOT_AVAILABLE) | self.environment.terminal[:, None]

    def rewards(self, x: Float[Array, " n"], latency: Float[Array, " E"]) -> Float[Array, "S A"]:
        """r_x(s, a) − t_e of every pair at these minutes on the roads."""
        own = self.own_rewards(x)
        return jnp.where(self._uses_a_road(), own - latency[jnp.maximum(self.roads, 0)], 0.0)

    def own_rewards(self, x: Float[Array, " n"]) -> Float[Array, "S A"]:
        """r_x(s, a) of every pair; 0 where there is no such action."""
        num_states, num_actions = self.roads.shape
        pairs = jnp.arange(num_states)[:, None], jnp.arange(num_actions)
        return jnp.where(self._uses_a_road(), accrued(self.reward, self.environment, x, *pairs), 0.0)

    def visits(self, occupancy: Float[Array, "S A"]) -> Float[Array, "S A"]:
        """demand · n(s, a): followers that take a pair, for each unit of time."""
        return self.demand / (1 - self.environment.discount) * occupancy

    def flow(self, occupancy: Float[Array, "S A"]) -> Float[Array, " E"]:
        """Followers on each road, for each unit of time, at the followers' mean occupancy d, which sums to 1."""
        visits = jnp.where(self._uses_a_road(), self.visits(occupancy), 0.0)
        return jnp.zeros(len(self.latency.constant), visits.dtype).at[jnp.maximum(self.roads, 0)].add(visits)

    def policy_occupancy(self, policy: Float[Array, "S A"]) -> Float[Array, "S A"]:
        """d^π; sums to 1, terminal states included."""
        return occupancy(self.environment, policy)

    def potential(
        self, x: Float[Array, " n"], occupancy: Float[Array, "S A"], entropy_weight: Float[ArrayLike, ""]
    ) -> Float[Array, ""]:
        """Ψ_x(d), convex in the occupancy d; its minimum over all occupancies is the equilibrium."""
        of_state = jnp.sum(occupancy, axis=-1, keepdims=True)
        is_visited = (occupancy > 0) & ~jnp.asarray(self.environment.terminal)[:, None]
        share = jnp.where(is_visited, occupancy / jnp.where(is_visited, of_state, 1.0), 1.0)
        earned = self.own_rewards(x) - entropy_weight * jnp.log(share)
        return jnp.sum(self.latency.integral(self.flow(occupancy))) - jnp.sum(self.visits(occupancy) * earned)

    def total_return(
        self, rewards: Float[Array, "S A"], log_policy: Float[Array, "S A"], entropy_weight: Float[ArrayLike, ""]
    ) -> Float[Array, ""]:
        """Σ_{s, a} n(s, a) (r(s, a) + τ H(π(·|s))): what one follower earns in its lifetime, on average."""
        d = self.policy_occupancy(jnp.exp(log_policy))
        bonus = jnp.where(self.environment.terminal, 0.0, entropy_weight * entropy(log_policy))
        return jnp.sum(self.visits(d) * (rewards + bonus[:, None])) / self.demand

    def _uses_a_road(self) -> Bool[Array, "S A"]:
        return (jnp.asarray(self.roads) != NOT_AVAILABLE) & ~self.environment.terminal[:, None]

    def _checked_roads(self, roads: np.ndarray) -> Int[np.ndarray, "S A"]:
        num_roads = len(self.latency.constant)
        shape = self.environment.num_states, self.environment.num_actions
        if roads.dtype.kind not in "iu":
            raise TypeError(f"roads must hold whole numbers, got the type {roads.dtype}; convert it by .astype(int)")
        checks.shape("roads", roads, shape)
        if roads.min() < NOT_AVAILABLE or roads.max() >= num_roads:
            raise ValueError(
                f"roads must lie in 0..{num_roads - 1}, or be −1 for no such action, got {roads.min()}..{roads.max()}"
            )
        stuck = np.all(roads == NOT_AVAILABLE, axis=1) & ~self.environment.terminal
        if np.any(stuck):
            raise ValueError(f"state {np.flatnonzero(stuck)[0]} has no action; make it terminal or give it a road")
        return roads.astype(np.int32)
