"""The command line: what it writes, what it draws again, and that it refuses bad input before anything is computed."""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import threading
import warnings
from pathlib import Path

import docstring_parser
import jax
import numpy as np
import pytest

from bilevel_rl import Followers, RunResult, StepSizes, exact, problems, run, studies
from bilevel_rl.runs import lock
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import ablations, four_rooms, reward_learning
from bilevel_rl.studies.ablations import Ablations
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.entropy_schedules import EntropySchedules
from bilevel_rl.studies.four_rooms import FourRooms
from bilevel_rl.studies.goal_placement import GoalPlacementStudy
from bilevel_rl.studies.goal_position import GoalPositionStudy
from bilevel_rl.studies.registry import find_studies, open_study
from commands import call

EXPERIMENTS = {
    name: kind for name, kind in find_studies().items() if kind.command == "run" and not kind.takes_reference
}

FEW = ["--num-seeds", "2", "--num-iterations", "40", "--log-every", "25"]
ARGUMENTS = {
    "goal-position": ["--size", "3", "--target", "2", "0", "--initial-x", "0", "2", "--width", "2", *FEW],
    "goal-placement": [
        "--size",
        "3",
        "--delivery",
        "2",
        "1",
        "--home",
        "0",
        "2",
        "--walls",
        "--hazards",
        "1",
        "1",
        *FEW,
    ],
    "entropy-schedules": FEW,
    "coupling": ["--size", "3", "--target", "2", "0", "--initial-x", "0", "2", "--measured-at", "1", "1", *FEW],
    "wind-design": [
        *("--size", "3", "--goal", "0", "2", "--target", "2", "0", "--walls"),
        *("--evaluation-entropy-weight", "0.01", *FEW),
    ],
    "patrol": [
        *("--positions", "0", "0", "2", "0", "--gains", "1", "0.8", "--damages", "0.5", "1"),
        *("--evaluation-entropy-weight", "0.01", *FEW),
    ],
    "tax-design": [
        *("--num-savings", "4", "--hours", "0", "3", "--spending", "0.5", "2"),
        *("--evaluation-entropy-weight", "0.01", *FEW),
    ],
    "preferences": [
        *("--size", "2", "--likes", "1", "1", "--dislikes", "0", "1", "--num-steps", "2"),
        *("--evaluation-entropy-weight", "0.01", *FEW),
    ],
    "rates": [*FEW[:-1], "20", "--num-inner-steps", "20"],
    "four-rooms": ["--entropy-weights", "0.005", "--betas", "3", "2", "--transfer-rounds", "0", *FEW],
    "ablations": ["--study", "little-entropy", *FEW],
}
OPTIONS = {
    "goal-position": {"size": 3, "target": [2.0, 0.0], "initial_x": [0.0, 2.0], "width": 2.0, "walls": []},
    "goal-placement": {"size": 3, "delivery": [2, 1], "home": [0, 2], "walls": [], "hazards": [[1, 1]]},
    "entropy-schedules": {"entropy_weight": 1.0, "installation_cost": 0.3},
    "coupling": {"size": 3, "target": [2.0, 0.0], "initial_x": [0.0, 2.0]},
    "wind-design": {"size": 3, "goal": [0, 2], "target": [2, 0], "walls": []},
    "patrol": {"positions": [[0.0, 0.0], [2.0, 0.0]], "gains": [1.0, 0.8], "sees": "everything"},
    "tax-design": {"num_savings": 4, "hours": [0.0, 3.0], "weights": [0.5, 0.5], "largest": 0.4},
    "preferences": {"size": 2, "num_steps": 2, "num_offline": 30},
    "rates": {"entropy_weight": 0.1, "num_inner_steps": 20},
    "four-rooms": {"entropy_weights": [0.005], "betas": [3.0, 2.0], "transfer_rounds": 0, "first_step": 0.2},
    "ablations": {"study": "little-entropy"},
}
OF_SINGLE_RUNS = ("follower", "learning_curves", "payments", "residuals", "step_sizes", "x")
FIGURES = {
    "goal-position": ("landscape", *OF_SINGLE_RUNS),
    "goal-placement": ("placement", *OF_SINGLE_RUNS),
    "entropy-schedules": ("trade_off",),
    "coupling": ("coupling",),
    "wind-design": ("wind", *OF_SINGLE_RUNS),
    "patrol": ("patrol", *OF_SINGLE_RUNS),
    "tax-design": ("taxes", *OF_SINGLE_RUNS),
    "preferences": ("maps", *OF_SINGLE_RUNS),
    "rates": ("rates",),
    "four-rooms": ("comparison", "four_rooms"),
    "ablations": ("ablation",),
}
ARRAYS = {
    "goal-position": "landscape.npz",
    "goal-placement": "placement.npz",
    "entropy-schedules": "trade_off.npz",
    "coupling": "coupling.npz",
    "four-rooms": "four_rooms.npz",
    "wind-design": "wind.npz",
    "patrol": "patrols.npz",
    "tax-design": "taxes.npz",
    "preferences": "reward_learning.npz",
    "rates": "rates.npz",
    "ablations": "reference.npz",
}
RATES = (
    "decaying",
    "decaying-coupled",
    "decaying-coupled-recursive",
    "constant-entropy",
    "constant-entropy-coupled-recursive",
    "nested-loop",
)
LOG_EVERY = {name: 20 if name == "rates" else 25 for name in ARGUMENTS}
LOG_POINTS = {
    "entropy-schedules": {"constant": (0, 25, 40), "decaying": (0, 25, 40)},
    "coupling": {"independent": (0, 25, 40), "coupled": (0, 25, 40)},
    "four-rooms": {f"lambda-0.005-beta-{beta}": (0, 25, 40) for beta in (3, 2)},
    "ablations": {f"τ-{weight}": (0, 25, 40) for weight in (0.3, 0.1, 0.03, 0.01, 0.003)},
    "rates": {name: (0, 1, 2) if name == "nested-loop" else (0, 20, 40) for name in RATES},
}
"""Of experiments with several runs: subfolder to iterations."""
TABLES = {"four-rooms": {"table.md"}}
NOT_RUN_HERE = {
    *("building-control", "cartpole-design", "happy-tweets", "inverse-rl", "mountain-car", "pendulum-design"),
    "target-visitation",
}
"""Building, cart, car and pendulum have files of their own, happy-tweets is in tests/lm; the others, `preferences` with
another objective, are built below."""
QUICK, GATED = "goal-position", {"entropy-schedules"}
FINISHED = [
    name if name == QUICK else pytest.param(name, marks=pytest.mark.slow if name in GATED else pytest.mark.long)
    for name in sorted(set(EXPERIMENTS) - NOT_RUN_HERE)
]
RUN_FILES = {
    "run.json",
    "environment.json",
    "metrics.csv",
    "timing.csv",
    "divergences.json",
    "checkpoints",
    "result.npz",
}
OUTCOME_FILES = {"outcome.json", "outcome.npz", "reward.json", "reward.npz"}


