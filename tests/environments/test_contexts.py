"""Several followers in one: tables, weighted sums of the separate problems, and how often each context is visited."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, Contexts, Followers, OccupancyCost, SingleLoopActorCritic, StepSizes, exact, run
from bilevel_rl.problems import Grid
from dense_reference import kernel
from garnets import garnet, random_problem

WEIGHTS = np.array([0.5, 0.3, 0.2])


class ByContext(eqx.Module):
    """Each context's own function of (x, state, action)."""

    contexts: Contexts
    functions: list

    def __call__(self, x, state, action):
        context, local = self.contexts.split(state)
        values = jnp.stack([function(x, local, action) for function in self.functions])
        return values[context]


class Mean(eqx.Module):
    functions: list

    def __call__(self, x):
        return sum(weight * function(x) for weight, function in zip(WEIGHTS, self.functions, strict=True))


@pytest.fixture(scope="module")
def separate():
    """Three problems of different sizes, one with a terminal state."""
    return [random_problem(1), random_problem(2, num_terminal=1), random_problem(3, num_states=4, num_successors=2)]


@pytest.fixture(scope="module")
def contexts(separate):
    return Contexts([problem.environment for problem in separate], WEIGHTS)


@pytest.fixture(scope="module")
def union(separate, contexts):
    return BilevelProblem(
        environment=contexts.environment,
        reward=ByContext(contexts, [problem.reward for problem in separate]),
        upper=OccupancyCost(
            ByContext(contexts, [problem.upper.cost for problem in separate]),
            regularizer=Mean([problem.upper.regularizer for problem in separate]),
            cost_bound=2.0,
        ),
        initial_x=separate[0].initial_x,
        reward_bound=2.0,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("x", [(0.3, -0.8, 0.5), (-1.1, 0.2, 0.9)])
def test_objective_and_gradient_are_the_weighted_sums_of_the_separate_problems(separate, union, x):
    objectives = [exact.hyper_objective(problem, x, entropy_weight=0.2) for problem in separate]
    gradients = [exact.hyper_gradient(problem, x, entropy_weight=0.2) for problem in separate]
    assert np.ptp(objectives) > 0.01
    assert exact.hyper_objective(union, x, entropy_weight=0.2) == pytest.approx(WEIGHTS @ objectives, abs=1e-10)
    np.testing.assert_allclose(
        exact.hyper_gradient(union, x, entropy_weight=0.2), WEIGHTS @ np.array(gradients), atol=1e-10, rtol=0
    )


def test_the_union_is_the_separate_mdps_side_by_side(separate, contexts):
    environment = contexts.environment
    assert environment.successors.shape == (14, 3, 3)
    whole, first = kernel(environment), 0
    for weight, problem in zip(WEIGHTS, separate, strict=True):
        mdp = problem.environment
        own = slice(first, first + mdp.num_states)
        np.testing.assert_allclose(whole[own, :, own], kernel(mdp), rtol=1e-15)
        np.testing.assert_array_equal(environment.terminal[own], mdp.terminal)
        np.testing.assert_allclose(environment.initial[own], weight * mdp.initial, rtol=1e-15)
        first += mdp.num_states
    np.testing.assert_allclose(whole.sum(-1), 1)


def test_states_are_split_and_joined(contexts):
    context, local = contexts.split(np.arange(14))
    assert context.tolist() == [0] * 5 + [1] * 5 + [2] * 4
    assert local.tolist() == [*range(5), *range(5), *range(4)]
    assert contexts.join(context, local).tolist() == list(range(14))


@pytest.mark.slow
def test_chains_of_the_single_loop_are_in_a_context_as_often_as_it_weighs(union, contexts):
    algorithm = SingleLoopActorCritic(union, StepSizes.decaying(critic=4.0), Followers(512))
    result = run(algorithm, jax.random.key(0), 2, 40, log_every=40, diagnostics="sampled", progress=False)
    visited = np.asarray(contexts.split(result.states.chain_states)[0]).ravel()
    shares = np.bincount(visited, minlength=3) / len(visited)
    assert len(visited) == 2 * 2 * 512
    np.testing.assert_array_less(np.abs(shares - WEIGHTS), 4 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / len(visited)))


def test_tables_that_are_shared_stay_so():
    alike = Contexts([Grid(2).mdp(None, 0.9), Grid(3).mdp([(0, 1)], 0.9)])
    assert alike.environment.successors.shape == (13, 1, 5)
    assert alike.environment.probabilities.shape == (1, 5, 5)
    np.testing.assert_array_equal(alike.weights, [0.5, 0.5])
    different = Contexts([Grid(2).mdp(None, 0.9), Grid(3, slip=0.3).mdp(None, 0.9)])
    assert different.environment.successors.shape == (13, 1, 5)
    assert different.environment.probabilities.shape == (13, 5, 5)
    np.testing.assert_allclose(different.environment.probabilities[[3, 4], 0, 0], [0.925, 0.775])


@pytest.mark.parametrize(
    ("mdps", "weights", "message"),
    [
        ([], None, "mdps must hold at least one MDP"),
        ([garnet(0), garnet(0, num_actions=2)], None, r"same num_actions, got \[3, 2\]; pad with actions"),
        ([garnet(0), garnet(0, discount=0.8)], None, r"same discount, got \[0.9, 0.8\]; choose one"),
        ([garnet(0), garnet(1)], [1.0], r"weights must have shape \(2,\), one for each MDP, got \(1,\)"),
        ([garnet(0), garnet(1)], [0.7, 0.7], "weights must be positive and sum to 1"),
        ([garnet(0), garnet(1)], [1.0, 0.0], "leave out contexts of weight 0"),
    ],
)
def test_what_makes_no_union_is_refused(mdps, weights, message):
    with pytest.raises(ValueError, match=message):
        Contexts(mdps, weights)
