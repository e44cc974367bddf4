"""The search of parameters: the same trials whatever happens, an honest protocol, and a command that runs."""

import contextlib
import dataclasses
import io
import json
import shlex
import shutil
import warnings
from pathlib import Path

import equinox as eqx
import numpy as np
import optuna
import pytest

from bilevel_rl import ExactDescent, Followers
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.cli import main
from bilevel_rl.comparison import search, tasks
from bilevel_rl.comparison.methods import METHODS
from bilevel_rl.comparison.outcomes import Trials
from bilevel_rl.comparison.tasks import Task
from bilevel_rl.comparison.tune import TuneGoalPlacement, TuneGoalPosition, TuneWindDesign, TuningConfig
from bilevel_rl.problems import GoalPosition
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult, run
from bilevel_rl.studies import reference, wind_design
from bilevel_rl.studies.goal_position import GoalPositionStudy
from bilevel_rl.studies.wind_design import WindDesignStudy, WorkedWindDesign
from comparison.small_comparison import PROBLEM

METHOD = METHODS["nested-loop"]
FLAGS = ["goal-position", "--size=3", "--target", "2", "0", "--initial-x", "0", "2", "--width=2"]
FLAGS += ["--installation-cost=0.1", "--budget=6400", "--trials=5", "--batch-size=2", "--num-seeds=1"]
CONFIG = TuneGoalPosition(PROBLEM, TuningConfig(budget=6_400.0, trials=5, batch_size=2, num_seeds=1))
WIND = WorkedWindDesign(size=3, goal=(0, 2), target=(2, 0))
RESULTS = ("protocol.json", "best.md", "trials.md")


# The search alone, on a score that is a formula.


def formula(parameters):
    """Lowest at ζ = 0.1, w = 1 and T = 20; infinite for ζ > 3."""
    if parameters["upper"] > 3:
        return np.inf
    return sum(
        np.log(parameters[n] / best) ** 2 for n, best in (("upper", 0.1), ("penalty", 1), ("num_inner_steps", 20))
    )


