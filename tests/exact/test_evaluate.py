"""A policy against x, against its own definition and hand-solved numbers."""

import numpy as np
import pytest

import bilevel_rl as brl
from garnets import random_policy, random_problem


def test_a_policy_by_hand():
    # In state 0 action 1 leads to the end, state 1; action 0 stays. γ = 0.5, action 1 with probability 0.25.
    kernel = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    mdp = brl.TabularMDP.from_dense(kernel, initial=[1, 0], discount=0.5, terminal=[False, True])
    cost = brl.OccupancyCost(lambda x, s, a: 4.0 * a, regularizer=lambda x: x)
    problem = brl.BilevelProblem(mdp, lambda x, s, a: x * (a == 0), cost, initial_x=1.0)
    policy = np.array([[0.75, 0.25], [0.5, 0.5]])
    stays = 0.5 / (1 - 0.5 * 0.75)  # (1−γ) Σ (γ 3/4)^t, the share of the time in state 0.
    found = brl.exact.evaluate(problem, 3.0, policy)
    np.testing.assert_allclose(found.occupancy[0], [0.75 * stays, 0.25 * stays])
    assert found.occupancy.sum() == pytest.approx(1)
    assert found.lower_return == pytest.approx(3.0 * 0.75 * stays)
    assert found.upper_value == pytest.approx(4.0 * 0.25 * stays + 3.0)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    with_entropy = brl.exact.evaluate(problem, 3.0, policy, entropy_weight=0.2)
    assert with_entropy.lower_return - found.lower_return == pytest.approx(0.2 * entropy * stays)


def test_a_policy_that_is_certain_has_no_entropy_and_no_nan():
    problem = random_problem(seed=1)
    certain = np.eye(3)[[0, 2, 1, 1, 0]]
    plain, weighed = (brl.exact.evaluate(problem, problem.initial_x, certain, entropy_weight=τ) for τ in (0, 0.5))
    assert plain.lower_return == weighed.lower_return
    assert plain.upper_value == brl.exact.upper_value(problem, problem.initial_x, certain)


def test_a_bad_weight_or_policy_is_refused():
    problem, policy = random_problem(seed=1), random_policy(seed=1)
    with pytest.raises(ValueError, match="entropy_weight must be finite and not negative"):
        brl.exact.evaluate(problem, problem.initial_x, policy, entropy_weight=-1.0)
    with pytest.raises(ValueError, match="policy must be probabilities"):
        brl.exact.evaluate(problem, problem.initial_x, 2 * policy)
