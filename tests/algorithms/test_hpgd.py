"""HPGD: the mean of its estimated hyper-gradient, what it costs, and where its runs end."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import BilevelProblem, OccupancyCost, StepSizes, TabularMDP, exact
from bilevel_rl.algorithms import HPGD, PlannedHPGD
from bilevel_rl.algorithms.episode_tables import EpisodeTables
from bilevel_rl.algorithms.rollouts import Rollouts
from bilevel_rl.problems import goal_position
from dense_reference import kernel
from garnets import random_policy, random_problem

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

PROBLEMS = {
    "garnet": {"seed": 0},
    "terminal": {"seed": 15, "num_terminal": 1},
    "dict": {"seed": 2, "num_states": 4, "num_actions": 2, "num_successors": 2, "as_dict": True},
}
ENTROPY_WEIGHT = 0.4
LONG, SHORT = 60, 4
"""Steps of rollouts: at γ = 0.8 the first miss 1.5e-6 of a sum, the second 0.41."""


def garnet(name):
    return random_problem(**PROBLEMS[name], discount=0.8)


def gradient_tables(problem):
    """∂r, ∂c (S, A, d) and ∂g (d,) at the problem's x, and the tables c and r themselves."""
    mdp = problem.environment
    flat_x, unflatten = ravel_pytree(problem.initial_x)
    pairs = jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions)

    def tables(flat_x):
        x = unflatten(flat_x)
        return problem.rewards(x, *pairs), problem.costs(x, *pairs), problem.upper.regularizer(x)

    with jax.enable_x64(True):
        flat_x = jnp.asarray(flat_x, jnp.float64)
        return [np.asarray(t) for t in (*jax.jacobian(tables)(flat_x), *tables(flat_x)[:2])]


def mean_estimate(problem, policy, num_steps, *, weight=1 / ENTROPY_WEIGHT, value_discount=None, centring=1.0):
    """Mean of the estimate: sums over time of `num_steps` terms. Arguments other than the defaults are mistakes."""
    mdp, P = problem.environment, kernel(problem.environment)
    ρ, γ = mdp.initial, mdp.discount
    r_gradient, c_gradient, g_gradient, _, c = gradient_tables(problem)
    d, p = np.zeros(mdp.num_states), ρ
    for t in range(num_steps):
        d += (1 - γ) * γ**t * p
        p = np.einsum("s,sa,sat->t", p, policy, P)

    def action_values(table, discount):
        Q = np.zeros_like(table)
        for _ in range(num_steps):
            Q = table + discount * np.einsum("sat,tbi,tb->sai", P, Q, policy)
        return Q

    Q_c = action_values(c[..., None], γ)[..., 0]
    A_c = Q_c - centring * (policy * Q_c).sum(-1, keepdims=True)
    Q_gradient = action_values(r_gradient, γ if value_discount is None else value_discount)
    pairs = d[:, None] * policy
    direct = np.einsum("sa,sad->d", pairs, c_gradient) + g_gradient
    return direct + weight * np.einsum("sa,sad->d", pairs * A_c, Q_gradient)


@eqx.filter_jit
def _estimates(rollouts, x, log_policy, keys):
    def one(key):
        uniforms = jax.random.uniform(key, (rollouts.num_uniforms, rollouts.num_walks))
        gradient, means = rollouts.estimate(x, log_policy, jnp.asarray(ENTROPY_WEIGHT), uniforms)
        return ravel_pytree(gradient)[0], jnp.stack(means)

    return jax.lax.map(one, keys)


def estimates(problem, policy, num_steps, num_walks=1_000, num_samples=64, estimator: Callable = Rollouts):
    rollouts = estimator(problem, num_walks, num_steps)
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    keys = jax.random.split(jax.random.key(3), num_samples)
    return [np.asarray(a, np.float64) for a in _estimates(rollouts, x, jnp.log(jnp.asarray(policy)), keys)]


