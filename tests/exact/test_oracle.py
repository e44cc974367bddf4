"""Arguments of the oracles that are not what they should be: refused by name."""

import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost, exact
from bilevel_rl.exact.oracle import as_policy, as_upper_variable, check_feasible, check_problem, check_weights
from bilevel_rl.formulation.projections import Box
from garnets import garnet, random_policy

PROBLEM = BilevelProblem(
    garnet(2),
    reward=lambda x, s, a: x["bonus"][s] * a,
    upper=OccupancyCost(lambda x, s, a: 1.0 * s),
    initial_x={"bonus": np.linspace(0.0, 1.0, 5)},
    project=Box(0.0, 1.0),
)
LEVEL = {"bonus": np.full(5, 0.5)}


def test_lists_stand_for_the_arrays_of_x():
    from_list = exact.hyper_objective(PROBLEM, {"bonus": [0.5] * 5}, entropy_weight=0.1)
    assert from_list == exact.hyper_objective(PROBLEM, LEVEL, entropy_weight=0.1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"bonus": np.full(4, 0.5)}, r"^x must have the structure and shapes of problem\.initial_x, .* got"),
        (np.full(5, 0.5), r"^x must have the structure and shapes"),
        ({"bonus": np.full(5, 0.5 + 0j)}, r"^x\['bonus'\] must hold real numbers, got \[0\.5\+0\.j"),
        ({"bonus": np.full(5, "0.5")}, r"^x\['bonus'\] must hold real numbers"),
    ],
)
def test_an_x_of_another_kind_is_refused(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_upper_variable(PROBLEM, x)


def test_an_x_that_is_not_feasible_is_refused_and_finite_differences_are_not():
    outside = {"bonus": np.array([0.5, 0.5, 1.5, 0.5, 0.5])}
    with pytest.raises(ValueError, match=r"^x must lie in the feasible set, got .*1\.5.* moves to .*project it first"):
        exact.hyper_gradient(PROBLEM, outside, entropy_weight=0.1)
    check_feasible(PROBLEM, {"bonus": np.full(5, 1 + 1e-4)})


def row(state, *chances):
    policy = random_policy(1)
    policy[state] = chances
    return policy


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (random_policy(1).T, r"^policy must have shape \(5, 3\), a row for each state, got \(3, 5\)"),
        (np.full(3, 1 / 3), r"^policy must have shape \(5, 3\)"),
        (row(3, 0.5, 0.4, 0.2), r"^policy must be probabilities .*got \[0\.5 0\.4 0\.2\] in state 3; logits"),
        (row(1, 1.2, -0.2, 0.0), r"^policy must be probabilities .* in state 1"),
        (row(4, np.nan, 0.5, 0.5), r"^policy must be probabilities .* in state 4"),
        (np.full((5, 3), "a"), r"^policy must hold real numbers"),
    ],
    ids=["transposed", "one row", "sum", "negative", "nan", "strings"],
)
def test_what_is_no_policy_is_refused(policy, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_policy(PROBLEM, policy)


def test_policies_of_single_precision_and_with_zeros_are_taken():
    policy = random_policy(1).astype(np.float32)
    assert exact.upper_value(PROBLEM, LEVEL, policy) == pytest.approx(
        exact.upper_value(PROBLEM, LEVEL, random_policy(1)), rel=1e-5
    )
    assert exact.lower_residual(PROBLEM, LEVEL, policy=row(0, 0.0, 1.0, 0.0), entropy_weight=0.1) > 0


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf, "0.1", None, [0.1], np.array([0.1, 0.2]), 0.1j], ids=str)
@pytest.mark.parametrize("name", ["entropy_weight", "penalty"])
def test_weights_are_positive_numbers(name, weight):
    if name == "penalty" and weight is None:
        return check_weights({"penalty": None})  # there is none
    with pytest.raises(ValueError, match=rf"^{name} must be finite and positive, got "):
        check_weights({name: weight})
    return None


def test_weights_of_every_number_type_are_taken():
    check_weights({"entropy_weight": np.float32(0.1), "penalty": np.array(2)})


def test_arguments_in_the_wrong_order_are_told():
    with pytest.raises(ValueError, match=r"^problem must be a BilevelProblem, got \[0\.5\]"):
        check_problem([0.5])
