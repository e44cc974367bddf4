"""Algorithm 1 with neural followers: against the table, against known optima, and under the runner."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_rl import (
    BilevelProblem,
    Followers,
    FunctionalEnvironment,
    NeuralActorCritic,
    OccupancyCost,
    SingleLoopActorCritic,
    StepSizes,
    exact,
    run,
)
from bilevel_rl.algorithms import NestedLoop
from bilevel_rl.policies import Categorical
from bilevel_rl.problems import goal_position
from garnets import garnet, random_problem, upper_objective
from mean_steps import one_draw, z_scores

PLAIN = optax.sgd(1.0)
SIZES = StepSizes.decaying(upper=0.5, actor=0.8, critic=1.0, penalty=0.6, entropy=0.4, offset=10.0)


def still(actor=0.0, critic=0.0, entropy=0.1, upper=0.0):
    """Step sizes that stay what they are."""
    return StepSizes.decaying(upper=upper, actor=actor, critic=critic, penalty=1.0, entropy=entropy, offset=1e12)


def linear_table(num_states, num_actions, table=None, **optimizers):
    """The network that is a table: linear, without biases, on one-hot states."""
    table = jnp.zeros((num_states, num_actions + 1)) if table is None else jnp.asarray(table, float)
    actor = eqx.nn.Linear(num_states, num_actions, use_bias=False, key=jax.random.key(0))
    critic = eqx.nn.Linear(num_states, "scalar", use_bias=False, key=jax.random.key(0))
    return NeuralActorCritic(
        eqx.tree_at(lambda layer: layer.weight, actor, table[:, :-1].T),
        eqx.tree_at(lambda layer: layer.weight, critic, table[None, :, -1]),
        Categorical(num_actions),
        lambda state: jax.nn.one_hot(state, num_states),
        orthogonal=False,
        **{"actor_optimizer": PLAIN, "critic_optimizer": PLAIN} | optimizers,
    )


def as_table(followers):
    """The tables that the weights of `linear_table`s are, (2, S, A + 1)."""
    return np.concatenate(
        [np.swapaxes(followers.weights.actor[0], 1, 2), np.swapaxes(followers.weights.critic[0], 1, 2)], axis=2
    )


def frozen_info(algorithm, num_iterations, key=0):
    """The states of many iterations, a scan."""
    state = algorithm.init(jax.random.key(key))
    noise = algorithm.draw(jax.random.key(key + 1), num_iterations)
    step = eqx.filter_jit(lambda algorithm, state, noise: jax.lax.scan(lambda s, u: algorithm.step(u, s), state, noise))
    return step(algorithm, state, noise)


# ---------------------------------------------------------------------------------------------------------------------
# Against the table
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"expects_actions": True}], ids=["one action", "all actions"])
def test_a_linear_network_on_one_hot_states_with_plain_steps_is_the_table(options):
    problem = random_problem(seed=15, num_terminal=1)
    start = np.random.default_rng(0).normal(size=(5, 4))
    start[-1, -1] = 0.0  # the terminal state's value
    tabular = SingleLoopActorCritic(problem, SIZES, Followers(6), **options)
    neural, adam = (
        SingleLoopActorCritic(problem, SIZES, Followers(6, policies=linear_table(5, 3, start, **optimizers)), **options)
        for optimizers in ({}, {"actor_optimizer": optax.adam(1.0)})
    )
    table_state, state, other = (algorithm.init(jax.random.key(1)) for algorithm in (tabular, neural, adam))
    table_state = table_state._replace(parameters=jnp.broadcast_to(jnp.asarray(start, float), (2, 5, 4)))
    noise = tabular.draw(jax.random.key(2), 12)
    for k in range(12):
        table_state, table_info = eqx.filter_jit(tabular.step)(noise[k], table_state)
        state, info = eqx.filter_jit(neural.step)(noise[k], state)
        np.testing.assert_array_equal(state.chain_states, table_state.chain_states)
        np.testing.assert_allclose(as_table(state.parameters), table_state.parameters, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.x, table_state.x, rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), info, table_info)
    np.testing.assert_allclose(neural.log_policies(state), tabular.log_policies(table_state), rtol=1e-4, atol=1e-4)
    assert np.any(np.asarray(state.chain_states) == 4)
    assert np.abs(as_table(state.parameters) - start).max() > 0.1
    other, _ = eqx.filter_jit(adam.step)(noise[0], other)
    assert not np.allclose(
        other.parameters.weights.actor[0], np.swapaxes(table_state.parameters[:, :, :-1], 1, 2), atol=1e-2
    )


@pytest.mark.long
def test_both_followers_begin_as_the_same_network_and_seeds_differ():
    problem = random_problem(seed=0)
    algorithm = SingleLoopActorCritic(
        problem, SIZES, Followers(policies=NeuralActorCritic.mlp(problem.environment, width=4))
    )
    first, second = (algorithm.init(jax.random.key(seed)).parameters for seed in range(2))
    for leaf, other in zip(jax.tree.leaves(first.weights), jax.tree.leaves(second.weights), strict=True):
        np.testing.assert_array_equal(leaf[0], leaf[1])
        assert leaf.ndim == 2 or np.any(leaf != other)  # biases are 0


# ---------------------------------------------------------------------------------------------------------------------
# Against known optima
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:step sizes violate")
def test_a_network_learns_the_soft_optimal_policy_of_a_small_mdp():
    problem = dataclasses.replace(
        random_problem(seed=5, num_states=3, num_actions=2, num_successors=2, discount=0.8), reward_bound=np.inf
    )
    x, τ = jnp.asarray(problem.initial_x), 0.5
    policies = NeuralActorCritic.mlp(problem.environment, width=8, depth=1)
    sizes = StepSizes.decaying(
        upper=0.0, actor=0.01, critic=0.02, entropy=τ, offset=500.0, exponents=(0.9, 0.5, 0.5, 0.0, 0.0)
    )
    state, _ = frozen_info(SingleLoopActorCritic(problem, sizes, Followers(32, policies=policies)), 4_000)
    learned = SingleLoopActorCritic(problem, sizes, Followers(policies=policies)).log_policies(state)[0]
    optimal = np.asarray(exact.lower_policy(problem, x, entropy_weight=τ))
    np.testing.assert_allclose(np.exp(learned), optimal, atol=0.03)
    assert np.abs(optimal - 0.5).max() > 0.1
    assert np.abs(optimal - np.asarray(exact.lower_policy(problem, x, entropy_weight=2 * τ))).max() > 0.06


def one_step(initial=lambda key: jnp.zeros(()), **options):
    """Everything is over after one action."""
    return FunctionalEnvironment(
        initial=initial,
        transition=lambda s, a, key: s + 1.0,
        observe=lambda s: jnp.ones(1),
        is_end=lambda s: s > 0.5,
        discount=0.5,
        **options,
    )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:step sizes violate")
def test_a_gaussian_follower_learns_the_closed_form_of_a_linear_quadratic_problem():
    """Reward −(a − m)² and entropy weight τ: the best law is N(m, τ/2), and with the cost w a it is N(m − w/2, τ/2)."""
    environment, τ, m = one_step(num_action_dimensions=1), 0.4, 0.7
    problem = BilevelProblem(
        environment,
        reward=lambda x, s, a: -((a[0] - x) ** 2),
        upper=OccupancyCost(cost=lambda x, s, a: a[0]),
        initial_x=m,
    )
    policies = NeuralActorCritic.mlp(environment, width=4, depth=0)
    sizes = StepSizes.decaying(
        upper=0.0, actor=0.02, critic=0.05, entropy=τ, offset=300.0, exponents=(0.9, 0.6, 0.5, 0.0, 0.0)
    )
    algorithm = SingleLoopActorCritic(problem, sizes, Followers(64, policies=policies))
    state, info = frozen_info(algorithm, 3_000)
    episodes = environment.reset(jnp.full((1,), 0.5))
    for i, mean in enumerate((m, m - 0.5)):
        follower = jax.tree.map(lambda leaf, i=i: leaf[i], state.parameters)
        parameters, _ = policies.read(follower, episodes)
        np.testing.assert_allclose(parameters[0], [mean, 0.5 * np.log(τ / 2)], atol=0.05)
    # Nothing accrues after the end, where a chain is with probability γ.
    H = 0.5 * np.log(np.pi * np.e * τ)
    np.testing.assert_allclose(np.mean(info.mean_entropy[-500:], axis=0), 0.5 * H, atol=0.02)


GAMMA = 0.9


def flips(**options):
    """Two states in turn; a step from the first is worth 1. V is 1/(1 − γ²) and γ/(1 − γ²)."""
    return FunctionalEnvironment(
        initial=lambda key: (jnp.int32(0), jnp.int32(0)),
        transition=lambda s, a, key: (1 - s[0], s[1] + 1),
        observe=lambda s: jax.nn.one_hot(s[0], 2),
        discount=GAMMA,
        num_actions=1,
        **options,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1 / (1 - GAMMA**2), GAMMA / (1 - GAMMA**2))),
        ({"time_limit": 2}, (1 / (1 - GAMMA**2), GAMMA / (1 - GAMMA**2))),
        ({"is_end": lambda s: s[1] >= 2}, (1.0, 0.0)),
    ],
    ids=["endless", "truncated", "terminal"],
)
@pytest.mark.parametrize("window", [{}, {"num_steps": 3, "gae_lambda": 0.9}], ids=["single", "window"])
def test_a_truncated_episode_counts_what_would_have_come_and_a_terminal_one_does_not(options, expected, window):
    environment = flips(**options)
    problem = BilevelProblem(
        environment, lambda x, s, a: 1.0 * (s[0] == 0), OccupancyCost(lambda x, s, a: 0.0 * x), initial_x=0.0
    )
    policies = linear_table(2, 1)
    policies = dataclasses.replace(policies, observe=environment.observe)
    algorithm = SingleLoopActorCritic(problem, still(critic=0.5), Followers(8, policies=policies, **window))
    state, _ = frozen_info(algorithm, 1_500)
    np.testing.assert_allclose(as_table(state.parameters)[0, :, -1], expected, rtol=1e-3, atol=1e-3)
    if "time_limit" in options:
        assert np.max(state.chain_states.num_steps) < 2


# ---------------------------------------------------------------------------------------------------------------------
# Chains in a functional environment
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("coupled", [False, True])
def test_chains_of_a_functional_environment_visit_states_by_the_occupancy_of_the_same_mdp(coupled):
    mdp = garnet(seed=15, num_terminal=1, discount=0.7)
    environment = FunctionalEnvironment(
        initial=lambda key: mdp.reset(jax.random.uniform(key)),
        transition=lambda s, a, key: mdp.step(s, a, jax.random.uniform(key)),
        observe=lambda s: jax.nn.one_hot(s, 5),
        is_end=mdp.is_terminal,
        discount=0.7,
        num_actions=3,
    )
    problem = BilevelProblem(environment, lambda x, s, a: x, OccupancyCost(lambda x, s, a: x), initial_x=0.0)
    table = np.random.default_rng(1).normal(size=(5, 4))
    algorithm = SingleLoopActorCritic(
        problem, still(), Followers(400, coupled=coupled, policies=linear_table(5, 3, table))
    )

    @eqx.filter_jit
    def visits(algorithm, state, key):
        def body(carry, k):
            state, counts = carry
            counts += (k >= 40) * jax.nn.one_hot(state.chain_states.state, 5)
            return (algorithm.step(one_draw(algorithm, jax.random.fold_in(key, k)), state)[0], counts), None

        return jax.lax.scan(body, (state, jnp.zeros((2, 400, 5))), jnp.arange(240))[0][1]

    frequencies = np.asarray(visits(algorithm, algorithm.init(jax.random.key(4)), jax.random.key(5)), np.float64) / 200
    d = np.asarray(exact.occupancy(mdp, jax.nn.softmax(jnp.asarray(table[:, :-1])))).sum(-1)
    assert d[-1] > 0.05
    restarted_at_the_end = np.append(d[:-1] / (1 - d[-1]), 0.0)
    for i in range(2):
        assert z_scores(frequencies[i], d).max() < 4
        assert z_scores(frequencies[i], mdp.initial).max() > 10
        assert z_scores(frequencies[i], restarted_at_the_end).max() > 10


# ---------------------------------------------------------------------------------------------------------------------
# Under the runner
# ---------------------------------------------------------------------------------------------------------------------


def grid_algorithm(**options):
    problem = goal_position(size=4, target=(2, 1), width=2.0, initial_x=(1, 2), discount=0.8)
    sizes = StepSizes.decaying(upper=0.05, actor=1e-3, critic=3e-3)
    policies = NeuralActorCritic.mlp(
        problem.environment,
        lambda s: jnp.stack([s // 4, s % 4]) / 1.5 - 1.0,
        width=8,
        depth=1,
        normalizes=True,
        **options,
    )
    return SingleLoopActorCritic(problem, sizes, Followers(4, coupled=True, policies=policies))


@pytest.mark.long
@pytest.mark.parametrize("shared", [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(shared, tmp_path):
    algorithm, key = grid_algorithm(shared=shared), jax.random.key(5)
    options = {"log_every": 10, "progress": False, "checkpoint_every": 0.0}
    whole = run(algorithm, key, 2, 30, folder=tmp_path / "whole", **options)
    run(algorithm, key, 2, 10, folder=tmp_path / "parts", **options)
    resumed = run(algorithm, key, 2, 30, folder=tmp_path / "parts", **options)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, whole.states)
    jax.tree.map(np.testing.assert_array_equal, resumed.metrics, whole.metrics)
    assert np.all(whole.metrics["is_sampled"] == 0)
    assert np.ptp(whole.metrics["lower_residual"]) > 0
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(whole.states))


@pytest.mark.slow
def test_divergence_of_a_network_is_found_in_the_followers():
    algorithm = grid_algorithm()
    problem = dataclasses.replace(
        algorithm.problem,
        reward=lambda x, s, a: jnp.where(x[0] > 1.5, jnp.nan, 1.0 * s),
        reward_bound=15.0,
        upper=OccupancyCost(algorithm.problem.upper.cost, regularizer=lambda x: -x[0]),
    )
    algorithm = dataclasses.replace(algorithm, problem=problem)
    with pytest.warns(RuntimeWarning, match="seed 0 diverged: .*parameters"):
        result = run(algorithm, jax.random.key(0), 1, 200, 100, progress=False)
    assert len(result.divergences) == 1
    assert "parameters" in result.divergences[0].quantity
    assert len(result.divergences[0].quantity) < 200
    assert np.all(np.isfinite(result.states.parameters.weights.actor[0]))


def cart_pole_problem(environment):
    """The leader pays the cart for being near x, and wants it at 0.5."""
    return BilevelProblem(
        environment,
        reward=lambda x, s, a: jnp.exp(-((s[0] - x) ** 2)),
        upper=OccupancyCost(lambda x, s, a: jnp.minimum((s[0] - 0.5) ** 2, 4.0), cost_bound=4.0),
        initial_x=0.0,
        reward_bound=1.0,
    )


@pytest.mark.slow
def test_cart_pole_runs_with_sampled_metrics_and_two_seeds(phys2d):
    environment = FunctionalEnvironment.from_func_env(phys2d.CartPole(), discount=0.95, time_limit=200)
    problem, sizes = cart_pole_problem(environment), StepSizes.decaying(upper=0.01, actor=1e-3, critic=3e-3)
    policies = NeuralActorCritic.mlp(environment, width=16, depth=1, normalizes=True)
    algorithm = SingleLoopActorCritic(problem, sizes, Followers(8, coupled=True, policies=policies))
    result = run(algorithm, jax.random.key(0), 2, 300, log_every=100, progress=False)
    assert np.all(result.metrics["is_sampled"] == 1)
    assert np.all(np.isfinite(result.metrics["upper_value"]))
    assert not result.divergences
    rates = result.metrics["coupling_rate"]
    assert rates[-1] > 0.2
    assert np.all(result.x != 0.0)
    with pytest.raises(ValueError, match="diagnostics must not be 'exact'"):
        run(algorithm, jax.random.key(0), 2, 300, diagnostics="exact", progress=False)
    with pytest.raises(ValueError, match="need a TabularMDP"):
        exact.hyper_objective(problem, 0.0, entropy_weight=0.1)
    with pytest.raises(ValueError, match="need a TabularMDP"):
        algorithm.log_policies(jax.tree.map(lambda leaf: leaf[0], result.states))


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


def test_what_networks_do_not_do_is_refused():
    problem = random_problem(seed=0)
    policies = NeuralActorCritic.mlp(problem.environment, width=4, depth=1)
    with pytest.raises(ValueError, match="natural must be False"):
        SingleLoopActorCritic(problem, SIZES, Followers(policies=policies, natural=True))
    with pytest.raises(ValueError, match=r"policies.law must be Categorical\(num_actions=3\)"):
        SingleLoopActorCritic(problem, SIZES, Followers(policies=linear_table(5, 2)))
    explicit = random_problem(seed=0, upper=upper_objective("policy"))
    with pytest.raises(ValueError, match=r"policies must be None where problem\.upper is a PolicyLoss"):
        SingleLoopActorCritic(explicit, SIZES, Followers(policies=policies))


def test_what_a_functional_environment_cannot_do_is_refused():
    environment = one_step(num_actions=2)
    arguments = environment, lambda x, s, a: x, OccupancyCost(lambda x, s, a: x), 0.0
    problem = BilevelProblem(*arguments)
    with pytest.raises(ValueError, match="policies must be given"):
        SingleLoopActorCritic(problem, SIZES)
    with pytest.raises(ValueError, match="the followers of NestedLoop are tables"):
        NestedLoop(problem)
    with pytest.raises(ValueError, match="expects_actions needs a TabularMDP"):
        SingleLoopActorCritic(
            problem,
            SIZES,
            Followers(policies=NeuralActorCritic.mlp(environment, width=4, depth=1)),
            expects_actions=True,
        )
    with pytest.raises(ValueError, match="upper must be an OccupancyCost"):
        BilevelProblem(environment, lambda x, s, a: x[0], upper_objective("functional"), np.zeros(3))
    with pytest.raises(ValueError, match="outcome_probabilities"):
        BilevelProblem(*arguments, outcome_probabilities=lambda x, s, a: jnp.ones(1))
    with pytest.raises(ValueError, match="reward must return a scalar"):
        BilevelProblem(environment, lambda x, s, a: jnp.ones(2), OccupancyCost(lambda x, s, a: x), 0.0)
    with pytest.raises(ValueError, match=r"upper.cost must return a scalar"):
        BilevelProblem(environment, lambda x, s, a: x, OccupancyCost(lambda x, s, a: jnp.ones(2)), 0.0)
