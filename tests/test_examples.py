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
