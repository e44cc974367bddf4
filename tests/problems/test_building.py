"""The building: its physics by hand, its known optimum, and runs of the study."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.cli import main
from bilevel_rl.exact import lqr
from bilevel_rl.problems import BuildingControl
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.building_control import BuildingControlStudy
from bilevel_rl.studies.config import RunConfig

WEIGHT = {"entropy_weight": 0.1}


@pytest.fixture(scope="module")
def building():
    return BuildingControl()


@pytest.fixture(scope="module")
def optimum(building):
    return building.optimum(building.problem(), **WEIGHT)


def test_the_temperatures_after_a_step_by_hand(building):
    """Zone 1 of the north at 1 K, all others at 0, half of the insulation and all of the air in the north."""
    model = building.linear_quadratic().at(jnp.array([0.5, 0.0, 1.0, 0.0]))
    after = np.asarray(model.transition) @ np.array([0.0, 1.0, 0.0, 0.0, 0.2, 0.4, 1.0])
    outer = 0.5 / 3
    kilowatts = [
        outer * -15 + 0.1 * 1 + 0.8 * 1 + 0.2 * 5,
        outer * -16 - 2 * 0.1 * 1 - 0.8 * 1,
        0.35 * -15 + 0.4 * 5 / 2,
        0.35 * -15 + 0.1 * 1,
    ]
    np.testing.assert_allclose(after, np.array([0.0, 1.0, 0.0, 0.0]) + np.array(kilowatts) / 4, atol=1e-6)


def test_reward_and_cost_by_hand(building):
    problem = building.problem()
    x, state, action = np.array([0.5, 0.25, 1.0, 0.5]), jnp.array([1.0, -2.0, 0.0, 3.0]), jnp.array([0.5, -1.0])
    assert problem.reward(x, state, action) == pytest.approx(-0.05 * 14 - 0.05 * 1.25, rel=1e-6)
    assert problem.upper.cost(x, state, action) == pytest.approx(0.05 * 14 / 4 + 1.25, rel=1e-6)
    assert problem.upper.regularizer(x) == pytest.approx(0.75 + 0.5 * 1.125, rel=1e-6)
    np.testing.assert_allclose(problem.environment.observe(state), state / 5)


def test_the_gradient_is_the_central_difference_and_comes_through_the_dynamics(building):
    problem, x = building.linear_quadratic(), np.array([0.3, 0.2, 0.4, 0.6])
    found = lqr.hyper_gradient(problem, x, **WEIGHT)
    moves = 1e-5 * np.eye(4)
    ends = [[lqr.hyper_objective(problem, x + sign * move, **WEIGHT) for sign in (1, -1)] for move in moves]
    expected = np.array([(up - down) / 2e-5 for up, down in ends])
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
    prices = jax.grad(problem.regularizer)(jnp.asarray(x))
    assert np.all(prices > 0)
    assert np.all(found < -prices)


def test_the_optimum_is_interior_and_found_from_elsewhere(building, optimum):
    assert np.all((optimum.x > 0.4) & (optimum.x < 0.9))
    problem = building.linear_quadratic()
    np.testing.assert_allclose(lqr.hyper_gradient(problem, optimum.x, **WEIGHT), 0.0, atol=1e-6)
    for start in ([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]):
        other = lqr.solve(eqx.tree_at(lambda problem: problem.initial_x, problem, np.array(start)), **WEIGHT)
        np.testing.assert_allclose(other.x, optimum.x, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": 0.0}, "effort must be finite and positive"),
        ({"energy": -1.0}, "energy must be finite and not negative"),
        ({"discount": 1.0}, "discount must lie in"),
    ],
)
def test_what_is_no_building_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        brl.problems.building_control(**options)


def test_the_study_measures_and_draws(tmp_path, optimum):
    study = BuildingControlStudy(run=RunConfig(num_seeds=2, evaluation_entropy_weight=0.1))
    problem, folder = study.linear_quadratic(), RunFolder(tmp_path)
    paths = np.array([[problem.initial_x] * 2, [optimum.x, np.full(4, 0.5)]])  # log points, seeds
    rows = {"num_transitions": np.repeat([0, 640], 2), **{f"x{i}": paths[..., i].ravel() for i in range(4)}}
    measured = study.measure_rows(rows)
    worse = lqr.hyper_objective(problem, paths[1, 1], **WEIGHT)
    np.testing.assert_allclose(measured["objectives"][1], [optimum.objective, worse])
    np.testing.assert_allclose(measured["end means"], measured["optimum means"])
    folder.write_arrays("building", **measured)
    share = 100 * (worse / optimum.objective - 1)
    assert study.summarize(folder) == (
        f"Φ = 12.301 at the start, 4.2046 at the optimum; the seeds end at most {share:.2f} % above it, median "
        f"{share / 2:.2f} % of 2 seeds"
    )
    study.draw(folder)
    assert (tmp_path / "figures" / "building_control.png").stat().st_size > 10_000


@pytest.mark.long
def test_the_command_runs_and_plots(tmp_path, capsys):
    path = tmp_path / "run"
    options = ["--num-seeds", "2", "--num-iterations", "20", "--log-every", "10", "--num-chains", "4"]
    main(["run", "building-control", "--folder", str(path), "--no-progress", *options])
    assert "Φ = 12.301 at the start, 4.2046 at the optimum" in capsys.readouterr().out
    figures = {figure.stem for figure in (path / "figures").glob("*.png")}
    assert {"building_control", "sampled_curves", "step_sizes", "x"} == figures
    (path / "figures" / "building_control.png").unlink()
    main(["plot", str(path)])
    assert (path / "figures" / "building_control.png").exists()


@pytest.mark.long
def test_every_seed_comes_to_the_optimum(optimum):
    study = BuildingControlStudy()
    result = brl.run(study.algorithm(), jax.random.key(7), 8, 10_000, log_every=10_000, progress=False)
    problem = study.linear_quadratic()
    objectives = [lqr.hyper_objective(problem, x, **WEIGHT) for x in np.asarray(result.x)]
    assert max(objectives) < 1.05 * optimum.objective
