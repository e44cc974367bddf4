"""Gymnasium's MountainCar-v0 as plain functions, for problems with a sparse goal."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from bilevel_rl.environments import FunctionalEnvironment

FORCE, GRAVITY, MAX_SPEED = 0.001, 0.0025, 0.07
LEFT_END, RIGHT_END, GOAL = -1.2, 0.6, 0.5
LEFTMOST_START, RIGHTMOST_START = -0.6, -0.4

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
