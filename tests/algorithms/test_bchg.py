"""BCHG: the mean of its step of x, of its tables' steps, what traces are, and where its runs end."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import BilevelProblem, OccupancyCost, StepSizes, TabularMDP, exact
from bilevel_rl.algorithms import BCHG
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
UPPER, CRITIC = 0.5, 0.9
FROZEN = StepSizes.fixed_target(upper=UPPER, actor=0.0, critic=0.0, entropy=ENTROPY_WEIGHT)
LEARNING = StepSizes.fixed_target(upper=0.0, actor=0.0, critic=CRITIC, entropy=ENTROPY_WEIGHT)
FOREVER, BURN_IN = 60, 40
"""At γ = 0.8 sums of so many terms miss 1.5e-6, and chains and traces forget their start up to 1.3e-4."""


def garnet(name):
    return random_problem(**PROBLEMS[name], discount=0.8)


def some_tables(problem):
    """A policy and action values of the cost that are neither optimal nor right; 0 in terminal states."""
    mdp = problem.environment
    policy = random_policy(7, mdp.num_states, mdp.num_actions)
    return policy, np.random.default_rng(3).normal(size=policy.shape) * ~mdp.terminal[:, None]


def exact_tables(problem):
    """π_τ*(x) and Q_c."""
    mdp = problem.environment
    policy = exact.lower_policy(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT)
    return policy, action_values(mdp, policy, gradient_tables(problem)[2][..., None])[..., 0]


def gradient_tables(problem):
    """∂r, ∂c (S, A, d) and c at the problem's x, and the slope of its price."""
    mdp = problem.environment
    flat_x, unflatten = ravel_pytree(problem.initial_x)
    pairs = jnp.arange(mdp.num_states)[:, None], jnp.arange(mdp.num_actions)
    with jax.enable_x64(True):
        flat_x = jnp.asarray(flat_x, jnp.float64)
        r, c = (jax.jacobian(lambda x, f=f: f(unflatten(x), *pairs))(flat_x) for f in (problem.rewards, problem.costs))
        price = jax.grad(lambda x: problem.upper.regularizer(unflatten(x)))(flat_x)
        return [np.asarray(t) for t in (r, c, problem.costs(unflatten(flat_x), *pairs), price)]


def action_values(mdp, policy, table, discount=None):
    Q = np.zeros_like(table)
    for _ in range(FOREVER):
        Q = table + (mdp.discount if discount is None else discount) * np.einsum(
            "sat,tbi,tb->sai", kernel(mdp), Q, policy
        )
    return Q


def mean_gradient(problem, policy, Q_c, *, weight=1 / ENTROPY_WEIGHT, centring=1.0, discount=None):
    """Mean of the estimate for these tables. Arguments other than the defaults are mistakes."""
    mdp = problem.environment
    r_gradient, c_gradient, _, price = gradient_tables(problem)
    d = np.asarray(exact.occupancy(mdp, jnp.asarray(policy)))
    A_c = Q_c - centring * (policy * Q_c).sum(-1, keepdims=True)
    Q_gradient = action_values(mdp, policy, r_gradient, discount)
    return np.einsum("sa,sad->d", d, c_gradient) + price + weight * np.einsum("sa,sad->d", d * A_c, Q_gradient)


def sampled_steps(problem, policy, Q_c, sizes, num_samples=32, num_chains=8_000):
    """Moves of x and of Q_c in one iteration, of chains that have walked for long with these tables."""
    problem = dataclasses.replace(problem, reward_bound=np.inf)
    walking = BCHG(problem, StepSizes.fixed_target(upper=0.0, actor=0.0, critic=0.0), num_chains, num_steps=BURN_IN)
    algorithm = BCHG(problem, sizes, num_chains)
    parameters = jnp.concatenate([jnp.log(jnp.asarray(policy)), jnp.zeros((len(policy), 1))], axis=1)[None]

    @eqx.filter_jit
    def moves(walking, algorithm, key):
        keys = jax.random.split(key, 3)
        state = walking.init(keys[0])._replace(parameters=parameters, cost_action_values=jnp.asarray(Q_c, float))
        state, _ = walking.step(walking.draw(keys[1], 1)[0], state)
        new, info = algorithm.step(algorithm.draw(keys[2], 1)[0], state)
        of_x = ravel_pytree(state.x)[0] - ravel_pytree(new.x)[0]
        return of_x, new.cost_action_values - state.cost_action_values, jnp.concatenate(info)

    steps = [moves(walking, algorithm, jax.random.key(i)) for i in range(num_samples)]
    return [np.asarray(leaves, np.float64) for leaves in zip(*steps, strict=True)]