def z_scores(samples, mean):
    return np.abs(samples.mean(0) - mean) / (samples.std(0, ddof=1) / len(samples) ** 0.5 + 1e-7)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_mean_estimate_at_the_answer_is_the_hyper_gradient(name):
    problem = garnet(name)
    policy = exact.lower_policy(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT)
    gradient, _ = ravel_pytree(exact.hyper_gradient(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT))
    gradients, _ = estimates(problem, policy, LONG)
    np.testing.assert_allclose(mean_estimate(problem, policy, LONG), gradient, rtol=1e-4)
    assert z_scores(gradients, np.asarray(gradient)).max() < 4
    for mistake in ({"weight": 1.0}, {"weight": 0.0}, {"weight": -1 / ENTROPY_WEIGHT}, {"value_discount": 0.0}):
        assert z_scores(gradients, mean_estimate(problem, policy, LONG, **mistake)).max() > 6


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
def test_short_rollouts_miss_what_lies_beyond_them_and_nothing_else(name):
    problem = garnet(name)
    mdp = problem.environment
    policy = random_policy(7, mdp.num_states, mdp.num_actions)
    gradients, means = estimates(problem, policy, SHORT, num_walks=10_000)
    assert z_scores(gradients, mean_estimate(problem, policy, SHORT)).max() < 4
    for mistake in ({"weight": 1.0}, {"value_discount": 1.0}, {"centring": 0.0}):
        assert z_scores(gradients, mean_estimate(problem, policy, SHORT, **mistake)).max() > 6
    assert z_scores(gradients, mean_estimate(problem, policy, LONG)).max() > 6

    _, _, _, r, c = gradient_tables(problem)
    H = np.where(mdp.terminal, 0.0, -(policy * np.log(policy)).sum(-1))[:, None]
    expected = []
    for table in (r, c, H + np.zeros_like(r)):
        total, p = 0.0, mdp.initial
        for t in range(SHORT):
            total += (1 - mdp.discount) * mdp.discount**t * (p[:, None] * policy * table).sum()
            p = np.einsum("s,sa,sat->t", p, policy, kernel(mdp))
        expected.append(total)
    assert z_scores(means, np.array(expected)).max() < 4


@pytest.mark.long
def test_without_discounted_future_one_step_is_all():
    problem = random_problem(seed=4, discount=0.0)
    policy = exact.lower_policy(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT)
    gradients, _ = estimates(problem, policy, num_steps=2)
    expected = exact.hyper_gradient(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT)
    assert z_scores(gradients, np.asarray(expected)).max() < 4


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
def test_tables_of_average_returns_estimate_the_hyper_gradient_with_less_noise(name):
    problem = garnet(name)
    x = problem.initial_x
    policy = exact.lower_policy(problem, x, entropy_weight=ENTROPY_WEIGHT)
    gradients, means = estimates(problem, policy, 40, num_walks=2_000, num_samples=16, estimator=EpisodeTables)
    gradient = mean_estimate(problem, policy, LONG)
    assert z_scores(gradients, gradient).max() < 4
    for mistake in ({"weight": 1.0}, {"weight": -1 / ENTROPY_WEIGHT}, {"value_discount": 0.0}):
        assert z_scores(gradients, mean_estimate(problem, policy, LONG, **mistake)).max() > 6
    _, _, _, r, c = gradient_tables(problem)
    d = np.asarray(exact.occupancy(problem.environment, jnp.asarray(policy)))
    H = np.where(problem.environment.terminal, 0.0, -(policy * np.log(policy)).sum(-1))[:, None] + np.zeros_like(r)
    assert z_scores(means, np.array([(d * table).sum() for table in (r, c, H)])).max() < 4
    rollouts, _ = estimates(problem, policy, 40, num_walks=2_000, num_samples=8)
    assert np.all(gradients.std(0) < 0.5 * rollouts.std(0))


@pytest.mark.long
def test_tables_take_the_two_factors_from_independent_walks():
    # Actions do nothing, so the gradient is 0. The leader pays what the follower gets: the product of two averages over
    # the same visits would be their variance, which is positive.
    kernel = np.full((3, 2, 3), 1 / 3)
    problem = BilevelProblem(
        environment=TabularMDP.from_dense(kernel, initial=[1.0, 0.0, 0.0], discount=0.5),
        reward=lambda x, s, a: x * s,
        upper=OccupancyCost(cost=lambda x, s, a: 1.0 * s),
        initial_x=0.3,
    )
    gradients, _ = estimates(problem, np.full((3, 2), 0.5), 3, num_walks=2, num_samples=4_000, estimator=EpisodeTables)
    assert z_scores(gradients, 0.0).max() < 4
    assert gradients.std() > 0


@pytest.mark.long
def test_a_policy_without_choice_leaves_the_direct_part():
    problem = garnet("garnet")
    mdp = problem.environment
    certain = np.eye(mdp.num_actions)[np.arange(mdp.num_states) % mdp.num_actions]
    x = jax.tree.map(jnp.asarray, problem.initial_x)
    rollouts = Rollouts(problem, num_walks=50, num_steps=20)
    uniforms = jax.random.uniform(jax.random.key(0), (rollouts.num_uniforms, 50))
    log_policy = jnp.log(jnp.maximum(certain, 1e-30))
    # Both actions of a copy are the same, so are all their random numbers: the differences are exactly 0.
    estimate = eqx.filter_jit(rollouts.estimate)
    gradients = [estimate(x, log_policy, jnp.asarray(τ), uniforms)[0] for τ in (1.0, 1e-6)]
    np.testing.assert_array_equal(*gradients)


