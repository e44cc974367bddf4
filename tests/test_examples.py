"""Every example runs, and shows what its docstring says, with fewer iterations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.references import ReferencedProblem
from commands import call

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.slow
def test_a_toll_undoes_braess_paradox(tmp_path, capsys):
    before, bridge, tolled = load("braess_tolls").main(tmp_path / "braess.png").values()

    assert before.minutes == pytest.approx(1.5, abs=1e-3)
    assert bridge.minutes > 1.9  # 2 where drivers miss nothing
    assert tolled.minutes == pytest.approx(1.5, abs=1e-3)
    assert tolled.tolls[:4].tolist() == [0, 0, 0, 0]
    assert "with the bridge: 1.9" in capsys.readouterr().out
    assert (tmp_path / "braess.png").stat().st_size > 10_000


OWN = {
    "road_tolls.py": ("toll at 8", "learning_curves"),
    "cliff_bonuses.py": ("x at (0, 0)", "learning_curves"),
    "demonstrations.py": ("cars", "learning_curves"),
    "courier_bonuses.py:Couriers": ("x at campus", "learning_curves"),
    "heated_room.py": ("comfort", "sampled_curves"),
}
"""Examples of one's own problem: the name of the first entry of x, and a figure."""


@pytest.mark.parametrize("reference", OWN)
def test_own_problems_are_short_and_are_built(reference):
    file = EXAMPLES / reference.partition(":")[0]
    code = [line for line in file.read_text().partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) <= 60
    problem = ReferencedProblem.of(str(EXAMPLES / reference)).problem()
    assert problem.names.question.endswith("?")


@pytest.mark.long
@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("reference", OWN)
def test_own_problems_run_and_report(reference, tmp_path):
    folder = tmp_path / "run"
    seeds = [] if reference.startswith("heated") else ["--num-seeds", "2"]
    code, out, err = call(
        *("run", EXAMPLES / reference, "--folder", folder, "--num-iterations", "40", "--log-every", "20"),
        *("--no-find-optimum", "--fresh-followers", "0", "--no-progress", *seeds),
    )
    assert code is None, err
    label, figure = OWN[reference]
    assert f"{label} = " in out
    assert (folder / "figures" / f"{figure}.png").is_file()
    assert label in (folder / "report.html").read_text()
    assert (folder / "confidence.json").is_file() == reference.startswith("courier")


def test_tolls_keep_drivers_off_the_quiet_streets():
    example = load("road_tolls")
    problem = example.problem()
    by_hand = brl.exact.hyper_objective(problem, [3.0] * 8, entropy_weight=example.VARIETY)
    free = brl.exact.hyper_objective(problem, problem.initial_x, entropy_weight=example.VARIETY)
    assert by_hand < 0.15 * free
    # A town to which a toll is as bad as the noise that it stops asks for none everywhere.
    dear = example.problem(burden=5.0)
    assert brl.exact.hyper_objective(dear, [3.0] * 8, entropy_weight=example.VARIETY) > by_hand