def z_scores(samples, mean):
    return np.abs(samples.mean(0) - mean) / (samples.std(0, ddof=1) / len(samples) ** 0.5 + 1e-6)


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("name", PROBLEMS)
def test_at_exact_tables_the_mean_estimate_is_the_hyper_gradient(name):
    problem = garnet(name)
    policy, Q_c = exact_tables(problem)
    gradient, _ = ravel_pytree(exact.hyper_gradient(problem, problem.initial_x, entropy_weight=ENTROPY_WEIGHT))
    of_x, *_ = sampled_steps(problem, policy, Q_c, FROZEN)
    np.testing.assert_allclose(mean_gradient(problem, policy, Q_c), gradient, rtol=1e-3, atol=1e-6)
    assert z_scores(of_x / UPPER, np.asarray(gradient)).max() < 4
    for mistake in ({"weight": 1.0}, {"weight": 0.0}, {"weight": -1 / ENTROPY_WEIGHT}, {"discount": 0.0}):
        assert z_scores(of_x / UPPER, mean_gradient(problem, policy, Q_c, **mistake)).max() > 6


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
def test_away_from_exact_tables_the_mean_has_the_advantages_of_the_table(name):
    problem = garnet(name)
    mdp, (policy, Q_c) = problem.environment, some_tables(problem)
    of_x, _, info = sampled_steps(problem, policy, Q_c, FROZEN)
    assert z_scores(of_x / UPPER, mean_gradient(problem, policy, Q_c)).max() < 4
    for mistake in ({"centring": 0.0}, {"weight": 1.0}, {"discount": 0.0}):
        assert z_scores(of_x / UPPER, mean_gradient(problem, policy, Q_c, **mistake)).max() > 6

    d = np.asarray(exact.occupancy(mdp, jnp.asarray(policy)))
    c = gradient_tables(problem)[2]
    r = np.asarray(problem.rewards(problem.initial_x, np.arange(mdp.num_states)[:, None], np.arange(mdp.num_actions)))
    H = np.where(mdp.terminal, 0.0, -(policy * np.log(policy)).sum(-1))[:, None]
    assert z_scores(info[:, :3], np.array([(d * t).sum() for t in (r, c, H + 0 * c)])).max() < 4

    _, of_table, _ = sampled_steps(problem, policy, Q_c, LEARNING)
    td = c + mdp.discount * kernel(mdp) @ (policy * Q_c).sum(-1) - Q_c
    assert z_scores(of_table / CRITIC, d * td).max() < 4.5  # up to 20 entries


