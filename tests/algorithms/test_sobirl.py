"""SoBiRL: exact tables are fixed, the step of x has the hyper-gradient as its mean, and runs end near the optimum."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import StepSizes, exact
from bilevel_rl.algorithms import SoBiRL, SoBiRLModelBased
from bilevel_rl.problems import goal_position
from dense_reference import kernel, soft_value_iteration, table
from garnets import random_problem

PROBLEMS = {
    "garnet": {"seed": 0},
    "terminal": {"seed": 15, "num_terminal": 1},
    "dict": {"seed": 2, "num_states": 4, "num_actions": 2, "num_successors": 2, "as_dict": True},
}
ENTROPY_WEIGHT = 0.4
UPPER, ACTOR, CRITIC = 0.5, 0.7, 0.9
SIZES = StepSizes.fixed_target(upper=UPPER, actor=ACTOR, critic=CRITIC, entropy=ENTROPY_WEIGHT)


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return dataclasses.replace(random_problem(**PROBLEMS[request.param], discount=0.8), reward_bound=np.inf)


def soft_answer(problem, flat_x):
    """π and V by soft value iteration at a flattened x."""
    mdp, (_, unflatten) = problem.environment, ravel_pytree(problem.initial_x)
    with jax.enable_x64(True):
        r = table(problem.reward, unflatten(jnp.asarray(flat_x, jnp.float64)), mdp)
    return soft_value_iteration(mdp, r, ENTROPY_WEIGHT, num_sweeps=250)


def exact_tables(problem):
    """θ and V, Q_c, ∂V of the problem's x; ∂V by central differences of the optimal values."""
    mdp, P = problem.environment, kernel(problem.environment)
    flat_x = np.asarray(ravel_pytree(problem.initial_x)[0], np.float64)
    policy, values = soft_answer(problem, flat_x)
    h = 1e-4
    value_gradients = np.stack(
        [
            (soft_answer(problem, flat_x + h * u)[1] - soft_answer(problem, flat_x - h * u)[1]) / (2 * h)
            for u in np.eye(3)
        ],
        axis=1,
    )
    c = table(problem.upper.cost, problem.initial_x, mdp)
    Q_c = np.zeros_like(c)
    for _ in range(250):
        Q_c = c + mdp.discount * P @ (policy * Q_c).sum(-1)
    return np.concatenate([np.log(policy), values[:, None]], axis=1), Q_c, value_gradients