def entries_of(path):
    return {entry.name for entry in path.iterdir()}


@pytest.fixture(scope="module", params=FINISHED)
def finished(request, tmp_path_factory):
    """Name, folder and output of a finished run. To be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    code, out, err = call("run", request.param, *ARGUMENTS[request.param], "--folder", folder, "--no-progress")
    assert code is None, err
    assert err == ""
    return request.param, folder, out


@pytest.fixture
def computes_nothing(monkeypatch):
    """Makes every way to compute fail."""

    def fail(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr(importlib.import_module("bilevel_rl.studies.config"), "run", fail)
    for kind in EXPERIMENTS.values():
        monkeypatch.setattr(kind, "main", fail)


# Run, plot, resume, list.


@pytest.mark.variants(rest="long")
def test_run_writes_config_tables_arrays_and_figures(finished):
    name, folder, _ = finished
    figures = {f"{figure}.png" for figure in FIGURES[name]}
    assert entries_of(folder / "figures") == figures
    assert all((folder / "figures" / figure).stat().st_size > 1_000 for figure in figures)
    log_points = LOG_POINTS.get(name, {".": (0, 25, 40)})
    for subfolder, iterations in log_points.items():
        assert entries_of(folder / subfolder) >= RUN_FILES
        rows = RunFolder(folder / subfolder).read_rows("metrics")
        assert [(row["num_iterations"], row["seed"]) for row in rows] == [(k, i) for k in iterations for i in (0, 1)]
    own = {part.split("/")[0] for part in LOG_POINTS[name]} if name in LOG_POINTS else RUN_FILES | OUTCOME_FILES
    assert entries_of(folder) == {"config.json", ARRAYS[name], "figures", "report.html"} | own | TABLES.get(name, set())


@pytest.mark.long
def test_experiments_that_share_their_code_with_another_are_built():
    inverse = reward_learning.InverseRL(num_demonstrations=500)
    states, _ = inverse.demonstrations()
    shares = np.bincount(states, minlength=36) / 500
    assert np.all(np.abs(shares - inverse.wanted()) < 4 * np.sqrt(inverse.wanted() / 500) + 0.002)
    for config in (inverse, reward_learning.TargetVisitation(walls=((2, 2),))):
        assert config.algorithm().num_transitions_per_iteration == 32
        assert config.wanted().sum() == pytest.approx(1)


def test_run_keeps_its_options(finished):
    name, folder, _ = finished
    config = RunFolder(folder).config()
    assert config["experiment"] == name
    assert config["options"]["run"] == dataclasses.asdict(
        RunConfig(num_seeds=2, num_iterations=40, log_every=LOG_EVERY[name])
    )
    assert config["options"].items() >= OPTIONS[name].items()


def test_run_says_where_it_writes_and_what_came_out(finished):
    name, folder, out = finished
    assert out.startswith(f"{name} → {folder}\n")
    for figure in FIGURES[name]:
        assert f"figure  {folder / 'figures' / figure}.png\n" in out
    assert open_study(RunFolder(folder)).summarize(RunFolder(folder)) in out


@pytest.mark.long
@pytest.mark.parametrize("finished", ["goal-position"], indirect=True)
def test_the_summary_of_goal_position_is_the_gap_to_the_optimum(finished):
    _, folder, _ = finished
    rows = RunFolder(folder).read_rows("metrics")
    problem = problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
    optimum = exact.solve(problem, entropy_weight=0.01, starts=[(2.0, 0.0), (1.5, 0.5)]).objective
    first, last = ([row["upper_objective"] - optimum for row in of] for of in (rows[:2], rows[-2:]))
    shares = 100 * np.array(last) / np.array(first)
    expected = (
        f"Φ* = {optimum:.4f}; final gap to it in percent of the initial one: largest {max(shares):.2f} %, median "
        f"{np.mean(shares):.2f} % of 2 seeds"
    )
    assert open_study(RunFolder(folder)).summarize(RunFolder(folder)) == expected


@pytest.mark.variants(rest="long")
def test_plot_draws_the_same_figures_again_and_runs_nothing(finished, tmp_path, computes_nothing):
    name, folder, _ = finished
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / "figures")

    code, out, _ = call("plot", copy)

    assert code is None
    assert out == f"{name}: figures in {copy / 'figures'}\n"
    assert entries_of(copy / "figures") == entries_of(folder / "figures")
    assert entries_of(copy) == entries_of(folder)


@pytest.mark.long
@pytest.mark.parametrize("finished", ["goal-position"], indirect=True)
def test_figures_for_print_are_drawn_when_asked_for_and_the_same_bytes_again(finished, tmp_path, computes_nothing):
    _, folder, _ = finished
    first, second = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("first", "second"))
    for path in (first, second):
        assert call("plot", path, "--pdf")[0] is None
        names = {f"{figure}{suffix}" for figure in FIGURES["goal-position"] for suffix in (".png", "-print.pdf")}
        assert entries_of(path / "figures") == names
    for pdf in (first / "figures").glob("*.pdf"):
        assert pdf.stat().st_size > 1_000
        assert pdf.read_bytes() == (second / "figures" / pdf.name).read_bytes()
    (first / "figures" / "residuals-print.pdf").unlink()
    call("plot", first)
    assert "residuals-print.pdf" not in entries_of(first / "figures")  # asked for once is not asked for ever


def test_an_unfinished_run_is_listed_with_how_to_resume_it(finished, tmp_path, monkeypatch, computes_nothing):
    name, folder, out = finished
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / "whole")
    cut = Path(shutil.copytree(folder, tmp_path / "runs" / "cut"))
    (cut / ARRAYS[name]).unlink()
    monkeypatch.setenv("COLUMNS", "300")

    for arguments in (["list"], ["list", tmp_path / "runs"]):
        code, out, _ = call(*arguments)
        assert code is None
        lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        assert set(EXPERIMENTS) <= set(lines)
        assert open_study(RunFolder(folder)).summarize(RunFolder(folder)) in lines["whole"]
        assert "unfinished: bilevel-rl resume runs/cut" in lines["cut"]
        if name not in LOG_POINTS:
            assert "40 of 40" in lines["cut"]

    code, _, err = call("plot", cut)
    assert code == 2
    assert f"has no {ARRAYS[name]}: the run has not come that far; `bilevel-rl resume` it" in err


def test_list_without_runs(tmp_path):
    code, out, _ = call("list", tmp_path / "nowhere")
    assert code is None
    assert f"no runs in {tmp_path / 'nowhere'}" in out
    assert "Move a goal across a slippery grid" in out
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.long
@pytest.mark.parametrize("finished", ["goal-position"], indirect=True)
def test_resume_finishes_a_run_that_was_cut_off(finished, tmp_path):
    _, folder, _ = finished
    cut = Path(shutil.copytree(folder, tmp_path / "cut"))
    (cut / "landscape.npz").unlink()
    shutil.rmtree(cut / "figures")
    shutil.rmtree(cut / "checkpoints" / "40")

    code, out, _ = call("resume", cut, "--no-progress")

    assert code is None
    assert open_study(RunFolder(folder)).summarize(RunFolder(folder)) in out
    assert entries_of(cut / "figures") == entries_of(folder / "figures")
    assert (cut / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()


def test_progress_is_shown_unless_told_otherwise(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: shown.append(progress))
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    call("run", "goal-position", "--folder", tmp_path / "a")
    call("run", "goal-position", "--folder", tmp_path / "b", "--no-progress")
    call("resume", tmp_path / "a")
    call("resume", tmp_path / "a", "--no-progress")
    assert shown == [True, False, True, False]


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupt(study, folder, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(GoalPositionStudy, "main", interrupt)
    code, _, err = call("run", "goal-position", "--folder", tmp_path / "run")
    assert (code, err) == (130, f"interrupted; go on with `bilevel-rl resume {tmp_path / 'run'}`\n")


def test_a_run_gets_a_dated_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: None)
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    code, out, _ = call("run", "goal-position")
    assert code is None
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"goal-position-\d{8}-\d{6}", folder.name)
    assert out == f"goal-position → runs/{folder.name}\nwell done\n"


def test_a_tracker_is_reported_to_when_asked_for_also_by_resume(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: told.append(folder.report_to))
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    call("run", "goal-position", "--report-to", "tensorboard", "--folder", tmp_path / "run")
    call("resume", tmp_path / "run")
    assert told == ["tensorboard", "tensorboard"]


def test_stopped_seeds_are_reported(tmp_path, monkeypatch):
    divergence = {"seed": 3, "num_iterations": 17, "quantity": "x", "likely_cause": "a cause"}
    monkeypatch.setattr(
        GoalPositionStudy, "main", lambda study, folder, progress: folder.write_divergences([divergence])
    )
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    _, out, _ = call("run", "goal-position", "--folder", tmp_path / "run")
    assert out.endswith("well done\nseed 3 stopped at iteration 17\n")


# Bad input.

BAD_OPTIONS = [
    ("target-visitation", ("--shares", "1"), "--shares must be as many as --wells, 2, got 1"),
    (
        "target-visitation",
        ("--wells", "9", "0", "1", "4"),
        "wells must be (row, col) with both in 0..5, got (9, 0)",
    ),
    ("inverse-rl", ("--num-demonstrations", "0"), "--num-demonstrations must be at least 1, got 0"),
    ("preferences", ("--num-steps", "9"), "--num-steps must leave few enough trajectories to be counted"),
    ("goal-position", ["--num-seeds", "0"], "num_seeds must be at least 1, got 0"),
    ("goal-position", ["--num-iterations", "0"], "num_iterations must be at least 1, got 0"),
    ("goal-position", ["--log-every", "-3"], "log_every must be at least 1, got -3"),
    (
        "goal-position",
        ["--checkpoint-every", "-1"],
        "checkpoint_every must be at least 0 (may be infinite), got -1.0; it is in seconds",
    ),
    (
        "goal-position",
        ["--checkpoint-every", "nan"],
        "checkpoint_every must be at least 0 (may be infinite), got nan; it is in seconds",
    ),
    ("goal-position", ["--seed", "-1"], "seed must be at least 0, got -1"),
    ("goal-position", ["--seed", "4294967296"], "seed must be at most 4294967295, got 4294967296"),
    (
        "goal-position",
        ["--evaluation-entropy-weight", "0"],
        "evaluation_entropy_weight must be finite and positive, got 0.0",
    ),
    ("goal-position", ["--size", "1"], "size must be at least 2, got 1"),
    ("goal-position", ["--slip", "1.5"], "slip must lie in [0, 1], got 1.5"),
    ("goal-position", ["--slip", "nan"], "slip must lie in [0, 1], got nan"),
    ("goal-position", ["--discount", "1.0"], "discount must lie in [0, 1), got 1.0"),
    ("goal-position", ["--discount", "nan"], "discount must lie in [0, 1), got nan"),
    ("goal-position", ["--target", "-1", "0"], "target must be (row, col) with both in 0..9, got (-1.0, 0.0)"),
    ("goal-position", ["--initial-x", "20", "3"], "initial_x must be (row, col) with both in 0..9, got (20.0, 3.0)"),
    ("goal-position", ["--home", "0", "nan"], "home must be (row, col) with both in 0..9, got (0.0, nan)"),
    ("goal-position", ["--width", "0"], "width must be finite and positive, got 0.0; it is in cells"),
    ("goal-position", ["--walls", "1", "1", "12", "0"], "walls must be (row, col) with both in 0..9, got (12, 0)"),
    ("goal-position", ["--installation-cost", "-1"], "installation_cost must be finite and not negative, got -1.0"),
    ("goal-position", ["--upper", "-1"], "step sizes, upper: initial of a step-size sequence must be finite and"),
    ("goal-position", ["--actor", "inf"], "got inf"),
    ("goal-position", ["--critic", "nan"], "step sizes, critic: initial"),
    ("goal-position", ["--penalty", "0"], "step sizes, penalty: initial must be positive, got 0.0"),
    ("goal-position", ["--entropy-weight", "0"], "entropy_weight must be finite and positive, got 0.0"),
    ("goal-position", ["--offset", "0"], "offset of a step-size sequence must be finite and positive, got 0.0"),
    ("goal-position", ["--num-chains", "0"], "num_chains must be at least 1, got 0"),
    ("goal-placement", ["--num-seeds", "-2"], "num_seeds must be at least 1, got -2"),
    ("goal-placement", ["--size", "5"], "walls must be (row, col) with both in 0..4, got (5, 1)"),
    ("goal-placement", ["--delivery", "10", "0"], "delivery must be (row, col) with both in 0..9, got (10, 0)"),
    ("goal-placement", ["--home", "0", "-1"], "home must be (row, col) with both in 0..9, got (0, -1)"),
    ("goal-placement", ["--hazards", "5", "1"], "hazards must not be walls, got [(5, 1)] as both"),
    ("goal-placement", ["--scale", "0"], "scale must be finite and positive, got 0.0"),
    ("goal-placement", ["--price", "-1"], "price must be finite and not negative, got -1.0"),
    ("goal-placement", ["--splitting-fee", "nan"], "splitting_fee must be finite and not negative, got nan"),
    ("entropy-schedules", ["--log-every", "0"], "log_every must be at least 1, got 0"),
    ("entropy-schedules", ["--entropy-weight", "0"], "entropy_weight must be finite and positive, got 0.0"),
    ("entropy-schedules", ["--entropy-exponent", "nan"], "entropy_exponent must be finite and not negative"),
    ("entropy-schedules", ["--penalty-exponent", "-1"], "penalty_exponent must be finite and not negative"),
    ("entropy-schedules", ["--upper", "nan"], "step sizes, upper: initial of a step-size sequence must be finite"),
    ("entropy-schedules", ["--offset", "-1"], "must be finite and positive, got -1.0"),
    ("entropy-schedules", ["--num-chains", "0"], "num_chains must be at least 1, got 0"),
    ("entropy-schedules", ["--installation-cost", "inf"], "installation_cost must be finite and not negative, got inf"),
    (
        "four-rooms",
        ["--entropy-weights", "0.003", "0"],
        "entropy_weight must be finite and positive, got 0.0",
    ),
    ("four-rooms", ["--betas", "-1"], "beta must be finite and not negative, got -1.0"),
    ("four-rooms", ["--betas"], "betas must hold at least one number, got none"),
    ("four-rooms", ["--anneal-from", "0"], "anneal_from must be finite and positive, got 0.0"),
    ("four-rooms", ["--transfer-rounds", "-1"], "transfer_rounds must be at least 0, got -1"),
    ("four-rooms", ["--annealing-share", "1.5"], "annealing_share must lie in (0, 1], got 1.5"),
    ("four-rooms", ["--first-step", "inf"], "first_step must be finite and positive, got inf"),
    ("four-rooms", ["--last-step", "0"], "last_step must be finite and positive, got 0.0"),
]


@pytest.mark.parametrize(
    ("experiment", "options", "message"), BAD_OPTIONS, ids=[" ".join([e, *options]) for e, options, _ in BAD_OPTIONS]
)
def test_bad_values_are_refused_before_anything_happens(
    experiment, options, message, tmp_path, monkeypatch, computes_nothing
):
    monkeypatch.chdir(tmp_path)
    for folder in ([], ["--folder", tmp_path / "run"]):
        code, out, err = call("run", experiment, *options, *folder)
        assert code == 2
        assert out == ""
        assert message in err.removeprefix("error: ")
        assert len(err.splitlines()) == 1
    assert not entries_of(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {run, compare, tune, solve"),
        (["walk"], "walk"),
        (["run"], "goal-position"),
        (["run", "nothing"], "nothing"),
        (["run", "goal-position", "--bogus", "3"], "Unrecognized options: --bogus"),
        (["run", "entropy-schedules", "--size", "3"], "--size"),
        (["run", "goal-position", "--num-seeds", "two"], "--num-seeds"),
        (["run", "goal-position", "--num-seeds", "1.5"], "--num-seeds"),
        (["run", "goal-position", "--target", "1"], "--target"),
        (["run", "goal-position", "--walls", "1"], "--walls"),
        (["run", "goal-position", "--schedule", "steep"], "--schedule"),
        (["run", "goal-position", "--generator", "dice"], "--generator"),
        (["run", "goal-position", "--diagnostics", "some"], "--diagnostics"),
        (["run", "goal-position", "--checkpoint-every", "often"], "--checkpoint-every"),
        (["resume"], "PATH"),
        (["plot"], "PATH"),
        (["report"], "PATH"),
        (["diagnose"], "PATH"),
        (["run", "ablations", "--study", "nothing"], "--study"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_parsed_is_refused(arguments, message, tmp_path, monkeypatch, computes_nothing):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert not entries_of(tmp_path)


def test_a_folder_that_is_not_empty_is_refused(tmp_path, computes_nothing):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "full", tmp_path / "file"):
        code, _, err = call("run", "goal-position", "--folder", path)
        assert code == 2
        expected = f"error: --folder {path} is not empty; name a new folder, or `bilevel-rl resume {path}`\n"
        assert err == expected
    assert entries_of(tmp_path / "full") == {"notes.txt"}


def test_an_empty_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: None)
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    assert call("run", "goal-position", "--folder", tmp_path)[0] is None
    assert RunFolder.open(tmp_path).config()["experiment"] == "goal-position"


@pytest.mark.parametrize("command", ["resume", "plot", "diagnose"])
def test_only_run_folders_are_resumed_and_drawn(command, tmp_path, computes_nothing):
    for path in (tmp_path / "nowhere", tmp_path):
        code, out, err = call(command, path)
        assert (code, out) == (2, "")
        assert err == f"error: {path} is not a run folder: it has no config.json\n"
    assert not entries_of(tmp_path)

    RunFolder(tmp_path).write_config({"experiment": "of-the-future", "options": {}})
    code, _, err = call(command, tmp_path)
    assert code == 2
    problem = "has no metrics yet" if command == "diagnose" else "holds a run of 'of-the-future', which this version"
    assert f"{tmp_path} {problem}" in err


def test_step_sizes_out_of_order_are_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: None)
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    _, _, err = call("run", "goal-position", "--actor", "5", "--critic", "4", "--folder", tmp_path / "a")
    assert err.startswith("warning: step sizes violate actor <= critic at the start")
    _, _, err = call("run", "goal-position", "--critic", "17", "--folder", tmp_path / "b")
    assert err.startswith("warning: critic=17 exceeds num_chains, 16:")


# Configs.


def attribute_docstrings(kind):
    """What is said of each field, below it or in the class's docstring, inherited ones first; None where nothing is."""
    documented = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (definition,) = ast.parse(inspect.getsource(base)).body
        of_arguments = {entry.arg_name: entry.description for entry in docstring_parser.parse(base.__doc__).params}
        for statement, below in zip(definition.body, [*definition.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
                is_string = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                name = statement.target.id
                text = below.value.value if is_string else of_arguments.get(name)
                documented[name] = text or documented.get(name)
    return documented


def options_of(kind):
    """Flag and help text of every option, those of nested settings included."""
    documented = attribute_docstrings(kind)
    assert list(documented) == [field.name for field in dataclasses.fields(kind)]
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from options_of(field.type)
        else:
            yield "--" + field.name.replace("_", "-"), documented[field.name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_has_help(name):
    code, out, _ = call("run", name, "--help")
    assert code == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())
    options = dict(options_of(EXPERIMENTS[name]))
    assert len(options) > 10
    for flag, text in {**options, "--folder": "run folder, new or empty", "--progress": "show a progress bar"}.items():
        text = " ".join(text.split())
        assert re.search(rf"{flag}\b.*? {re.escape(text)}", shown), f"{flag}: {text}"
    assert " ".join(EXPERIMENTS[name].__doc__.split()) in shown


def test_help_names_every_command():
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "compare", "tune", "resume", "plot", "diagnose", "list"):
        assert re.search(rf"^\W+{command} +[A-Z]", out, re.MULTILINE)


def defaults_of(function):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def fields_of(config):
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (problems.GoalPosition, problems.goal_position),
        (problems.GoalPlacement, problems.goal_placement),
        (problems.WindDesign, problems.wind_design),
        (problems.Patrol, problems.patrol),
        (problems.TaxDesign, problems.tax_design),
        (problems.CartpoleDesign, problems.cartpole_design),
        (problems.PendulumDesign, problems.pendulum_design),
        (problems.MountainCarShaping, problems.mountain_car_shaping),
    ],
)
def test_the_function_of_a_problem_has_the_arguments_and_the_words_of_its_class(kind, function):
    assert fields_of(kind()) == defaults_of(function)
    assert function.__doc__ == kind.__doc__
    assert function.__name__.replace("_", "") == kind.__name__.lower()
    documented = {entry.arg_name for entry in docstring_parser.parse(kind.__doc__).params}
    assert documented == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("build", [StepSizes.decaying, StepSizes.constant_entropy])
