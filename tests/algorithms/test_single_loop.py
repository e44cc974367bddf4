"""Algorithm 1: single iterations against plain NumPy, sampled means against exact means, and whole runs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import kstest, norm

from bilevel_rl import (
    BilevelProblem,
    Followers,
    OccupancyCost,
    PowerDecay,
    SingleLoopActorCritic,
    StepSizes,
    TabularMDP,
    exact,
)
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.algorithms.upper_steps import UpperSteps
from bilevel_rl.policies.categorical import draw_actions, follow_actions
from bilevel_rl.problems import goal_position
from dense_reference import outcomes
from garnets import random_problem
from mean_steps import (
    NUM_ITERATIONS_BEFORE,
    PROBLEMS,
    entropy,
    entropy_gradient,
    mean_follower_step,
    mean_upper_gradient,
    model_of,
    one_draw,
    optimal_point,
    random_point,
    sample_steps,
    softmax,
    state_occupancy,
    unbounded,
    values_at,
    z_scores,
)

SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
GENERATORS = "threefry2x32", "rbg", "unsafe_rbg"
FROZEN = StepSizes.decaying(upper=0.0, actor=0.0, critic=0.0, penalty=0.6, entropy=0.4)


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return random_problem(**PROBLEMS[request.param])


def reference_iteration(problem, step_sizes, k, state, uniforms):
    """One iteration of Algorithm 1, chain by chain: flattened x before projection, followers, chain states and info."""
    ζ, α, β, w, τ = values_at(step_sizes, k)
    x, followers, chain_states = state.x, np.asarray(state.parameters, np.float64), np.asarray(state.chain_states)
    mdp, model, γ = problem.environment, model_of(problem, x), problem.environment.discount
    num_actions, num_chains = mdp.num_actions, chain_states.shape[1]
    successors, probabilities = outcomes(mdp)
    bound = (problem.reward_bound + w * problem.upper.cost_bound + τ * np.log(num_actions)) / (1 - γ)

    def draw(probabilities, uniform):
        return int(np.searchsorted(np.cumsum(probabilities), uniform, side="right"))

    flat_x = np.asarray(ravel_pytree(x)[0], np.float64)
    new_x, new_followers = flat_x.copy(), followers.copy()
    new_chain_states = np.zeros_like(chain_states)
    info = np.zeros((4, 2))
    for b in range(num_chains):
        gradient = model.regularizer_gradient.copy()
        for i, name in enumerate(("lower", "penalized")):
            θ, V = followers[i, :, :-1], followers[i, :, -1]
            s = chain_states[i, b]
            π = softmax(θ[s])
            a = draw(π, uniforms[0, i, b])
            next_s = successors[s, a, draw(probabilities[s, a], uniforms[1, i, b])]
            learned_reward = model.reward[s, a]
            if name == "lower":
                gradient += model.reward_gradient[s, a] / w
            else:
                learned_reward = learned_reward - w * model.cost[s, a]
                gradient += model.cost_gradient[s, a] - model.reward_gradient[s, a] / w
            H = 0.0 if mdp.terminal[s] else entropy(π)
            H_gradient = np.zeros(num_actions) if mdp.terminal[s] else entropy_gradient(θ[s : s + 1])[0]
            δ = learned_reward + τ * H + γ * V[next_s] - V[s]
            score = np.eye(num_actions)[a] - π
            new_followers[i, s, :-1] += α * (δ * score + τ * H_gradient) / num_chains
            new_followers[i, s, -1] += (np.clip(V[s] + β * δ, -bound, bound) - V[s]) / num_chains
            restarts = uniforms[2, i, b] >= γ
            new_chain_states[i, b] = draw(mdp.initial, uniforms[3, i, b]) if restarts else next_s
            info[:, i] += np.array([model.reward[s, a], model.cost[s, a], H, δ**2]) / num_chains
        new_x -= ζ * gradient / num_chains
    return new_x, new_followers, new_chain_states, info


# ---------------------------------------------------------------------------------------------------------------------
# Sampled means against exact means
# ---------------------------------------------------------------------------------------------------------------------


OPTIONS = {
    "paper": {"coupled": False},
    "coupled": {"coupled": True},
    "expected": {"coupled": True, "expects_actions": True},
}


def sampled(problem, followers, x, *, coupled, **options):
    """Steps of the algorithm divided by their step sizes."""
    return sample_steps(
        lambda num_chains: SingleLoopActorCritic(problem, SIZES, Followers(num_chains, coupled=coupled), **options),
        SIZES,
        x,
        followers,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize(
    ("name", "options"), [*((name, "paper") for name in PROBLEMS), ("garnet", "coupled"), ("dict", "expected")]
)
def test_every_step_has_the_mean_that_the_method_asks_for(name, options):
    problem, options = unbounded(random_problem(**PROBLEMS[name])), OPTIONS[options]
    followers, x = random_point(problem)
    sample = sampled(problem, followers, x, **options)
    *_, w, τ = values_at(SIZES, NUM_ITERATIONS_BEFORE)
    model = model_of(problem, x)
    policies = [softmax(follower[:, :-1]) for follower in followers]
    rewards = model.reward, model.reward - w * model.cost

    mean = mean_upper_gradient(model, policies, w)
    assert z_scores(sample.upper_gradient, mean).max() < 4  # (U)
    mistakes = [
        mean_upper_gradient(model, policies, w, penalty_sign=-1.0),
        mean_upper_gradient(model, policies, w, penalty_sign=0.0),
        mean_upper_gradient(model, policies, 1.0),
        mean_upper_gradient(model, policies, w, direct_from=0),
        mean - model.regularizer_gradient,
    ]
    for mistake in mistakes:
        assert z_scores(sample.upper_gradient, mistake).max() > 6

    for i in range(2):
        steps, follower = sample.follower_steps[:, i], followers[i]
        mean = mean_follower_step(model, follower, rewards[i], τ)
        assert z_scores(steps, mean).max() < 4  # (A), (C), (AL), (CL)
        standard_errors = steps.std(0, ddof=1) / len(steps) ** 0.5
        for columns in (slice(None, -1), slice(-1, None)):
            assert np.any(standard_errors[:, columns] < 0.01 * np.abs(mean[:, columns]))
        mistakes = [
            mean_follower_step(model, follower, rewards[i], τ, gradient_weight=0.0),
            mean_follower_step(model, follower, rewards[i], τ, bonus_weight=0.0),
            mean_follower_step(model, follower, rewards[i], τ, next_weight=0.0),
            mean_follower_step(model, follower, rewards[i], τ, next_weight=1 / model.discount),
            mean_follower_step(model, follower, rewards[1 - i], τ),
            mean_follower_step(model, follower, model.reward + w * model.cost, τ),
            mean_follower_step(model, follower, model.reward - model.cost, τ),
        ]
        for mistake in mistakes:
            assert z_scores(steps, mistake).max() > 6

        d = state_occupancy(model, policies[i])[:, None] * policies[i]
        δ = rewards[i][..., None] + model.discount * follower[:, -1] - follower[:, -1][:, None, None]
        δ = δ + τ * (~model.terminal * entropy(policies[i]))[:, None, None]
        diagnostics = [
            (d * model.reward).sum(),
            (d * model.cost).sum(),
            (d.sum(-1) * ~model.terminal) @ entropy(policies[i]),
            np.einsum("sa,sat->", d, model.kernel * δ**2),
        ]
        assert z_scores(sample.info[:, :, i], diagnostics).max() < 4


@pytest.mark.variants(rest="long")
def test_exact_policies_and_values_are_the_fixed_point(problem):
    problem = unbounded(problem)
    *_, w, τ = values_at(SIZES, NUM_ITERATIONS_BEFORE)
    followers, x = optimal_point(problem, w, τ)
    model = model_of(problem, x)
    exact_policies = (
        exact.lower_policy(problem, x, entropy_weight=τ),
        exact.penalized_policy(problem, x, entropy_weight=τ, penalty=w),
    )
    np.testing.assert_allclose(np.exp(followers[..., :-1]), exact_policies, rtol=1e-6)
    sample = sampled(problem, followers, x, coupled=False)

    for i, reward in enumerate((model.reward, model.reward - w * model.cost)):
        np.testing.assert_allclose(mean_follower_step(model, followers[i], reward, τ), 0.0, atol=1e-9)
        assert z_scores(sample.follower_steps[:, i], 0.0).max() < 4
        # Nearby points are not fixed, and the sample is large enough to tell.
        off = followers[i] + 0.05 * np.random.default_rng(i).normal(size=followers[i].shape)
        assert z_scores(sample.follower_steps[:, i], mean_follower_step(model, off, reward, τ)).max() > 6

    gradient, _ = ravel_pytree(exact.penalty_gradient(problem, x, entropy_weight=τ, penalty=w))
    assert z_scores(sample.upper_gradient, np.asarray(gradient)).max() < 4
    unpenalized = mean_upper_gradient(model, exact_policies, w, penalty_sign=0.0)
    assert z_scores(sample.upper_gradient, unpenalized).max() > 6


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize(("generator", "coupled"), [*((generator, False) for generator in GENERATORS), ("rbg", True)])
@pytest.mark.parametrize("name", ["garnet", "terminal"])
def test_a_restarting_chain_visits_states_by_their_occupancy(name, generator, coupled):
    problem = random_problem(**PROBLEMS[name] | {"discount": 0.7})
    mdp = problem.environment
    followers, x = random_point(problem)
    algorithm = SingleLoopActorCritic(problem, FROZEN, Followers(400, coupled=coupled))
    state = algorithm.init(jax.random.key(4))._replace(
        x=jax.tree.map(jnp.asarray, x), parameters=jnp.asarray(followers)
    )
    start, num_burn_in, num_steps = state, 40, 200

    @eqx.filter_jit
    def visits(algorithm, state, key):
        def body(carry, k):
            state, counts = carry
            counts += (k >= num_burn_in) * jax.nn.one_hot(state.chain_states, mdp.num_states)
            return (algorithm.step(one_draw(algorithm, jax.random.fold_in(key, k)), state)[0], counts), None

        start = state, jnp.zeros((2, algorithm.followers.num_chains, mdp.num_states))
        return jax.lax.scan(body, start, jnp.arange(num_burn_in + num_steps))[0]

    state, counts = visits(algorithm, state, jax.random.key(5, impl=generator))
    np.testing.assert_array_equal(state.parameters, start.parameters)  # steps of size zero change nothing
    jax.tree.map(np.testing.assert_array_equal, state.x, start.x)
    frequencies = np.asarray(counts, np.float64) / num_steps
    for i in range(2):
        policy = jax.nn.softmax(jnp.asarray(followers[i, :, :-1]))
        expected = np.asarray(exact.occupancy(mdp, policy)).sum(-1)
        assert z_scores(frequencies[i], expected).max() < 4
        assert z_scores(frequencies[i], mdp.initial).max() > 10
        never_restarted = np.linalg.matrix_power(np.einsum("sa,sat->st", policy, model_of(problem, x).kernel), 500)[0]
        assert z_scores(frequencies[i], never_restarted).max() > 10


def test_the_chains_start_from_rho_with_uniform_policies_and_zero_critics(problem):
    algorithm = SingleLoopActorCritic(problem, followers=Followers(20_000))
    state = algorithm.init(jax.random.key(6))
    assert int(state.num_iterations) == 0
    np.testing.assert_array_equal(state.parameters, 0.0)
    jax.tree.map(lambda got, x: np.testing.assert_allclose(got, x, rtol=1e-6), state.x, problem.initial_x)
    for states in np.asarray(state.chain_states):
        assert z_scores(np.eye(problem.environment.num_states)[states], problem.environment.initial).max() < 4


@pytest.mark.parametrize("generator", GENERATORS)
def test_draws_are_uniform_and_no_two_of_them_are_related(generator):
    num_iterations, num_chains = 2_000, 8
    sizes = StepSizes.decaying(critic=1.0, actor=0.5)
    algorithm = SingleLoopActorCritic(random_problem(seed=0), sizes, Followers(num_chains, coupled=False))
    key = jax.random.key(14, impl=generator)
    draws = [np.asarray(algorithm.draw(jax.random.fold_in(key, i), num_iterations), np.float64) for i in range(3)]
    for draw in draws:
        assert draw.shape == (num_iterations, 4, 2, num_chains)
        assert draw.min() >= 0
        assert draw.max() < 1
        for kind, follower in np.ndindex(4, 2):
            assert kstest(draw[:, kind, follower].ravel(), "uniform").pvalue > 1e-3
        for chain in range(num_chains):
            assert kstest(draw[..., chain].ravel(), "uniform").pvalue > 1e-3

    def are_unrelated(streams):
        """Whether the largest correlation of two rows is one that independent rows exceed in one of 1,000 cases."""
        above = np.triu_indices(len(streams), k=1)
        limit = norm.isf(0.5e-3 / len(above[0])) / streams.shape[1] ** 0.5
        return np.abs(np.corrcoef(streams)[above]).max() < limit

    # All kinds, followers and draws: 24 streams along iterations and chains, and 192 along the iterations alone.
    streams = np.stack([draw.transpose(1, 2, 3, 0).reshape(8, -1) for draw in draws])
    assert are_unrelated(streams.reshape(24, -1))
    assert are_unrelated(streams.reshape(192, num_iterations))
    assert are_unrelated(np.concatenate([streams[0][:, 1:], streams[0][:, :-1]]))  # one iteration and the next
    assert not are_unrelated(np.concatenate([streams[0], 0.9 * streams[1] + 0.1 * streams[0]]))


def test_coupled_followers_act_by_their_own_laws_and_alike_as_often_as_they_can():
    policy, other = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.4, 0.2, 0.1, 0.3])
    n = 200_000
    uniforms = jax.random.uniform(jax.random.key(17), (2, n))
    a, rows, _, _ = draw_actions(jnp.broadcast_to(jnp.log(policy), (n, 4)), uniforms[0])
    followed = np.asarray(follow_actions(a, rows, jnp.broadcast_to(other, (n, 4)), uniforms[1]))
    assert z_scores(np.eye(4)[followed], other).max() < 4
    assert z_scores(np.eye(4)[followed], policy).max() > 10
    assert z_scores((np.asarray(a) == followed).astype(float), 0.75).max() < 4  # 1 − total variation


@pytest.mark.variants(rest="long")
@pytest.mark.slow
def test_coupled_chains_of_equal_followers_never_part(problem):
    algorithm = SingleLoopActorCritic(problem, FROZEN, Followers(50, coupled=True))
    state = algorithm.init(jax.random.key(18))
    step = eqx.filter_jit(algorithm.step)
    for uniforms in algorithm.draw(jax.random.key(19), 30):
        np.testing.assert_array_equal(*state.chain_states)
        state, info = step(uniforms, state)
        assert float(info.coupling_rate) == 1.0
    assert len(np.unique(state.chain_states)) > 1


@pytest.mark.variants(rest="long")
@pytest.mark.slow
def test_an_average_is_the_answer_where_it_is_asked_for(problem):
    def path(**options):
        algorithm = SingleLoopActorCritic(problem, SIZES, Followers(4), **options)
        state, answers = algorithm.init(jax.random.key(20)), []
        step = eqx.filter_jit(algorithm.step)
        for uniforms in algorithm.draw(jax.random.key(21), 6):
            state, _ = step(uniforms, state)
            answers.append(ravel_pytree(algorithm.recommend(state))[0])
        return np.asarray(answers)

    last, averaged = path(), path(upper_steps=UpperSteps(averaging=0.0))
    start = np.asarray(ravel_pytree(problem.initial_x)[0])
    np.testing.assert_allclose(averaged[-1], np.mean([start, *last], axis=0), rtol=1e-5, atol=1e-6)


def test_the_critic_learns_from_the_real_successor_not_from_the_restart():
    # From state 1 both actions lead to state 2; nine of ten transitions are followed by a restart in state 0.
    kernel = np.zeros((3, 2, 3))
    kernel[0, :, 1] = kernel[1, :, 2] = kernel[2, :, 1] = 1.0
    problem = BilevelProblem(
        environment=TabularMDP.from_dense(kernel, initial=[1.0, 0.0, 0.0], discount=0.1),
        reward=lambda x, s, a: x,
        upper=OccupancyCost(cost=lambda x, s, a: 0.0),
        initial_x=0.25,
    )
    algorithm = SingleLoopActorCritic(problem, dataclasses.replace(SIZES, upper=PowerDecay(0.0, 0.9)), Followers(1))
    state = algorithm.init(jax.random.key(0))
    state = state._replace(
        parameters=state.parameters.at[:, :, -1].set(jnp.array([1000.0, 2.0, 50.0])),
        chain_states=jnp.ones((2, 1), jnp.int32),
    )
    new_state, _ = eqx.filter_jit(eqx.filter_vmap(algorithm.step, in_axes=(0, None)))(
        algorithm.draw(jax.random.key(7), 200), state
    )
    assert set(np.unique(new_state.chain_states)) == {0, 2}
    assert abs((np.asarray(new_state.chain_states) == 0).mean() - 0.9) < 4 * (0.9 * 0.1 / 400) ** 0.5
    _, _, β, _, τ = values_at(SIZES, 0)
    expected = 2.0 + β * (0.25 + τ * np.log(2) + 0.1 * 50.0 - 2.0)
    np.testing.assert_allclose(new_state.parameters[..., 1, -1], expected, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# One iteration, number by number
# ---------------------------------------------------------------------------------------------------------------------


def clip_to_half(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), x)


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize(("name", "num_chains"), [("garnet", 1), ("terminal", 1), ("terminal", 16), ("dict", 16)])
def test_an_iteration_is_the_mean_of_the_papers_single_chain_iterations(name, num_chains):
    free = random_problem(**PROBLEMS[name])
    problem = dataclasses.replace(free, initial_x=clip_to_half(free.initial_x), project=clip_to_half)
    sizes = StepSizes.decaying(upper=0.3, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=3.0)
    algorithm = SingleLoopActorCritic(problem, sizes, Followers(num_chains, coupled=False))
    followers, x = random_point(problem)
    step = eqx.filter_jit(algorithm.step)
    state = algorithm.init(jax.random.key(8))._replace(
        x=jax.tree.map(jnp.asarray, x), parameters=jnp.asarray(3 * followers)
    )
    num_projected, num_repeated = 0, 0
    for k in range(12):
        uniforms = one_draw(algorithm, jax.random.key(100 + k))
        expected_x, expected_followers, expected_states, expected_info = reference_iteration(
            problem, sizes, k, state, np.asarray(uniforms)
        )
        num_projected += int((np.abs(expected_x) > 0.5).sum())
        num_repeated += num_chains - len(set(np.asarray(state.chain_states)[0]))
        state, info = step(uniforms, state)
        assert int(state.num_iterations) == k + 1
        np.testing.assert_allclose(ravel_pytree(state.x)[0], np.clip(expected_x, -0.5, 0.5), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(state.parameters, expected_followers, rtol=2e-6, atol=2e-6)
        np.testing.assert_array_equal(state.chain_states, expected_states)
        np.testing.assert_allclose(np.stack(info[:4]), expected_info, rtol=1e-5, atol=1e-5)
        expected_policies = softmax(np.asarray(state.parameters[..., :-1], np.float64))
        np.testing.assert_allclose(np.exp(algorithm.log_policies(state)), expected_policies, rtol=1e-5, atol=1e-7)
    assert num_projected > 0
    assert num_repeated > 0 or num_chains == 1  # the samples of one state add up


@pytest.mark.variants
@pytest.mark.parametrize("num_chains", [1, 8])
def test_tight_bounds_clip_the_critics_and_hold(num_chains):
    free = unbounded(random_problem(seed=0))
    problem = dataclasses.replace(free, reward_bound=0.02, upper=dataclasses.replace(free.upper, cost_bound=0.01))
    # Sequences that do not decay, so that the bound is one number. They break the order of decay, on purpose.
    sizes = StepSizes(*(PowerDecay(initial, 0.0) for initial in (0.0, 0.5, float(num_chains), 0.6, 0.04)))
    with pytest.warns(ScheduleWarning):
        algorithm = SingleLoopActorCritic(problem, sizes, Followers(num_chains, coupled=False))
    bound = (0.02 + 0.6 * 0.01 + 0.04 * np.log(3)) / (1 - 0.9)
    step, state = eqx.filter_jit(algorithm.step), algorithm.init(jax.random.key(0))
    num_clipped, num_free = np.zeros(2), np.zeros(2)
    for k in range(60):
        uniforms = np.asarray(one_draw(algorithm, jax.random.key(200 + k)))
        _, expected, _, _ = reference_iteration(problem, sizes, k, state, uniforms)
        _, unclipped, _, _ = reference_iteration(free, sizes, k, state, uniforms)
        state, _ = step(uniforms, state)
        np.testing.assert_allclose(state.parameters, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(state.parameters[..., -1]).max() <= bound * (1 + 1e-6)
        is_clipped = np.any(np.abs(expected - unclipped) > 1e-2, axis=(1, 2))
        num_clipped += is_clipped
        num_free += ~is_clipped
    assert num_clipped.min() >= 10
    assert num_free.min() >= 10 or num_chains > 1


def test_x_is_projected_after_the_step():
    problem = BilevelProblem(
        environment=random_problem(seed=0).environment,
        reward=lambda x, s, a: x["slope"] * s + x["shift"][a],
        upper=OccupancyCost(
            cost=lambda x, s, a: x["slope"] * (s == 1),
            regularizer=lambda x: jnp.sum((x["shift"] - jnp.array([5.0, 5.0, -5.0])) ** 2) + (x["slope"] + 5.0) ** 2,
        ),
        initial_x={"slope": 0.0, "shift": np.zeros(3)},
        project=lambda x: {"slope": jnp.clip(x["slope"], -1.0, 1.0), "shift": jnp.clip(x["shift"], -2.0, 2.0)},
    )
    algorithm = SingleLoopActorCritic(problem, StepSizes.decaying(upper=1_000.0, actor=1.0, critic=2.0), Followers(4))
    state, _ = eqx.filter_jit(algorithm.step)(
        one_draw(algorithm, jax.random.key(10)), algorithm.init(jax.random.key(0))
    )
    np.testing.assert_array_equal(state.x["slope"], -1.0)
    np.testing.assert_array_equal(state.x["shift"], [2.0, 2.0, -2.0])


def test_actions_follow_the_policy_on_evenly_spaced_uniforms():
    # Twentieths, so that every frequency is exact. The last policies are softmax probabilities: exact to one uniform.
    twentieths = np.array([[1, 7, 0, 12], [0, 0, 20, 0], [20, 0, 0, 0], [0, 3, 9, 8], [5, 5, 5, 5]]) / 20
    policies = np.concatenate([twentieths, softmax(np.random.default_rng(11).normal(size=(5, 4)))])
    uniforms = np.broadcast_to((np.arange(2_000) + 0.5) / 2_000, (10, 2_000))
    logits = np.where(policies > 0, np.log(np.where(policies > 0, policies, 1.0)), -1_000.0)  # softmax: exactly 0
    actions, taken, log_taken, entropies = jax.vmap(draw_actions)(
        jnp.asarray(np.broadcast_to(logits[:, None], (10, 2_000, 4)), float), jnp.asarray(uniforms, float)
    )
    np.testing.assert_allclose(taken, np.broadcast_to(policies[:, None], taken.shape), rtol=1e-5)
    np.testing.assert_allclose(log_taken, np.broadcast_to(logits[:, None], taken.shape), rtol=1e-5, atol=1e-5)
    H = -(policies * np.where(policies > 0, logits, 0.0)).sum(-1)
    np.testing.assert_allclose(entropies, np.broadcast_to(H[:, None], entropies.shape), rtol=1e-5, atol=1e-6)
    assert actions.dtype == jnp.int32
    frequencies = np.stack([np.bincount(row, minlength=4) for row in np.asarray(actions)]) / 2_000
    np.testing.assert_array_equal(frequencies[:5], policies[:5])
    np.testing.assert_allclose(frequencies[5:], policies[5:], atol=1.01 / 2_000)
    assert (np.diff(np.asarray(actions), axis=1) >= 0).all()  # monotone, as inverse CDFs are


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_chains", [1, 5])
def test_an_iteration_costs_the_transitions_that_it_says(monkeypatch, num_chains):
    algorithm = SingleLoopActorCritic(
        random_problem(seed=0), StepSizes.decaying(actor=0.5, critic=1.0), Followers(num_chains)
    )
    state, transition, counts = algorithm.init(jax.random.key(0)), TabularMDP.step, []

    def counted(self, states, actions, uniform):
        counts.append(states.size)
        return transition(self, states, actions, uniform)

    monkeypatch.setattr(TabularMDP, "step", counted)
    jax.eval_shape(algorithm.step, one_draw(algorithm, jax.random.key(1)), state)
    assert sum(counts) == algorithm.num_transitions_per_iteration == 2 * num_chains


def test_a_grid_of_step_sizes_runs_under_vmap():
    problem = random_problem(seed=0)
    grid = {"upper": [0.0, 0.1, 0.2], "actor": [0.5, 1.0, 0.1], "critic": [1.0, 3.0, 2.0], "penalty": [1.0, 0.5, 0.3]}
    exponents = StepSizes.decaying()
    sizes = StepSizes(
        *(PowerDecay(np.array(grid[n]), np.full(3, getattr(exponents, n).exponent), np.full(3, 50.0)) for n in grid),
        entropy=PowerDecay(np.array([0.1, 0.2, 0.3]), np.full(3, 0.05), np.full(3, 50.0)),
    )
    algorithm = SingleLoopActorCritic(problem, sizes, Followers(4, coupled=False))
    state = algorithm.init(jax.random.key(0))._replace(num_iterations=jnp.int32(25))
    uniforms = one_draw(algorithm, jax.random.key(12))

    def step(sizes):
        return eqx.tree_at(lambda algorithm: algorithm.step_sizes, algorithm, sizes).step(uniforms, state)[0]

    states = jax.jit(jax.vmap(step))(sizes)
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], sizes)
        expected_x, expected_followers, expected_states, _ = reference_iteration(
            problem, one, 25, state, np.asarray(uniforms)
        )
        np.testing.assert_allclose(states.x[i], expected_x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(states.parameters[i], expected_followers, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(states.chain_states[i], expected_states)
    assert len(set(np.asarray(states.x)[:, 0])) == 3


def test_an_invalid_schedule_warns_and_names_the_condition():
    problem = random_problem(seed=0)
    with pytest.warns(ScheduleWarning, match="p_actor > 2 p_penalty"):
        SingleLoopActorCritic(problem, StepSizes.decaying(exponents=(0.99, 0.5, 0.5, 0.3, 0.05)))
    with pytest.warns(ScheduleWarning, match="actor <= critic at the start"):
        SingleLoopActorCritic(problem, StepSizes.decaying(actor=2.0, critic=1.0))


def test_a_critic_step_above_one_per_sample_warns():
    problem = random_problem(seed=0)
    with pytest.warns(ScheduleWarning, match=r"critic=4 exceeds num_chains, 3"):
        SingleLoopActorCritic(problem, StepSizes.decaying(critic=4.0), Followers(3))
    SingleLoopActorCritic(problem, StepSizes.decaying(critic=4.0), Followers(4))  # warnings are errors in these tests


def test_a_critic_step_above_the_number_of_states_warns():
    problem = random_problem(seed=0, num_states=3)
    with pytest.warns(ScheduleWarning, match=r"critic=4 exceeds the number of states, 3"):
        SingleLoopActorCritic(problem, StepSizes.decaying(critic=4.0))
    SingleLoopActorCritic(problem, StepSizes.decaying(critic=3.0))


@pytest.mark.parametrize("num_chains", [0, -2])
def test_there_must_be_a_chain(num_chains):
    with pytest.raises(ValueError, match=f"num_chains must be at least 1, got {num_chains}"):
        SingleLoopActorCritic(random_problem(seed=0), followers=Followers(num_chains))


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs
# ---------------------------------------------------------------------------------------------------------------------


@eqx.filter_jit
def run(algorithm, keys, num_iterations):
    """Final states, one a key."""

    def one(key):
        def body(k, state):
            return algorithm.step(one_draw(algorithm, jax.random.fold_in(key, k)), state)[0]

        return jax.lax.fori_loop(0, num_iterations, body, algorithm.init(key))

    return jax.vmap(one)(keys)


@pytest.mark.long
def test_runs_end_close_to_the_exact_solution():
    problem = goal_position(
        size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8, installation_cost=0.1, home=(0, 0)
    )
    num_iterations, uniform = 20_000, np.full((16, 5), 1 / 5)
    for schedule in (StepSizes.constant_entropy, StepSizes.decaying):
        sizes = schedule(upper=0.2, actor=2.0, critic=8.0, penalty=1.0, entropy=0.1, offset=2_000.0)
        algorithm = SingleLoopActorCritic(problem, sizes, Followers(32))
        states = run(algorithm, jax.random.split(jax.random.key(13), 2), jnp.int32(num_iterations))

        *_, w, τ = values_at(sizes, num_iterations)
        solution = exact.solve(problem, entropy_weight=τ)
        excess = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ) - solution.objective
        assert np.linalg.norm(problem.initial_x - solution.x) > 1.2
        for x, policies in zip(states.x, np.exp(jax.vmap(algorithm.log_policies)(states)), strict=True):
            assert np.linalg.norm(x - solution.x) < 0.25
            assert exact.hyper_objective(problem, x, entropy_weight=τ) - solution.objective < 0.03 * excess
            for policy, penalty in zip(policies, (None, w), strict=True):
                weights = {"entropy_weight": τ, "penalty": penalty}
                residual = exact.lower_residual(problem, x, policy, **weights)
                assert 0 <= residual < 0.02 * exact.lower_residual(problem, x, uniform, **weights)


@pytest.mark.slow
def test_oracles_answer_in_double_precision_after_a_compiled_function_has_captured_the_problem():
    # A size of its own: JAX 0.10 confuses the captured arrays with the oracle's only when it compiles the oracle.
    problem, same = (random_problem(seed=0, num_states=7, num_actions=2) for _ in range(2))
    captures = jax.jit(lambda: problem.rewards(problem.initial_x, 0, 0))
    assert captures().dtype == jnp.float32
    x = problem.initial_x
    assert exact.upper_value(problem, x, np.full((7, 2), 0.5)) == exact.upper_value(same, x, np.full((7, 2), 0.5))
