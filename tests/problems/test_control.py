"""Reward design on CartPole: what reward and cost are where the state is known, and what is refused."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.problems import cartpole_design
from bilevel_rl.problems.control import PLACES, REWARD_SCALE, heights


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


def test_without_flax_it_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.phys2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs flax.*pip install 'bilevel-rl\[control\]'"):
        cartpole_design()
