"""Names for people: as many as there are things to name, and nothing that a run depends on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.runs.identity import identity_of
from bilevel_rl.runs.log_points import LogPoints

PLACES = brl.TabularMDP.from_dense(np.full((3, 2, 3), 1 / 3), initial=[1, 0, 0], discount=0.9)
NAMES = brl.Names(
    "How much?",
    states=("home", "park", "office"),
    actions=("go", "stay"),
    x=("bonus", "toll"),
    layout=brl.GraphLayout([(0, 0), (1, 0), (0, 1)]),
)


def problem_with(names):
    return brl.BilevelProblem(
        environment=PLACES,
        reward=lambda x, s, a: x["a"] * (s == 1) + x["b"][0] * (s == 2),
        upper=brl.OccupancyCost(cost=lambda x, s, a: 1.0 * (s == 0)),
        initial_x={"a": 1.0, "b": [0.0]},
        names=names,
    )


@pytest.mark.parametrize("make", [brl.ExactDescent, brl.untuned, brl.ModelBased.untuned])
def test_names_are_no_part_of_what_is_computed(make):
    key, log_points = jax.random.key(0), LogPoints(10)
    named, unnamed = (identity_of(make(problem_with(names)), key, log_points) for names in (NAMES, brl.Names()))
    assert named == unnamed  # So `resume` tells them not apart.
    assert identity_of(make(problem_with(NAMES)), jax.random.key(1), log_points) != named


def test_entries_are_named_in_the_order_of_the_metrics():
    assert NAMES.of_x(2) == ("bonus", "toll")
    assert brl.Names().of_x(2) == ("x0", "x1")
    assert brl.Names().of_x(1) == ("x",)
    assert brl.Names().of_actions(2) == ("action 0", "action 1")
    assert brl.Names(layout=brl.GridLayout([(0, 2), None])).of_states(2) == ("(0, 2)", "state 1")
    assert NAMES.of_states(3) == ("home", "park", "office")


@pytest.mark.parametrize("layout", [NAMES.layout, brl.GridLayout([(0, 2), None, (1, 1)]), None])
def test_names_come_back_from_json(layout):
    names = dataclasses.replace(NAMES, layout=layout)
    assert brl.Names.from_json(json.loads(json.dumps(names.to_json()))) == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (brl.Names(states=("a", "b")), "names.states must be 3, one for each state, got 2"),
        (brl.Names(actions=("a",)), "names.actions must be 2, one for each action, got 1"),
        (brl.Names(x=("a", "b", "c")), "names.x must be 2, one for each number of initial_x, got 3"),
        (brl.Names(layout=brl.GridLayout.of_shape(2, 2)), "names.layout must be 3, one for each state, got 4"),
    ],
)
def test_names_must_be_as_many_as_there_are_things(names, message):
    with pytest.raises(ValueError, match=message):
        problem_with(names)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: brl.Names(states="abc"), TypeError, "states"),
        (lambda: brl.Names(x=(1,)), TypeError, "x"),
        (lambda: brl.Names(question=None), TypeError, "question"),
        (lambda: brl.Names(layout=((0, 0),)), TypeError, "layout"),
        (lambda: brl.GridLayout([(0, -1)]), ValueError, r"cells\[0\]"),
        (lambda: brl.GridLayout([(0, 1, 2)]), ValueError, r"cells\[0\] must be a pair"),
        (lambda: brl.GridLayout([None]), ValueError, "at least one state"),
        (lambda: brl.GridLayout.of_shape(0, 2), ValueError, "rows"),
        (lambda: brl.GraphLayout([(0, float("nan"))]), ValueError, r"positions\[0\]"),
        (lambda: brl.GraphLayout(["ab"]), TypeError, "positions"),
    ],
)
def test_what_is_no_name_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_layouts_place_rows_downwards_and_graphs_upwards():
    grid = brl.GridLayout.of_shape(2, 3)
    assert grid.shape == (2, 3)
    np.testing.assert_array_equal(grid.places()[5], (2, 1))
    np.testing.assert_array_equal(brl.GraphLayout([(1, 2)]).places(), [(1, -2)])
    assert np.isnan(brl.GridLayout([(0, 0), None]).places()[1]).all()


@pytest.mark.parametrize("name", ["goal_position", "goal_placement", "frozen_lake", "wind_design", "shared_goal"])
def test_worked_problems_have_a_question_and_a_grid(name):
    names = getattr(brl.problems, name)().names
    assert names.question.endswith("?")
    assert isinstance(names.layout, brl.GridLayout)


def test_four_rooms_places_all_but_its_end():
    names = brl.problems.four_rooms().names
    assert names.layout.shape == (12, 12)
    assert names.layout.cells[-1] is None
    assert names.of_x(105)[-1] == "unused budget"