@pytest.mark.long
@pytest.mark.parametrize("name", ["hpgd", "planned_hpgd", "tables"])
def test_an_iteration_costs_the_transitions_that_it_says(monkeypatch, name):
    problem = random_problem(seed=0)
    algorithm = {
        "hpgd": HPGD(problem, num_chains=4, num_inner_steps=3, num_rollout_steps=2),
        "planned_hpgd": PlannedHPGD(problem, num_chains=4, num_rollout_steps=2),
        "tables": PlannedHPGD(problem, num_chains=4, num_rollout_steps=2, estimator="tables"),
    }[name]
    state, transition, counts = algorithm.init(jax.random.key(0)), TabularMDP.step, []
    noise = jax.tree.map(lambda leaf: leaf[0], algorithm.draw(jax.random.key(1), 1))

    def counted(self, states, actions, uniform):
        counts.append(states.size)
        return transition(self, states, actions, uniform)

    def unrolled(body, carry, inputs, reverse=False):
        length, outputs = len(jax.tree.leaves(inputs)[0]), []
        for i in range(length):
            carry, output = body(carry, jax.tree.map(lambda leaf, i=i: leaf[i], inputs))
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    monkeypatch.setattr(TabularMDP, "step", counted)
    monkeypatch.setattr(jax.lax, "scan", unrolled)
    jax.eval_shape(algorithm.step, noise, state)
    inner = 3 * 4 if name == "hpgd" else 0
    assert sum(counts) == algorithm.num_transitions_per_iteration == inner + 5 * 2 * 4


def test_tables_need_two_walks():
    with pytest.raises(ValueError, match="at least 2 chains, got num_chains = 1"):
        EpisodeTables(random_problem(seed=0), num_walks=1, num_steps=5)


@pytest.mark.long
def test_long_gradients_are_shortened():
    problem = random_problem(**PROBLEMS["dict"])
    sizes = StepSizes.fixed_target(upper=0.5)
    moves = []
    for limit in (np.inf, 1e3, 0.01):
        algorithm = PlannedHPGD(problem, sizes, num_chains=4, num_rollout_steps=5, max_global_norm=limit)
        state = algorithm.init(jax.random.key(0))
        new_state, _ = eqx.filter_jit(algorithm.step)(algorithm.draw(jax.random.key(1), 1)[0], state)
        moves.append(np.asarray(ravel_pytree(new_state.x)[0] - ravel_pytree(state.x)[0], np.float64))
    free, loose, tight = moves
    np.testing.assert_array_equal(free, loose)
    assert np.linalg.norm(free) > 0.01
    np.testing.assert_allclose(tight, 0.5 * 0.01 * free / np.linalg.norm(free), rtol=1e-3)


@pytest.mark.long
def test_the_planned_follower_is_the_answer_to_the_previous_x():
    problem = random_problem(seed=0)
    algorithm = PlannedHPGD(problem, num_chains=4, num_rollout_steps=5)
    step, state = eqx.filter_jit(algorithm.step), algorithm.init(jax.random.key(0))
    for k in range(3):
        answer = exact.lower_policy(problem, state.x, entropy_weight=0.03)
        state, _ = step(algorithm.draw(jax.random.key(k), 1)[0], state)
        np.testing.assert_allclose(np.exp(algorithm.log_policies(state)), [answer], atol=1e-4)


@pytest.mark.parametrize(("argument", "value"), [("num_rollout_steps", 0), ("max_global_norm", 0.0)])
@pytest.mark.parametrize("algorithm", [HPGD, PlannedHPGD])
def test_wrong_arguments_are_refused(algorithm, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* got {value}"):
        algorithm(random_problem(seed=0), **{argument: value})


@eqx.filter_jit
def final_states(algorithm, keys, num_iterations):
    def one(key):
        def body(k, state):
            noise = algorithm.draw(jax.random.fold_in(key, k), 1)
            return algorithm.step(jax.tree.map(lambda leaf: leaf[0], noise), state)[0]

        return jax.lax.fori_loop(0, num_iterations, body, algorithm.init(key))

    return jax.vmap(one)(keys)


@pytest.mark.long
@pytest.mark.parametrize("name", ["hpgd", "planned_hpgd"])
def test_runs_end_close_to_the_exact_solution(name):
    problem = goal_position(
        size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8, installation_cost=0.1, home=(0, 0)
    )
    τ = 0.1
    sizes = StepSizes.fixed_target(upper=2.0, actor=2.0, critic=8.0, entropy=τ, offset=100.0)
    algorithm = {
        "hpgd": HPGD(problem, sizes, num_chains=32, num_inner_steps=20, num_rollout_steps=20),
        "planned_hpgd": PlannedHPGD(problem, sizes, num_chains=16, num_rollout_steps=20, estimator="tables"),
    }[name]
    states = final_states(algorithm, jax.random.split(jax.random.key(13), 2), jnp.int32(1_000))
    solution = exact.solve(problem, entropy_weight=τ)
    excess = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ) - solution.objective
    assert np.linalg.norm(problem.initial_x - solution.x) > 1.2
    for x in states.x:
        assert np.linalg.norm(x - solution.x) < 0.25
        assert exact.hyper_objective(problem, x, entropy_weight=τ) - solution.objective < 0.03 * excess