def hyper_gradient(problem):
    gradient = exact.hyper_gradient(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def z_scores(samples, mean):
    return np.abs(samples.mean(0) - mean) / (samples.std(0, ddof=1) / len(samples) ** 0.5 + 1e-7)


def sampled_steps(problem, follower, Q_c, value_gradients, num_samples=100, num_chains=6_000):
    """Steps of x, Q_c, ∂V and the follower without their step sizes, from chains in their stationary law."""
    rng = np.random.default_rng(1)
    policy = np.exp(follower[:, :-1])
    law = np.cumsum(exact.occupancy(problem.environment, jnp.asarray(policy)).sum(-1))
    with jax.enable_x64(True):
        algorithm = SoBiRL(problem, SIZES, num_chains)
        tables = {"cost_action_values": jnp.asarray(Q_c), "value_gradients": jnp.asarray(value_gradients)}
        state = algorithm.init(jax.random.key(0))._replace(followers=jnp.asarray(follower)[None], **tables)
        step, steps = eqx.filter_jit(algorithm.step), []
        for i in range(num_samples):
            chains = np.searchsorted(law[:-1], rng.random((1, num_chains)), side="right")
            uniforms = algorithm.draw(jax.random.key(i), 1)[0]
            new, _ = step(uniforms, state._replace(chain_states=jnp.asarray(chains, jnp.int32)))
            steps.append(
                (
                    (ravel_pytree(state.x)[0] - ravel_pytree(new.x)[0]) / UPPER,
                    (new.cost_action_values - state.cost_action_values) / CRITIC,
                    (new.value_gradients - state.value_gradients) / CRITIC,
                    (new.followers - state.followers) / np.r_[np.full(policy.shape[1], ACTOR), CRITIC],
                )
            )
    return [np.asarray(leaves) for leaves in zip(*steps, strict=True)]


def test_at_exact_tables_x_follows_the_hyper_gradient_and_the_tables_stay(problem):
    follower, Q_c, value_gradients = exact_tables(problem)
    of_x, *of_tables = sampled_steps(problem, follower, Q_c, value_gradients)
    gradient = hyper_gradient(problem)
    assert z_scores(of_x, gradient).max() < 4
    for steps in of_tables:
        assert z_scores(steps, 0.0).max() < 4
    model, policy = problem.environment, np.exp(follower[:, :-1])
    d = np.asarray(exact.occupancy(model, jnp.asarray(policy)))
    direct = np.asarray(ravel_pytree(_direct_gradient(problem, d))[0])
    for mistake in (direct, 2 * direct - gradient, direct + ENTROPY_WEIGHT * (gradient - direct)):
        assert z_scores(of_x, mistake).max() > 6


def _direct_gradient(problem, d):
    pairs = jnp.arange(d.shape[0])[:, None], jnp.arange(d.shape[1])
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    return jax.grad(lambda x: jnp.sum(d * problem.costs(x, *pairs)) + problem.upper.regularizer(x))(x)


def test_away_from_exact_tables_steps_are_those_of_temporal_differences(problem):
    mdp, P, γ = problem.environment, kernel(problem.environment), problem.environment.discount
    rng = np.random.default_rng(3)
    exact_follower, Q_c, value_gradients = exact_tables(problem)
    follower = exact_follower + 0.0
    follower[:, :-1] = np.log(rng.dirichlet(np.ones(mdp.num_actions), size=mdp.num_states))
    Q_c, value_gradients = (t + rng.normal(size=t.shape) * ~mdp.terminal[:, None] for t in (Q_c, value_gradients))
    of_x, of_Q_c, of_gradients, _ = sampled_steps(problem, follower, Q_c, value_gradients)

    policy = np.exp(follower[:, :-1])
    d = np.asarray(exact.occupancy(mdp, jnp.asarray(policy)))
    x, unflatten = ravel_pytree(problem.initial_x)
    pairs = jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions)
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        r_gradient = np.asarray(jax.jacobian(lambda x: problem.rewards(unflatten(x), *pairs))(x))
        c = np.asarray(problem.costs(unflatten(x), *pairs))
    td = c + γ * P @ (policy * Q_c).sum(-1) - Q_c
    gradient_td = r_gradient + γ * np.einsum("sat,ti->sai", P, value_gradients) - value_gradients[:, None]
    A_c = Q_c - (policy * Q_c).sum(-1, keepdims=True)
    direct = np.asarray(ravel_pytree(_direct_gradient(problem, d))[0])
    assert z_scores(of_Q_c, d * td).max() < 4
    assert z_scores(of_gradients, np.einsum("sa,sai->si", d, gradient_td)).max() < 4
    assert z_scores(of_x, direct + np.einsum("sa,sai->i", d * A_c, gradient_td) / ENTROPY_WEIGHT).max() < 4


def test_sweeps_converge_to_the_derivatives_of_the_values(problem):
    follower, _, value_gradients = exact_tables(problem)
    with jax.enable_x64(True):
        still = SoBiRLModelBased(
            problem, StepSizes.fixed_target(upper=0.0, entropy=ENTROPY_WEIGHT), num_inner_steps=200
        )
        nothing = still.draw(jax.random.key(0), 1)
        state, info = eqx.filter_jit(still.step)(nothing, still.init(jax.random.key(0)))
        policies = np.exp(still.log_policies(state))
        moving = SoBiRLModelBased(problem, SIZES, num_inner_steps=1)
        moved, _ = eqx.filter_jit(moving.step)(nothing, state._replace(num_iterations=jnp.int32(0)))
        direction = (ravel_pytree(state.x)[0] - ravel_pytree(moved.x)[0]) / UPPER
    np.testing.assert_allclose(state.values, follower[:, -1], atol=1e-8)
    np.testing.assert_allclose(policies, [np.exp(follower[:, :-1])] * 2, atol=1e-8)
    np.testing.assert_allclose(state.value_gradients, value_gradients, atol=1e-6)
    np.testing.assert_allclose(direction, hyper_gradient(problem), rtol=1e-7)
    value = exact.upper_value(problem, problem.initial_x, policies[0])
    price = problem.upper.regularizer(jax.tree.map(jnp.asarray, problem.initial_x))
    np.testing.assert_allclose(info.mean_cost + price, [value] * 2, rtol=1e-5)


