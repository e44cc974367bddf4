"""A leader with a policy: the follower's MDP by hand, commitments by programs and enumeration, gradients."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from bilevel_rl import Followers, LeaderPolicy, MarkovGame, exact
from dense_reference import kernel
from driven_steps import check_mean_of_driven_step
from mean_steps import softmax

S, A, B = 3, 2, 4
TAU, W = 0.3, 0.5


class Tables:
    """A random game of three states, no two numbers alike; one pair has two successors of three."""

    rng: ClassVar = np.random.default_rng(5)
    transition = rng.dirichlet(np.ones(S), size=(S, A, B))
    transition[0, 0] = np.array([[0.3, 0.7, 0.0], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0]])
    reward = rng.normal(size=(S, A, B))
    cost = rng.normal(size=(S, A, B))
    initial: ClassVar = np.array([0.5, 0.2, 0.3])


def random_game(**options):
    return MarkovGame(
        Tables.transition, Tables.reward, Tables.cost, **{"initial": Tables.initial, "discount": 0.7} | options
    )


@pytest.fixture(scope="module")
def game():
    return random_game()


def at_random(policy, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), policy.initial_x)


POLICIES = {
    "table": LeaderPolicy.table(S, B),
    "two rows": LeaderPolicy.table(S, B, sees=[0, 1, 0]),
    "network": LeaderPolicy.network(np.array([[1.0, 0.2], [0.0, 1.0], [-0.5, 0.3]]), B, width=3),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_leaders_actions_are_averaged_out(game, name):
    policy = POLICIES[name]
    problem, x = game.problem(policy), at_random(policy)
    chances = game.commitment(policy, x)
    assert chances.shape == (S, B)
    np.testing.assert_allclose(chances.sum(1), 1.0)
    if name == "table":
        np.testing.assert_allclose(chances, softmax(x), rtol=1e-12)
    if name == "two rows":
        np.testing.assert_allclose(chances, softmax(x)[[0, 1, 0]], rtol=1e-12)
    with jax.enable_x64(True):
        pairs = jnp.arange(S)[:, None], jnp.arange(A)
        found = np.asarray(problem.rewards(x, *pairs)), np.asarray(problem.costs(x, *pairs))
        law = kernel(jax.tree.map(np.asarray, problem.environment_at(x)))
    np.testing.assert_allclose(found[0], np.einsum("sb,sab->sa", chances, Tables.reward), rtol=1e-12)
    np.testing.assert_allclose(found[1], np.einsum("sb,sab->sa", chances, Tables.cost), rtol=1e-12)
    np.testing.assert_allclose(law, np.einsum("sb,sabt->sat", chances, Tables.transition), atol=1e-12)
    assert problem.reward_bound == np.abs(Tables.reward).max()
    assert problem.upper.step_cost_bound == np.abs(Tables.cost).max()


def test_policies_begin_at_even_chances_and_stay_within_their_bound(game):
    for policy in POLICIES.values():
        np.testing.assert_allclose(game.commitment(policy, policy.initial_x), 1 / B)
    bounded = LeaderPolicy.table(S, B, largest=2.0)
    assert np.abs(np.asarray(bounded.project(np.full((S, B), -7.0)))).max() == 2.0


def test_nothing_accrues_in_terminal_states_whose_rows_are_overwritten():
    problem = random_game(terminal=[False, False, True]).problem(POLICIES["table"])
    assert float(problem.rewards(at_random(POLICIES["table"]), 2, 1)) == 0.0
    with jax.enable_x64(True):
        law = kernel(jax.tree.map(np.asarray, problem.environment_at(at_random(POLICIES["table"]))))
    np.testing.assert_array_equal(law[2], [[0, 0, 1]] * A)


def best_commitments(earns, costs):
    """Least cost and commitment for each possible answer of a bimatrix game (A, B): a linear program each."""
    found = []
    for a in range(len(earns)):
        solved = scipy.optimize.linprog(
            costs[a], A_ub=earns - earns[a], b_ub=np.zeros(len(earns)), A_eq=np.ones((1, costs.shape[1])), b_eq=[1.0]
        )
        found += [(solved.fun, solved.x)] if solved.success else []
    return found


@pytest.mark.parametrize("seed", [1, 3])
def test_in_one_state_the_optimum_is_the_best_commitment_of_several_linear_programs(seed):
    rng = np.random.default_rng(seed)
    earns, costs = rng.uniform(size=(2, 3, 3))
    commitments = best_commitments(earns, costs)
    expected = min(cost for cost, _ in commitments)
    game = MarkovGame(np.ones((1, 3, 3, 1)), earns[None], costs[None], initial=[1.0], discount=0.5)
    problem = game.problem(LeaderPolicy.table(1, 3))
    starts = [np.zeros((1, 3)), *(np.log(chances + 0.02)[None] for _, chances in commitments)]
    found = exact.solve(problem, entropy_weight=(0.03, 0.01, 0.003, 0.001), starts=starts, max_iterations=60)
    assert found.objective == pytest.approx(expected, abs=0.01)


def discounted(chances, choice):
    """What both get, by hand, where the follower always takes choice[s]: follower's reward and leader's cost a step."""
    rows = np.arange(S), list(choice)
    law = np.einsum("sb,sbt->st", chances, Tables.transition[rows])
    d = 0.3 * np.linalg.solve((np.eye(S) - 0.7 * law).T, Tables.initial)
    return tuple(float(d @ (chances * table[rows]).sum(1)) for table in (Tables.reward, Tables.cost))


def test_with_little_entropy_the_answer_is_the_best_of_all_deterministic_policies(game):
    policy = POLICIES["table"]
    problem, answers = game.problem(policy), set()
    for seed in range(12):
        x = 2 * at_random(policy, seed)
        chances = softmax(x)
        best = max(itertools.product(range(A), repeat=S), key=lambda choice: discounted(chances, choice)[0])
        found = exact.lower_policy(problem, x, entropy_weight=1e-3)
        assert tuple(found.argmax(1)) == best
        cost = exact.hyper_objective(problem, x, entropy_weight=1e-3)
        if found.max(1).min() > 1 - 1e-6:
            assert cost == pytest.approx(discounted(chances, best)[1], abs=1e-5)
        answers.add(best)
    assert len(answers) > 2  # The follower does answer.


def test_the_optimum_of_three_states_is_that_of_a_grid_of_commitments_and_all_answers():
    """The leader mixes its first two actions: a grid of 41³ commitments, each with the best of the eight answers."""
    reward, cost, transition = (table[:, :, :2] for table in (Tables.reward, Tables.cost, Tables.transition))
    game = MarkovGame(transition, reward, cost, initial=Tables.initial, discount=0.7)
    shares = np.linspace(0, 1, 41)
    mixes = np.stack([shares, 1 - shares], axis=1)
    chances = np.stack([mixes[list(index)] for index in itertools.product(range(41), repeat=S)])
    found = []
    for choice in itertools.product(range(A), repeat=S):
        rows = np.arange(S), list(choice)
        law = np.einsum("nsb,sbt->nst", chances, transition[rows])
        d = 0.3 * np.linalg.solve(np.swapaxes(np.eye(S) - 0.7 * law, 1, 2), Tables.initial[:, None])[..., 0]
        found.append([np.einsum("ns,nsb,sb->n", d, chances, table[rows]) for table in (reward, cost)])
    returns, costs = np.moveaxis(np.array(found), 1, 0)
    of_best = np.where(returns >= returns.max(0) - 1e-9, costs, np.inf).min(0)  # Ties are broken for the leader.
    problem = game.problem(LeaderPolicy.table(S, 2))
    best = np.log(chances[of_best.argmin()] + 0.01)
    assert softmax(best)[:2].min() > 0.3  # It mixes in two states.
    assert softmax(best)[2].max() > 0.9
    weights = {"entropy_weight": (0.03, 0.01, 0.003), "max_iterations": 60}
    objectives = [exact.solve(problem, starts=[x], **weights).objective for x in (best, np.zeros((S, 2)))]
    assert objectives[0] == pytest.approx(of_best.min(), abs=0.01)
    assert objectives[1] > of_best.min() - 0.01  # Another valley, and not below the lowest.


@pytest.mark.parametrize("name", ["table", "network"])
def test_exact_gradients_are_central_differences(game, name):
    policy = POLICIES[name]
    problem, x = game.problem(policy), at_random(policy, 3)
    leaves, tree = jax.tree.flatten(x)
    sizes = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unflatten(vector):
        parts = np.split(vector, sizes)
        return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    vector, h = np.concatenate([leaf.ravel() for leaf in leaves]), 1e-4
    for gradient, objective, weights in (
        (exact.hyper_gradient, exact.hyper_objective, {"entropy_weight": TAU}),
        (exact.penalty_gradient, exact.penalty_objective, {"entropy_weight": TAU, "penalty": W}),
    ):
        found = gradient(problem, x, **weights)
        found = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

        def at(offset, objective=objective, weights=weights):
            return objective(problem, unflatten(vector + offset), **weights)

        # Of fourth order in h.
        expected = np.array(
            [(8 * (at(h * e) - at(-h * e)) - (at(2 * h * e) - at(-2 * h * e))) / (12 * h) for e in np.eye(len(vector))]
        )
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("coupled", [False, True], ids=["independent", "coupled"])
def test_the_mean_of_the_sampled_upper_step_is_the_first_order_gradient(game, coupled):
    policy = POLICIES["table"]
    check_mean_of_driven_step(game.problem(policy), at_random(policy), Followers(coupled=coupled))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"transition": np.ones((S, A, S)) / S},
            ValueError,
            r"transition must have shape \(S, A, B, S\), .* \(3, 2, 3\)",
        ),
        ({"transition": Tables.transition / 2}, ValueError, "transition must sum to 1"),
        ({"follower_reward": Tables.reward[:, :, :3]}, ValueError, r"follower_reward must have shape \(3, 2, 4\)"),
        ({"leader_cost": np.full((S, A, B), np.nan)}, ValueError, "leader_cost must be finite"),
        ({"initial": [1.0, 0.0]}, ValueError, r"initial must have shape \(3,\)"),
        ({"initial": [1.0, 1.0, 0.0]}, ValueError, "initial must sum to 1"),
        ({"discount": 1.0}, ValueError, r"discount must lie in \[0, 1\), got 1.0"),
        ({"terminal": [False] * 2}, ValueError, r"terminal must have shape \(3,\)"),
    ],
)
def test_what_is_no_game_is_refused(options, error, message):
    tables = {"transition": Tables.transition, "follower_reward": Tables.reward, "leader_cost": Tables.cost}
    rest = {"initial": Tables.initial, "discount": 0.7}
    with pytest.raises(error, match=message):
        MarkovGame(**tables | rest | options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LeaderPolicy.table(0, B), ValueError, "num_states must be at least 1"),
        (lambda: LeaderPolicy.table(S, B, sees=[0, 1]), ValueError, r"sees must have shape \(3,\)"),
        (lambda: LeaderPolicy.table(S, B, sees=[0, -1, 2]), ValueError, "sees"),
        (lambda: LeaderPolicy.table(S, B, largest=0.0), ValueError, "largest must be"),
        (lambda: LeaderPolicy.network(np.ones(S), B), ValueError, r"features must have shape \(S, F\)"),
        (lambda: LeaderPolicy.network(np.ones((S, 1)), B, width=0), ValueError, "width must be at least 1"),
        (lambda: LeaderPolicy(lambda x, s: x[0], np.zeros(2)), ValueError, "logits must return one axis"),
        (lambda: LeaderPolicy("logits", np.zeros(2)), TypeError, "logits"),
        (lambda: random_game().problem(LeaderPolicy.table(S, B + 1)), ValueError, "leader's 4 actions, got 5"),
        (lambda: random_game().problem(lambda x, s: x), TypeError, "policy"),
    ],
)
def test_what_is_no_policy_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
