"""x as users write it, and where it may start."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost
from bilevel_rl.formulation.projections import Box
from bilevel_rl.formulation.upper_variables import as_arrays
from garnets import garnet


class Design(NamedTuple):
    height: float
    width: float


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, 3.0),
        ([1, 2.5], [1.0, 2.5]),
        ((np.float32(0.5), np.int8(2)), [0.5, 2.0]),
        ([[1, 2], [3, 4], [5, 6]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        (jnp.array([0.5, 1.5], jnp.bfloat16), [0.5, 1.5]),
    ],
    ids=str,
)
def test_lists_of_numbers_are_one_array(given, expected):
    array = as_arrays("x", given)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(as_arrays("x", {"a": {"b": given}})["a"]["b"], expected)


def test_lists_of_arrays_and_named_tuples_stay():
    parts = as_arrays("x", [np.zeros(2), np.ones(3)])
    assert [leaf.shape for leaf in parts] == [(2,), (3,)]
    design = as_arrays("x", Design(height=2.0, width=[1, 3]))
    assert isinstance(design, Design)
    assert (design.height.shape, design.width.tolist()) == ((), [1.0, 3.0])


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([[0.0], [1.0, 2.0]], r"^x must hold rows of equal length"),
        ({"a": 1.0, "b": 2.0j}, r"^x\['b'\] must hold real numbers, got 2j"),
        ({"a": np.array(["0.1"])}, r"^x\['a'\] must hold real numbers"),
        ({"a": [1.0, "2"]}, r"^x\['a'\]\[1\] must hold real numbers"),
        (lambda s: s, r"^x must hold real numbers, got the function <lambda>"),
        ({}, r"^x must hold at least one number, got \{\}"),
        (None, r"^x must hold real numbers, got None"),
        ({"a": None, "b": 1.0}, r"^x\['a'\] must hold real numbers, got None"),
        ([True, False], "^x must hold real numbers"),
        ({"a": []}, "^x must hold at least one number"),
    ],
)
def test_what_holds_no_real_numbers_is_refused_by_its_path(given, seen):
    with pytest.raises((TypeError, ValueError), match=seen):
        as_arrays("x", given)


def problem(initial_x, project):
    return BilevelProblem(
        garnet(0),
        reward=lambda x, s, a: jnp.log(jnp.sum(x)) * s,
        upper=OccupancyCost(lambda x, s, a: 1.0 * a),
        initial_x=initial_x,
        project=project,
    )


def test_a_start_that_is_not_feasible_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"^initial_x must lie in the feasible set, got 0\.0, .* to 0\.1; start from"):
        problem(0.0, Box(0.1, 2.0))
    with pytest.raises(ValueError, match=r"^initial_x must lie in the feasible set, got \[1\. 3\.\]"):
        problem([1.0, 3.0], Box(0.0, [5.0, 2.0]))


def test_a_start_that_is_off_by_rounding_is_feasible():
    assert problem(np.float32(0.1) - 1e-9, Box(np.float32(0.1), 2.0)).initial_x == np.float64(np.float32(0.1))
    start = [1 / 3, 0.1 + 0.2]
    np.testing.assert_array_equal(problem(start, Box(0.0, 1.0)).initial_x, start)  # to the bit


def test_a_problem_may_be_made_within_a_compiled_function():
    value = jax.jit(lambda scale: problem([0.5, 0.25], Box(0.1, 2.0)).rewards(jnp.full(2, scale), 1, 0))(0.5 * np.e)
    assert float(value) == pytest.approx(1.0)
