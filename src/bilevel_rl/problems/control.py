"""Reward design on Gymnasium's functional CartPole and Pendulum: which reward makes a follower do what is wanted?

Gymnasium's functional environments import `flax.struct`: the extra `[control]` installs it.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bilevel_rl import checks
from bilevel_rl.environments import FunctionalEnvironment
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_objectives import OccupancyCost
from bilevel_rl.problems.worked import as_function

PLACES = np.linspace(-2.0, 2.0, 9)
"""Positions on CartPole's track whose rewards x sets."""

REWARD_SCALE = 0.1
"""Reward of a full height. Values are then some 10 at γ = 0.99, which networks reach sooner than 100."""

CARTPOLE_SCALES = np.array([1 / 1.2, 1 / 2, 5.0, 1 / 2])
"""Of position, speed, angle and angular speed: with them all four are of size 1 where the pole stands."""


@dataclass(frozen=True)
class CartpoleDesign:
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
        price: price of a reward that is as high as can be everywhere.
        discount: discount factor γ.
        time_limit: steps after which an episode is truncated.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `target` or `initial_target` lies outside of [−2, 2], `tolerance` is not positive, `price` is
            negative, or as `FunctionalEnvironment`.
        ModuleNotFoundError: flax is not installed.
    """

    target: float = 1.0
    tolerance: float = 0.7
    initial_target: float = -1.0
    price: float = 0.02
    discount: float = 0.99
    time_limit: int = 1_000

    def problem(self) -> BilevelProblem:
        """What is solved."""
        for name, place in (("target", self.target), ("initial_target", self.initial_target)):
            remedy = "x sets the reward there"
            checks.number(name, place, at_least=float(PLACES[0]), at_most=float(PLACES[-1]), remedy=remedy)
        checks.number("tolerance", self.tolerance, above=0)
        checks.number("price", self.price, at_least=0)
        func_env = _functional("cartpole", "CartPoleFunctional")
        falling_angle = func_env.default_params.theta_threshold_radians

        def reward(x: Float[ArrayLike, " 9"], state: Float[Array, " 4"], action: ArrayLike) -> Float[Array, ""]:
            return REWARD_SCALE * heights(x, state[0]) * (1 - (state[2] / falling_angle) ** 2)

        def cost(x: Float[ArrayLike, " 9"], state: Float[Array, " 4"], action: ArrayLike) -> Float[Array, ""]:
            return -jnp.exp(-((state[0] - self.target) ** 2) / (2 * self.tolerance**2))

        return BilevelProblem(
            environment=FunctionalEnvironment.from_func_env(
                func_env, discount=self.discount, time_limit=self.time_limit
            ),
            reward=reward,
            upper=OccupancyCost(cost, regularizer=lambda x: 1 + self.price * jnp.mean(x), cost_bound=1.0),
            initial_x=np.maximum(0.0, 1 - np.abs(PLACES - self.initial_target) / 2),
            project=Box(0.0, 1.0),
            reward_bound=REWARD_SCALE,
        )


cartpole_design = as_function(CartpoleDesign)
"""The problem that `CartpoleDesign` describes, from the same arguments."""


def heights(x: Float[ArrayLike, " 9"], position: Float[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """h_x: linear between `PLACES`, and level beyond them."""
    return jnp.interp(jnp.asarray(position), jnp.asarray(PLACES, float), jnp.asarray(x))


def observe_cartpole(state: Float[ArrayLike, " 4"]) -> Float[Array, " 4"]:
    """What networks see of CartPole: its four numbers, each of size 1."""
    return jnp.asarray(state) * jnp.asarray(CARTPOLE_SCALES, float)


NUM_ANGLES = 8
"""Angles of the pendulum whose rewards x sets: 0 is upright, 4 hangs."""

LEAST_TORQUE_PRICE = 0.05
"""Of the reward's scale. Without a price the torques that a follower with an entropy bonus asks for have no bound."""

MAX_SPEED, MAX_TORQUE = 8.0, 2.0
"""Of Gymnasium's pendulum."""


