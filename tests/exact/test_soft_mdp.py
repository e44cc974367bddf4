import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import TabularMDP
from bilevel_rl.exact import soft_mdp
from bilevel_rl.exact.soft_mdp import entropy
from dense_reference import kernel, soft_return as reference_return, soft_value_iteration, value_iteration
from garnets import garnet, random_policy

soft_optimal, optimal_limit = eqx.filter_jit(soft_mdp.soft_optimal), eqx.filter_jit(soft_mdp.optimal_limit)
soft_return, soft_values = eqx.filter_jit(soft_mdp.soft_return), eqx.filter_jit(soft_mdp.soft_values)


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


def random_reward(seed: int, mdp: TabularMDP) -> jax.Array:
    reward = np.random.default_rng([seed, 3]).normal(size=mdp.successors.shape[:2])
    return jnp.asarray(np.where(mdp.terminal[:, None], 0.0, reward))


def bandit(num_actions: int, discount: float) -> TabularMDP:
    return TabularMDP.from_dense(np.ones((1, num_actions, 1)), initial=[1.0], discount=discount)


def test_entropy_by_hand():
    policy = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])

    expected = [np.log(2), 0, -(0.2 * np.log(0.2) + 0.3 * np.log(0.3) + 0.5 * np.log(0.5))]
    np.testing.assert_allclose(entropy(jnp.log(policy)), expected, rtol=1e-14)


def test_entropy_of_impossible_actions_has_a_finite_gradient():
    gradient = jax.grad(lambda log_policy: entropy(log_policy))(jnp.array([jnp.log(0.5), jnp.log(0.5), -jnp.inf]))

    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("entropy_weight", [2.0, 0.05])
def test_the_bandit_has_a_closed_form(entropy_weight):
    reward, γ = np.array([0.3, -1.0, 0.7, 0.1]), 0.8

    solution = soft_optimal(bandit(4, γ), jnp.asarray(reward[None]), jnp.asarray(entropy_weight))

    weights = np.exp(reward / entropy_weight)
    np.testing.assert_allclose(solution.policy[0], weights / weights.sum(), rtol=1e-12)
    value = entropy_weight * np.log(weights.sum()) / (1 - γ)
    np.testing.assert_allclose(solution.values, [value], rtol=1e-13)
    np.testing.assert_allclose(solution.action_values[0], reward + γ * value, rtol=1e-13)


@pytest.mark.parametrize(
    ("seed", "entropy_weight", "num_terminal"), [(0, 0.5, 0), (1, 0.02, 0), (2, 0.3, 2), (3, 0.003, 1)]
)
def test_soft_policy_iteration_agrees_with_value_iteration(seed, entropy_weight, num_terminal):
    mdp = garnet(seed, num_terminal=num_terminal)
    reward = random_reward(seed, mdp)

    solution = soft_optimal(mdp, reward, jnp.asarray(entropy_weight))

    policy, values = soft_value_iteration(mdp, np.asarray(reward), entropy_weight)
    np.testing.assert_allclose(solution.values, values, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(solution.policy, policy, rtol=1e-8, atol=1e-13)


def test_soft_values_and_return_follow_their_definitions():
    mdp = garnet(4, num_terminal=1)
    policy, reward = random_policy(4), random_reward(4, mdp)
    log_policy = jnp.log(jnp.asarray(policy))

    expected = reference_return(mdp, policy, np.asarray(reward), 0.3)

    assert float(soft_return(mdp, reward, log_policy, 0.3)) == pytest.approx(expected, rel=1e-13)
    values = soft_values(mdp, reward, log_policy, 0.3)
    assert float((1 - mdp.discount) * mdp.initial @ values) == pytest.approx(expected, rel=1e-13)
    assert float(values[4]) == 0  # terminal


def test_only_allowed_actions_are_taken():
    reward = jnp.array([[5.0, 1.0, 2.0]])

    solution = soft_optimal(bandit(3, 0.5), reward, 1.0, allowed=jnp.array([[False, True, True]]))

    np.testing.assert_allclose(solution.policy[0], [0, 1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-13)
    np.testing.assert_allclose(solution.values, [2 * np.log(np.e + np.e**2)], rtol=1e-13)


def test_derivatives_of_the_values_are_those_of_the_envelope_theorem():
    reward, γ, τ = jnp.array([[0.3, -1.0, 0.7]]), 0.8, 0.4
    policy = np.exp(np.asarray(reward[0]) / τ) / np.exp(np.asarray(reward[0]) / τ).sum()

    def value(reward, entropy_weight):
        return soft_optimal(bandit(3, γ), reward, entropy_weight).values[0]

    @jax.jit
    def derivatives(reward, entropy_weight):
        return jax.grad(value, argnums=(0, 1))(reward, entropy_weight), jax.hessian(value)(reward, entropy_weight)

    (by_reward, by_weight), hessian = derivatives(reward, τ)

    np.testing.assert_allclose(by_reward[0], policy / (1 - γ), rtol=1e-12)
    np.testing.assert_allclose(by_weight, -(policy * np.log(policy)).sum() / (1 - γ), rtol=1e-12)
    np.testing.assert_allclose(hessian[0, :, 0], (np.diag(policy) - np.outer(policy, policy)) / τ / (1 - γ), rtol=1e-11)


STARTS = {
    "zero": lambda solution: jnp.zeros_like(solution),
    "the solution": lambda solution: solution,
    "far away": lambda solution: 100.0 * jnp.cos(3.0 * jnp.arange(len(solution))),
    "reversed": lambda solution: -3.0 * solution[::-1],
}


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "entropy_weight", "num_terminal"), [(0, 0.5, 0), (1, 0.02, 1)])
def test_from_any_start_the_solution_and_its_derivatives_are_the_same(seed, entropy_weight, num_terminal):
    mdp, τ = garnet(seed, num_terminal=num_terminal), jnp.asarray(entropy_weight)
    reward = random_reward(seed, mdp)
    direction = jnp.asarray(np.random.default_rng(seed).normal(size=5))
    away = random_reward(seed + 10, mdp)

    @eqx.filter_jit
    def everything(reward, τ, start_values):
        def solve(reward, τ):
            return soft_mdp.soft_optimal(mdp, reward, τ, start_values=start_values)

        gradient = jax.grad(lambda reward, τ: direction @ solve(reward, τ).values, argnums=(0, 1))
        second = jax.jvp(lambda reward: gradient(reward, τ), (reward,), (away,))[1]
        return jax.jvp(solve, (reward, τ), (away, jnp.ones(()))), gradient(reward, τ), second

    expected = everything(reward, τ, None)
    _, values = soft_value_iteration(mdp, np.asarray(reward), entropy_weight)
    np.testing.assert_allclose(expected[0][0].values, values, rtol=1e-11, atol=1e-13)
    assert np.abs(expected[1][0][~mdp.terminal]).max() > 0.1
    for name, start in STARTS.items():
        got = everything(reward, τ, start(expected[0][0].values))
        jax.tree.map(
            lambda a, b, name=name: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=name), got, expected
        )


