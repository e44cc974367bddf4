"""The command line on a problem that the library has never seen: run, resume, look, compare, tune, solve."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.cli import arguments
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.parameters import RESERVED
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.registry import find_studies, open_study
from commands import call

SOURCE = '''
import jax.numpy as jnp, numpy as np
import bilevel_rl as brl

print("imported")

def problem(price: float = 1.0, entropy_weight: float | None = None) -> brl.BilevelProblem:
    """Places.

    Args:
        price: of elsewhere.
    """
    places = brl.TabularMDP.from_dense(np.stack([0.9 * np.eye(3) + 0.1 / 3] * 3), initial=[1, 0, 0], discount=0.8)
    likes = np.array([0.7, 1.0, 0.7])
    return brl.BilevelProblem(
        places,
        lambda x, s, a: jnp.asarray(likes)[s] + x["subsidy"] * (s == 2),
        brl.OccupancyCost(lambda x, s, a: jnp.where(s == 2, x["subsidy"], price)),
        {"subsidy": 0.0},
        project=lambda x: {"subsidy": jnp.clip(x["subsidy"], 0.0, 2.0)},
        entropy_weight=entropy_weight,
    )
'''
BROKEN = "raise RuntimeError('this was executed')\n"
FEW = ["--num-seeds", "2", "--num-iterations", "60", "--log-every", "20", "--no-progress"]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "my_tolls.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Source, folder and output of a finished run. To be copied, not to be changed."""
    path = tmp_path_factory.mktemp("own")
    source, folder = path / "my_tolls.py", path / "runs" / "finished"
    source.write_text(SOURCE)
    code, out, err = call("run", f"{source}:problem", "--price", "2", *FEW, "--folder", folder)
    assert (code, err) == (
        None,
        "warning: untuned takes some 60,000 iterations on 3 states and 3 actions, got --num-iterations 60\n",
    )
    return source, folder, out


@pytest.fixture
def broken(finished, tmp_path):
    """A copy of the folder, whose source file raises as soon as it is executed."""
    source, folder, _ = finished
    source.write_text(BROKEN)
    yield Path(shutil.copytree(folder.parent, tmp_path / "runs")) / "finished"
    source.write_text(SOURCE)


def test_a_run_keeps_what_was_run(finished):
    source, folder, _ = finished
    config = RunFolder(folder).config()
    assert config["experiment"] == "own-problem"
    known = config["options"]["problem"]
    assert (known["reference"], known["file"]) == (f"{source}:problem", str(source))
    assert known["arguments"] == {"price": 2.0, "entropy_weight": None}
    assert (folder / "source" / "my_tolls.py").read_text() == SOURCE
    drawn = {"follower", "learning_curves", "payments", "residuals", "step_sizes", "x"}
    assert {figure.stem for figure in (folder / "figures").iterdir()} == drawn
    assert f"bilevel-rl run {source}:problem --price 2" in (folder / "report.html").read_text()
    assert brl.LearnedReward.load(folder).card["problem"] == "my_tolls.py:problem"


def test_the_outcome_is_one_sentence_with_exact_numbers(finished):
    _, folder, out = finished
    study = open_study(RunFolder(folder))
    problem = study.problem.problem()
    known = brl.exact.solve(problem, entropy_weight=[0.1, 0.03, 0.01])
    before = brl.exact.hyper_objective(problem, {"subsidy": 0.0}, entropy_weight=0.01)
    ends = [row["upper_objective"] for row in RunFolder(folder).read_rows("metrics")[-2:]]
    x = np.median(RunFolder(folder).read_arrays("outcome")["final_x"])
    assert (
        f"Φ {before:.5g} → {np.median(ends):.5g} (median of 2 seeds); optimum {known.objective:.5g} (found by exact "
        f"descent, converged); x = {x:.3g}; f of 4 fresh followers "
    ) in out
    assert "; not judged (2 of 2 seeds): 4 log points are too few" in out
    fresh = brl.followers.read_judgement(RunFolder(folder))
    assert fresh.num_transitions == 60 * 16
    assert fresh.sentence() in out
    assert "Does the reward teach others?" in (folder / "report.html").read_text()


