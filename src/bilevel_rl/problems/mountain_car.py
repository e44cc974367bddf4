"""Gymnasium's MountainCar-v0 as plain functions: a sparse goal, and rewards beside it that make it easier to find."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from bilevel_rl import checks
from bilevel_rl.environments import FunctionalEnvironment
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.worked import as_function

FORCE, GRAVITY, MAX_SPEED = 0.001, 0.0025, 0.07
LEFT_END, RIGHT_END, GOAL = -1.2, 0.6, 0.5
LEFTMOST_START, RIGHTMOST_START = -0.6, -0.4

GOAL_REWARD = 10.0
"""Of the transition that arrives."""

SHAPING_SCALE = 0.1
"""Reward of a full height of the learned shaping: at γ = 0.99, for ever, it is worth as much as an arrival."""

FASTEST_SHAPED = 0.04
"""Speeds beyond this are shaped as this one; the car is rarely faster in the valley."""

CarState = Float[Array, "2"]
"""(position, velocity), which is also Gymnasium's observation."""


def drive(state: CarState, action: Int[ArrayLike, ""]) -> CarState:
    """The next state of Gymnasium's MountainCar-v0; actions 0, 1, 2 push left, not at all, and right."""
    position, velocity = state[0], state[1]
    velocity = velocity + (action - 1) * FORCE - GRAVITY * jnp.cos(3 * position)
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    position = jnp.clip(position + velocity, LEFT_END, RIGHT_END)
    return jnp.stack([position, jnp.where((position == LEFT_END) & (velocity < 0), 0.0, velocity)])


def is_at_goal(state: CarState) -> Bool[Array, ""]:
    """Whether the car has arrived; it then stays."""
    return state[0] >= GOAL


def mountain_car_environment(discount: float, time_limit: int | None) -> FunctionalEnvironment:
    """MountainCar-v0; what a policy sees is scaled to [−1, 1].

    Args:
        discount: γ.
        time_limit: T; Gymnasium's is 200.

    Raises:
        ValueError: as `FunctionalEnvironment`.
    """

    def initial(key: Array) -> CarState:
        return jnp.stack([jax.random.uniform(key, minval=LEFTMOST_START, maxval=RIGHTMOST_START), jnp.zeros(())])

    return FunctionalEnvironment(
        initial=initial,
        transition=lambda state, action, key: drive(state, action),
        observe=lambda state: jnp.stack([(state[0] + 0.3) / 0.9, state[1] / MAX_SPEED]),
        discount=discount,
        num_actions=3,
        is_end=is_at_goal,
        time_limit=time_limit,
    )


Shaping = Callable[[CarState, Int[ArrayLike, ""]], Float[Array, ""]]
"""A reward beside that of the goal, of one state and one action."""


@dataclass(frozen=True)
class MountainCarShaping:
    """x, of shape (num_positions, num_velocities) and in [−1, 1], shapes the reward of a car that should arrive.

    The follower gets 10 for the transition that arrives, and in every state `0.1 Σ_ij x_ij hat_ij(position, velocity)`
    (`hats`). A leader of `energy` pays in every step for the share of the mechanical energy that the car lacks
    (`lack_of_energy`); f is the discounted mean, between 0 and 1, and `price` times the mean of x². A leader of `time`
    pays 1 for every step outside of the goal and knows nothing else: f is then the discounted share of the time before
    the arrival. Until a follower arrives nothing tells it anything, so it has to start from noise.

    Args:
        num_positions: hats of the shaping from the left end to the goal.
        num_velocities: hats of the shaping from −0.04 to 0.04.
        initial_spread: standard deviation of x at the start.
        price: price of a shaping of full height everywhere.
        leader: what the leader pays for, `energy` or `time`.
        discount: discount factor γ.
        time_limit: steps after which an episode is truncated; Gymnasium's is 200.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there are fewer than two hats along an axis, `price` is negative or not finite, there is no such
            `leader`, or as `FunctionalEnvironment` and `BilevelProblem`.
    """

    num_positions: int = 4
    num_velocities: int = 3
    initial_spread: float = 0.0
    price: float = 0.0
    leader: str = "energy"
    discount: float = 0.99
    time_limit: int = 200

    def problem(self) -> BilevelProblem:
        """What is solved."""
        for name in ("num_positions", "num_velocities"):
            checks.integer(name, getattr(self, name), at_least=2)
        checks.number("price", self.price, at_least=0)
        checks.one_of("leader", self.leader, LEADERS)
        shape, cost = (self.num_positions, self.num_velocities), LEADERS[self.leader]

        def shaping(x: Float[ArrayLike, "P V"], state: CarState, action: Int[ArrayLike, ""]) -> Float[Array, ""]:
            return SHAPING_SCALE * jnp.sum(x * hats(state, *shape))

        return BilevelProblem(
            environment=mountain_car_environment(self.discount, self.time_limit),
            reward=lambda x, state, action: goal_reward(state, action) + shaping(x, state, action),
            upper=OccupancyCost(
                lambda x, state, action: cost(state),
                regularizer=lambda x: self.price * jnp.mean(jnp.square(x)),
                cost_bound=1.0,
            ),
            initial_x=np.zeros(shape),
            project=Box(-1.0, 1.0),
            reward_bound=GOAL_REWARD + SHAPING_SCALE,
            initial_spread=self.initial_spread,
        )