def test_defaults_of_the_schedule_are_those_of_the_step_sizes(build):
    fields = fields_of(ScheduleConfig())
    expected = defaults_of(build)
    del expected["exponents"]
    expected["entropy_weight"] = expected.pop("entropy")
    assert fields.pop("schedule") == "decaying"
    assert fields == {**expected, "num_chains": defaults_of(Followers.__init__)["num_chains"]}


def test_defaults_of_the_settings_are_those_of_run():
    expected = defaults_of(importlib.import_module("bilevel_rl.runs.run").run)
    for name in ("checkpoint_every", "evaluation_entropy_weight", "diagnostics"):
        assert getattr(RunConfig(), name) == expected[name]


def test_settings_reach_run(tmp_path, monkeypatch):
    algorithm = GoalPositionStudy(size=5, target=(1, 2), initial_x=(3, 3), home=(0, 0)).algorithm()
    folder, calls = RunFolder(tmp_path), []
    module = importlib.import_module("bilevel_rl.studies.config")

    def note(*arguments, **options):
        calls.append(inspect.signature(run).bind(*arguments, **options))
        return result

    result = RunResult(None, None, {}, ())
    monkeypatch.setattr(module, "run", note)
    settings = RunConfig(
        5, 70, 30, 2.5, 9, "rbg", evaluation_entropy_weight=0.3, diagnostics="exact", seeds_per_group=1
    )
    assert settings.run(algorithm, folder, progress=False) is result

    (bound,) = calls
    key = bound.arguments.pop("key")
    assert str(jax.random.key_impl(key)) == "rbg"
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(9, impl="rbg")))
    assert bound.arguments.pop("algorithm") is algorithm
    assert bound.arguments == {
        "num_seeds": 5,
        "num_iterations": 70,
        "log_every": 30,
        "folder": folder,
        "checkpoint_every": 2.5,
        "evaluation_entropy_weight": 0.3,
        "diagnostics": "exact",
        "seeds_per_group": 1,
        "progress": False,
    }


