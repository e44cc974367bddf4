"""Partial SGD: its follower learns like Algorithm 1's lower one, and x follows the direct gradient alone."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic, StepSizes, TabularMDP, exact
from bilevel_rl.algorithms import PartialSGD
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
    moved,
    one_draw,
    policies_of,
    random_point,
    sample_steps,
    unbounded,
    valley,
    values_at,
    z_scores,
)

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)


def clip_to_half(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), x)


def direct_gradient(problem, x, policy, h=1e-4):
    """∇_x f(x, π) at a fixed policy, over flattened x, by central differences."""
    moves = h * np.eye(flat(x).size)
    values = [[exact.upper_value(problem, moved(x, m), policy) for m in (move, -move)] for move in moves]
    return np.array([(ahead - behind) / (2 * h) for ahead, behind in values])


@pytest.mark.long
def test_the_follower_learns_like_the_lower_one_of_algorithm_1_and_x_sees_costs_alone():
    free = random_problem(**PROBLEMS["terminal"], as_dict=True)
    problem = dataclasses.replace(free, initial_x=clip_to_half(free.initial_x), project=clip_to_half)
    num_chains = 6
    algorithm = PartialSGD(problem, SIZES, num_chains)
    single_loop = SingleLoopActorCritic(problem, SIZES, Followers(num_chains, coupled=False))
    step, reference = eqx.filter_jit(algorithm.step), eqx.filter_jit(single_loop.step)
    followers, x = random_point(problem)
    both = single_loop.init(jax.random.key(8))._replace(
        x=jax.tree.map(jnp.asarray, x), parameters=jnp.asarray(followers, float)
    )
    state = algorithm.init(jax.random.key(8))._replace(x=both.x, parameters=both.parameters[:1])
    state = state._replace(chain_states=both.chain_states[:1])
    actions_of = jax.jit(lambda *now: actions_of_chains(single_loop, *now)[0])
    num_projected = 0
    for k in range(8):
        uniforms = one_draw(single_loop, jax.random.key(k))
        both = both._replace(x=state.x)
        s, a = both.chain_states[0], np.asarray(actions_of(both.parameters, both.chain_states, uniforms))
        model, ζ = model_of(problem, state.x), values_at(SIZES, k)[0]
        unprojected = flat(state.x) - ζ * (model.cost_gradient[s, a].mean(0) + model.regularizer_gradient)
        state, info = step(uniforms[:, :1], state)
        both, expected_info = reference(uniforms, both)
        assert int(state.num_iterations) == k + 1
        np.testing.assert_allclose(flat(state.x), np.clip(unprojected, -0.5, 0.5), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.parameters, both.parameters[:1], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(state.chain_states, both.chain_states[:1])
        np.testing.assert_allclose(np.stack(info[:4]), np.stack(expected_info[:4])[:, :1], rtol=1e-4, atol=1e-5)
        num_projected += int((np.abs(unprojected) > 0.5).sum())
    assert num_projected > 0


def test_the_mean_step_is_the_gradient_at_a_policy_that_does_not_answer():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    followers, x = random_point(problem, num_followers=1)
    sample = sample_steps(lambda num_chains: PartialSGD(problem, SIZES, num_chains), SIZES, x, followers)
    policy, model = policies_of(followers)[0], model_of(problem, x)
    gradient = direct_gradient(problem, x, policy)
    assert z_scores(sample.upper_gradient, gradient).max() < 4
    *_, w, τ = values_at(SIZES, NUM_ITERATIONS_BEFORE)
    mistakes = [
        -gradient,
        gradient - model.regularizer_gradient,
        mean_upper_gradient(model, [policy, np.full_like(policy, 1 / policy.shape[1])], w),
        gradient + mean_upper_gradient(model, [policy, policy], w) - model.regularizer_gradient,
    ]
    for mistake in mistakes:
        assert z_scores(sample.upper_gradient, mistake).max() > 6
    assert z_scores(sample.follower_steps[:, 0], mean_follower_step(model, followers[0], model.reward, τ)).max() < 4


@pytest.mark.long
def test_x_stops_where_the_direct_gradient_vanishes_and_not_at_the_optimum():
    problem, τ = valley(), 0.3
    sizes = StepSizes.fixed_target(upper=0.2, actor=0.3, critic=1.0, entropy=τ, offset=500.0)
    optimum = exact.solve(problem, entropy_weight=τ)
    for x in final_x(PartialSGD(problem, sizes, num_chains=32), num_seeds=2, num_iterations=15_000):
        policy = exact.lower_policy(problem, x, entropy_weight=τ)
        assert np.linalg.norm(direct_gradient(problem, x, policy)) < 0.1
        assert np.linalg.norm(exact.hyper_gradient(problem, x, entropy_weight=τ)) > 1.0
        assert exact.hyper_objective(problem, x, entropy_weight=τ) > optimum.objective + 0.4
        assert np.linalg.norm(x - optimum.x) > 0.5


@pytest.mark.long
def test_an_iteration_costs_one_transition_a_chain(monkeypatch):
    algorithm = PartialSGD(random_problem(seed=0), SIZES, num_chains=5)
    state, transition, counts = algorithm.init(jax.random.key(0)), TabularMDP.step, []

    def counted(self, states, actions, uniform):
        counts.append(states.size)
        return transition(self, states, actions, uniform)

    monkeypatch.setattr(TabularMDP, "step", counted)
    jax.eval_shape(algorithm.step, one_draw(algorithm, jax.random.key(1)), state)
    assert sum(counts) == algorithm.num_transitions_per_iteration == 5


def test_there_is_one_policy():
    algorithm = PartialSGD(random_problem(seed=0), SIZES, num_chains=3)
    followers, _ = random_point(algorithm.problem, num_followers=1)
    state = algorithm.init(jax.random.key(0))._replace(parameters=jnp.asarray(followers, float))
    assert state.chain_states.shape == (1, 3)
    np.testing.assert_allclose(np.exp(algorithm.log_policies(state)), policies_of(followers), rtol=1e-5)


@pytest.mark.parametrize("num_chains", [0, -2])
def test_there_must_be_a_chain(num_chains):
    with pytest.raises(ValueError, match=f"num_chains must be at least 1, got {num_chains}"):
        PartialSGD(random_problem(seed=0), num_chains=num_chains)
