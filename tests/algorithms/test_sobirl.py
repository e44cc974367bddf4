"""SoBiRL: exact tables are fixed, the step of x has the hyper-gradient as its mean, and runs end near the optimum."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import StepSizes, exact
from bilevel_rl.algorithms import SoBiRL
from bilevel_rl.problems import goal_position
from dense_reference import kernel, soft_value_iteration, table
from garnets import random_problem

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

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
        state = algorithm.init(jax.random.key(0))._replace(parameters=jnp.asarray(follower)[None], **tables)
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
                    (new.parameters - state.parameters) / np.r_[np.full(policy.shape[1], ACTOR), CRITIC],
                )
            )
    return [np.asarray(leaves) for leaves in zip(*steps, strict=True)]


@pytest.mark.variants(rest="long")
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


@pytest.mark.long
@pytest.mark.variants
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


@eqx.filter_jit
def final_states(algorithm, key, num_iterations):
    def body(k, state):
        noise = jax.tree.map(lambda leaf: leaf[0], algorithm.draw(jax.random.fold_in(key, k), 1))
        return algorithm.step(noise, state)[0]

    return jax.lax.fori_loop(0, num_iterations, body, algorithm.init(key))


@pytest.mark.long
def test_runs_end_close_to_the_exact_solution():
    problem = goal_position(
        size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8, installation_cost=0.1, home=(0, 0)
    )
    τ = 0.1
    algorithm = SoBiRL(problem, StepSizes.constant_entropy(upper=0.2, actor=2.0, critic=8.0, entropy=τ), 32)
    state = final_states(algorithm, jax.random.key(13), jnp.int32(20_000))
    solution = exact.solve(problem, entropy_weight=τ)
    excess = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ) - solution.objective
    assert np.linalg.norm(problem.initial_x - solution.x) > 1.2
    assert np.linalg.norm(state.x - solution.x) < 0.25
    assert exact.hyper_objective(problem, state.x, entropy_weight=τ) - solution.objective < 0.03 * excess
