"""Environments from plain functions: batches, ends, time limits, and the two adapters."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import FunctionalEnvironment
from bilevel_rl.environments import Episode, GymnaxState

WALK = {
    "initial": lambda key: {"place": jax.random.uniform(key), "age": jnp.int32(0)},
    "transition": lambda s, a, key: {
        "place": s["place"] + a + 0.01 * jax.random.normal(key),
        "age": s["age"] + 1,
    },
    "observe": lambda s: s["place"][None],
    "discount": 0.9,
    "num_actions": 3,
    "is_end": lambda s: s["place"] > 3.0,
    "time_limit": 4,
}


def episode(places, num_steps):
    places = jnp.asarray(places, float)
    return Episode({"place": places, "age": jnp.zeros(places.shape, jnp.int32)}, jnp.asarray(num_steps, jnp.int32))


def test_start_states_are_drawn_by_the_uniforms_bits():
    walk = FunctionalEnvironment(**WALK)
    uniforms = jax.random.uniform(jax.random.key(0), (2, 5_000))
    start = walk.reset(uniforms)
    places = np.asarray(start.state["place"])
    assert places.shape == (2, 5_000)
    np.testing.assert_array_equal(start.num_steps, 0)
    assert len(np.unique(places)) > 0.99 * places.size
    assert abs(np.corrcoef(places.ravel(), np.ravel(uniforms))[0, 1]) < 0.05
    assert abs(places.mean() - 0.5) < 4 * (1 / 12 / places.size) ** 0.5
    np.testing.assert_array_equal(walk.reset(uniforms).state["place"], places)
    neighbours = walk.reset(jnp.array([0.5, 0.5 + 2**-23])).state["place"]
    assert neighbours[0] != neighbours[1]


def test_a_batch_steps_and_terminal_states_stay():
    walk = FunctionalEnvironment(**WALK)
    before = episode([[0.5, 1.0, 5.0], [2.5, 4.0, 0.0]], [[0, 1, 2], [3, 3, 3]])
    after = walk.step(before, jnp.array([[2, 0, 2], [1, 1, 2]]), jnp.full((2, 3), 0.3))
    np.testing.assert_allclose(after.state["place"], [[2.5, 1.0, 5.0], [3.5, 4.0, 2.0]], atol=0.1)
    np.testing.assert_array_equal(after.state["place"][[0, 1], [2, 1]], [5.0, 4.0])
    np.testing.assert_array_equal(after.state["age"], [[1, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(after.num_steps, [[1, 2, 3], [4, 4, 4]])
    np.testing.assert_array_equal(walk.is_terminal(after), [[False, False, True], [True, True, False]])
    np.testing.assert_array_equal(walk.is_truncated(after), [[False] * 3, [False, False, True]])
    endless = FunctionalEnvironment(**WALK | {"time_limit": None})
    assert not np.any(endless.is_truncated(after))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.0}, r"discount must lie in \[0, 1\), got 1.0"),
        ({"num_actions": None}, "exactly one of num_actions and num_action_dimensions"),
        ({"num_action_dimensions": 2}, "exactly one of num_actions and num_action_dimensions"),
        ({"time_limit": 0}, "time_limit must be at least 1, got 0"),
        ({"transition": lambda s, a, key: s["place"]}, "transition must keep the structure"),
        ({"transition": lambda s, a, key: s | {"age": 0.5}}, "transition must keep the structure"),
        ({"initial": lambda key: {"place": 0.0, "age": key}}, "states must not hold typed keys"),
    ],
)
def test_what_is_no_environment_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FunctionalEnvironment(**WALK | changes)


class Space(types.SimpleNamespace):
    """An action space as gymnax has it."""


class GymnaxLine:
    """What gymnax offers: `reset` and `step`, which starts anew after an end, and both return observations."""

    default_params = types.SimpleNamespace(length=3.0)

    def reset(self, key, params):
        state = 0.1 * jax.random.normal(key) - 0.5
        return state[None], state

    def step(self, key, state, action, params):
        moved = state + action - 1.0
        is_done = moved > params.length
        _, fresh = self.reset(key, params)
        state = jnp.where(is_done, fresh, moved)
        return state[None], state, 1.0 * is_done, is_done, {}

    def action_space(self, params):
        return Space(n=3)


class GymnaxLineWithoutReset(GymnaxLine):
    def step_env(self, key, state, action, params):
        state = state + action - 1.0
        return state[None], state, 0.0, state > params.length, {}


@pytest.mark.parametrize("kind", [GymnaxLine, GymnaxLineWithoutReset])
def test_an_environment_in_gymnax_style(kind):
    line = FunctionalEnvironment.from_gymnax(kind(), discount=0.9, time_limit=7)
    assert (line.num_actions, line.time_limit, line.discount) == (3, 7, 0.9)
    uniforms = jnp.array([0.1, 0.6])
    now = line.reset(uniforms)
    assert isinstance(now.state, GymnaxState)
    for is_over in (False, False, False, True):  # the first walks up, the second stays
        assert np.asarray(line.is_terminal(now)).tolist() == [False, False]
        previous, now = now, line.step(now, jnp.array([2, 1]), uniforms)
        assert np.asarray(line.is_terminal(now)).tolist() == [is_over, False]
    np.testing.assert_allclose(now.state.state[1], previous.state.state[1])
    np.testing.assert_array_equal(jax.vmap(line.observe)(now.state), np.asarray(now.state.state)[:, None])
    later = line.step(now, jnp.array([2, 2]), uniforms)
    np.testing.assert_array_equal(later.state.state[0], now.state.state[0])  # whatever it is, it is absorbing
    assert np.asarray(line.is_terminal(later)).tolist() == [True, False]


def test_actions_of_gymnax_may_be_vectors():
    class Continuous(GymnaxLine):
        def action_space(self, params):
            return Space(shape=(1,))

        def step(self, key, state, action, params):
            return super().step(key, state, action[0], params)

    line = FunctionalEnvironment.from_gymnax(Continuous(), discount=0.9)
    assert (line.num_actions, line.num_action_dimensions) == (None, 1)
    start = line.reset(jnp.array([0.5]))
    np.testing.assert_allclose(
        line.step(start, jnp.array([[1.25]]), jnp.array([0.5])).state.state, start.state.state + 0.25
    )
    Continuous.action_space = lambda self, params: Space(shape=(2, 2))
    with pytest.raises(ValueError, match="action_space must be discrete"):
        FunctionalEnvironment.from_gymnax(Continuous(), discount=0.9)


@pytest.mark.slow
def test_gymnasiums_cart_pole(phys2d):
    cart_pole = phys2d.CartPole()
    environment = FunctionalEnvironment.from_func_env(cart_pole, discount=0.99, time_limit=500)
    assert (environment.num_actions, environment.time_limit) == (2, 500)
    now = environment.reset(jnp.linspace(0.0, 0.9, 6).reshape(2, 3))
    assert np.abs(now.state).max() <= 0.05
    assert np.asarray(now.state).std() > 0.01
    actions = jnp.array([[0, 1, 1], [1, 0, 1]])
    for t in range(1, 40):
        expected = jax.vmap(jax.vmap(lambda s, a: cart_pole.transition(s, a)))(now.state, actions)
        was_over = np.asarray(environment.is_terminal(now))
        previous, now = now, environment.step(now, actions, jnp.full((2, 3), 0.5))
        np.testing.assert_allclose(now.state[~was_over], expected[~was_over], rtol=1e-6)
        np.testing.assert_array_equal(now.state[was_over], previous.state[was_over])
        np.testing.assert_array_equal(now.num_steps, t)
    assert np.all(environment.is_terminal(now))  # pushed one way all the time


def test_gymnasiums_pendulum(phys2d):
    pendulum = phys2d.Pendulum()
    environment = FunctionalEnvironment.from_func_env(pendulum, discount=0.99)
    assert (environment.num_actions, environment.num_action_dimensions) == (None, 1)
    now = environment.reset(jnp.array([0.2, 0.8]))
    following = environment.step(now, jnp.array([[1.5], [-9.0]]), jnp.array([0.5, 0.5]))
    for i, action in enumerate(([1.5], [-2.0])):  # clipped by the environment
        np.testing.assert_allclose(following.state[i], pendulum.transition(now.state[i], jnp.array(action)), rtol=1e-5)
    θ, speed = np.asarray(following.state).T
    np.testing.assert_allclose(
        jax.vmap(environment.observe)(following.state), np.stack([np.cos(θ), np.sin(θ), speed], 1), rtol=1e-4
    )
    assert not np.any(environment.is_terminal(following))