def test_looking_at_a_run_executes_nothing_of_it(broken):
    before = {path: path.stat().st_mtime_ns for path in broken.glob("*.*")}
    for words in (["list", broken.parent], ["plot", broken], ["diagnose", broken], ["runs", broken.parent]):
        code, out, err = call(*words)
        assert (code, err) == (None, "")
        assert "executed" not in out
    code, out, _ = call("list", broken.parent, "--json")
    (listed,) = json.loads(out)
    assert listed["is_finished"]
    assert listed["outcome"].startswith("Φ 1.9467 → ")
    assert {path: path.stat().st_mtime_ns for path in broken.glob("*.*")} == before


def test_resume_executes_it_and_says_where_it_went(broken, finished):
    code, _, err = call("resume", broken, "--no-progress")
    assert (code, err.splitlines()[-1]) == (2, f"error: {finished[0]}, line 1: RuntimeError: this was executed")
    finished[0].rename(finished[0].with_suffix(".txt"))
    code, _, err = call("resume", broken)
    finished[0].with_suffix(".txt").rename(finished[0])
    copy = broken / "source" / "my_tolls.py"
    assert (code, err) == (
        2,
        f"error: {finished[0]} has gone, from which {broken} was begun; its copy is {copy}: put it back\n",
    )


def test_resume_finishes_what_was_cut_off_and_refuses_another_problem(finished, tmp_path):
    source, folder, _ = finished
    cut = Path(shutil.copytree(folder, tmp_path / "cut"))
    (cut / "outcome.npz").unlink()
    shutil.rmtree(cut / "checkpoints" / "60")
    source.write_text(SOURCE.replace("0.7, 1.0, 0.7", "0.7, 1.0, 0.8"))
    code, _, err = call("resume", cut, "--no-progress")
    assert code == 2
    assert f"warning: {source} has changed since {cut} was begun" in err
    assert "holds another run" in err
    source.write_text(f"# A comment changes nothing.\n{SOURCE}")
    code, out, _ = call("resume", cut, "--no-progress")
    source.write_text(SOURCE)
    assert code is None
    assert (cut / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    assert open_study(RunFolder(folder)).summarize(RunFolder(folder)) in out


@pytest.mark.long
def test_a_killed_run_ends_with_the_same_bits(finished, tmp_path):
    source, _, _ = finished
    options = ["--price", "2", "--num-seeds", "2", "--num-iterations", "400000", "--log-every", "20"]
    options += ["--fresh-followers", "0"]
    command = [sys.executable, "-m", "bilevel_rl", "run", str(source), *options, "--checkpoint-every", "0"]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, "--folder", str(killed), "--no-progress"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list((killed / "checkpoints").glob("[1-9]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = json.loads((killed / "config.json").read_text())
    done = max(int(row["num_iterations"]) for row in RunFolder(killed).read_rows("metrics"))
    config["options"]["run"]["num_iterations"] = length = 20 * (done // 20 + 10)
    (killed / "config.json").write_text(json.dumps(config))
    assert call("resume", killed, "--no-progress")[0] is None
    whole = tmp_path / "whole"
    options[options.index("400000")] = str(length)
    assert call("run", source, *options, "--checkpoint-every", "0", "--no-progress", "--folder", whole)[0] is None
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_json_is_all_that_is_printed(source, tmp_path):
    code, out, err = call(
        "run", source, *FEW, "--no-find-optimum", "--fresh-followers", "0", "--folder", tmp_path / "run", "--json"
    )
    assert code is None
    assert "imported" in err
    outcome = json.loads(out)
    assert outcome["experiment"] == "own-problem"
    assert np.shape(outcome["outcome"]["x"]) == (2, 1)
    assert outcome["outcome"]["optimal_objective"] is None
    assert outcome["outcome"]["fresh_followers"] is None
    code, out, _ = call("solve", source, "--folder", tmp_path / "solved", "--json")
    solved = json.loads(out)["outcome"]
    assert solved["optimal_objective"] < solved["initial_objective"]
    assert solved["residual"] < 1e-7
    assert list(solved["x"]) == ["x"]


def test_parameters_that_are_called_like_options_are_told_apart(source):
    words = ["--problem-entropy-weight", "0.05", "--entropy-weight", "0.2", "--method", "single-loop", "--critic", "1"]
    study = arguments.parse(["run", str(source), *words]).study
    assert study.problem.arguments == {"price": 1.0, "entropy_weight": 0.05}
    assert study.schedule.entropy_weight == 0.2
    # The follower's own weight is kept.
    step_sizes = study.algorithm().step_sizes
    assert [float(step_sizes(k).entropy) for k in (0, 50_000)] == pytest.approx([0.05, 0.05])


def names_in(value):
    """Names of the fields of a dataclass, and of those within it."""
    for field in dataclasses.fields(value):
        yield field.name
        if dataclasses.is_dataclass(getattr(value, field.name, None)):
            yield from names_in(getattr(value, field.name))


def test_all_options_are_reserved(source):
    reference = ReferencedProblem.of(str(source))
    own = {kind.command: kind for kind in find_studies().values() if kind.takes_reference}
    assert set(own) == set(arguments.OF_STUDIES)
    commands = [command(own[name].of(reference)) for name, command in arguments.OF_STUDIES.items()]
    names = {name for command in commands for name in names_in(command)}
    assert names - {field.name for field in dataclasses.fields(reference)} == RESERVED - {"name"}


@pytest.mark.slow
def test_methods_are_compared_and_tuned(source, tmp_path):
    few = ["--budget", "6400", "--trials", "2", "--no-progress", "--jobs", "1"]
    words = ["--price", "2", "--methods", "untuned", "exact", "--num-seeds", "2", "--tuning-seeds", "1", *few]
    code, out, err = call("compare", source, *words, "--num-log-points", "2", "--folder", tmp_path / "compared")
    assert code is None, err
    table = (tmp_path / "compared" / "table.md").read_text()
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["untuned", "exact"]
    task = RunFolder(tmp_path / "compared" / "final" / "untuned" / "seed-0").config()["problem"]
    assert task["sha256"] == RunFolder(tmp_path / "compared").config()["options"]["problem"]["sha256"]
    assert (task["kind"], task["arguments"]["price"]) == ("ReferencedProblem", 2.0)

    code, out, err = call(
        "tune", source, *few, "--num-seeds", "1", "--batch-size", "2", "--folder", tmp_path / "tuned", "--json"
    )
    assert code is None, err
    command = json.loads(out)["outcome"]["command"].split()
    assert command[:4] == ["bilevel-rl", "run", f"{source}:problem", "--method"]
    code, _, err = call(
        *command[1:],
        "--num-seeds",
        "1",
        "--no-progress",
        "--no-find-optimum",
        "--fresh-followers",
        "0",
        "--folder",
        tmp_path / "best",
    )
    assert code is None, err


def test_methods_that_cannot_solve_it_are_left_out_unless_they_are_named(tmp_path):
    path = tmp_path / "visits.py"
    path.write_text(
        SOURCE.replace(
            'brl.OccupancyCost(lambda x, s, a: jnp.where(s == 2, x["subsidy"], price))',
            "brl.OccupancyFunctional(lambda x, d: d[1].sum() ** 2)",
        )
    )
    study = find_studies()["compare-own-problem"].of(ReferencedProblem.of(str(path)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        able = study.settled().comparison.methods
    said = {str(warning.message).split()[0]: str(warning.message) for warning in caught}
    assert "which ModelBased does not" in said["model-based"]
    assert {"single-loop", "exact"} <= set(able)
    assert sorted([*said, *able]) == sorted(study.comparison.methods)
    named = dataclasses.replace(study.comparison, methods=("model-based", "exact"))
    named = dataclasses.replace(study, comparison=named).settled()
    assert named.comparison.methods == ("model-based", "exact")
    with pytest.raises(ValueError, match="which ModelBased does not"):
        named.check()
