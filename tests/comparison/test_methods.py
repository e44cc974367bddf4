"""The methods that are compared: the same ranges, draws and budgets for all of them."""

import dataclasses
import itertools

import equinox as eqx
import numpy as np
import pytest

from bilevel_rl import GeometricDecay, ModelBased, problems, untuned
from bilevel_rl.comparison.methods import METHODS, NUM_CHAINS, STEP_SIZES, Method

PROBLEM = problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)


def test_methods_search_their_step_sizes_in_the_same_ranges():
    for name, method in METHODS.items():
        for parameter in method.ranges.keys() & STEP_SIZES.keys():
            assert method.ranges[parameter] == STEP_SIZES[parameter], name
        assert not method.has_parameters or {"upper", "entropy"} <= method.ranges.keys(), name


def test_trials_of_all_methods_share_the_values_of_shared_parameters():
    drawn = {name: method.draw(3, trial=2) for name, method in METHODS.items()}
    for (one, ours), (other, theirs) in itertools.combinations(drawn.items(), 2):
        for parameter in ours.keys() & theirs.keys():
            assert ours[parameter] == theirs[parameter], (one, other)
    values = list(drawn["single-loop"].values())
    assert len(set(values)) == len(values)


def test_trials_differ_from_one_another_and_between_seeds():
    method = METHODS["single-loop"]
    draws = [method.draw(seed, trial)["upper"] for seed in range(3) for trial in range(20)]
    assert len(set(draws)) == 60


def test_draws_are_log_uniform_over_the_range_and_uniform_over_the_choices():
    method = Method("any", METHODS["single-loop"].algorithm, {"upper": (1e-3, 10.0)}, {"num_inner_steps": (5, 20, 80)})
    draws, number = [method.draw(0, trial) for trial in range(400)], 400
    places = np.log10([draw["upper"] for draw in draws]) / 4 + 3 / 4
    assert places.min() >= 0
    assert places.max() <= 1
    # Mean and mean square of a uniform number are 1/2 and 1/3, their variances 1/12 and 4/45.
    assert abs(places.mean() - 1 / 2) < 4 * (1 / 12 / number) ** 0.5
    assert abs((places**2).mean() - 1 / 3) < 4 * (4 / 45 / number) ** 0.5
    for choice in (5, 20, 80):
        share = np.mean([draw["num_inner_steps"] == choice for draw in draws])
        assert abs(share - 1 / 3) < 4 * (2 / 9 / number) ** 0.5


def test_values_at_the_edge_of_what_was_searched_are_named():
    ranges, choices = {"upper": (1e-2, 1.0), "actor": (1e-2, 1.0)}, {"inner": (5, 20, 80), "exponent": (0.5, 0.9)}
    method = Method("any", METHODS["single-loop"].algorithm, ranges, choices)
    inside = {"upper": 0.1, "actor": 0.013, "inner": 20, "exponent": 0.5}  # 0.013 is 5.7 % into the range
    assert method.at_edge(inside) == []
    assert method.at_edge(inside | {"upper": 0.012, "inner": 80}) == ["upper", "inner"]  # 4 % into the range
    assert method.at_edge(inside | {"actor": 0.9, "inner": 5}) == ["actor", "inner"]


def cheapest_and_dearest(method):
    """Parameters in the middle of all ranges with the first, and with the last, of all choices."""
    middle = {name: (low * high) ** 0.5 for name, (low, high) in method.ranges.items()}
    return [middle | {name: values[i] for name, values in method.choices.items()} for i in (0, -1)]


PLANNED = "certainty-equivalence"
"""Its step sizes are those of a plan's steps, not of iterations."""


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].has_parameters and name != PLANNED])
def test_parameters_reach_the_algorithm(name):
    method = METHODS[name]
    for parameters in cheapest_and_dearest(method):
        algorithm = method.build(PROBLEM, parameters, num_iterations=lambda cost: 60_000 // max(1, cost))
        assert algorithm.problem is PROBLEM
        length = 60_000 // max(1, algorithm.num_transitions_per_iteration)
        for parameter in method.ranges.keys() & STEP_SIZES.keys():
            sequence = getattr(algorithm.step_sizes, parameter)
            is_natural = parameter == "actor" and name == "single-loop-natural"
            share = PROBLEM.mdp.num_actions if is_natural else 1  # A natural step is |A| times as long.
            assert sequence.initial == parameters[parameter] / share
            if isinstance(sequence, GeometricDecay):
                continue
            assert sequence.offset == pytest.approx(length / 3)
        exponents = [float(getattr(algorithm.step_sizes, s).exponent) for s in STEP_SIZES]
        assert exponents == [parameters.get("upper_exponent", method.exponents[0]), *method.exponents[1:]]
        for parameter in parameters.keys() - STEP_SIZES.keys() - {"upper_exponent", "uses_tables"}:
            assert getattr(algorithm, parameter) == parameters[parameter], parameter
        if "uses_tables" in parameters:
            assert getattr(algorithm, "estimator") == ("rollouts", "tables")[int(parameters["uses_tables"])]  # noqa: B009
        if not method.is_deterministic:
            assert getattr(algorithm, "followers").num_chains == NUM_CHAINS  # noqa: B009
        assert (algorithm.num_transitions_per_iteration == 0) == method.is_deterministic


def test_a_plan_anneals_over_its_own_steps():
    method, parameters = METHODS[PLANNED], {"upper": 0.3, "entropy": 0.2, "upper_exponent": 0.9}
    algorithm = method.build(PROBLEM, parameters, lambda cost: 60_000 // cost)
    steps = algorithm.step_sizes
    assert [float(steps.entropy(i)) for i in (0, 75, 149)] == pytest.approx([0.2, 0.01, 0.01])
    assert [float(steps.upper(i)) for i in (0, 50)] == pytest.approx([0.3, 0.3 * 2**-0.9])


@pytest.mark.parametrize("name", METHODS)
def test_a_followers_own_entropy_weight_is_kept_by_all_methods(name):
    problem = dataclasses.replace(PROBLEM, entropy_weight=0.07)
    algorithm = METHODS[name].build(problem, METHODS[name].draw(0, 0), lambda cost: 60_000 // max(1, cost))
    assert [float(algorithm.step_sizes.entropy(k)) for k in (0, 1_000)] == pytest.approx([0.07, 0.07])


@pytest.mark.parametrize("name", ["untuned", "model-based"])
def test_methods_without_parameters_are_what_their_steps_are_worked_out_for(name):
    method = METHODS[name]
    assert method.draw(0, 0) == method.draw(0, 1) == {}
    algorithm = method.build(PROBLEM, {}, lambda _: 100)
    expected = ModelBased.untuned(PROBLEM) if name == "model-based" else untuned(PROBLEM)
    assert eqx.tree_equal(algorithm.step_sizes, expected.step_sizes)
    assert algorithm.followers == expected.followers


def test_the_single_loop_keeps_the_schedule_of_its_paper():
    algorithm = METHODS["single-loop"].build(PROBLEM, METHODS["single-loop"].draw(0, 0), lambda _: 100)
    assert [float(getattr(algorithm.step_sizes, name).exponent) for name in STEP_SIZES] == [0.9, 0.5, 0.5, 0.15, 0.05]
