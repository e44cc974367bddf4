"""The nested loop: Algorithm 1 where T = 1, T of its steps on the followers otherwise, and the same gradient of x."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import Followers, PowerDecay, SingleLoopActorCritic, StepSizes, exact
from bilevel_rl.algorithms import NestedLoop
from bilevel_rl.algorithms.sampled import SampledState
from bilevel_rl.algorithms.single_loop import SingleLoopState
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from garnets import random_problem
from mean_steps import (
    NUM_ITERATIONS_BEFORE,
    PROBLEMS,
    actions_of_chains,
    final_x,
    flat,
    mean_follower_step,
    mean_upper_gradient,
    model_of,
    num_simulated,
    one_draw,
    optimal_point,
    random_point,
    sample_steps,
    unbounded,
    valley,
    values_at,
    z_scores,
)

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
FIXED = StepSizes.fixed_target(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)
FROZEN = StepSizes.fixed_target(upper=0.5, actor=0.0, critic=0.0, penalty=0.6, entropy=0.4, offset=10.0)


def clip_to_half(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), x)


def without_warning(make):
    """Fixed w and τ are none of Algorithm 1's schedules."""
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        return make()


@pytest.mark.long
def test_with_one_inner_step_it_is_algorithm_1():
    free = random_problem(**PROBLEMS["terminal"], as_dict=True)
    problem = dataclasses.replace(free, initial_x=clip_to_half(free.initial_x), project=clip_to_half)
    nested = NestedLoop(problem, SIZES, num_chains=6, num_inner_steps=1)
    single = SingleLoopActorCritic(problem, SIZES, Followers(6, coupled=False))
    nested_step, single_step = eqx.filter_jit(nested.step), eqx.filter_jit(single.step)
    expected = single.init(jax.random.key(1))
    state = SampledState(*expected[:4])
    start = ravel_pytree(state)[0]
    for k in range(30):
        uniforms = one_draw(single, jax.random.key(100 + k))
        state, info = nested_step(uniforms[None], state)
        expected, expected_info = single_step(uniforms, expected)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5),
            (state[:4], info[:4]),
            (expected[:4], expected_info[:4]),
        )
    assert np.abs(ravel_pytree(state)[0] - start).max() > 0.5