def test_options_reach_the_problem_and_the_algorithm():
    schedule = ScheduleConfig("constant-entropy", 0.1, 0.2, 0.3, 0.4, 0.5, 60.0, 7)
    algorithm = GoalPositionStudy(
        schedule=schedule, size=3, slip=0.4, discount=0.8, target=(2, 0), width=3.0, initial_x=(0, 1)
    ).algorithm()
    expected = StepSizes.constant_entropy(upper=0.1, actor=0.2, critic=0.3, penalty=0.4, entropy=0.5, offset=60.0)
    for k in (0, 100):
        assert algorithm.step_sizes(k) == expected(k)
    assert algorithm.followers.num_chains == 7
    reference = problems.goal_position(3, slip=0.4, discount=0.8, target=(2, 0), width=3.0, initial_x=(0, 1))
    assert algorithm.problem.environment.discount == 0.8
    np.testing.assert_array_equal(algorithm.problem.environment.probabilities, reference.environment.probabilities)
    states = np.arange(9)
    for function in ("rewards", "costs"):
        values = (
            getattr(p, function)(np.array([0.5, 1.5]), states, 0 * states) for p in (algorithm.problem, reference)
        )
        np.testing.assert_array_equal(*values)


def test_the_two_schedules_of_the_comparison_differ_in_the_entropy_weight_alone_at_first():
    config = EntropySchedules(entropy_weight=0.7, upper=0.04, num_chains=5)
    constant, decaying = config.algorithms().values()
    assert list(config.algorithms()) == ["constant", "decaying"]
    assert constant.step_sizes(0) == decaying.step_sizes(0)
    assert constant.step_sizes(10**6).entropy == pytest.approx(0.7)
    assert decaying.step_sizes(10**6).entropy < 0.5
    assert constant.followers.num_chains == decaying.followers.num_chains == 5


