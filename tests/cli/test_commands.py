"""What surrounds the runs: starter files, sizes and pruning, suggestions, versions, clean pipes."""

import json
import os
import subprocess
import sys

import pytest

import bilevel_rl as brl
from bilevel_rl.cli import looking
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.goal_position import GoalPositionStudy
from commands import call

SHORT = {
    "tables": ["--num-seeds", "1", "--no-find-optimum", "--fresh-followers", "0"],
    "log": ["--num-seeds", "1", "--no-find-optimum", "--fresh-followers", "0"],
    "jax": ["--num-seeds", "1", "--num-chains", "4", "--width", "8"],
    "gymnasium": ["--num-chains", "2", "--width", "8"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param("tables"), *(pytest.param(k, marks=pytest.mark.long) for k in ("log", "jax", "gymnasium"))]
)
def test_starter_files_run_as_they_are(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("init", "mine", "--kind", kind)
    assert (code, out) == (None, "mine.py: run it with `bilevel-rl run mine.py`\n")
    text = (tmp_path / "mine.py").read_text()
    assert len(text.splitlines()) <= 60
    assert "bilevel-rl run mine.py" in text
    assert "my_problem" not in text
    few = ["--num-iterations", "40", "--log-every", "20", "--no-progress", "--folder", "run"]
    code, out, err = call("run", "mine.py", *SHORT[kind], *few)
    assert code is None, err
    assert RunFolder("run").read_rows("metrics")[-1]["num_iterations"] == 40
    if kind in ("jax", "gymnasium"):
        assert "has no tables: followers are networks of width 8" in err
        assert "f(x, π) in the first and last log interval" in out


def test_a_starter_file_overwrites_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("mine")
    assert call("init", path) == (2, "", f"error: {path} exists, and is not overwritten; name another file\n")
    assert path.read_text() == "mine"
    assert "must be letters" in call("init", tmp_path / "my-tolls")[2]


def test_what_was_meant():
    assert call("rnu")[::2] == (2, "error: there is no command 'rnu'; did you mean run?\n")
    code, _, err = call("run", "goal-positon")
    assert code == 2
    assert "there is no experiment 'goal-positon'; did you mean goal-position" in err
    assert "path/to/file.py:name" in err


def test_versions():
    assert call("--version") == (None, f"bilevel-rl {brl.__version__}\n", "")
    assert brl.__version__ == "0.1.0"


def test_brackets_are_no_markup(tmp_path, monkeypatch):
    monkeypatch.setattr(GoalPositionStudy, "__doc__", "What [bold]nobody[/bold] eats (extra [lm]).")
    assert "What [bold]nobody[/bold] eats (extra [lm])." in call("list", tmp_path)[1]


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """One that is finished, and one that is not; 1,000 bytes of a checkpoint each."""
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done")
    for name, done in (("done", 60_000), ("cut", 2_000)):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.write_config(GoalPositionStudy().to_json())
        folder.append_rows("metrics", [{"seed": 0, "num_iterations": done}])
        (folder.path / "checkpoints" / str(done)).mkdir(parents=True)
        (folder.path / "checkpoints" / str(done) / "states").write_bytes(bytes(1_000))
    return tmp_path / "runs"


def test_checkpoints_of_finished_runs_are_removed_when_that_is_confirmed(two_runs):
    def states(*words):
        code, out, _ = call("runs", two_runs, *words, "--json")
        assert code is None
        return {entry["run"]: (entry["state"], entry["bytes_of_checkpoints"]) for entry in json.loads(out)}

    assert states() == {"cut": ("unfinished", 1_000), "done": ("finished", 1_000)}
    assert states("--prune") == {"cut": ("unfinished", 1_000), "done": ("would be pruned", 1_000)}
    assert states("--prune", "--yes")["done"] == ("pruned", 1_000)
    assert states() == {"cut": ("unfinished", 1_000), "done": ("pruned", 0)}
    assert RunFolder(two_runs / "done").read_rows("metrics")[0]["num_iterations"] == 60_000
    code, _, err = call("resume", two_runs / "done")
    assert code == 2
    assert "is finished and was pruned" in err
    assert "--yes is for --prune" in call("runs", two_runs, "--yes")[2]


def test_sizes_are_readable(two_runs):
    assert [looking.shown_size(size) for size in (0, 999, 1_000, 2_345_678, 3e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2.35 MB",
        "3 GB",
    ]
    code, out, _ = call("runs", two_runs, "--prune")
    assert code is None
    assert "1 kB of checkpoints can be removed: add --yes" in out


@pytest.mark.slow
def test_pipes_and_no_colour_are_clean(two_runs):
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "bilevel_rl"]
    for words in (["list", two_runs], ["runs", two_runs], ["--version"], ["run", "goal-positon"], ["--help"]):
        done = subprocess.run(
            [*command, *map(str, words)], capture_output=True, text=True, env=environment, timeout=200
        )
        assert "\x1b" not in done.stdout + done.stderr
    closed = subprocess.run(f"{sys.executable} -m bilevel_rl list | true", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