@pytest.mark.long
def test_traces_add_up_advantages_until_a_chain_starts_afresh():
    # One state. Action 0 costs 1, action 1 nothing, both with probability 1/2: A_c is ±1/2 whatever the future.
    places = TabularMDP.from_dense(np.ones((1, 2, 1)), initial=[1.0], discount=0.5)
    cost = OccupancyCost(cost=lambda x, s, a: 1.0 - a)
    problem = BilevelProblem(places, reward=lambda x, s, a: x * a, upper=cost, initial_x=0.25)
    sizes = StepSizes.fixed_target(upper=0.1, actor=0.0, critic=0.0, entropy=0.2)
    algorithm = BCHG(problem, sizes, num_chains=2, num_steps=4)
    state = algorithm.init(jax.random.key(0))._replace(cost_action_values=jnp.array([[1.0, 0.0]]))
    actions = np.array([[0, 1], [0, 1], [1, 0], [1, 1]])
    restarts = np.array([[0, 0], [0, 1], [0, 0], [0, 0]])
    uniforms = np.zeros((4, 4, 1, 2), np.float32)
    uniforms[:, 0, 0], uniforms[:, 2, 0] = 0.1 + 0.8 * actions, 0.1 + 0.8 * restarts
    new, info = algorithm.step(jnp.asarray(uniforms), state)
    traces = np.array([[0.5, -0.5], [1.0, -1.0], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(new.traces, traces[-1], atol=1e-6)
    np.testing.assert_allclose(new.x, 0.25 - 0.1 * np.mean(traces * actions) / 0.2, rtol=1e-5)
    np.testing.assert_allclose([info.mean_reward[0], info.mean_cost[0]], [0.25 * 5 / 8, 3 / 8], rtol=1e-6)


@pytest.mark.long
def test_a_planned_follower_is_the_answer_and_does_not_learn():
    problem = random_problem(seed=0)
    sizes = StepSizes.fixed_target(upper=2.0, entropy=0.3)
    algorithm = BCHG(problem, sizes, num_chains=4, num_steps=3, is_planned=True)
    step, state = eqx.filter_jit(algorithm.step), algorithm.init(jax.random.key(0))
    for k in range(3):
        answer = exact.lower_policy(problem, state.x, entropy_weight=0.3)
        state, _ = step(algorithm.draw(jax.random.key(k), 1)[0], state)
        np.testing.assert_allclose(np.exp(algorithm.log_policies(state)), [answer], atol=1e-4)


@pytest.mark.long
def test_long_gradients_are_shortened():
    problem, moves = garnet("dict"), []
    for limit in (np.inf, 1e3, 0.01):
        algorithm = BCHG(problem, FROZEN, num_chains=4, num_steps=3, max_global_norm=limit)
        state = algorithm.init(jax.random.key(0))
        new, _ = eqx.filter_jit(algorithm.step)(algorithm.draw(jax.random.key(1), 1)[0], state)
        moves.append(np.asarray(ravel_pytree(new.x)[0] - ravel_pytree(state.x)[0], np.float64))
    free, loose, tight = moves
    np.testing.assert_array_equal(free, loose)
    assert np.linalg.norm(free) > 0.01
    np.testing.assert_allclose(tight, UPPER * 0.01 * free / np.linalg.norm(free), rtol=1e-3)


@pytest.mark.long
def test_an_iteration_takes_as_many_transitions_as_it_says(monkeypatch):
    algorithm, transition, counts = BCHG(garnet("dict"), num_chains=4, num_steps=3), TabularMDP.step, []
    state, noise = algorithm.init(jax.random.key(0)), algorithm.draw(jax.random.key(1), 1)[0]

    def counted(self, states, actions, uniform):
        counts.append(states.size)
        return transition(self, states, actions, uniform)

    def once(body, carry, inputs):
        assert len(inputs) == 3
        carry, output = body(carry, inputs[0])
        return carry, jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), output)

    monkeypatch.setattr(TabularMDP, "step", counted)
    monkeypatch.setattr(jax.lax, "scan", once)
    jax.eval_shape(algorithm.step, noise, state)
    assert 3 * sum(counts) == algorithm.num_transitions_per_iteration == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps must be .* got 0"),
        ({"max_global_norm": 0.0}, "max_global_norm must be .* got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BCHG(garnet("dict"), **arguments)


@eqx.filter_jit
def final_state(algorithm, key, num_iterations):
    def body(k, state):
        return algorithm.step(algorithm.draw(jax.random.fold_in(key, k), 1)[0], state)[0]

    return jax.lax.fori_loop(0, num_iterations, body, algorithm.init(key))


@pytest.mark.long
@pytest.mark.parametrize("is_planned", [False, True])
def test_runs_end_close_to_the_exact_solution(is_planned):
    problem = goal_position(
        size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8, installation_cost=0.1, home=(0, 0)
    )
    τ = 0.1
    sizes = StepSizes.constant_entropy(upper=0.2, actor=2.0, critic=8.0, entropy=τ)
    num_steps, num_iterations = (20, 1_000) if is_planned else (1, 20_000)
    sizes = (
        dataclasses.replace(sizes, upper=StepSizes.fixed_target(upper=2.0, offset=100.0).upper) if is_planned else sizes
    )
    algorithm = BCHG(problem, sizes, 32, num_steps=num_steps, is_planned=is_planned)
    state = final_state(algorithm, jax.random.key(13), jnp.int32(num_iterations))
    solution = exact.solve(problem, entropy_weight=τ)
    excess = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ) - solution.objective
    assert np.linalg.norm(problem.initial_x - solution.x) > 1.2
    assert np.linalg.norm(state.x - solution.x) < 0.25
    assert exact.hyper_objective(problem, state.x, entropy_weight=τ) - solution.objective < 0.03 * excess
