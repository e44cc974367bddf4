"""Reward design on CartPole and Pendulum: what reward and cost are where the state is known, and what is refused."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.problems import cartpole_design, pendulum_design
from bilevel_rl.problems.control import (
    LEAST_TORQUE_PRICE,
    PLACES,
    REWARD_SCALE,
    angle_heights,
    from_upright,
    heights,
    observe_pendulum,
)


def standing_at(position, angle=0.0):
    return jnp.array([position, 0.0, angle, 0.0], jnp.float32)


def test_the_reward_is_linear_between_the_heights_and_fades_where_the_pole_leans(phys2d):
    problem = cartpole_design()
    x = np.linspace(0.1, 0.9, 9)
    assert problem.reward(x, standing_at(PLACES[3]), 0) == pytest.approx(REWARD_SCALE * x[3])
    between = problem.reward(x, standing_at(0.25 * PLACES[3] + 0.75 * PLACES[4]), 1)
    assert between == pytest.approx(REWARD_SCALE * (0.25 * x[3] + 0.75 * x[4]), rel=1e-5)
    assert heights(x, jnp.array([-2.3, 2.3])).tolist() == pytest.approx([x[0], x[-1]])
    half_fallen = np.pi / 15 / 2
    assert problem.reward(x, standing_at(0.0, half_fallen), 0) == pytest.approx(0.75 * REWARD_SCALE * x[4], rel=1e-4)
    slope = jax.grad(lambda x: problem.reward(x, standing_at(PLACES[3]), 0))(jnp.asarray(x))
    np.testing.assert_allclose(slope, REWARD_SCALE * (np.arange(9) == 3), atol=1e-7)


def test_the_cost_is_lowest_at_the_target_and_a_fall_costs_most(phys2d):
    problem = cartpole_design(target=1.0, tolerance=0.5, price=0.0)
    x = problem.initial_x
    price = problem.upper.regularizer(x)
    states = jnp.stack([standing_at(1.0), standing_at(0.5), standing_at(-1.0), standing_at(1.0, angle=0.3)])
    episodes = problem.environment.reset(jnp.zeros(4))._replace(state=states)
    costs = price + problem.costs(x, episodes, jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(costs, [0.0, 1 - np.exp(-0.5), 1 - np.exp(-8), 1.0], rtol=1e-5, atol=1e-6)


def test_the_leader_pays_for_the_mean_height(phys2d):
    price = cartpole_design(price=0.3).upper.regularizer
    assert price(jnp.full(9, 0.5)) == pytest.approx(1.15)
    np.testing.assert_allclose(jax.grad(price)(jnp.zeros(9)), 0.3 / 9, rtol=1e-5)


def test_the_first_reward_is_a_hill_where_the_follower_is_to_stand_first(phys2d):
    x = cartpole_design(initial_target=-1.0).initial_x
    np.testing.assert_allclose(x, [0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(cartpole_design().project(x - 0.5) >= 0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 2.1}, r"target must lie in \[-2, 2\]"),
        ({"initial_target": np.nan}, "initial_target must lie in"),
        ({"tolerance": 0.0}, "tolerance must be finite and positive"),
        ({"price": -0.1}, "price must be finite and not negative"),
        ({"discount": 1.0}, "discount must lie in"),
    ],
)
def test_bad_numbers_are_refused(phys2d, options, message):
    with pytest.raises(ValueError, match=message):
        cartpole_design(**options)


PENDULUM_X = np.append(np.linspace(0.1, 0.8, 8), [0.3, 0.6])


def at_angle(angle, speed=0.0):
    return jnp.array([angle, speed], jnp.float32)


@pytest.mark.parametrize("turns", [0, 3, -2])
def test_the_heights_of_a_pendulum_s_reward_lie_around_the_circle(turns):
    around = 2 * np.pi * turns
    for i in range(8):
        between = angle_heights(PENDULUM_X, 2 * np.pi * (i + 0.25) / 8 + around)
        expected = 0.75 * PENDULUM_X[i] + 0.25 * PENDULUM_X[(i + 1) % 8]
        assert between == pytest.approx(expected, rel=1e-4)
    assert angle_heights(PENDULUM_X, -np.pi / 8 + around) == pytest.approx(0.45, rel=1e-4)
    np.testing.assert_allclose(
        from_upright(np.array([0.3, -0.3, 3.0, -3.0]) + around), [0.3, -0.3, 3.0, -3.0], atol=1e-5
    )


def test_the_follower_pays_for_speed_and_for_the_torque_that_it_asks_for(phys2d):
    reward, action = pendulum_design().reward, jnp.array([1.5])
    price = LEAST_TORQUE_PRICE + (1 - LEAST_TORQUE_PRICE) * 0.6
    expected = REWARD_SCALE * (PENDULUM_X[2] - 0.3 * (4 / 8) ** 2 - price * 1.5**2)
    assert reward(PENDULUM_X, at_angle(np.pi / 2, speed=-4.0), action) == pytest.approx(expected, rel=1e-4)
    free = np.append(PENDULUM_X[:8], [0.0, 0.0])
    assert reward(free, at_angle(np.pi / 2, speed=8.0), jnp.zeros(1)) == pytest.approx(REWARD_SCALE * 0.3, rel=1e-4)


def test_the_leader_pays_for_leaning_and_for_the_torque_that_is_exerted(phys2d):
    problem = pendulum_design(tolerance=0.4, torque_price=0.2)
    states = jnp.stack([at_angle(0.0), at_angle(2 * np.pi - 0.4), at_angle(np.pi), at_angle(0.0)])
    actions = jnp.array([0.0, 0.5, -1.0, 7.0])[:, None]
    episodes = problem.environment.reset(jnp.zeros(4))._replace(state=states)
    costs = problem.upper.regularizer(problem.initial_x) + problem.costs(problem.initial_x, episodes, actions)
    assert problem.upper.regularizer(PENDULUM_X) == pytest.approx(1 + 0.05 * 0.45)
    np.testing.assert_allclose(costs, [0.0, 1 - np.exp(-0.5) + 0.05, 1.2, 0.2], rtol=1e-4, atol=1e-5)


def test_the_follower_s_unit_of_torque_is_the_largest_and_it_cannot_lift_the_pendulum_straight(phys2d):
    environment, func_env = pendulum_design().environment, phys2d.Pendulum()
    episode = environment.reset(jnp.zeros(()))._replace(state=at_angle(np.pi / 2))
    following = environment.step(episode, jnp.array([0.7]), jnp.array(0.3)).state
    expected = func_env.transition(at_angle(np.pi / 2), jnp.array([1.4]), None, func_env.default_params)
    np.testing.assert_allclose(following, expected, rtol=1e-6)
    falls = environment.step(episode, jnp.array([-99.0]), jnp.array(0.3)).state
    assert falls[1] == pytest.approx((15 - 6) * 0.05)
    np.testing.assert_allclose(observe_pendulum(at_angle(np.pi / 2, 2.0)), [0.0, 1.0, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": np.inf}, "tolerance must be finite and positive"),
        ({"torque_price": -1.0}, "torque_price must be finite and not negative"),
        ({"price": np.nan}, "price must be finite and not negative"),
        ({"discount": 1.0}, "discount must lie in"),
    ],
)
def test_bad_numbers_of_a_pendulum_are_refused(phys2d, options, message):
    with pytest.raises(ValueError, match=message):
        pendulum_design(**options)


def test_without_flax_it_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.phys2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "flax", None)
    for build in (cartpole_design, pendulum_design):
        with pytest.raises(ModuleNotFoundError, match=r"needs flax.*pip install 'bilevel-rl\[control\]'"):
            build()
