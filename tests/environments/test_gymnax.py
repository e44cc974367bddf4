"""gymnax's environments in both of its forms, and wrappers that forward what they do not define."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import FunctionalEnvironment

NOT_OVER = jnp.array(False)


class Space(types.SimpleNamespace):
    """An action space as gymnax has it."""


class Walk:
    """Goes up or down by one from 4; ends at 6 and, where `step` is called, starts anew there."""

    default_params = None

    def reset(self, key, params=None):
        return jnp.full(1, 4.0), jnp.float32(4.0)

    def step_env(self, key, state, action, params=None):
        state = state + jnp.where(action == 1, 1.0, -1.0)
        return state[None], state, 0.0, state >= 6.0, {}

    def step(self, key, state, action, params=None):
        seen, after, reward, is_done, info = self.step_env(key, state, action, params)
        first, start = self.reset(key, params)
        return jnp.where(is_done, first, seen), jnp.where(is_done, start, after), reward, is_done, info

    def action_space(self, params=None):
        return Space(n=2, shape=())


class Wrapper:
    def __init__(self, env):
        self._env = env

    def __getattr__(self, name):
        return getattr(self._env, name)


class Cents(Wrapper):
    """Shows a hundred times as much."""

    def reset(self, key, params=None):
        seen, state = self._env.reset(key, params)
        return 100 * seen, state

    def step(self, key, state, action, params=None):
        seen, *rest = self._env.step(key, state, action, params)
        return (100 * seen, *rest)


class Mirror(Wrapper):
    """Takes the other action."""

    def step(self, key, state, action, params=None):
        return self._env.step(key, state, 1 - action, params)


class Counted(Wrapper):
    """Has a state of its own around that of the environment."""

    def reset(self, key, params=None):
        seen, state = self._env.reset(key, params)
        return seen, (state, jnp.int32(0))

    def step(self, key, state, action, params=None):
        seen, inner, *rest = self._env.step(key, state[0], action, params)
        return (seen, (inner, state[1] + 1), *rest)


class Named(Wrapper):
    """Changes nothing of a step."""

    name = "named"


class Twice(Walk):
    """A subclass with a step of its own."""

    def step(self, key, state, action, params=None):
        state = state + jnp.where(action == 1, 2.0, -2.0)
        return state[None], state, 0.0, NOT_OVER, {}


class OnlyStepEnv:
    default_params, reset, step_env, action_space = None, Walk.reset, Walk.step_env, Walk.action_space


def walked(env, *actions):
    """The environment, and the episodes that the actions lead to, the start first."""
    environment = FunctionalEnvironment.from_gymnax(env, {}, discount=0.9)
    episodes = [environment.reset(jnp.zeros(()))]
    for action in actions:
        episodes.append(environment.step(episodes[-1], jnp.int32(action), jnp.zeros(())))
    return environment, episodes


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        (Walk(), [4, 3, 4]),
        (OnlyStepEnv(), [4, 3, 4]),
        (Cents(Walk()), [400, 300, 400]),
        (Mirror(Walk()), [4, 5, 4]),
        (Cents(Mirror(Walk())), [400, 500, 400]),
        (Mirror(Cents(Walk())), [400, 500, 400]),
        (Named(Mirror(Walk())), [4, 5, 4]),
        (Mirror(Named(Walk())), [4, 5, 4]),
        (Counted(Cents(Walk())), [400, 300, 400]),
        (Twice(), [4, 2, 4]),
    ],
    ids=["bare", "step_env", "cents", "mirror", "cents-mirror", "mirror-cents", "through", "within", "counted", "own"],
)
def test_no_wrapper_is_stepped_around(env, seen):
    environment, episodes = walked(env, 0, 1)
    assert [float(environment.observe(episode.state)[0]) for episode in episodes] == seen


@pytest.mark.parametrize("wrap", [lambda env: env, Named])
def test_what_wraps_no_step_does_not_start_anew(wrap):
    environment, episodes = walked(wrap(Walk()), 1, 1)
    assert float(environment.observe(episodes[-1].state)[0]) == 6.0
    assert environment.is_terminal(episodes[-1])


def test_methods_that_are_compiled_are_still_methods():
    class Compiled(Walk):
        step = jax.jit(Walk.step, static_argnums=0)

    environment, episodes = walked(Mirror(Compiled()), 1)
    assert float(environment.observe(episodes[-1].state)[0]) == 3.0


class Limited:
    """As gymnax 1.0: terminated and truncated apart, and what was seen before the start anew."""

    default_params = types.SimpleNamespace(limit=2)

    def reset(self, key, params):
        return jnp.full(1, 4.0), (jnp.float32(4.0), jnp.int32(0))

    def step_env(self, key, state, action, params):
        place, age = state[0] + jnp.where(action == 1, 1.0, -1.0), state[1] + 1
        return place[None], (place, age), 0.0, place >= 6.0, {}

    def is_truncated(self, state, params):
        return state[1] >= params.limit

    def step(self, key, state, action, params):
        seen, after, reward, is_end, _ = self.step_env(key, state, action, params)
        is_cut = self.is_truncated(after, params)
        first, start = self.reset(key, params)
        over = is_end | is_cut
        after = jax.tree.map(lambda new, old: jnp.where(over, new, old), start, after)
        return jnp.where(over, first, seen), after, reward, is_end, is_cut, {"final_observation": seen}

    def action_space(self, params):
        return Space(n=2)


@pytest.mark.parametrize("wrap", [lambda env: env, Mirror], ids=["bare", "wrapped"])
def test_a_time_limit_of_its_own_cuts_and_does_not_end(wrap):
    env = wrap(Limited())
    down = 1 if isinstance(env, Mirror) else 0
    environment = FunctionalEnvironment.from_gymnax(env, discount=0.9)
    episode = environment.reset(jnp.zeros(2))
    for t in range(2):
        assert not np.any(environment.is_truncated(episode)), t
        # The first chain goes up, and ends where it would have been cut off too.
        episode = environment.step(episode, jnp.array([1 - down, down]), jnp.zeros(2))
    assert environment.is_terminal(episode).tolist() == [True, False]
    assert environment.is_truncated(episode).tolist() == [False, True]
    assert float(jax.vmap(environment.observe)(episode.state)[1, 0]) == 2.0  # from where it would have gone on


def test_the_tighter_of_both_time_limits_counts():
    environment = FunctionalEnvironment.from_gymnax(Limited(), discount=0.9, time_limit=1)
    episode = environment.step(environment.reset(jnp.zeros(1)), jnp.zeros(1, jnp.int32), jnp.zeros(1))
    assert environment.is_truncated(episode).tolist() == [True]


def test_what_has_no_step_of_gymnax_is_refused():
    class Still:
        default_params, reset, action_space = None, Walk.reset, Walk.action_space

    class Short(Still):
        def step(self, key, state, action, params):
            return state[None], state, 0.0, NOT_OVER

    with pytest.raises(ValueError, match=r"^environment must have `reset` and `step`.*Still"):
        FunctionalEnvironment.from_gymnax(Still(), {}, discount=0.9)
    with pytest.raises(ValueError, match=r"^environment must give \(observation, state, .* got 4 values"):
        FunctionalEnvironment.from_gymnax(Short(), {}, discount=0.9)


@pytest.mark.slow
def test_gymnaxs_own_wrappers():
    gymnax = pytest.importorskip("gymnax")
    from gymnax.wrappers import purerl

    bare, params = gymnax.make("CartPole-v1")
    for env in (bare, purerl.LogWrapper(bare), purerl.FlattenObservationWrapper(bare)):
        environment = FunctionalEnvironment.from_gymnax(env, params, discount=0.9)
        episode = environment.step(environment.reset(jnp.full(3, 0.2)), jnp.array([0, 1, 1]), jnp.full(3, 0.4))
        assert jax.vmap(environment.observe)(episode.state).shape == (3, 4)
        assert not np.any(environment.is_truncated(episode))