@pytest.mark.slow
def test_a_start_that_depends_on_the_reward_adds_nothing_to_the_derivative():
    mdp, reward = garnet(3), np.random.default_rng(0).normal(size=(5, 3))

    def value(reward, share):
        return soft_mdp.soft_optimal(mdp, reward, 0.3, start_values=share * reward.sum(axis=1)).values[1]

    with jax.enable_x64(True):
        away, dependent = (jax.grad(value)(jnp.asarray(reward), share) for share in (0.0, 2.0))
        assert np.abs(away).max() > 0.1
        np.testing.assert_allclose(dependent, away, rtol=1e-11, atol=1e-13)


def test_from_the_solution_one_improvement_is_enough_and_from_afar_it_is_not(monkeypatch):
    mdp = garnet(0)
    reward = random_reward(0, mdp)
    values = soft_optimal(mdp, reward, 0.5).values
    monkeypatch.setattr(soft_mdp, "MAX_IMPROVEMENTS", 1)
    solve = jax.jit(lambda start: soft_mdp.soft_optimal(mdp, reward, 0.5, start_values=start).values)
    np.testing.assert_allclose(solve(values), values, rtol=1e-13)
    assert np.isnan(solve(values + jnp.arange(5.0))).all()


@pytest.mark.parametrize("name", ["soft_optimal", "optimal_limit"])
def test_too_few_improvements_give_nan(name, monkeypatch):
    mdp = garnet(8)
    reward = random_reward(8, mdp)
    weights = {"entropy_weight": 0.1} if name == "soft_optimal" else {}

    monkeypatch.setattr(soft_mdp, "MAX_IMPROVEMENTS", 1)
    solution = jax.jit(lambda reward: getattr(soft_mdp, name)(mdp, reward, **weights))(reward)

    assert np.isnan(solution.values).all()


def test_a_discount_of_nearly_one_is_still_solved():
    mdp, τ = garnet(10, discount=0.9999, num_terminal=1), 0.05
    reward = random_reward(10, mdp)

    values = np.asarray(soft_optimal(mdp, reward, τ).values)

    backup = np.asarray(reward) + 0.9999 * kernel(mdp) @ values
    backup = np.where(mdp.terminal, 0.0, τ * np.log(np.exp((backup - values[:, None]) / τ).sum(-1)) + values)
    np.testing.assert_allclose(values, backup, rtol=1e-12)


@pytest.mark.parametrize(("seed", "num_terminal"), [(6, 0), (7, 2)])
def test_without_ties_the_limit_is_the_greedy_policy(seed, num_terminal):
    mdp = garnet(seed, num_terminal=num_terminal)
    reward = random_reward(seed, mdp)

    solution = optimal_limit(mdp, reward)

    np.testing.assert_allclose(solution.values, value_iteration(mdp, np.asarray(reward)), rtol=1e-12, atol=1e-14)
    lasting = ~mdp.terminal
    greedy = np.eye(3)[np.argmax(solution.action_values, axis=-1)]
    np.testing.assert_array_equal(solution.policy[lasting], greedy[lasting])
    np.testing.assert_allclose(solution.policy[mdp.terminal], 1 / 3, rtol=1e-14)


def test_the_limit_scales_with_the_reward():
    mdp = garnet(8)
    reward = random_reward(8, mdp)

    small, large = (optimal_limit(mdp, scale * reward) for scale in (1e-9, 1e9))

    np.testing.assert_array_equal(small.policy, large.policy)
    np.testing.assert_allclose(small.values * 1e18, large.values, rtol=1e-10)


def test_a_reward_of_zero_leaves_the_policy_of_maximum_entropy():
    mdp = garnet(9, num_terminal=1)

    limit = optimal_limit(mdp, jnp.zeros((5, 3)))

    policy, _ = soft_value_iteration(mdp, np.zeros((5, 3)), 1.0)
    np.testing.assert_allclose(limit.policy, policy, rtol=1e-10)
    assert np.abs(policy[0] - 1 / 3).max() > 1e-2  # uniform would be another policy
