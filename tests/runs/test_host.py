"""The host loop: against compiled runs of the same environment, its ends, its files, and what it refuses."""

import dataclasses
import importlib
import json
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from bilevel_rl import (
    BilevelProblem,
    Followers,
    FunctionalEnvironment,
    HostEnvironment,
    NeuralActorCritic,
    OccupancyCost,
    SingleLoopActorCritic,
    StepSizes,
    TabularMDP,
    run,
    run_host,
)
from bilevel_rl.runs.folder import RunFolderError
from bilevel_rl.runs.host_loop import HostChains, HostLoop

SUCCESSORS = np.array([[1, 0], [3, 2], [0, 1], [3, 3]])
"""Of (state, action); state 3 is terminal, and all episodes start in 0."""

DISCOUNT, NUM_CHAINS = 0.8, 6
SIZES = StepSizes.decaying(upper=0.05, actor=1e-2, critic=3e-2)
QUIET: dict[str, Any] = {"log_every": 20, "progress": False}


class Table(gymnasium.Env):
    """`SUCCESSORS`; the observation is the state."""

    observation_space, action_space = gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action):
        assert self.state != 3
        self.state = int(SUCCESSORS[self.state, action])
        return self.state, 0.0, self.state == 3, False, {}


class Ages(gymnasium.Env):
    """The observation is the number that the seed draws, and the age of the episode, which ends or is cut off."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (2,)), gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, ends=(99, 99)):
        self.ends, self.actions = ends, []

    def seen(self):
        return np.array([self.number, self.age], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.age = self.np_random.uniform(), 0
        return self.seen(), {}

    def step(self, action):
        self.actions.append(action)
        self.age += 1
        return self.seen(), 0.0, self.age >= self.ends[0], self.age >= self.ends[1], {}


def vector(make, num_envs=2 * NUM_CHAINS, mode=AutoresetMode.DISABLED):
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def limited(time_limit):
    return lambda: gymnasium.wrappers.TimeLimit(Table(), time_limit)


def algorithm_in(environment, sizes=SIZES, num_chains=NUM_CHAINS, coupled=True):
    """The leader wants to see state 2, and pays for x."""
    problem = BilevelProblem(
        environment,
        reward=lambda x, s, a: x[0] * (s == 2) + 0.3 * (s == 1) * x[1] - 0.1 * a,
        upper=OccupancyCost(lambda x, s, a: 1.0 - (s == 2), regularizer=lambda x: 0.1 * jnp.sum(x**2)),
        initial_x=[0.2, 0.4],
    )
    policies = NeuralActorCritic.mlp(problem.environment, width=5, depth=1, normalizes=True)
    return SingleLoopActorCritic(problem, sizes, Followers(num_chains, coupled=coupled, policies=policies))


def on_host(**options):
    return algorithm_in(HostEnvironment.from_vector(vector(Table), discount=DISCOUNT), **options)


# ---------------------------------------------------------------------------------------------------------------------
# Against compiled runs
# ---------------------------------------------------------------------------------------------------------------------


def compiled(time_limit):
    if time_limit is None:
        return TabularMDP.from_successors(
            SUCCESSORS[..., None],
            np.ones((4, 2, 1)),
            initial=np.eye(4)[0],
            discount=DISCOUNT,
            terminal=np.arange(4) == 3,
        )
    return FunctionalEnvironment(
        initial=lambda key: jnp.int32(0),
        transition=lambda s, a, key: jnp.asarray(SUCCESSORS, jnp.int32)[s, a],
        observe=lambda s: jax.nn.one_hot(s, 4),
        discount=DISCOUNT,
        num_actions=2,
        is_end=lambda s: s == 3,
        time_limit=time_limit,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("time_limit", "coupled"), [(None, True), (None, False), (3, True)], ids=["tabular", "independent", "limited"]
)
def test_the_host_loop_takes_the_steps_of_a_compiled_run(time_limit, coupled):
    envs = vector(Table if time_limit is None else limited(time_limit))
    there = run(
        algorithm_in(compiled(time_limit), coupled=coupled), jax.random.key(3), 1, 90, diagnostics="sampled", **QUIET
    )
    here = run_host(on_host(coupled=coupled), jax.random.key(3), envs, 90, **QUIET)
    np.testing.assert_allclose(here.x, there.x, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        here.states.parameters,
        there.states.parameters,
    )
    assert list(here.metrics) == list(there.metrics)
    for name, column in here.metrics.items():
        if name != "coupling_rate" or time_limit is None:  # There the age of an episode is part of its state.
            np.testing.assert_allclose(column, there.metrics[name], rtol=1e-3, atol=1e-4, err_msg=name)
    places = there.states.chain_states if time_limit is None else there.states.chain_states.state
    np.testing.assert_array_equal(here.states.chain_states.state, places)
    assert np.abs(here.x - [[0.2, 0.4]]).min() > 0.02
    assert (here.metrics["coupling_rate"][0] == 1.0) == coupled
    if time_limit is not None:
        unlimited = run_host(on_host(), jax.random.key(3), vector(Table), 90, **QUIET)
        assert np.abs(unlimited.x - here.x).max() > 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Chains
# ---------------------------------------------------------------------------------------------------------------------


def chains_of(ends, discount=0.5):
    envs = vector(lambda: Ages(ends), 4)
    return envs, HostChains(envs, HostEnvironment.from_vector(envs, discount=discount), 2)


STAYS, RESTARTS = 0.25, 0.75
ACTIONS = np.zeros((2, 2, 1), np.float32)


def uniforms(restart, start=0.5):
    """Only the last two rows matter: whether chains restart, and where."""
    return np.stack([np.zeros((2, 2)), np.zeros((2, 2)), np.asarray(restart), np.full((2, 2), start)]).astype(
        np.float32
    )


def test_a_terminated_chain_waits_for_its_restart():
    _, chains = chains_of((2, 99))
    first = chains.start(np.array([[0.1, 0.2], [0.1, 0.2]], np.float32))
    none, one = np.full((2, 2), STAYS), np.array([[STAYS, STAYS], [STAYS, RESTARTS]])
    for age, is_terminal in ((1, False), (2, True), (2, True), (2, True), (2, True)):
        following = chains.step(ACTIONS)
        np.testing.assert_array_equal(following.state[..., 1], age)
        np.testing.assert_array_equal(following.state[..., 0], first.state[..., 0])
        np.testing.assert_array_equal(following.is_terminal, is_terminal)
        assert not following.is_truncated.any()
        chains.restart(uniforms(none))
    chains.step(ACTIONS)
    going_on = chains.restart(uniforms(one))
    np.testing.assert_array_equal(going_on.state[..., 1], [[2, 2], [2, 0]])
    np.testing.assert_array_equal(going_on.is_terminal, [[True, True], [True, False]])
    np.testing.assert_array_equal(chains.step(ACTIONS).state[..., 1], [[2, 2], [2, 1]])


def test_a_truncated_chain_restarts_at_once_and_shows_where_it_would_have_gone_on_from():
    _, chains = chains_of((99, 2))
    chains.start(np.full((2, 2), 0.1, np.float32))
    chains.step(ACTIONS)
    chains.restart(uniforms(np.full((2, 2), STAYS)))
    following = chains.step(ACTIONS)
    np.testing.assert_array_equal(following.state[..., 1], 2)
    assert following.is_truncated.all()
    assert not following.is_terminal.any()
    going_on = chains.restart(uniforms(np.full((2, 2), STAYS), start=0.3))
    np.testing.assert_array_equal(going_on.state[..., 1], 0)
    assert not going_on.is_truncated.any()


def test_what_terminates_at_its_time_limit_is_terminal():
    _, chains = chains_of((1, 1))
    chains.start(np.full((2, 2), 0.1, np.float32))
    following = chains.step(ACTIONS)
    assert following.is_terminal.all()
    assert not following.is_truncated.any()


def test_equal_uniforms_start_equal_episodes():
    _, chains = chains_of((99, 99))
    numbers = chains.start(np.array([[0.1, 0.2], [0.1, 0.3]], np.float32)).state[..., 0]
    assert numbers[0, 0] == numbers[1, 0]
    assert len(np.unique(numbers)) == 3
    chains.step(ACTIONS)
    again = chains.restart(uniforms(np.full((2, 2), RESTARTS), start=0.2)).state[..., 0]
    np.testing.assert_array_equal(again, numbers[0, 1])


def test_vector_actions_are_clipped_to_the_bounds():
    envs, chains = chains_of((99, 99))
    chains.start(np.full((2, 2), 0.1, np.float32))
    chains.step(np.array([[[-3.0], [0.5]], [[2.0], [-0.5]]], np.float32))
    np.testing.assert_array_equal(np.ravel([env.actions for env in envs.envs]), [-1.0, 0.5, 1.0, -0.5])


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def with_double_reward(algorithm):
    problem = algorithm.problem
    doubled = dataclasses.replace(problem, reward=lambda x, s, a: 2 * problem.reward(x, s, a))
    return dataclasses.replace(algorithm, problem=doubled)


def test_the_program_of_an_iteration_is_that_of_the_algorithm():
    def program(algorithm):
        return HostLoop(algorithm, jax.random.key(5), vector(Table)).program()

    assert program(on_host()) == program(on_host()) != program(with_double_reward(on_host()))


def test_what_environments_say_of_themselves_is_part_of_a_run():
    def described(name, **options):
        envs = gymnasium.make_vec(name, 2, vectorization_mode="sync", **options)
        return importlib.import_module("bilevel_rl.runs.host")._described(envs)

    usual = described("CartPole-v1")
    assert json.loads(json.dumps(usual)) == usual == described("CartPole-v1")
    assert usual["environment"] == "CartPole-v1"
    for other in (
        described("CartPole-v0"),
        described("CartPole-v1", sutton_barto_reward=True),
        described("CartPole-v1", max_episode_steps=7),
    ):
        assert other != usual


@pytest.mark.slow
def test_runs_repeat_and_an_interrupted_one_goes_on_in_new_episodes(tmp_path):
    key, options = jax.random.key(5), QUIET | {"checkpoint_every": 0.0}
    whole = run_host(on_host(), key, vector(Table), 60, folder=tmp_path / "whole", **options)
    again = run_host(on_host(), key, vector(Table), 60, **options)
    jax.tree.map(np.testing.assert_array_equal, again.states, whole.states)
    first = run_host(on_host(), key, vector(Table), 40, folder=tmp_path / "parts", **options)
    resumed = run_host(on_host(), key, vector(Table), 60, folder=tmp_path / "parts", **options)
    assert resumed.metrics["num_iterations"].tolist() == [0, 20, 40, 60]
    for name, column in first.metrics.items():
        np.testing.assert_array_equal(resumed.metrics[name][:3], column)
    assert 0 < resumed.metrics["x_movement"][3] < 0.2
    np.testing.assert_allclose(resumed.metrics["x_movement"][3], np.linalg.norm(resumed.x - first.x), rtol=1e-4)
    finished = run_host(on_host(), key, vector(Table), 60, folder=tmp_path / "parts", **options)
    jax.tree.map(np.testing.assert_array_equal, finished.states.parameters, resumed.states.parameters)
    with pytest.raises(RunFolderError, match="another run"):
        run_host(on_host(), jax.random.key(6), vector(Table), 60, folder=tmp_path / "parts", **options)
    with pytest.raises(RunFolderError, match="its reward is another one; use"):
        run_host(with_double_reward(on_host()), key, vector(Table), 60, folder=tmp_path / "parts", **options)
    with pytest.raises(RunFolderError, match="already done 60"):
        run_host(on_host(), key, vector(Table), 20, folder=tmp_path / "parts", **options)


@pytest.mark.slow
def test_divergence_stops_the_run_at_the_last_finite_state(tmp_path):
    algorithm = on_host()
    problem = dataclasses.replace(
        algorithm.problem,
        reward=lambda x, s, a: jnp.where(x[0] > 0.4, jnp.nan, x[0] * s),
        upper=OccupancyCost(algorithm.problem.upper.cost, regularizer=lambda x: -x[0]),
    )
    algorithm = dataclasses.replace(algorithm, problem=problem)
    with pytest.warns(RuntimeWarning, match="seed 0 diverged: .*parameters"):
        result = run_host(algorithm, jax.random.key(0), vector(Table), 100, folder=tmp_path / "run", **QUIET)
    (divergence,) = result.divergences
    assert result.states.num_iterations.tolist() == [divergence.num_iterations]
    assert result.x[0, 0] > 0.4
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.states))
    assert result.metrics["num_iterations"][-1] <= divergence.num_iterations < 100
    again = run_host(algorithm, jax.random.key(0), vector(Table), 100, folder=tmp_path / "run", **QUIET)
    assert again.divergences == (divergence,)
    np.testing.assert_array_equal(again.x, result.x)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_run_is_refused():
    algorithm, key = on_host(), jax.random.key(0)
    with pytest.raises(ValueError, match="12 sub-environments, 6 chains of each of two followers; got 6"):
        run_host(algorithm, key, vector(Table, 6), 10)
    with pytest.raises(ValueError, match=r"AutoresetMode\.DISABLED"):
        run_host(algorithm, key, vector(Table, mode=AutoresetMode.NEXT_STEP), 10)
    with pytest.raises(ValueError, match="envs do not fit"):
        run_host(algorithm, key, vector(Ages), 10)
    with pytest.raises(ValueError, match="num_iterations must be at least 1"):
        run_host(algorithm, key, vector(Table), 0)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 0"):
        run_host(algorithm, key, vector(Table), 1, checkpoint_every=-1.0)
    with pytest.raises(ValueError, match="must be a HostEnvironment, got a TabularMDP"):
        run_host(algorithm_in(compiled(None)), key, vector(Table), 10)
    with pytest.raises(ValueError, match="use run_host instead of run"):
        run(algorithm, key, 1, 10)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ((gymnasium.spaces.MultiBinary(2), Table.action_space), "single_observation_space must be Box or Discrete"),
        ((Table.observation_space, gymnasium.spaces.MultiDiscrete([2, 2])), "single_action_space must be discrete"),
        ((Table.observation_space, gymnasium.spaces.Box(-1, 1, (2, 2))), "single_action_space must be discrete"),
    ],
)
def test_spaces_without_a_law_are_refused(spaces, message):
    envs = vector(Table, 1)
    envs.single_observation_space, envs.single_action_space = spaces
    with pytest.raises(ValueError, match=message):
        HostEnvironment.from_vector(envs, discount=0.9)


def test_arguments_of_a_host_environment_are_checked():
    with pytest.raises(ValueError, match="discount must lie in"):
        HostEnvironment.from_vector(vector(Table), discount=1.0)
    shape = jax.ShapeDtypeStruct((), jnp.int32)
    with pytest.raises(ValueError, match="exactly one of num_actions"):
        HostEnvironment(shape, lambda s: s, 0.9)