def test_every_setting_of_four_rooms_is_annealed_alike():
    config = FourRooms(run=RunConfig(num_iterations=10), annealing_share=0.5)
    assert len(config.each_setting()) == 9
    assert set(config.each_setting()) == set(four_rooms.PUBLISHED)
    for setting in config.each_setting():
        sizes = config.algorithm_of(problems.four_rooms(*setting)).step_sizes
        λ = setting.entropy_weight
        assert [float(sizes(k).entropy) for k in (0, 5, 10)] == pytest.approx([0.01, λ, λ], rel=1e-5)
        assert [float(sizes(k).upper) for k in (0, 10)] == pytest.approx([0.2, 0.05], rel=1e-5)


def test_the_table_of_four_rooms_has_what_transfers_add(tmp_path):
    folder = RunFolder(tmp_path)
    study = FourRooms(entropy_weights=(0.003,), betas=(1.0, 2.0))
    values = {"values": [[1.0, 1.3, 0.8], [0.2, 0.2, 0.2]], "descended": [[0.7, 0.8, 0.6], [0.1, 0.1, 0.1]]}
    arrays = {name: np.array(entries) for name, entries in values.items()}
    folder.write_arrays("four_rooms", **arrays, penalties=np.ones((2, 104)), visits=np.ones((2, 104)))

    rows = study.table(folder).splitlines()[2:]

    assert rows == [
        "| 0.003 | 1 | 1.033 ± 0.145 | 1.300 | 0.700 ± 0.058 | 0.95 ± 0.002 | 1.00 | 0.91 ± 0.048 |",
        "| 0.003 | 2 | 0.200 ± 0.000 | 0.200 | 0.100 ± 0.000 | – | – | – |",
    ]
    assert study.summarize(folder).startswith("mean F is at least the best published mean in 1 of 1 cells")


