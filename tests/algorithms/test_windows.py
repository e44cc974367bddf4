"""Windows of T transitions: advantages against linear algebra, steps against those of single transitions, resume."""

import dataclasses

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import (
    BilevelProblem,
    Followers,
    HostEnvironment,
    NeuralActorCritic,
    OccupancyCost,
    SingleLoopActorCritic,
    StepSizes,
    run,
)
from bilevel_rl.algorithms.step_sizes import StepSizeValues
from bilevel_rl.problems import wind_design
from bilevel_rl.runs.folder import RunFolderError
from garnets import random_problem, upper_objective
from mean_steps import entropy, entropy_gradient, model_of, num_simulated, one_draw, softmax, unbounded, values_at
from small_runs import KEY, small_algorithm, small_run

SIZES = StepSizes.decaying(upper=0.05, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
T, CHAINS_PER_STATE, ENTROPY_WEIGHT = 6, 8_000, 0.3


class Seen(dict):
    """A fixed policy in a 3-state MDP without symmetries: its exact tables, and many windows from every state."""


@pytest.fixture(scope="module")
def seen():
    problem = random_problem(seed=4, num_states=3, num_actions=2, num_successors=2, discount=0.8)
    model = model_of(problem, problem.initial_x)
    logits = np.random.default_rng(0).normal(size=(3, 2))
    π, γ = softmax(logits), model.discount
    P, r = np.einsum("sa,sat->st", π, model.kernel), model.reward + ENTROPY_WEIGHT * entropy(π)[:, None]
    exact_values = np.linalg.solve(np.eye(3) - γ * P, (π * r).sum(1))
    start = jnp.repeat(jnp.arange(3, dtype=jnp.int32), CHAINS_PER_STATE)[None]
    numbers = jax.random.uniform(jax.random.key(2), (T * 4, *start.shape))
    still = StepSizeValues(*(jnp.asarray(value) for value in (0.0, 0.0, 0.0, 1.0, ENTROPY_WEIGHT)))

    @eqx.filter_jit
    def sample(values, gae_lambda):
        followers = Followers(3 * CHAINS_PER_STATE, coupled=False, num_steps=T, gae_lambda=gae_lambda)
        parameters = jnp.concatenate([jnp.asarray(logits, float), values[:, None]], axis=1)[None]
        window, end = followers.act(problem.environment, parameters, start, followers.uniforms(numbers))
        rewards = problem.rewards(jnp.asarray(problem.initial_x), window.states, window.actions)
        _, δ = followers.learn(problem.environment, parameters, window, rewards, still, jnp.inf)
        return window, end, followers.advantages(δ, window.goes_on)

    return Seen(P=P, Q=lambda V: r + γ * model.kernel @ V, π=π, γ=γ, V=exact_values, sample=sample)


def in_standard_errors(values, mean):
    return abs(values.mean() - mean) / (values.std(ddof=1) / len(values) ** 0.5)


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_the_mean_advantage_is_the_discounted_sum_of_temporal_differences_in_the_window(seen, gae_lambda):
    δ = np.array([2.0, 1.0, 1.5])
    V = seen["V"] - np.linalg.solve(np.eye(3) - seen["γ"] * seen["P"], δ)

    def looking_ahead(discount):
        M = discount * gae_lambda * seen["P"]
        return np.linalg.solve(np.eye(3) - M, (np.eye(3) - np.linalg.matrix_power(M, T)) @ δ)

    _, _, found = seen["sample"](jnp.asarray(V, float), gae_lambda)
    first = np.asarray(found, np.float64)[0, : 3 * CHAINS_PER_STATE].reshape(3, -1)
    γ = seen["γ"]
    assert all(in_standard_errors(first[s], looking_ahead(γ)[s]) < 4 for s in range(3))
    if gae_lambda:  # γ twice, or never
        for mistaken in (γ**2, 1.0):
            assert max(in_standard_errors(first[s], looking_ahead(mistaken)[s]) for s in range(3)) > 8


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_with_exact_values_the_mean_advantage_of_an_action_is_exact_at_every_time(seen, gae_lambda):
    window, _, found = seen["sample"](jnp.asarray(seen["V"], float), gae_lambda)
    exact_advantage = seen["Q"](seen["V"]) - seen["V"][:, None]
    assert np.abs(exact_advantage).min() > 0.05
    of_times = [np.asarray(leaf).reshape(T, -1) for leaf in (window.states, window.actions, found)]
    for t in (0, 2, T - 1):
        s, a, advantage = (leaf[t] for leaf in of_times)
        for pair in np.ndindex(exact_advantage.shape):
            is_pair = (s == pair[0]) & (a == pair[1])
            assert in_standard_errors(advantage[is_pair].astype(np.float64), exact_advantage[pair]) < 4


def test_windows_hold_transitions_in_the_order_of_time_and_say_which_go_on(seen):
    window, end, _ = seen["sample"](jnp.zeros(3), 0.5)
    leaves = window.states, window.next_states, window.goes_on
    states, following, goes_on = (np.asarray(leaf).reshape(T, -1) for leaf in leaves)
    np.testing.assert_array_equal(states[1:][goes_on[:-1]], following[:-1][goes_on[:-1]])
    np.testing.assert_array_equal(np.asarray(end)[0][goes_on[-1]], following[-1][goes_on[-1]])
    assert np.any(states[1:] != following[:-1])
    share = goes_on.mean()
    assert abs(share - seen["γ"]) < 4 * (0.16 / goes_on.size) ** 0.5


def windowed(problem, **options):
    return SingleLoopActorCritic(problem, SIZES, Followers(5, **options))


def window_of(algorithm, noise, state):
    """The transitions of an iteration."""
    environment, uniforms = algorithm.problem.driven_environment(state.x), algorithm._of_followers(noise)
    return algorithm.followers.act(environment, state.parameters, state.chain_states, uniforms)[0]


def random_followers(algorithm):
    mdp = algorithm.problem.environment
    followers = np.random.default_rng(1).normal(size=(2, mdp.num_states, mdp.num_actions + 1))
    followers[:, np.asarray(mdp.terminal), -1] = 0.0
    return jnp.asarray(followers, float)


PROBLEMS = {
    "coupled": (lambda: random_problem(seed=15, num_terminal=1), {}),
    "uncoupled": (lambda: random_problem(seed=0), {"coupled": False, "natural": True}),
    "dynamics": (lambda: wind_design(size=3, goal=(0, 2), target=(2, 0)), {}),
    "policy": (lambda: random_problem(seed=0, upper=upper_objective("policy")), {}),
    "trajectories": (lambda: random_problem(seed=0, upper=upper_objective("two trajectories")), {}),
}


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_without_a_trace_a_window_takes_the_mean_step_of_its_transitions(name):
    problem, options = PROBLEMS[name][0](), PROBLEMS[name][1]
    problem = dataclasses.replace(problem, project=lambda x: x)
    single, window = windowed(problem, **options), windowed(problem, num_steps=4, **options)
    state = single.init(jax.random.key(0))._replace(parameters=random_followers(single))
    noise = one_draw(window, jax.random.key(1))
    num_uniforms = window.followers.num_uniforms(problem.environment)
    of_chains, extra = noise[:num_uniforms], noise[num_uniforms:]
    going, ends = state, []
    for part in jnp.split(of_chains, 4):
        end, info = eqx.filter_jit(single.step)(jnp.concatenate([part, extra]), going)
        ends.append((end.x, end.parameters, info[:6]))
        going = going._replace(chain_states=end.chain_states)
    found, info = eqx.filter_jit(window.step)(noise, state)
    np.testing.assert_array_equal(found.chain_states, going.chain_states)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *ends)
    for a, b in zip(jax.tree.leaves((found.x, found.parameters, info[:6])), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
    assert np.abs(np.asarray(found.parameters - ends[0][1])).max() > 1e-2
    if name != "dynamics":  # which another class simulates
        assert window.num_transitions_per_iteration == num_simulated(window)


@pytest.mark.slow
def test_a_functional_of_visits_counts_all_transitions_of_a_window():
    problem = random_problem(seed=0, upper=upper_objective("functional"))
    algorithm = windowed(problem, num_steps=3)
    state = algorithm.init(jax.random.key(0))
    noise = one_draw(algorithm, jax.random.key(1))
    window = window_of(algorithm, noise, state)
    visits = np.zeros((5, 3))
    np.add.at(visits, (np.asarray(window.states)[1], np.asarray(window.actions)[1]), 1 / 15)
    found = algorithm.step(noise, state)[0].visitation
    share = problem.upper.tracking_step
    np.testing.assert_allclose(found, (1 - share) / 15 + share * visits, rtol=1e-5)


@pytest.mark.slow
def test_with_a_trace_both_followers_learn_from_advantages_that_look_ahead():
    problem = unbounded(random_problem(seed=15, num_terminal=1))
    λ, T = 0.7, 4
    algorithm = windowed(problem, num_steps=T, gae_lambda=λ)
    state = algorithm.init(jax.random.key(0))._replace(parameters=random_followers(algorithm))
    noise = one_draw(algorithm, jax.random.key(1))
    window = window_of(algorithm, noise, state)
    found, _ = eqx.filter_jit(algorithm.step)(noise, state)
    _, α, β, w, τ = values_at(SIZES, 0)
    model = model_of(problem, problem.initial_x)
    for i, reward in enumerate((model.reward, model.reward - w * model.cost)):
        θ, V = np.asarray(state.parameters[i, :, :-1], np.float64), np.asarray(state.parameters[i, :, -1], np.float64)
        π, accrues = softmax(θ), ~model.terminal
        leaves = window.states, window.actions, window.next_states, window.goes_on
        s, a, following, goes_on = (np.asarray(leaf)[i].reshape(T, -1) for leaf in leaves)
        expected, ahead = np.zeros((5, 4)), np.zeros(5)
        for t in reversed(range(T)):
            bonus = τ * (accrues * entropy(π))[s[t]]
            δ = reward[s[t], a[t]] + bonus + model.discount * V[following[t]] - V[s[t]]
            ahead = δ + λ * goes_on[t] * ahead
            for b in range(5):
                slope = τ * accrues[s[t, b]] * entropy_gradient(θ[s[t, b]][None])[0]
                expected[s[t, b], :-1] += α * (ahead[b] * (np.eye(3)[a[t, b]] - π[s[t, b]]) + slope) / (5 * T)
                expected[s[t, b], -1] += β * ahead[b] / (5 * T)
        np.testing.assert_allclose(found.parameters[i] - state.parameters[i], expected, rtol=1e-3, atol=1e-5)
    assert np.any(np.asarray(window.states) == 4)


@pytest.mark.long
def test_equal_followers_stay_together_through_a_window():
    algorithm = windowed(random_problem(seed=0), num_steps=7, gae_lambda=0.9)
    state = algorithm.init(jax.random.key(0))
    table = jnp.broadcast_to(random_followers(algorithm)[:1], (2, 5, 4))
    _, info = algorithm.step(one_draw(algorithm, jax.random.key(1)), state._replace(parameters=table))
    assert info.coupling_rate == 1
    _, info = algorithm.step(
        one_draw(algorithm, jax.random.key(1)), state._replace(parameters=table.at[1, :, 0].add(3.0))
    )
    assert info.coupling_rate < 1


@pytest.mark.long
def test_an_interrupted_run_with_windows_ends_with_the_same_bits(tmp_path):
    algorithm = small_algorithm()
    single = algorithm.followers
    algorithm = dataclasses.replace(algorithm, followers=dataclasses.replace(single, num_steps=3, gae_lambda=0.8))
    believing = dataclasses.replace(algorithm, followers=dataclasses.replace(single, num_steps=3))
    whole = small_run(algorithm, num_iterations=60, log_every=20)
    small_run(algorithm, folder=tmp_path, num_iterations=40, log_every=20)
    resumed = small_run(algorithm, folder=tmp_path, num_iterations=60, log_every=20)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, whole.states)
    jax.tree.map(np.testing.assert_array_equal, resumed.metrics, whole.metrics)
    assert whole.metrics["num_transitions"][-1] == 60 * 2 * 3 * single.num_chains
    other = run(believing, KEY, 3, 60, 20, progress=False)
    assert np.any(other.states.parameters != whole.states.parameters)
    with pytest.raises(RunFolderError, match=r"its gae_lambda is 0\.8, not 0\.0"):
        small_run(believing, folder=tmp_path, num_iterations=60, log_every=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 4, "gae_lambda": 1.1}, r"gae_lambda must lie in \[0, 1\], got 1\.1"),
        ({"num_steps": 4, "gae_lambda": np.nan}, "gae_lambda must lie in"),
        ({"gae_lambda": 0.5}, r"gae_lambda must be 0 where num_steps is 1, .*, got 0\.5"),
    ],
)
def test_impossible_windows_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        windowed(random_problem(seed=0), **options)


def test_windows_are_refused_on_the_host():
    by_hand = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    envs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=by_hand)
    environment = HostEnvironment.from_vector(envs, discount=0.9)
    problem = BilevelProblem(environment, lambda x, s, a: x, OccupancyCost(lambda x, s, a: x), initial_x=0.0)
    with pytest.raises(ValueError, match="num_steps must be 1 in a HostEnvironment"):
        windowed(problem, policies=NeuralActorCritic.mlp(environment, width=4), num_steps=2)
    envs.close()