@dataclass(frozen=True)
class PendulumDesign:
    """x ∈ [0, 1]¹⁰ is a reward for a pendulum's angle, speed and torque; a hidden cost wants it up with little torque.

    The follower's action is a torque in units of the largest one, which the environment clips to ±1; the pendulum's
    weight is 2.5 times what that can hold. With h_x the heights `x[:8]` at `NUM_ANGLES` angles, linear between them and
    around the circle, its reward is

        0.1 · (h_x(angle) − x[8] (speed / 8)² − (0.05 + 0.95 x[9]) torque²),

    where torque is what was asked for. The leader sees samples of

        1 − exp(−angle² / (2 tolerance²)) + torque_price · torque²,

    where angle is that from upright and torque what was exerted, and pays `price` times the mean height, for the reason
    that `cartpole_design` gives. In the terms of `OccupancyCost`, g(x) = 1 + price · mean(x[:8]) and c is the rest.
    Chains start anywhere on the circle, with a speed of up to ±1.

    At the start all heights are 0, speed is free and torque is not (x[9] = ½): the follower lets the pendulum hang.

    Args:
        tolerance: how far from upright still counts, in radians.
        torque_price: that the leader pays for the largest torque.
        price: price of a reward that is as high as can be everywhere.
        discount: discount factor γ.
        time_limit: steps, of a twentieth of a second, after which an episode is truncated.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `tolerance` is not positive, a price is negative, or as `FunctionalEnvironment`.
        ModuleNotFoundError: flax is not installed.
    """

    tolerance: float = 0.5
    torque_price: float = 0.1
    price: float = 0.05
    discount: float = 0.99
    time_limit: int = 400

    def problem(self) -> BilevelProblem:
        """What is solved."""
        checks.number("tolerance", self.tolerance, above=0)
        for name in ("torque_price", "price"):
            checks.number(name, getattr(self, name), at_least=0)
        func_env = _functional("pendulum", "PendulumFunctional")
        params = func_env.default_params

        def reward(
            x: Float[ArrayLike, " 10"], state: Float[Array, " 2"], action: Float[Array, " 1"]
        ) -> Float[Array, ""]:
            x = jnp.asarray(x)
            of_torque = LEAST_TORQUE_PRICE + (1 - LEAST_TORQUE_PRICE) * x[NUM_ANGLES + 1]
            spent = x[NUM_ANGLES] * (state[1] / MAX_SPEED) ** 2 + of_torque * action[0] ** 2
            return REWARD_SCALE * (angle_heights(x, state[0]) - spent)

        def cost(x: Float[ArrayLike, " 10"], state: Float[Array, " 2"], action: Float[Array, " 1"]) -> Float[Array, ""]:
            spent = self.torque_price * jnp.clip(action[0], -1, 1) ** 2
            return spent - jnp.exp(-(from_upright(state[0]) ** 2) / (2 * self.tolerance**2))

        return BilevelProblem(
            environment=FunctionalEnvironment(
                initial=lambda key: func_env.initial(key, params),
                transition=lambda state, action, key: func_env.transition(state, MAX_TORQUE * action, key, params),
                observe=lambda state: func_env.observation(state, None, params),
                discount=self.discount,
                num_action_dimensions=1,
                time_limit=self.time_limit,
            ),
            reward=reward,
            upper=OccupancyCost(
                cost,
                regularizer=lambda x: 1 + self.price * jnp.mean(x[:NUM_ANGLES]),
                cost_bound=1.0 + self.torque_price,
            ),
            initial_x=np.array([0.0] * (NUM_ANGLES + 1) + [0.5]),
            project=Box(0.0, 1.0),
        )


pendulum_design = as_function(PendulumDesign)
"""The problem that `PendulumDesign` describes, from the same arguments."""


def angle_heights(x: Float[ArrayLike, " 10"], angle: Float[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """h_x: linear between the heights at `NUM_ANGLES` angles, around the circle."""
    around = jnp.append(jnp.asarray(x)[:NUM_ANGLES], jnp.asarray(x)[0])
    turns = jnp.asarray(angle) / (2 * jnp.pi) % 1.0
    return jnp.interp(NUM_ANGLES * turns, jnp.arange(NUM_ANGLES + 1.0), around)


def from_upright(angle: Float[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """The same angle in [−π, π)."""
    return (jnp.asarray(angle) + jnp.pi) % (2 * jnp.pi) - jnp.pi


def observe_pendulum(state: Float[ArrayLike, " 2"]) -> Float[Array, " 3"]:
    """What networks see of the pendulum: cosine, sine, and a speed of size 1."""
    angle, speed = jnp.asarray(state)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / 4])


def _functional(module: str, name: str) -> Any:
    """An environment of `gymnasium.envs.phys2d`."""
    try:
        return getattr(importlib.import_module(f"gymnasium.envs.phys2d.{module}"), name)()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} of Gymnasium needs {error.name}, which is not installed: pip install 'bilevel-rl[control]'",
            name=error.name,
        ) from error