@pytest.mark.parametrize(
    "config",
    [
        GoalPositionStudy(
            run=RunConfig(seed=5, report_to="tensorboard"),
            schedule=ScheduleConfig(schedule="constant-entropy", offset=1.0),
            walls=((1, 2), (3, 4)),
            target=(0.1, 2.5),
        ),
        GoalPlacementStudy(walls=(), hazards=((0, 1),)),
        EntropySchedules(entropy_exponent=0.15),
        FourRooms(betas=(2.0,), anneal_from=0.02),
        Ablations(RunConfig(num_seeds=3), "penalty"),
        *(kind() for kind in EXPERIMENTS.values()),
    ],
)
def test_a_config_is_read_back_from_json(config):
    written = json.loads(json.dumps(config.to_json()))
    assert EXPERIMENTS[written["experiment"]] is type(config)
    assert type(config).from_json(written["options"]) == config


def test_variants_of_a_study_share_their_compilation_and_break_conditions_with_one_warning():
    for name, build in ablations.ABLATIONS.items():
        config = Ablations(study=name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            algorithms = config.algorithms()
            assert caught == [], name
            config.check()
        broken = [variant for variant, algorithm in algorithms.items() if algorithm.step_sizes.violations()]
        assert len(caught) == bool(broken), name
        assert all(f"{variant} (" in str(caught[0].message) for variant in broken)
        structures = {jax.tree.structure(algorithm.step_sizes) for algorithm in algorithms.values()}
        assert len(structures) == 1
        assert len({id(algorithm.problem) for algorithm in algorithms.values()}) == 1
        first = next(iter(algorithms.values())).step_sizes
        assert jax.tree.leaves(first) == jax.tree.leaves(next(iter(build().variants.values())))


@pytest.mark.long
@pytest.mark.parametrize("finished", ["ablations"], indirect=True)
def test_diagnose_prints_a_finding_for_every_run_of_a_folder(finished, monkeypatch):
    _, folder, _ = finished
    monkeypatch.setenv("COLUMNS", "200")
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    code, out, _ = call("diagnose", folder)
    assert code is None
    for subfolder in LOG_POINTS["ablations"]:
        assert re.search(rf"{subfolder} +│ 2 of 2 │ not judged │ 3 log points are too few", out)
    assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before


def test_list_names_a_foreign_folder_and_goes_on(tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text("{}\n")
    assert "holds a run of None" in " ".join(call("list", tmp_path)[1].split())


@pytest.mark.parametrize("finished", ["goal-position"], indirect=True)
def test_list_shows_what_is_wrong_with_a_folder_and_goes_on(finished, tmp_path, monkeypatch):
    name, folder, _ = finished
    monkeypatch.setenv("COLUMNS", "300")
    damages = {
        "a-sound-one": lambda path: None,
        "cut-config": lambda path: (path / "config.json").write_text('{"experiment": "goal'),
        "no-options": lambda path: (path / "config.json").write_text('{"experiment": "goal-position"}'),
        "wrong-type": lambda path: edit(path, '"num_seeds": 2', '"num_seeds": "2"'),
        "unknown": lambda path: edit(path, '"num_seeds": 2', '"num_sheep": 2'),
        "no-number": lambda path: edit(path, '"checkpoint_every": 10.0', '"checkpoint_every": NaN'),
        "cut-arrays": lambda path: (path / ARRAYS[name]).write_bytes(b"PK"),
        "bad-row": lambda path: (path / "metrics.csv").write_text("seed,num_iterations\n0,zero\n"),
        "a[/b]": lambda path: None,
    }
    (tmp_path / "runs").mkdir()
    for title, damage in damages.items():
        # A slash cannot be in a name; what follows it is another folder.
        damage(Path(shutil.copytree(folder, tmp_path / "runs" / title.replace("/", "∕"))))
    code, out, err = call("list", tmp_path / "runs")
    assert (code, err) == (None, "")
    said = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
    assert "Φ*" in said["a-sound-one"]
    assert "Φ*" in said["a[∕b]"]
    assert "config.json is damaged: it is not JSON" in said["cut-config"]
    assert "config.json is damaged: options is missing" in said["no-options"]
    assert 'config.json is damaged: options.run.num_seeds must be an integer, got "2"' in said["wrong-type"]
    assert "options.run.num_sheep is no option" in said["unknown"]
    assert "options.run.checkpoint_every must be a number, got NaN" in said["no-number"]
    assert f"{ARRAYS[name]} is damaged" in said["cut-arrays"]
    assert "metrics.csv is damaged: metrics.csv ends after" in said["bad-row"]


def edit(path, old, new):
    config = path / "config.json"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def test_damage_and_files_in_the_way_are_one_line_and_exit_2(finished, tmp_path, computes_nothing):
    name, folder, _ = finished
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / ARRAYS[name]).write_bytes(b"PK")
    (tmp_path / "file").write_text("")
    cases = [("plot", copy), ("resume", tmp_path / "file"), ("run", "goal-position", "--folder", tmp_path / "file/run")]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    cases += [(command, tmp_path / "broken") for command in ("plot", "resume")]
    for case in cases:
        code, _, err = call(*case)
        assert (code, len(err.splitlines())) == (2, 1), (case, err)
        assert err.startswith("error: ")


def test_a_folder_may_be_called_like_markup(tmp_path, monkeypatch):
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: None)
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done [/b]")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    code, out, err = call("run", "goal-position", "--folder", tmp_path / "a[" / "b]")
    assert (code, err) == (None, "")
    assert "a[/b]" in out
    assert "well done [/b]" in out