mountain_car_shaping = as_function(MountainCarShaping)
"""The problem that `MountainCarShaping` describes, from the same arguments."""


def known_shapings(discount: float = 0.99, time_limit: int = 200) -> BilevelProblem:
    """The same car and leader under shapings that nobody has to learn: x, of shape (3,), are their weights.

    Beside 10 for the arrival the follower gets `x_0 push_along + x_1 F_height + x_2 F_energy`, where F is the
    `potential_shaping` by `height` and by `energy`. At the start x is 0: the goal alone.

    Args:
        discount: γ.
        time_limit: steps after which an episode is truncated.

    Raises:
        ValueError: as `FunctionalEnvironment`.
    """
    shapings = push_along, potential_shaping(height, discount), potential_shaping(energy, discount)

    def reward(x: Float[ArrayLike, "3"], state: CarState, action: Int[ArrayLike, ""]) -> Float[Array, ""]:
        return goal_reward(state, action) + jnp.sum(x * jnp.stack([shaping(state, action) for shaping in shapings]))

    return BilevelProblem(
        environment=mountain_car_environment(discount, time_limit),
        reward=reward,
        upper=OccupancyCost(lambda x, state, action: 1.0, cost_bound=1.0),
        initial_x=np.zeros(len(shapings)),
    )


def hats(state: CarState, num_positions: int, num_velocities: int) -> Float[Array, "P V"]:
    """Products of linear hats over position (left end to goal) and velocity (−0.04 to 0.04); they sum to 1."""
    scaled = (state[0] - LEFT_END) / (GOAL - LEFT_END), (state[1] / FASTEST_SHAPED + 1) / 2
    along_position, along_velocity = (
        jnp.maximum(0.0, 1 - jnp.abs(jnp.clip(place, 0.0, 1.0) * (count - 1) - jnp.arange(count)))
        for place, count in zip(scaled, (num_positions, num_velocities), strict=True)
    )
    return along_position[:, None] * along_velocity


def goal_reward(state: CarState, action: Int[ArrayLike, ""]) -> Float[Array, ""]:
    """10 where the action leads to the goal."""
    return GOAL_REWARD * is_at_goal(drive(state, action))


def height(state: CarState) -> Float[Array, ""]:
    """Of the hill: 1 at the goal, −1 at the bottom of the valley (−1.0025, to be exact)."""
    return jnp.sin(3 * state[0]) / jnp.sin(3 * GOAL)


def energy(state: CarState) -> Float[Array, ""]:
    """Mechanical energy, in units of a car's at rest at the goal: at rest it is the height."""
    return height(state) + state[1] ** 2 / 2 / (GRAVITY * jnp.sin(3 * GOAL) / 3)


def time_outside(state: CarState) -> Float[Array, ""]:
    """1: of a leader that knows the goal alone."""
    return jnp.ones(())


def lack_of_energy(state: CarState) -> Float[Array, ""]:
    """Between 0 and 1: how much of the energy is missing that a car has at the goal, in units of the lack at rest."""
    return jnp.clip((1 - energy(state)) / 2, 0.0, 1.0)


LEADERS = {"energy": lack_of_energy, "time": time_outside}
"""What the leader pays for a step."""


def push_along(state: CarState, action: Int[ArrayLike, ""]) -> Float[Array, ""]:
    """Shaping by hand: 0.1 for a push in the direction of motion, −0.1 for one against it."""
    return SHAPING_SCALE * (jnp.asarray(action) - 1) * jnp.sign(state[1])


def potential_shaping(potential: Callable[[CarState], Float[Array, ""]], discount: float) -> Shaping:
    """γΨ(s') − Ψ(s), which leaves the optimal policies as they are (Ng, Harada and Russell, ICML 1999).

    Ψ = potential − 1, and 0 at the goal, as it has to be in any terminal state, whose value is 0. With a potential of 1
    at the goal Ψ does not jump, but for the speed on arrival.
    """

    def value(state: CarState) -> Float[Array, ""]:
        return jnp.where(is_at_goal(state), 0.0, potential(state) - 1)

    def shaping(state: CarState, action: Int[ArrayLike, ""]) -> Float[Array, ""]:
        return discount * value(drive(state, action)) - value(state)

    return shaping
