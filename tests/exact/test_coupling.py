"""The joint law of coupled chains and the variance of (U): by hand, by marginals, and against the algorithm itself."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic, StepSizes, TabularMDP, exact
from bilevel_rl.exact.coupling import CoupledChains, upper_variance
from bilevel_rl.problems import goal_position
from garnets import garnet, random_policy, random_problem

FROZEN = StepSizes.decaying(upper=0.0, actor=0.0, critic=0.0, penalty=0.6, entropy=0.4)
W = 0.6
PROBLEMS = {"garnet": {"seed": 0}, "terminal": {"seed": 15, "num_terminal": 1}, "dict": {"seed": 2, "as_dict": True}}


def occupancy(mdp, policy):
    with jax.enable_x64(True):
        return np.asarray(exact.occupancy(mdp, jnp.asarray(policy)))


def close_policies():
    """Two policies that agree on most of what they do."""
    first = random_policy(1)
    return first, 0.7 * first + 0.3 * random_policy(2)


@pytest.mark.parametrize("num_terminal", [0, 1])
def test_the_marginals_of_the_joint_law_are_the_occupancies(num_terminal):
    mdp, policies = garnet(3, num_terminal=num_terminal), close_policies()
    joint = CoupledChains(mdp, *policies).occupancy()
    assert joint.min() >= 0
    for axes, policy in (((2, 3), policies[0]), ((0, 1), policies[1])):
        np.testing.assert_allclose(joint.sum(axes), occupancy(mdp, policy), atol=1e-11)
    product = np.einsum("sa,tb->satb", *(occupancy(mdp, policy) for policy in policies))
    assert np.abs(joint - product).max() > 0.02


def test_a_chain_beside_itself_is_itself():
    mdp, policy = garnet(3), random_policy(1)
    joint = CoupledChains(mdp, policy, policy).occupancy()
    expected = np.zeros_like(joint)
    s, a = np.indices((5, 3))
    expected[s, a, s, a] = occupancy(mdp, policy)
    np.testing.assert_allclose(joint, expected, atol=1e-11)


def test_a_law_by_hand():
    # Start in 0. Action 0 stays, action 1 leads to 1, from where nothing leads but a restart.
    kernel = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    mdp = TabularMDP.from_dense(kernel, initial=[1.0, 0.0], discount=0.5)
    first, second = np.array([[0.7, 0.3], [1.0, 0.0]]), np.array([[0.6, 0.4], [1.0, 0.0]])
    joint = CoupledChains(mdp, first, second).occupancy()
    # Together in 0 they stay together with 0.6 and leave together with 0.3; with 0.1 the second leaves alone.
    both = 0.5 / (1 - 0.5 * 0.6)
    # From (0, 1) the first leaves with 0.3.
    alone = 0.5 * 0.1 * both / (1 - 0.5 * 0.7)
    states = joint.sum((1, 3))
    np.testing.assert_allclose(states, [[both, alone], [0.0, 1 - both - alone]], rtol=1e-10)
    np.testing.assert_allclose(joint[0, :, 0, :], both * np.array([[0.6, 0.1], [0.0, 0.3]]), rtol=1e-10)


def test_a_model_that_is_too_large_is_refused():
    mdp = goal_position(size=20).environment
    policy = np.full((400, mdp.num_actions), 1 / mdp.num_actions)
    with pytest.raises(ValueError, match="a joint law takes at most 1000"):
        CoupledChains(mdp, policy, policy)


def frozen(problem, policies, num_chains, *, coupled, **options):
    algorithm = SingleLoopActorCritic(problem, FROZEN, Followers(num_chains, coupled=coupled), **options)
    tables = np.stack([np.concatenate([np.log(policy), np.zeros((5, 1))], axis=1) for policy in policies])
    return algorithm, algorithm.init(jax.random.key(1))._replace(parameters=jnp.asarray(tables, jnp.float32))


@eqx.filter_jit
def histories(algorithm, state, key, num_steps):
    """(s, sᴸ) of every chain, and the estimate of (U), at every step after 100."""

    def body(state, uniforms):
        next_state, info = algorithm.step(uniforms, state)
        return next_state, (state.chain_states, info.upper_gradient, info.coupling_rate)

    states, estimates, rate = jax.lax.scan(body, state, algorithm.draw(key, num_steps + 100))[1]
    flat = jnp.concatenate([leaf.reshape(len(states), -1) for leaf in jax.tree.leaves(estimates)], axis=1)
    return states[100:], flat[100:], rate[100:]


@pytest.mark.slow
def test_the_algorithms_chains_have_the_joint_law():
    problem, policies = random_problem(seed=0, discount=0.8), close_policies()
    algorithm, state = frozen(problem, policies, 2_000, coupled=True)
    states, _, rates = histories(algorithm, state, jax.random.key(2), 60)
    pairs = np.asarray(states[:, 0] * 5 + states[:, 1])
    counts = np.stack([np.bincount(chain, minlength=25) for chain in pairs.T]) / len(pairs)
    joint = CoupledChains(problem.environment, *policies).occupancy()
    expected = joint.sum((1, 3)).ravel()
    errors = counts.std(axis=0) / len(counts) ** 0.5
    assert np.all(np.abs(counts.mean(axis=0) - expected) < 4 * errors + 1e-6)
    product = np.outer(*(occupancy(problem.environment, policy).sum(1) for policy in policies)).ravel()
    assert np.max(np.abs(counts.mean(axis=0) - product) / errors) > 20
    agree = np.einsum("sasa->", joint)
    assert abs(float(rates.mean()) - agree) < 0.01


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "coupled", "expects_actions"),
    [("garnet", False, False), ("garnet", True, False), ("terminal", True, True), ("dict", True, True)],
)
def test_the_variance_is_that_of_the_algorithms_estimates(name, coupled, expects_actions):
    problem = random_problem(**PROBLEMS[name], discount=0.8)
    problem = dataclasses.replace(problem, initial_x=jax.tree.map(lambda leaf: leaf + 0.3, problem.initial_x))
    policies = close_policies()
    options = {"coupled": coupled, "expects_actions": expects_actions}
    algorithm, state = frozen(problem, policies, 1, **options)
    keys = jax.random.split(jax.random.key(3), 1_500)
    estimates = np.asarray(jax.vmap(lambda key: histories(algorithm, state, key, 150)[1])(keys), np.float64)
    for over_time in (False, True):
        expected = upper_variance(problem, problem.initial_x, policies, penalty=W, over_time=over_time, **options)
        found = estimates.mean(axis=1) if over_time else estimates[:, -1]
        squares = ((found - found.mean(axis=0)) ** 2).sum(axis=1) * (150 if over_time else 1)
        # Means over 150 steps lack what lies beyond their ends: a share of about 1/(150 (1 − γ)).
        slack = 0.04 * expected if over_time else 0.0
        assert abs(squares.mean() - expected) < 4 * squares.std() / len(squares) ** 0.5 + slack


def test_independent_samples_have_the_variance_of_the_metric_rows():
    problem, policies = random_problem(seed=0), close_policies()
    occupancies = [occupancy(problem.environment, policy) for policy in policies]
    with jax.enable_x64(True):
        from bilevel_rl.exact.upper_noise import upper_noise

        arguments = tuple(map(jnp.asarray, occupancies)), (jnp.zeros(5), jnp.zeros(5))
        expected = float(upper_noise(problem, problem.initial_x, *arguments, W)) ** 2
    found = upper_variance(problem, problem.initial_x, policies, penalty=W, coupled=False)
    assert found == pytest.approx(expected, rel=1e-9)


def test_coupling_turns_a_variance_of_one_over_w_squared_into_one_over_w():
    problem, policies = random_problem(seed=0), close_policies()
    x = problem.initial_x
    variances = {False: [], True: []}
    penalties = [0.1, 0.03, 0.01]
    for w in penalties:
        policies = (
            exact.lower_policy(problem, x, entropy_weight=0.3),
            exact.penalized_policy(problem, x, entropy_weight=0.3, penalty=w),
        )
        for coupled, found in variances.items():
            found.append(upper_variance(problem, x, policies, penalty=w, coupled=coupled))
    slopes = {coupled: np.polyfit(np.log(penalties), np.log(found), 1)[0] for coupled, found in variances.items()}
    assert abs(slopes[False] + 2) < 0.1
    assert abs(slopes[True] + 1) < 0.2


def test_a_penalty_that_is_not_positive_is_refused():
    problem, policies = random_problem(seed=0), close_policies()
    with pytest.raises(ValueError, match="penalty must be finite and positive, got 0"):
        upper_variance(problem, problem.initial_x, policies, penalty=0.0, coupled=True)
