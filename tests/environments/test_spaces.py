"""Spaces of Gymnasium: numbers that do not start at 0, and what is refused with a remedy."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import SyncVectorEnv

from bilevel_rl import FunctionalEnvironment, HostEnvironment
from bilevel_rl.environments.spaces import Actions

PAIR = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))


class Idle(gymnasium.Env):
    """Never gets anywhere; only its spaces matter."""

    def __init__(self, observation_space=spaces.Discrete(2), action_space=spaces.Discrete(2)):  # noqa: B008
        self.observation_space, self.action_space = observation_space, action_space


def host(**options):
    return HostEnvironment.from_vector(SyncVectorEnv([lambda: Idle(**options)] * 2), discount=0.9)


def test_each_discrete_observation_has_a_row_of_its_own():
    seen = host(observation_space=spaces.Discrete(3, start=-1))
    np.testing.assert_array_equal([seen.observe(jnp.int32(s)) for s in (-1, 0, 1)], np.eye(3))


class Counter(FuncEnv):
    """Goes on by the action, as it is called outside."""

    observation_space, action_space = spaces.Box(-9.0, 9.0, (1,)), spaces.Discrete(3, start=-1)

    def initial(self, rng, params=None):
        return jnp.float32(2.0)

    def transition(self, state, action, rng, params=None):
        return state + action

    def observation(self, state, rng, params=None):
        return state[None]

    def terminal(self, state, rng, params=None):
        return state > 9.0


def test_functional_environments_get_actions_as_they_call_them():
    counter = FunctionalEnvironment.from_func_env(Counter(), discount=0.9)
    here = counter.reset(jnp.full(3, 0.5))
    assert counter.step(here, jnp.array([0, 1, 2]), jnp.full(3, 0.5)).state.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(4), (4, None, 0)),
        (spaces.Discrete(4, start=7), (4, None, 7)),
        (spaces.Box(-1.0, 1.0, (3,)), (None, 3, 0)),
    ],
)
def test_actions_that_are_understood(space, expected):
    assert Actions.of("action_space", space) == expected


@pytest.mark.parametrize(
    ("space", "remedy"),
    [
        (spaces.MultiDiscrete([3, 2]), r"np\.unravel_index\(a, \(3, 2\)\)\), gymnasium\.spaces\.Discrete\(6\)"),
        (spaces.MultiBinary(3), r"np\.unravel_index\(a, \(2, 2, 2\)\)\), gymnasium\.spaces\.Discrete\(8\)"),
        (spaces.Box(0.0, 1.0, (2, 2)), "vectors"),
        (PAIR, "numbers or vectors"),
        (spaces.Dict(a=spaces.Discrete(2)), "numbers or vectors"),
    ],
    ids=str,
)
def test_actions_that_are_refused(space, remedy):
    with pytest.raises(ValueError, match=rf"^single_action_space must be discrete.*{type(space).__name__}.*{remedy}"):
        host(action_space=space)


def test_the_remedy_for_combined_actions_works():
    env = Idle(action_space=spaces.MultiDiscrete([3, 2]))
    numbered = gymnasium.wrappers.TransformAction(
        env, lambda a: np.array(np.unravel_index(a, (3, 2))), spaces.Discrete(6)
    )
    assert numbered.action(5).tolist() == [2, 1]
    vector = SyncVectorEnv([lambda: numbered] * 2)
    assert HostEnvironment.from_vector(vector, discount=0.9).num_actions == 6


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), PAIR, spaces.Dict(a=spaces.Discrete(2))], ids=str
)
def test_observations_that_are_refused_and_flattened(space):
    with pytest.raises(ValueError, match=rf"^single_observation_space .*{type(space).__name__}.*FlattenObservation"):
        host(observation_space=space)
    vector = SyncVectorEnv([lambda: gymnasium.wrappers.FlattenObservation(Idle(space))] * 2)
    assert len(HostEnvironment.from_vector(vector, discount=0.9).observation.shape) == 1


def test_numbers_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match=r"^single_observation_space must have values of 32 bits, got Discrete"):
        host(observation_space=spaces.Discrete(3, start=2**31 - 2))
    host(observation_space=spaces.Discrete(3, start=2**31 - 3))


def test_a_single_environment_is_refused():
    with pytest.raises(ValueError, match=r"^envs must be a gymnasium\.vector\.VectorEnv, got <.*Idle.*SyncVectorEnv"):
        HostEnvironment.from_vector(Idle(), discount=0.9)
