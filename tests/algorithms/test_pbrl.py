"""PBRL with both penalties: single iterations, the law of the mixed chains, and sampled means against dense algebra."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic, StepSizes, exact
from bilevel_rl.algorithms import PBRL, BellmanPBRL, PartialSGD
from bilevel_rl.algorithms.sampled import SampledState
from garnets import random_problem
from mean_steps import (
    PROBLEMS,
    entropy,
    final_x,
    flat,
    mean_follower_step,
    mean_upper_gradient,
    model_of,
    moved,
    num_simulated,
    one_draw,
    optimal_follower,
    optimal_point,
    policies_of,
    random_point,
    sample_steps,
    soft_optimal,
    softmax,
    state_occupancy,
    unbounded,
    valley,
    z_scores,
)

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
FIXED = StepSizes.fixed_target(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
FROZEN = StepSizes.fixed_target(upper=0.5, actor=0.0, critic=0.0, penalty=0.6, entropy=0.4, offset=10.0)
STILL = StepSizes.fixed_target(upper=0.0, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
W, TAU = 0.6, 0.4
BOTH = [PBRL, BellmanPBRL]


def clip_to_half(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), x)


# The value penalty.


@pytest.mark.long
def test_with_one_inner_step_the_value_penalty_takes_the_steps_of_algorithm_1():
    problem = unbounded(random_problem(**PROBLEMS["terminal"], as_dict=True))  # Their critics' bounds differ.
    problem = dataclasses.replace(problem, initial_x=clip_to_half(problem.initial_x), project=clip_to_half)
    pbrl = PBRL(problem, SIZES, num_chains=6, num_inner_steps=1)
    single = SingleLoopActorCritic(problem, SIZES, Followers(6, coupled=False))
    pbrl_step, single_step = eqx.filter_jit(pbrl.step), eqx.filter_jit(single.step)
    expected = single.init(jax.random.key(1))
    state = SampledState(*expected[:4])
    start = flat(state)
    for k in range(30):
        uniforms = one_draw(single, jax.random.key(100 + k))
        state, info = pbrl_step(jnp.stack([uniforms[:, :1], uniforms[:, 1:]]), state)
        expected, expected_info = single_step(uniforms, expected)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5),
            (state[:4], info[:4]),
            (expected[:4], expected_info[:4]),
        )
    assert np.abs(flat(state) - start).max() > 0.5


@pytest.mark.long
@pytest.mark.variants
@pytest.mark.parametrize("kind", BOTH)
def test_the_answer_takes_t_steps_at_fixed_x(kind):
    problem, num_chains, num_inner_steps = random_problem(**PROBLEMS["terminal"]), 4, 3
    algorithm = kind(problem, FIXED, num_chains, num_inner_steps=num_inner_steps)
    lone = PartialSGD(problem, STILL, num_chains)
    followers, x = random_point(problem)
    state = algorithm.init(jax.random.key(1))
    state = state._replace(x=jnp.asarray(x), parameters=jnp.asarray(followers, float))
    uniforms = one_draw(algorithm, jax.random.key(2))
    after, info = eqx.filter_jit(algorithm.step)(uniforms, state)
    expected = lone.init(jax.random.key(1))._replace(
        x=state.x, parameters=state.parameters[:1], chain_states=state.chain_states[:1]
    )
    step, infos = eqx.filter_jit(lone.step), []
    for t in range(num_inner_steps):
        expected, lone_info = step(uniforms[t], expected)
        infos.append(np.stack(lone_info[:4])[:, 0])
    np.testing.assert_allclose(after.parameters[0], expected.parameters[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.chain_states[0], expected.chain_states[0])
    np.testing.assert_allclose(np.stack(info[:4])[:, 0], np.mean(infos[1:], axis=0), rtol=1e-4, atol=1e-5)
    assert np.any(np.asarray(after.x) != x)


def test_at_the_exact_policies_the_mean_step_of_the_value_penalty_is_its_gradient():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    followers, x = optimal_point(problem, W, TAU)
    sample = sample_steps(lambda n: PBRL(problem, FROZEN, n, num_inner_steps=1), FROZEN, x, followers)
    gradient = flat(exact.penalty_gradient(problem, x, entropy_weight=TAU, penalty=W))
    assert z_scores(sample.upper_gradient, gradient).max() < 4
    model, policies = model_of(problem, x), policies_of(followers)
    for mistake in (
        mean_upper_gradient(model, policies, W, penalty_sign=-1.0),
        mean_upper_gradient(model, policies, W, penalty_sign=0.0),
        mean_upper_gradient(model, policies, 1.0),
        mean_upper_gradient(model, policies, W, direct_from=0),
    ):
        assert z_scores(sample.upper_gradient, mistake).max() > 6


@pytest.mark.long
def test_exact_policies_and_values_are_the_fixed_point_of_the_value_penalty():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    followers, x = optimal_point(problem, W, TAU)
    sample = sample_steps(lambda n: PBRL(problem, FIXED, n, num_inner_steps=1), FIXED, x, followers)
    model = model_of(problem, x)
    rewards = model.reward, model.reward - W * model.cost
    for i in range(2):
        assert z_scores(sample.follower_steps[:, i], 0.0).max() < 4
        swapped = mean_follower_step(model, followers[i], rewards[1 - i], TAU)
        assert z_scores(sample.follower_steps[:, i], swapped).max() > 6


# The Bellman penalty.


def bellman_objective(problem, x, y, weights=(1.0, 1.0)):
    """f(x, y) and p(x, y) / w, weighted, with the penalty (1−γ) E_ρ[V* − Σ_a y Q* − τ H(y)] by its definition."""
    model = model_of(problem, x)
    _, values = soft_optimal(model, model.reward, TAU)
    action_values = model.reward + model.discount * model.kernel @ values
    loss = values - (y * action_values).sum(-1) - TAU * entropy(y)
    penalty = (1 - model.discount) * model.initial @ np.where(model.terminal, 0.0, loss)
    return weights[0] * float(exact.upper_value(problem, x, y)) + weights[1] * penalty / W


def derivative(function, size, h=1e-4):
    """Central differences along every coordinate at 0."""
    moves = h * np.eye(size)
    return np.array([(function(move) - function(-move)) / (2 * h) for move in moves])


def mixed_law(model, y, answer):
    """Stationary law of the chains that take the first action from y and all others from π: (first, others), by s."""
    first = (1 - model.discount) * model.initial
    by_answer = np.einsum("sa,sat->st", answer, model.kernel)
    inflow = model.discount * np.einsum("s,sa,sat->t", first, y, model.kernel)
    return first, np.linalg.solve((np.eye(len(first)) - model.discount * by_answer).T, inflow)


@pytest.fixture(scope="module")
def at_an_exact_answer():
    """Problem, x, tables of the exact answer and of a random y with the exact critic of its cost, and their model."""
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    (_, joint), x = random_point(problem)
    model = model_of(problem, x)
    y = softmax(joint[:, :-1])
    chain = np.einsum("sa,sat->st", y, model.kernel)
    costs = -W * (y * model.cost).sum(-1)
    joint[:, -1] = np.linalg.solve(np.eye(len(chain)) - model.discount * chain, costs)
    return problem, x, np.stack([optimal_follower(model, model.reward, TAU), joint]), model


def sample_bellman(problem, x, followers, step_sizes):
    model, (answer, y) = model_of(problem, x), policies_of(followers)
    first, others = mixed_law(model, y, answer)
    np.testing.assert_allclose(first.sum() + others.sum(), 1.0)
    laws = [state_occupancy(model, answer), state_occupancy(model, y), np.concatenate([first, others])]

    def chains_of(rng, num_chains):
        places = [rng.choice(len(law), size=num_chains, p=law / law.sum()) for law in laws]
        is_first = places[2] < len(first)
        states = np.array([*places[:2], places[2] % len(first)], np.int32)
        return {"chain_states": states, "is_first_action": is_first}

    def algorithm_of(num_chains):
        return BellmanPBRL(problem, step_sizes, num_chains, num_inner_steps=1)

    return sample_steps(algorithm_of, step_sizes, x, followers, chains_of)


def test_the_mean_step_of_x_is_the_gradient_of_the_bellman_penalized_objective(at_an_exact_answer):
    problem, x, followers, model = at_an_exact_answer
    sample = sample_bellman(problem, x, followers, FROZEN)
    answer, y = policies_of(followers)

    def gradient(*weights):
        return derivative(lambda move: bellman_objective(problem, moved(x, move), y, weights), flat(x).size)

    assert z_scores(sample.upper_gradient, gradient(1.0, 1.0)).max() < 4
    for mistake in (
        gradient(1.0, -1.0),
        gradient(1.0, 0.0),
        gradient(0.0, 1.0),
        gradient(1.0, W),
        mean_upper_gradient(model, [answer, y], W),  # the value penalty's
    ):
        assert z_scores(sample.upper_gradient, mistake).max() > 6


@pytest.mark.long
def test_the_mean_step_of_y_descends_the_bellman_penalized_objective(at_an_exact_answer):
    problem, x, followers, model = at_an_exact_answer
    sample = sample_bellman(problem, x, followers, FIXED)
    logits = followers[1, :, :-1]

    def descent(*weights):
        """−w ∂ of the objective, by the logits of y."""

        def objective(move):
            return bellman_objective(problem, x, softmax(logits + move.reshape(logits.shape)), weights)

        return -W * derivative(objective, logits.size).reshape(logits.shape)

    logit_steps, critic_steps = np.split(sample.follower_steps[:, 1], [-1], axis=-1)
    assert z_scores(logit_steps, descent(1.0, 1.0)).max() < 4
    for mistake in (descent(1.0, 0.0), descent(0.0, 1.0), descent(1.0, -1.0), descent(1.0, 1 / (1 - model.discount))):
        assert z_scores(logit_steps, mistake).max() > 6

    # Exact critics, of the cost alone, and the exact answer stand still.
    assert z_scores(critic_steps, 0.0).max() < 4
    assert z_scores(sample.follower_steps[:, 0], 0.0).max() < 4
    for reward in (model.reward, model.reward - W * model.cost):
        of_another = mean_follower_step(model, followers[1], reward, 0.0)[:, -1:]
        assert z_scores(critic_steps, of_another).max() > 6


@pytest.mark.long
def test_the_chains_of_bellman_pbrl_have_the_laws_that_its_gradients_ask_for():
    problem = random_problem(**PROBLEMS["terminal"] | {"discount": 0.7})
    followers, x = random_point(problem)
    frozen = StepSizes.fixed_target(upper=0.0, actor=0.0, critic=0.0)
    algorithm = BellmanPBRL(problem, frozen, num_chains=400, num_inner_steps=1)
    state = algorithm.init(jax.random.key(0))
    assert np.all(state.is_first_action)
    state = state._replace(parameters=jnp.asarray(followers, float))
    num_burn_in, num_steps = 30, 600

    @eqx.filter_jit
    def visits(algorithm, state):
        def iterate(state, key):
            new_state = algorithm.step(one_draw(algorithm, key), state)[0]
            return new_state, (state.chain_states, state.is_first_action)

        return jax.lax.scan(iterate, state, jax.random.split(jax.random.key(5), num_burn_in + num_steps))[1]

    states, is_first = (np.asarray(array)[num_burn_in:] for array in visits(algorithm, state))
    model, (answer, y) = model_of(problem, x), policies_of(followers)
    places = [states[:, 0], states[:, 1], states[:, 2] + 5 * ~is_first]
    laws = [state_occupancy(model, answer), state_occupancy(model, y), np.concatenate(mixed_law(model, y, answer))]
    for place, law in zip(places, laws, strict=True):
        frequencies = np.stack([np.bincount(chain, minlength=len(law)) for chain in place.T]) / num_steps
        assert z_scores(frequencies, law).max() < 4
    for mistake in (mixed_law(model, answer, answer), mixed_law(model, y, y), mixed_law(model, answer, y)):
        assert z_scores(frequencies, np.concatenate(mistake)).max() > 6


# Both.


@pytest.mark.long
@pytest.mark.parametrize(("num_chains", "num_inner_steps"), [(1, 1), (3, 4)])
def test_an_iteration_costs_the_transitions_that_it_says(num_chains, num_inner_steps):
    problem = random_problem(seed=0)
    for kind, num_more in ((PBRL, 1), (BellmanPBRL, 3)):
        algorithm = kind(problem, FIXED, num_chains, num_inner_steps=num_inner_steps)
        expected = (num_inner_steps + num_more) * num_chains
        assert num_simulated(algorithm) == algorithm.num_transitions_per_iteration == expected


@pytest.mark.parametrize("kind", BOTH)
def test_there_must_be_chains_and_inner_steps(kind):
    problem = random_problem(seed=0)
    with pytest.raises(ValueError, match="num_inner_steps must be at least 1, got 0"):
        kind(problem, num_inner_steps=0)
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        kind(problem, num_chains=0)


@pytest.mark.long
def test_the_value_penalty_ends_close_to_the_exact_solution():
    problem, τ = valley(), 0.3
    optimum = exact.solve(problem, entropy_weight=τ)
    sizes = StepSizes.fixed_target(upper=0.03, actor=0.3, critic=1.0, penalty=0.1, entropy=τ, offset=300.0)
    algorithm = PBRL(problem, sizes, num_chains=32, num_inner_steps=20)
    start = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
    for x in final_x(algorithm, num_seeds=2, num_iterations=3_000):
        gap = exact.hyper_objective(problem, x, entropy_weight=τ) - optimum.objective
        assert gap < 0.02 * (start - optimum.objective)
        assert np.linalg.norm(x - optimum.x) < 0.1


@pytest.mark.long
def test_the_bellman_penalty_ends_close_to_the_exact_solution():
    # Its own minimum at w = 0.1 costs 0.047 more than the optimum, at a distance of 0.19.
    problem, τ = valley(), 0.3
    optimum = exact.solve(problem, entropy_weight=τ)
    sizes = StepSizes.fixed_target(upper=0.01, actor=0.5, critic=1.0, penalty=0.1, entropy=τ, offset=500.0)
    algorithm = BellmanPBRL(problem, sizes, num_chains=32, num_inner_steps=5)
    start = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
    for x in final_x(algorithm, num_seeds=2, num_iterations=15_000):
        gap = exact.hyper_objective(problem, x, entropy_weight=τ) - optimum.objective
        assert gap < 0.1 * (start - optimum.objective)
        assert np.linalg.norm(x - optimum.x) < 0.3