@pytest.mark.long
def test_an_iteration_is_t_steps_of_the_followers_and_one_of_x_from_the_later_half():
    problem, num_chains, num_inner_steps, k = random_problem(**PROBLEMS["terminal"]), 6, 5, 7
    nested = NestedLoop(problem, FIXED, num_chains, num_inner_steps=num_inner_steps)
    still = dataclasses.replace(FIXED, upper=PowerDecay(0.0, 0.9))
    single = without_warning(lambda: SingleLoopActorCritic(problem, still, Followers(num_chains, coupled=False)))
    step, actions_of = eqx.filter_jit(single.step), jax.jit(lambda *now: actions_of_chains(single, *now))
    followers, x = random_point(problem)
    expected = nested.init(jax.random.key(2))._replace(num_iterations=jnp.int32(k), x=jnp.asarray(x))
    expected = expected._replace(parameters=jnp.asarray(followers, float))
    uniforms = one_draw(nested, jax.random.key(3))
    state, info = eqx.filter_jit(nested.step)(uniforms, expected)

    expected = SingleLoopState(*expected, single.init(jax.random.key(2)).upper_memory, None)
    model, gradients, infos = model_of(problem, x), [], []
    ζ, _, _, w, _ = values_at(FIXED, k)
    for t in range(num_inner_steps):
        s = np.asarray(expected.chain_states)
        a = np.asarray(actions_of(expected.parameters, expected.chain_states, uniforms[t]))
        lower, penalized = model.reward_gradient[s, a].mean(1)
        direct = model.cost_gradient[s[1], a[1]].mean(0) + model.regularizer_gradient
        gradients.append(direct + (lower - penalized) / w)
        expected, expected_info = step(uniforms[t], expected)
        infos.append(np.stack(expected_info[:4]))
    later = slice(num_inner_steps // 2, None)
    assert int(state.num_iterations) == k + 1
    np.testing.assert_allclose(state.x, x - ζ * np.mean(gradients[later], axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.parameters, expected.parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.chain_states, expected.chain_states)
    np.testing.assert_allclose(np.stack(info[:4]), np.mean(infos[later], axis=0), rtol=1e-4, atol=1e-5)
    assert np.abs(np.mean(gradients[later], axis=0) - np.mean(gradients, axis=0)).max() > 1e-2


def test_at_the_exact_policies_the_mean_step_is_the_penalty_gradient():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    *_, w, τ = values_at(FIXED, NUM_ITERATIONS_BEFORE)
    followers, x = optimal_point(problem, w, τ)
    sample = sample_steps(lambda n: NestedLoop(problem, FROZEN, n, num_inner_steps=1), FROZEN, x, followers)
    gradient = flat(exact.penalty_gradient(problem, x, entropy_weight=τ, penalty=w))
    assert z_scores(sample.upper_gradient, gradient).max() < 4
    model, policies = model_of(problem, x), np.exp(followers[..., :-1])
    for mistake in (
        mean_upper_gradient(model, policies, w, penalty_sign=-1.0),
        mean_upper_gradient(model, policies, w, penalty_sign=0.0),
        mean_upper_gradient(model, policies, 1.0),
        mean_upper_gradient(model, policies, w, direct_from=0),
    ):
        assert z_scores(sample.upper_gradient, mistake).max() > 6


@pytest.mark.long
def test_exact_policies_and_values_are_the_fixed_point_each_with_its_own_reward():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    *_, w, τ = values_at(FIXED, NUM_ITERATIONS_BEFORE)
    followers, x = optimal_point(problem, w, τ)
    sample = sample_steps(lambda n: NestedLoop(problem, FIXED, n, num_inner_steps=1), FIXED, x, followers)
    model = model_of(problem, x)
    rewards = model.reward, model.reward - w * model.cost
    for i in range(2):
        assert z_scores(sample.follower_steps[:, i], 0.0).max() < 4
        swapped = mean_follower_step(model, followers[i], rewards[1 - i], τ)
        assert z_scores(sample.follower_steps[:, i], swapped).max() > 6


@pytest.mark.long
def test_runs_end_close_to_the_exact_solution():
    problem, τ = valley(), 0.3
    optimum = exact.solve(problem, entropy_weight=τ)
    sizes = StepSizes.fixed_target(upper=0.1, actor=0.3, critic=1.0, penalty=0.1, entropy=τ, offset=50.0)
    algorithm = NestedLoop(problem, sizes, num_chains=32, num_inner_steps=20)
    start = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
    for x in final_x(algorithm, num_seeds=2, num_iterations=1_000):
        gap = exact.hyper_objective(problem, x, entropy_weight=τ) - optimum.objective
        assert gap < 0.02 * (start - optimum.objective)
        assert np.linalg.norm(x - optimum.x) < 0.1


@pytest.mark.long
@pytest.mark.parametrize(("num_chains", "num_inner_steps"), [(1, 1), (3, 4)])
def test_an_iteration_costs_the_transitions_that_it_says(num_chains, num_inner_steps):
    algorithm = NestedLoop(random_problem(seed=0), SIZES, num_chains, num_inner_steps=num_inner_steps)
    assert num_simulated(algorithm) == algorithm.num_transitions_per_iteration == 2 * num_chains * num_inner_steps


@pytest.mark.parametrize("num_inner_steps", [0, -1])
def test_there_must_be_an_inner_step(num_inner_steps):
    with pytest.raises(ValueError, match=f"num_inner_steps must be at least 1, got {num_inner_steps}"):
        NestedLoop(random_problem(seed=0), num_inner_steps=num_inner_steps)


def test_there_must_be_a_chain():
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        NestedLoop(random_problem(seed=0), num_chains=0)