def test_a_half_born_folder_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(GoalPositionStudy, "main", lambda study, folder, progress: None)
    monkeypatch.setattr(GoalPositionStudy, "summarize", lambda study, folder: "well done")
    monkeypatch.setattr(GoalPositionStudy, "outcome", lambda study, folder: {})
    for name in ("config.json.tmp", "lock"):
        (tmp_path / name).write_text("{")
    assert call("run", "goal-position", "--folder", tmp_path)[0] is None
    assert RunFolder(tmp_path).config()["experiment"] == "goal-position"


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_folder_in_use_is_refused(tmp_path, computes_nothing, command):
    folder = RunFolder(tmp_path / "run")
    if command == "resume":
        folder.write_config(GoalPositionStudy().to_json())
    arguments = ("goal-position", "--folder", folder.path) if command == "run" else (folder.path,)
    refused = []
    with lock.hold(folder.path):
        # Another thread, which is no more the holder than another process.
        thread = threading.Thread(target=lambda: refused.append(call(command, *arguments)))
        thread.start()
        thread.join()
    ((code, _, err),) = refused
    assert code == 2
    assert f"error: {folder.path} is in use by process {os.getpid()} on " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "goal-position", "--num-seeds", 10**23), "num_seeds must be at most"),
        (("run", "goal-position", "--num-iterations", 2**31), "num_iterations must be at most 2147483647, got"),
        (("compare", "goal-position", "--trials", 10**23), "--trials must be at most 10000, got"),
        (("compare", "goal-position", "--budget", "1e23"), "--budget 1e+23 pays for"),
        (("tune", "goal-position", "--trials", 10**23), "--trials must be at most 10000, got"),
        (
            ("run", "goal-position", "--coordinator", "localhost:0", "--num-processes", 2),
            "a port of 1..65535, got 'loc",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_starts(arguments, message, tmp_path, computes_nothing):
    code, _, err = call(*arguments, "--folder", tmp_path / "run")
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


# One file is an experiment.

NEW_STUDY = '''
"""How far does the goal walk in so many steps?"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from bilevel_rl import figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.problems import goal_position
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.experiment import SingleRun


@dataclass(frozen=True)
class Walk(SingleRun):
    """Say how far the goal walks [new]."""

    name: ClassVar[str] = "walk"
    results: ClassVar[str] = "walk"

    run: RunConfig = field(default_factory=lambda: RunConfig(num_seeds=2, num_iterations=40, log_every=25))
    size: int = 3
    """cells along a side"""

    def algorithm(self):
        problem = goal_position(self.size, target=(2, 0), initial_x=(0, 2))
        return SingleLoopActorCritic(problem, self.schedule.step_sizes(), Followers(self.schedule.num_chains))

    def measure_run(self, algorithm, result):
        return {"distance": np.linalg.norm(np.asarray(result.x) - algorithm.problem.initial_x, axis=1)}

    def plot(self, folder):
        figures.draw_step_sizes(folder)

    def summarize(self, folder):
        return f"at least {folder.read_arrays(self.results)['distance'].min():.3f}"
'''


@pytest.fixture
def new_study(tmp_path, monkeypatch):
    """A module beside the studies that are there."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "walk.py").write_text(NEW_STUDY)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path / "modules")])
    find_studies.cache_clear()
    yield
    sys.modules.pop("bilevel_rl.studies.walk", None)
    find_studies.cache_clear()


@pytest.mark.long
def test_a_new_file_is_an_experiment_that_is_listed_run_resumed_and_drawn(new_study, tmp_path):
    folder = tmp_path / "runs" / "mine"
    assert "Say how far the goal walks [new]." in call("list", tmp_path / "runs")[1]
    assert call("run", "walk", "--size", "1", "--folder", folder)[2] == "error: size must be at least 2, got 1\n"
    assert not folder.exists()
    code, out, err = call("run", "walk", "--size", "4", "--num-seeds", "3", "--folder", folder, "--no-progress")
    assert (code, err) == (None, "")
    assert out.startswith(f"walk → {folder}\nat least 0.")
    assert (
        RunFolder(folder).config()["options"].items()
        >= {"size": 4, "schedule": dataclasses.asdict(ScheduleConfig())}.items()
    )
    metrics, figure = (folder / "metrics.csv").read_bytes(), folder / "figures" / "step_sizes.png"
    assert "40 of 40" in call("list", tmp_path / "runs")[1]

    (folder / "walk.npz").unlink()
    shutil.rmtree(folder / "checkpoints" / "40")
    assert "unfinished: bilevel-rl resume" in " ".join(call("list", tmp_path / "runs")[1].split())
    assert call("resume", folder, "--no-progress")[1] == out
    assert (folder / "metrics.csv").read_bytes() == metrics

    figure.unlink()
    assert call("plot", folder)[:2] == (None, f"walk: figures in {folder / 'figures'}\n")
    assert figure.stat().st_size > 1_000


def test_two_studies_of_one_name_are_refused(new_study, tmp_path):
    (tmp_path / "modules" / "stroll.py").write_text(NEW_STUDY)
    with pytest.raises(ValueError, match="are both named 'walk'"):
        find_studies()
    sys.modules.pop("bilevel_rl.studies.stroll")


def test_who_cannot_share_the_work_refuses_the_options_of_sharing(tmp_path, computes_nothing):
    for arguments, message in (
        (("happy-tweets", "--coordinator", "localhost:1", "--num-processes", "2"), "happy-tweets is not a JAX program"),
        (("happy-tweets", "--cpu-devices", "2"), "happy-tweets is not a JAX program"),
    ):
        code, _, err = call("run", *arguments, "--folder", tmp_path / "run")
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"{message}: --coordinator, --num-processes, --process-id and --cpu-devices do not apply" in err
    RunFolder(tmp_path / "run").write_config(GoalPositionStudy().to_json())
    code, _, err = call("resume", tmp_path / "run", "--jobs", "2")
    assert (code, err) == (2, "error: goal-position is one run: --jobs, --backend and --address do not apply\n")