class Killed(BaseException):
    pass


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Searches in a file; returns the parameters of all trials. Dies before a proposal or a score if told to."""
    monkeypatch.setattr(search, "run_tasks", lambda tasks, what, progress: None)

    def find(name="study.log", *, num_trials=26, batch_size=4, seed=0, dies_proposing=None, dies_scoring=None):
        scored = []

        def task(number, parameters):
            if number == dies_proposing:
                raise Killed
            return Task(tmp_path, PROBLEM, METHOD, parameters, (0,), 1, 1, 1, 0, 0.01)

        def score(task):
            if len(scored) == dies_scoring:
                raise Killed
            scored.append(task)
            return formula(task.parameters)

        monkeypatch.setattr(Task, "score", score)
        options = {"num_trials": num_trials, "batch_size": batch_size, "seed": seed, "progress": False}
        return [task.parameters for task in search.search(tmp_path / name, METHOD, task, **options)]

    return find


def test_a_killed_search_goes_on_to_the_same_trials(find, tmp_path):
    uninterrupted = find("uninterrupted")
    for death in ({"dies_proposing": 2}, {"dies_scoring": 3}, {"dies_proposing": 17}, {"dies_scoring": 22}):
        with pytest.raises(Killed):
            find("killed", **death)
    with (tmp_path / "killed").open("a") as file:
        file.write('{"op_code":6,"torn')
    assert find("killed") == uninterrupted
    assert find("killed") == uninterrupted, "nothing is left to do"
    assert find("other", seed=1, num_trials=4) != uninterrupted[:4]


def test_later_trials_are_better_than_the_random_ones_at_first(find):
    scores = np.array([[formula(p) for p in find(str(seed), seed=seed)] for seed in range(4)])
    is_finite = np.isfinite(scores)
    assert (~is_finite[:, :10]).mean() > (~is_finite[:, 14:]).mean(), "what diverged is avoided"
    assert np.median(scores[:, 14:]) < np.median(scores[:, :10])


def test_optuna_reads_the_study(find, tmp_path):
    found = find(num_trials=12)
    study = optuna.load_study(
        study_name="tuning",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))),
    )
    assert [trial.params for trial in study.trials] == found
    assert [trial.value for trial in study.trials] == [formula(parameters) for parameters in found]
    assert study.best_value == min(formula(parameters) for parameters in found) < np.inf
    for parameters in found:
        assert set(parameters) == {*METHOD.ranges, *METHOD.choices}
        for name, (low, high) in METHOD.ranges.items():
            assert low <= parameters[name] <= high
            assert float(f"{parameters[name]:.4g}") == parameters[name]
        for name, values in METHOD.choices.items():
            assert parameters[name] in values


# The command, from end to end.


def call(*arguments):
    code = None
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(action="ignore", category=ScheduleWarning),  # a search crosses all borders
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory):
    """Folder and output. To be copied, not to be changed."""
    path = tmp_path_factory.mktemp("search") / "run"
    code, out, err = call("tune", *FLAGS, "--folder", path, "--jobs=1", "--no-progress")
    assert (code, err) == (None, "")
    return RunFolder(path), out


@pytest.fixture
def copied(finished_search, tmp_path):
    return RunFolder(shutil.copytree(finished_search[0].path, tmp_path / "copy"))


@pytest.fixture
def runs(monkeypatch):
    """Folders of the tasks that are run."""
    folders = []

    def note(*arguments, **options):
        folders.append(options["folder"].path.name)
        return run(*arguments, **options)

    monkeypatch.setattr(tasks, "run", note)
    return folders


def test_the_best_is_the_lowest_and_all_transitions_are_counted(finished_search):
    folder, out = finished_search
    scores = []
    for number in range(5):
        rows = RunFolder(folder.path / f"trials/trial-{number}").read_rows("metrics")
        assert [row["num_transitions"] for row in rows] == [0, 6_400]
        scores.append(rows[-1]["upper_objective"])
    protocol = json.loads((folder.path / "protocol.json").read_text())
    record, best = protocol["result"], int(np.argmin(scores))
    assert [trial["score"] for trial in record["trials"]] == scores
    assert record["best"] == min(scores)
    assert record["chosen"] == record["trials"][best]["parameters"]
    assert len({json.dumps(trial["parameters"]) for trial in record["trials"]}) == 5
    assert protocol["tuning"] == dataclasses.asdict(CONFIG.tuning)
    optimum = PROBLEM.optimum(PROBLEM.problem(), 0.01).objective
    assert record["optimal_objective"] == optimum
    assert folder.read_arrays("tuning")["transitions"].tolist() == [6_400] * 5
    for text in (
        f"best of 5 trials: trial {best}, final Φ {min(scores):.4f}, Φ − Φ* {min(scores) - optimum:.4f}",
        "0 diverged; 32,000 transitions spent",
        f"| upper | {record['chosen']['upper']:g} | 0.001 … 10 |",
        record["command"],
    ):
        assert text in out
    ranked = [
        int(line.split(" | ")[0].strip("| ")) for line in (folder.path / "trials.md").read_text().splitlines()[2:]
    ]
    assert ranked == np.argsort(scores).tolist()


def test_the_command_runs_the_algorithm_that_was_found(finished_search, tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: configs.append(study))
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    record = json.loads((finished_search[0].path / "protocol.json").read_text())["result"]
    name, *words = shlex.split(record["command"])
    assert name == "bilevel-rl"
    assert call(*words, "--folder", tmp_path / "run")[0] is None
    (config,) = configs
    given = {option.name: getattr(config, option.name) for option in dataclasses.fields(GoalPosition)}
    assert GoalPosition(**given) == PROBLEM
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        algorithm = config.algorithm()
    found = METHODS["single-loop"].build(PROBLEM.problem(), record["chosen"], lambda cost: 6_400 // cost)
    assert eqx.tree_equal(algorithm.step_sizes, found.step_sizes)
    assert algorithm.followers == found.followers
    assert config.run.num_iterations == 200
    assert config.run.evaluation_entropy_weight == 0.01


def test_resume_runs_what_is_missing_and_ends_with_the_same_bytes(finished_search, copied, runs):
    lines = (copied.path / "study.log").read_bytes().splitlines(keepends=True)
    (copied.path / "study.log").write_bytes(
        b"".join(lines[:-3]) + lines[-3][:20]
    )  # trial 3 has no score, trial 4 no parameters
    shutil.rmtree(copied.path / "trials/trial-3")
    shutil.rmtree(copied.path / "trials/trial-4")
    for name in (*RESULTS, "tuning.npz"):
        (copied.path / name).unlink()
    code, out, err = call("list", copied.path.parent)
    assert "unfinished: bilevel-rl resume" in " ".join(out.split())
    code, out, err = call("resume", copied.path, "--jobs=1", "--no-progress")
    assert (code, err) == (None, "")
    assert runs == ["trial-3", "trial-4"]
    for name in RESULTS:
        assert (copied.path / name).read_bytes() == (finished_search[0].path / name).read_bytes(), name


def test_plot_and_list_know_the_folder(finished_search, copied, runs):
    for path in [*copied.figures().iterdir(), copied.path / "trials.md"]:
        path.unlink()
    shutil.rmtree(copied.path / "trials")
    data = copied.read_arrays("tuning")
    data["objectives"][0] = np.inf  # as if its seed had diverged
    copied.write_arrays("tuning", **data)
    assert call("plot", copied.path)[0] is None
    assert runs == []
    figures = {f"{name}.png" for name in ("tuning", "parameters")}
    assert {path.name for path in copied.figures().iterdir()} == figures
    drawn, before = ((folder.path / "trials.md").read_text().splitlines() for folder in (copied, finished_search[0]))
    assert drawn[:-1] == [line for line in before if not line.startswith("| 0 |")]
    assert drawn[-1].startswith("| 0 | diverged | – |")
    listed = " ".join(call("list", copied.path.parent)[1].split())
    assert "best of 5 trials" in listed
    assert "1 diverged; 32,000 transitions spent" in listed


def test_what_diverged_is_never_best_and_gaps_end_where_rounding_begins():
    trials = Trials(np.array([np.inf, 3.0, 2.0, 2.0]), np.full(4, 8), 2.0, {})
    assert trials.best == 2
    np.testing.assert_array_equal(trials.gaps, [np.inf, 1.0, 1e-6, 1e-6])


def test_wind_design_is_tuned_as_its_experiment_runs_it():
    config = TuneWindDesign(WIND)
    config.check()
    parameters = METHODS["single-loop"].draw(0, 0)
    found, ours = (
        config.trial(0, parameters, Path()).algorithm(),
        WindDesignStudy(**dataclasses.asdict(WIND)).algorithm(),
    )
    assert found.followers == ours.followers == Followers(16)
    assert found.upper_steps.averaging == ours.upper_steps.averaging == 3.0
    with pytest.raises(ValueError, match="which PBRL does not follow"):
        dataclasses.replace(config, tuning=TuningConfig(method="pbrl")).check()


def test_the_known_optimum_of_wind_design_is_the_end_of_exact_descent(monkeypatch):
    problem = WIND.problem()
    metrics = {"upper_objective": np.array([0.5, 0.2]), "hyper_gradient_norm": np.array([1.0, 1e-4])}
    result, asked = RunResult(np.stack([problem.initial_x + 1]), None, metrics, ()), []
    monkeypatch.setattr(reference, "run", lambda *arguments, **settings: asked.append((arguments, settings)) or result)
    optimum = WIND.optimum(problem, 0.3)
    (((algorithm, _, num_seeds, num_iterations), settings),) = asked
    assert algorithm == ExactDescent(problem, StepSizes.constant_entropy(upper=0.1, entropy=0.3))
    assert (num_seeds, num_iterations) == (1, wind_design.DESCENT["num_iterations"])
    assert settings["evaluation_entropy_weight"] == 0.3
    np.testing.assert_array_equal(optimum.x, problem.initial_x + 1)
    assert (optimum.objective, optimum.residual) == (0.2, 1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "simplex"}, "--method does not know simplex; it knows single-loop, single-loop-coupled"),
        ({"budget": 0.5}, "--budget must be a positive number of transitions, got 0.5"),
        ({"budget": 31.0}, "does not pay for one iteration of single-loop, which takes 32 transitions"),
        ({"method": "nested-loop", "budget": 2_559.0}, "of nested-loop, which takes 2,560 transitions"),
        ({"trials": 0}, "--trials must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"num_seeds": -1}, "--num-seeds must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"evaluation_entropy_weight": 0.0}, "--evaluation-entropy-weight must be finite and positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, tuning=dataclasses.replace(CONFIG.tuning, **settings)).check()
    dataclasses.replace(CONFIG, tuning=TuningConfig(method="nested-loop", budget=2_560.0)).check()
    TuneGoalPlacement().check()


def test_a_missing_package_is_said_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    code, out, err = call("tune", *FLAGS, "--folder", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "needs the package optuna, which is not installed: pip install 'bilevel-rl[tune]'" in err
    assert not list(tmp_path.iterdir())
