"""The learned reward as a file, and as an environment of Gymnasium that other libraries train on."""

import json

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bilevel_rl as brl
from bilevel_rl.followers import write_reward
from bilevel_rl.runs.folder import RunFolder
from garnets import random_problem
from small_runs import small_run

X = np.array([0.3, -0.2])


def upright(x, s, a):
    return 1.0 - x[0] * s[0] ** 2 + x[1] * a


@pytest.fixture(scope="module")
def cartpole():
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2)
    environment = brl.HostEnvironment.from_vector(envs, discount=0.99)
    return brl.BilevelProblem(environment, upright, brl.OccupancyCost(lambda x, s, a: s[0] ** 2), initial_x=X)


def test_a_table_comes_back_and_needs_no_code(tmp_path):
    problem = random_problem(seed=4, num_terminal=1)
    x = np.asarray(problem.initial_x) + 0.3
    brl.LearnedReward.of(problem, x, note={"problem": "garnet"}).save(tmp_path)
    found = brl.LearnedReward.load(tmp_path)
    np.testing.assert_array_equal(found.x, x)
    expected = [[problem.rewards(x, s, a) for a in range(3)] for s in range(5)]
    np.testing.assert_allclose(found.table, expected, rtol=1e-5)
    assert found(4, 1) == 0.0  # Terminal.
    card = json.loads((tmp_path / "reward.json").read_text())
    assert card["problem"] == "garnet"
    assert card["x"] == {"x": x.tolist()}
    assert set(card["versions"]) == {"bilevel-rl", "jax", "numpy"}


def test_a_function_is_bound_again(tmp_path, cartpole):
    brl.LearnedReward.of(cartpole, X).save(tmp_path)
    state = np.array([2.0, 0.1, 0.0, 0.0], np.float32)
    with pytest.raises(ValueError, match=r"reward must be given: LearnedReward\.load\(path, reward=…\)"):
        brl.LearnedReward.load(tmp_path)(state, 1)
    with pytest.raises(TypeError, match="reward must"):
        brl.LearnedReward.load(tmp_path, reward=lambda s: 0.0)
    assert brl.LearnedReward.load(tmp_path, reward=upright)(state, 1) == pytest.approx(1 - 0.3 * 4 - 0.2)


def test_the_wrapped_environment_pays_for_state_and_action_before_the_step(cartpole):
    env = brl.LearnedReward.of(cartpole, X).as_gymnasium_wrapper(gymnasium.make("CartPole-v1"))
    check_env(env, skip_render_check=True)
    for adds in (False, True):
        env = brl.LearnedReward.of(cartpole, X).as_gymnasium_wrapper(gymnasium.make("CartPole-v1"), adds=adds)
        assert isinstance(env, gymnasium.RewardWrapper)
        state, _ = env.reset(seed=3)
        for action in (0, 1, 1, 0, 1):
            following, reward, *_ = env.step(action)
            assert reward == pytest.approx(float(upright(X, state, action)) + adds, rel=1e-6)
            state = following


def test_tables_pay_by_numbers_and_refuse_other_environments():
    lake = brl.TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9)
    problem = brl.BilevelProblem(
        lake, lambda x, s, a: x * s + a, brl.OccupancyCost(lambda x, s, a: 1.0 * s), initial_x=0.0
    )
    reward = brl.LearnedReward.of(problem, 2.0)
    env = reward.as_gymnasium_wrapper(gymnasium.make("FrozenLake-v1"))
    state, _ = env.reset(seed=0)
    for action in (2, 1, 2):
        following, paid, is_over, *_ = env.step(action)
        assert paid == 2.0 * state + action
        state = following
        if is_over:
            break
    with pytest.raises(ValueError, match="env must number 16 states and 4 actions"):
        reward.as_gymnasium_wrapper(gymnasium.make("CliffWalking-v1"))
    with pytest.raises(TypeError, match="env must be an Env"):
        reward.as_gymnasium_wrapper("CartPole-v1")


def test_a_run_leaves_the_reward_of_its_best_seed(tmp_path):
    result = small_run(num_iterations=100)
    write_reward(RunFolder(tmp_path), result.algorithm.problem, result, reference="small")
    found = brl.LearnedReward.load(tmp_path)
    last = result.metrics["upper_objective"][-3:]
    assert found.card["seed"] == np.argmin(last)
    assert found.card["objective"] == last.min()
    assert found.card["objectives"] == last.tolist()
    np.testing.assert_array_equal(found.x, np.asarray(result.x[np.argmin(last)], np.float64))


@pytest.mark.long
def test_stable_baselines_learns_on_the_wrapped_cartpole(cartpole):
    sb3 = pytest.importorskip("stable_baselines3")
    import torch

    torch.set_num_threads(1)

    def centred(x, s, a):
        return x[0] - jnp.abs(s[0])

    reward = brl.LearnedReward.of(
        brl.BilevelProblem(cartpole.environment, centred, cartpole.upper, initial_x=X), np.array([1.0, 0.0])
    )
    env = reward.as_gymnasium_wrapper(gymnasium.make("CartPole-v1"))
    model = sb3.PPO("MlpPolicy", env, n_steps=512, batch_size=64, seed=0, device="cpu")
    before, after = [], []
    for returns in (before, after):
        for seed in range(5):
            state, _ = env.reset(seed=seed)
            total, is_over = 0.0, False
            while not is_over:
                action, _ = model.predict(state, deterministic=False)
                state, paid, terminated, truncated, _ = env.step(int(action))
                total, is_over = total + paid, terminated or truncated
            returns.append(total)
        if returns is before:
            model.learn(3_072)
    assert np.mean(after) > 2 * np.mean(before)