def test_a_sweep_is_one_step_of_both_fixed_points():
    problem = random_problem(seed=0, discount=0.8)
    mdp, P = problem.environment, kernel(problem.environment)
    r = table(problem.reward, problem.initial_x, mdp)
    pairs = jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions)
    r_gradient = np.asarray(jax.jacobian(lambda x: problem.rewards(x, *pairs))(jnp.asarray(problem.initial_x, float)))
    still = SoBiRLModelBased(problem, StepSizes.fixed_target(upper=0.0, entropy=ENTROPY_WEIGHT), num_inner_steps=2)
    state, _ = eqx.filter_jit(still.step)((), still.init(jax.random.key(0)))
    V, gradients = np.zeros(mdp.num_states), np.zeros((mdp.num_states, 3))
    for _ in range(2):
        weights = np.exp((r + mdp.discount * P @ V) / ENTROPY_WEIGHT)
        policy = weights / weights.sum(-1, keepdims=True)
        V = ENTROPY_WEIGHT * np.log(weights.sum(-1))
        gradients = np.einsum("sa,sai->si", policy, r_gradient + mdp.discount * np.einsum("sat,ti->sai", P, gradients))
    np.testing.assert_allclose(state.values, V, rtol=1e-5)
    np.testing.assert_allclose(state.value_gradients, gradients, rtol=1e-4, atol=1e-5)


def test_there_must_be_a_sweep_and_one_device():
    problem = random_problem(seed=0)
    with pytest.raises(ValueError, match="num_inner_steps must be at least 1, got 0"):
        SoBiRLModelBased(problem, num_inner_steps=0)
    algorithm = SoBiRLModelBased(problem)
    assert algorithm.shared_by("chains", 1) is algorithm
    with pytest.raises(ValueError, match="cannot be shared by devices, got 2"):
        algorithm.shared_by("chains", 2)


@eqx.filter_jit
def final_states(algorithm, key, num_iterations):
    def body(k, state):
        noise = jax.tree.map(lambda leaf: leaf[0], algorithm.draw(jax.random.fold_in(key, k), 1))
        return algorithm.step(noise, state)[0]

    return jax.lax.fori_loop(0, num_iterations, body, algorithm.init(key))


@pytest.mark.parametrize("name", ["sampled", "model-based"])
def test_runs_end_close_to_the_exact_solution(name):
    problem = goal_position(
        size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8, installation_cost=0.1, home=(0, 0)
    )
    τ = 0.1
    algorithm, num_iterations = {
        "sampled": (
            SoBiRL(problem, StepSizes.constant_entropy(upper=0.2, actor=2.0, critic=8.0, entropy=τ), 32),
            20_000,
        ),
        "model-based": (SoBiRLModelBased(problem, StepSizes.fixed_target(upper=2.0, entropy=τ)), 1_000),
    }[name]
    state = final_states(algorithm, jax.random.key(13), jnp.int32(num_iterations))
    solution = exact.solve(problem, entropy_weight=τ)
    excess = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ) - solution.objective
    assert np.linalg.norm(problem.initial_x - solution.x) > 1.2
    assert np.linalg.norm(state.x - solution.x) < 0.25
    assert exact.hyper_objective(problem, state.x, entropy_weight=τ) - solution.objective < 0.03 * excess
