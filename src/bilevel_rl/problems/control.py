"""Reward design on Gymnasium's functional CartPole: where along its track does the follower get to stand?

Gymnasium's functional environments import `flax.struct`: the extra `[control]` installs it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl.environments import FunctionalEnvironment
from bilevel_rl.problems.problem import BilevelProblem
from bilevel_rl.problems.upper_objectives import OccupancyCost
from bilevel_rl.projections import Box

PLACES = np.linspace(-2.0, 2.0, 9)
"""Positions on CartPole's track whose rewards x sets."""

REWARD_SCALE = 0.1
"""Reward of a full height. Values are then some 10 at γ = 0.99, which networks reach sooner than 100."""

CARTPOLE_SCALES = np.array([1 / 1.2, 1 / 2, 5.0, 1 / 2])
"""Of position, speed, angle and angular speed: with them all four are of size 1 where the pole stands."""


def cartpole_design(
    target: float = 1.0,
    tolerance: float = 0.7,
    initial_target: float = -1.0,
    price: float = 0.02,
    discount: float = 0.99,
    time_limit: int = 1_000,
) -> BilevelProblem:
    """x ∈ [0, 1]⁹ are the heights of a reward along CartPole's track; a hidden cost says where the cart should stand.

    The follower's reward is `0.1 · h_x(position) · (1 − (angle / angle of falling)²)`, with h_x linear between the
    heights x at `PLACES`. The leader sees samples of `1 − exp(−(position − target)² / (2 tolerance²))`, and a fallen
    pole costs 1 for ever: this part of f is a share of the discounted time, between 0 and 1, that the follower spends
    off the target. Beside it the leader pays `price` times the mean height: a follower that has moved on tells nothing
    of the reward that it left behind, which would otherwise stay and catch the next follower. In the terms of
    `OccupancyCost`, c = −exp(…), which is 0 after a fall, and g(x) = 1 + price · mean(x).

    At the start the heights are those of a hill at `initial_target`, which ends 2 away from it.

    Args:
        target: where the leader wants the cart to stand; the track ends at ±2.4.
        tolerance: how far off still counts as there.
        initial_target: where the follower is made to stand at first.
        price: of a reward that is as high as can be everywhere.
        discount: γ.
        time_limit: steps after which an episode is truncated.

    Raises:
        ValueError: `target` or `initial_target` lies outside of [−2, 2], `tolerance` is not positive, `price` is
            negative, or as `FunctionalEnvironment`.
        ModuleNotFoundError: flax is not installed.
    """
    for name, place in (("target", target), ("initial_target", initial_target)):
        if not abs(place) <= PLACES[-1]:
            raise ValueError(
                f"{name} must lie in [{PLACES[0]:g}, {PLACES[-1]:g}], where x sets the reward, got {place}"
            )
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be finite and positive, got {tolerance}")
    if not 0 <= price < float("inf"):
        raise ValueError(f"price must be finite and not negative, got {price}")
    func_env = _cartpole()
    falling_angle = func_env.default_params.theta_threshold_radians

    def reward(x: Float[ArrayLike, " 9"], state: Float[Array, " 4"], action: ArrayLike) -> Float[Array, ""]:
        return REWARD_SCALE * heights(x, state[0]) * (1 - (state[2] / falling_angle) ** 2)

    def cost(x: Float[ArrayLike, " 9"], state: Float[Array, " 4"], action: ArrayLike) -> Float[Array, ""]:
        return -jnp.exp(-((state[0] - target) ** 2) / (2 * tolerance**2))

    return BilevelProblem(
        environment=FunctionalEnvironment.from_func_env(func_env, discount=discount, time_limit=time_limit),
        reward=reward,
        upper=OccupancyCost(cost, regularizer=lambda x: 1 + price * jnp.mean(x), cost_bound=1.0),
        initial_x=np.maximum(0.0, 1 - np.abs(PLACES - initial_target) / 2),
        project=Box(0.0, 1.0),
        reward_bound=REWARD_SCALE,
    )


def heights(x: Float[ArrayLike, " 9"], position: Float[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """h_x: linear between `PLACES`, and level beyond them."""
    return jnp.interp(jnp.asarray(position), jnp.asarray(PLACES, float), jnp.asarray(x))


def observe_cartpole(state: Float[ArrayLike, " 4"]) -> Float[Array, " 4"]:
    """What networks see of CartPole: its four numbers, each of size 1."""
    return jnp.asarray(state) * jnp.asarray(CARTPOLE_SCALES, float)


def _cartpole() -> Any:
    try:
        from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Gymnasium's functional CartPole needs {error.name}, which is not installed: "
            "pip install 'bilevel-rl[control]'",
            name=error.name,
        ) from error
    return CartPoleFunctional()
