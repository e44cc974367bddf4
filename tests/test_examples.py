"""Every example runs, and shows what its docstring says, with fewer iterations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_frozen_lake_bonuses_pay_off(tmp_path, capsys):
    example = load("frozen_lake")
    outcomes = example.main(num_iterations=1_000, num_seeds=1, figure=tmp_path / "lake.png", progress=False)

    unaided, learned, optimum = (outcomes[name] for name in ("no bonuses", "learned", "exact optimum"))
    assert unaided.payment == 0
    assert optimum.profit > 1.4 * unaided.profit
    assert optimum.success > 2 * unaided.success
    assert np.any(learned.bonuses != 0)
    assert learned.profit < optimum.profit
    for row in (unaided, learned, optimum):
        assert 0 < row.success < 1
        assert np.all((row.bonuses >= 0) & (row.bonuses <= example.LARGEST_BONUS))
    assert f"{optimum.profit:.3f}" in capsys.readouterr().out
    assert (tmp_path / "lake.png").stat().st_size > 10_000


def test_frozen_lake_success_is_the_chance_to_reach_the_goal():
    example = load("frozen_lake")
    outcome = example.outcome(np.zeros(16))
    problem = example.frozen_lake()
    policy = example.brl.exact.lower_policy(problem, np.zeros(16), entropy_weight=example.ENTROPY_WEIGHT)
    environment = problem.environment
    distribution = environment.initial
    for _ in range(1_000):
        mass = distribution[:, None, None] * policy[..., None] * environment.probabilities
        distribution = np.bincount(environment.successors.ravel(), mass.ravel(), minlength=16)
    assert outcome.success == pytest.approx(distribution[15], abs=1e-4)
    discounted_success = outcome.profit / example.GOAL_VALUE
    assert 0 < discounted_success < outcome.success


def test_the_couriers_log_is_the_simulated_one(tmp_path):
    example = load("logged_data")
    example.write_log(tmp_path / "log.csv", num_couriers=3)
    ours = (tmp_path / "log.csv").read_text().splitlines()
    lines = example.LOG.read_text().splitlines()
    assert lines[: len(ours)] == ours
    assert len(lines) == 3_001
    assert example.LOG.stat().st_size < 200_000


@pytest.mark.slow
def test_a_log_of_couriers_tells_their_wishes_and_a_better_incentive(tmp_path, capsys):
    example = load("logged_data")
    found = example.main(num_models=10, figure=tmp_path / "couriers.png")

    np.testing.assert_allclose(found.wishes, example.TRUE_WISHES, atol=0.1)
    assert np.all((found.bonuses >= 0) & (found.bonuses <= example.LARGEST_BONUS))
    assert found.true_costs["best bonus"] < found.true_costs["no bonus"] - 0.3
    assert found.true_costs["best bonus"] - found.optimum < 0.05
    for name, cost in found.costs.items():
        low, high = cost.interval(0.95)
        assert low < found.true_costs[name] < high, name
    assert f"{found.true_costs['best bonus']:.2f}" in capsys.readouterr().out
    assert (tmp_path / "couriers.png").stat().st_size > 10_000
