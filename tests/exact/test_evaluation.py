import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import TabularMDP
from bilevel_rl.exact import evaluation
from bilevel_rl.exact.evaluation import PolicySystem, expected_next, inflow
from dense_reference import kernel, occupancy_series
from garnets import SHARED, garnet, random_policy, shared_garnet


def _discounted_inflow(mdp, policy, sources):
    return PolicySystem(mdp, policy).inflow(sources)


occupancy, policy_values, discounted_inflow = map(
    eqx.filter_jit, (evaluation.occupancy, evaluation.policy_values, _discounted_inflow)
)

GARNETS = {"ergodic": {}, "terminal": {"num_terminal": 2}}


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=GARNETS)
def mdp(request) -> TabularMDP:
    return garnet(11, **GARNETS[request.param])


def vector(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_two_states_by_hand():
    # From state 0, action 1 leads to state 1 with probability 0.4; state 1 keeps the follower. P^π(0, 1) = 0.75 · 0.4.
    mdp = TabularMDP.from_dense([[[1.0, 0.0], [0.6, 0.4]], [[0.0, 1.0], [0.0, 1.0]]], initial=[0.9, 0.1], discount=0.5)
    policy = jnp.array([[0.25, 0.75], [0.5, 0.5]])

    values = policy_values(mdp, policy, jnp.array([1.0, 3.0]))
    table = occupancy(mdp, policy)

    value_0 = (1 + 0.5 * 0.3 * 6) / (1 - 0.5 * 0.7)
    np.testing.assert_allclose(values, [value_0, 6], rtol=1e-14)
    mass_0 = 0.5 * 0.9 / (1 - 0.5 * 0.7)
    np.testing.assert_allclose(table, [[0.25 * mass_0, 0.75 * mass_0], [(1 - mass_0) / 2] * 2], rtol=1e-14)


def test_occupancy_is_the_discounted_series(mdp):
    policy = jnp.asarray(random_policy(1))

    table = occupancy(mdp, policy)

    np.testing.assert_allclose(table, occupancy_series(mdp, np.asarray(policy), num_terms=400), rtol=1e-12)
    assert float(table.sum()) == pytest.approx(1, abs=1e-14)


def test_expected_next_is_the_kernel_times_the_values(mdp):
    values = vector(2, 5)

    np.testing.assert_allclose(expected_next(mdp, values), kernel(mdp) @ np.asarray(values), rtol=1e-13)


def test_inflow_is_the_adjoint_of_expected_next(mdp):
    values, weights = vector(3, 5), vector(4, 5, 3)

    assert float(jnp.sum(weights * expected_next(mdp, values))) == pytest.approx(
        float(inflow(mdp, weights) @ values), rel=1e-13
    )
    np.testing.assert_allclose(inflow(mdp, weights), np.einsum("sa,sat->t", weights, kernel(mdp)), rtol=1e-12)


def test_policy_values_solve_the_bellman_equation(mdp):
    policy, rewards = jnp.asarray(random_policy(5)), vector(6, 5)

    values = policy_values(mdp, policy, rewards)

    transition = np.einsum("sa,sat->st", policy, kernel(mdp))
    np.testing.assert_allclose(values, np.linalg.inv(np.eye(5) - 0.9 * transition) @ rewards, rtol=1e-12)


def test_discounted_inflow_is_the_adjoint_of_policy_values(mdp):
    policy, rewards, sources = jnp.asarray(random_policy(7)), vector(8, 5), vector(9, 5)

    through_values = float(sources @ policy_values(mdp, policy, rewards))
    through_inflow = float(discounted_inflow(mdp, policy, sources) @ rewards)

    assert through_values == pytest.approx(through_inflow, rel=1e-13)


@pytest.mark.parametrize("solve", [evaluation.policy_values, _discounted_inflow], ids=["values", "inflow"])
def test_sparse_solves_and_their_derivatives_agree_with_dense_ones(solve, monkeypatch):
    mdp, policy, right_hand_side = garnet(11, num_terminal=2), jnp.asarray(random_policy(10)), vector(11, 5)

    def solve_and_derive() -> list[jax.Array]:
        def norm(*of: jax.Array) -> tuple[jax.Array, jax.Array]:
            solution = solve(mdp, *of)
            return jnp.sum(solution**2), solution

        gradients, solution = jax.jit(jax.grad(norm, argnums=(0, 1), has_aux=True))(policy, right_hand_side)
        return [solution, *gradients]

    dense = solve_and_derive()
    monkeypatch.setattr(evaluation, "DENSE_LIMIT", mdp.num_states - 1)
    monkeypatch.setattr(evaluation, "_factor", None)

    for sparse_part, dense_part in zip(solve_and_derive(), dense, strict=True):
        np.testing.assert_allclose(sparse_part, dense_part, rtol=1e-9, atol=1e-9)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("num_terminal", [0, 1])
@pytest.mark.parametrize("sharing", SHARED)
def test_shared_tables_are_solved_like_tables_written_out(sharing, num_terminal, monkeypatch):
    mdp, twin = shared_garnet(sharing, num_terminal)
    policy, weights, rewards = jnp.asarray(random_policy(16)), jnp.asarray(random_policy(17)), vector(18, 5)

    def answers(mdp):
        def solve(policy, weights, rewards):
            return {
                "expected_next": evaluation.expected_next(mdp, rewards),
                "inflow": evaluation.inflow(mdp, weights),
                "values": evaluation.policy_values(mdp, policy, rewards),
                "discounted_inflow": _discounted_inflow(mdp, policy, rewards),
                "occupancy": evaluation.occupancy(mdp, policy),
            }

        return jax.jit(solve)(policy, weights, rewards)

    def check(tolerance):
        ours, expected = answers(mdp), answers(twin)
        for name, value in expected.items():
            np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(ours["occupancy"], occupancy_series(twin, np.asarray(policy), 400), atol=1e-12)

    check(1e-12)
    monkeypatch.setattr(evaluation, "DENSE_LIMIT", 0)
    monkeypatch.setattr(evaluation, "_factor", None)
    check(1e-11)


def test_a_sparse_solve_that_misses_its_tolerance_is_nan(monkeypatch):
    monkeypatch.setattr(evaluation, "DENSE_LIMIT", 0)
    monkeypatch.setattr(jax.scipy.sparse.linalg, "bicgstab", lambda flow, b, x0, tol: ((1 + 1e-6) * x0, None))
    solve = jax.jit(lambda *of: evaluation.policy_values(garnet(11), *of))

    assert np.isnan(solve(jnp.asarray(random_policy(12)), vector(13, 5))).all()


@pytest.mark.parametrize("num_terminal", [0, 2])
def test_batches_are_solved_one_by_one_to_the_same_answer(num_terminal):
    mdp = garnet(11, num_terminal=num_terminal)
    policies = jnp.stack([jnp.asarray(random_policy(seed)) for seed in (14, 15)])

    batch = jax.jit(jax.vmap(lambda policy: evaluation.occupancy(mdp, policy)))(policies)

    np.testing.assert_allclose(batch, [occupancy(mdp, policy) for policy in policies], rtol=1e-12)
