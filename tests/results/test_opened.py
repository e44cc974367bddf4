"""A folder is opened, read without code, and gone on with, with the same bits."""

import re

import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.outcome import Optimum
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.studies.goal_position import GoalPositionStudy
from bilevel_rl.studies.python_run import PythonRun
from bilevel_rl.studies.registry import open_study
from commands import call
from small_runs import small_algorithm, small_run


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder of a run from Python, of 100 iterations, and its result. Not to be changed."""
    path = tmp_path_factory.mktemp("runs") / "begun"
    return path, small_run(folder=path, num_iterations=100)


def test_a_folder_tells_what_came_out(begun):
    path, result = begun
    opened = brl.open_run(path)
    assert opened.num_iterations == 100
    assert opened.config["options"] == {"call": "bilevel_rl.run", "iterations": 100}
    np.testing.assert_array_equal(opened.x, result.x)
    np.testing.assert_array_equal(opened.policy(2), result.policy(2))
    assert "result" not in opened.arrays
    with pytest.raises(RunFolderError, match=r"problem=…, as in open_run\(path, problem=problem\)"):
        _ = opened.problem
    problem = small_algorithm().problem
    assert brl.open_run(path, problem=problem).problem is problem
    with pytest.raises(TypeError, match="problem"):
        brl.open_run(path, problem=small_algorithm())


def test_a_run_from_python_goes_on_with_the_same_bits_once_it_has_its_algorithm(tmp_path):
    small_run(folder=tmp_path / "parts", num_iterations=100)
    opened = brl.open_run(tmp_path / "parts")
    with pytest.raises(RunFolderError, match=r"begun in Python.*give algorithm"):
        opened.continue_(200)
    result = opened.continue_(200, small_algorithm(), progress=False)
    whole = small_run(folder=tmp_path / "whole", num_iterations=200)
    np.testing.assert_array_equal(result.x, whole.x)
    for name in ("metrics.csv", "result.npz", "config.json", "run.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(RunFolderError, match="has already done 200 iterations"):
        opened.continue_(150, small_algorithm(), progress=False)
    restored = opened.restore(small_algorithm())
    np.testing.assert_array_equal(restored.states.parameters, whole.states.parameters)


def test_before_the_end_x_is_that_of_the_metrics(begun, tmp_path):
    path, result = begun
    for file in ("config.json", "run.json", "metrics.csv"):
        (tmp_path / file).write_bytes((path / file).read_bytes())
    opened = brl.open_run(tmp_path)
    assert opened.result is None
    np.testing.assert_allclose(opened.x, result.x, rtol=1e-6)
    older = brl.RunResult.load(path / "result.npz")
    rows = older.metrics["num_iterations"] < 100
    brl.RunResult(older.x, None, {name: column[rows] for name, column in older.metrics.items()}, ()).save(
        tmp_path / "result.npz"
    )
    assert brl.open_run(tmp_path).result is None


def test_a_run_from_python_is_a_full_run_folder(begun):
    path, _ = begun
    folder = RunFolder.open(path)
    study = open_study(folder)
    assert study == PythonRun("bilevel_rl.run", 100)
    assert study.num_iterations == 100
    assert re.match(r"Φ \d\.\d+ → 0\.\d+ \(median of 3 seeds\); x0 = .*; not judged", study.summarize(folder))
    with pytest.raises(RunFolderError, match=r"begun by bilevel_rl\.run.*\.continue_\(100, algorithm\)"):
        study.main(folder)


@pytest.mark.slow
def test_commands_look_at_a_run_from_python_as_at_any_other(tmp_path):
    path, told = tmp_path / "runs" / "mine", {"step_sizes", "curves", "learning_curves", "residuals", "x"}
    small_run(folder=path, num_iterations=100)
    for words in (["plot", path], ["report", path], ["diagnose", path], ["list", path.parent]):
        code, out, err = call(*words)
        assert (code, err) == (None, "")
    assert "100 of 100" in out
    assert "Φ 1." in out
    assert {figure.stem for figure in (path / "figures").iterdir()} == told
    text = (path / "report.html").read_text()
    assert "brl.run(SingleLoopActorCritic(problem, …), key, num_iterations=100, num_seeds=3" in text
    assert "What x became" in text
    assert "What the follower does" not in text  # Which needs the problem.
    with pytest.raises(RunFolderError, match="give problem="):
        brl.open_run(path).write_report()
    opened = brl.open_run(path, problem=small_algorithm().problem)
    assert opened.write_report(optimum=Optimum(0.125)) == path / "report.html"
    text = (path / "report.html").read_text()
    assert "What the follower does" in text
    assert "0.125" in text
    assert brl.LearnedReward.load(path).card["problem"] == "mine"
    assert {figure.stem for figure in (path / "figures").iterdir()} == told | {"follower", "payments"}


@pytest.mark.slow
def test_an_experiment_is_rebuilt_and_goes_on_as_if_never_ended(tmp_path):
    def study(num_iterations):
        return GoalPositionStudy(
            size=3,
            target=(2, 0),
            initial_x=(0, 2),
            width=2.0,
            run=brl.studies.config.RunConfig(num_seeds=2, num_iterations=num_iterations, log_every=50),
        )

    for name, iterations in (("parts", 50), ("whole", 100)):
        folder = RunFolder(tmp_path / name)
        folder.write_config(study(iterations).to_json())
        study(iterations).main(folder, progress=False)
    opened = brl.open_run(tmp_path / "parts")
    assert opened.problem.mdp.num_states == 9
    assert opened.policy(1).shape == (9, 5)
    opened.continue_(100, progress=False)
    for name in ("metrics.csv", "result.npz", "config.json", "landscape.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
