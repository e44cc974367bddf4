"""Comparisons from end to end, in one process: protocol, budgets, tables, figures, and what is done again."""

import dataclasses
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic, exact, run
from bilevel_rl.comparison import tasks
from bilevel_rl.comparison.methods import FREE_ITERATIONS, METHODS, Method
from bilevel_rl.comparison.outcomes import Outcome, read_outcome, read_outcomes
from bilevel_rl.comparison.search import choose
from bilevel_rl.comparison.tables import HEADER, table_rows
from bilevel_rl.comparison.tasks import Task, run_task
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.statistics import interquartile_mean
from comparison.small_comparison import CONFIG, PROBLEM, RESULTS, SETTINGS, with_settings
from small_runs import small_algorithm

NAMES = SETTINGS.methods


@pytest.fixture
def copied(finished_comparison, tmp_path):
    return RunFolder(shutil.copytree(finished_comparison.path, tmp_path / "copy"))


@pytest.fixture
def runs(monkeypatch):
    """Folders of the tasks that are run."""
    folders = []

    def note(*arguments, **options):
        folders.append("/".join(options["folder"].path.parts[-3:]))
        return run(*arguments, **options)

    monkeypatch.setattr(tasks, "run", note)
    return folders


def protocol(folder):
    return json.loads((folder.path / "protocol.json").read_text())


def final_rows(path):
    rows = RunFolder(path).read_rows("metrics")
    return [row for row in rows if row["num_iterations"] == rows[-1]["num_iterations"]]


EARLY = {"single-loop": [0, 32, 96, 192, 384, 800], "partial-sgd": [0, 16, 48, 96, 192, 400, 800]}
"""Transitions of the log points before the first quarter of a run: halves of halves of its iterations."""


def test_every_method_gets_the_same_budget_in_every_task(finished_comparison):
    for name in NAMES:
        paths = sorted((finished_comparison.path / "tuning" / name).iterdir())
        assert [path.name for path in paths] == ["trial-0", "trial-1", "trial-2"]
        for path in paths:
            assert [row["num_transitions"] for row in final_rows(path)] == [6_400]
        paths = sorted((finished_comparison.path / "final" / name).iterdir())
        assert [path.name for path in paths] == ["seed-0", "seed-1", "seed-2"]
        for path in paths:
            transitions = [row["num_transitions"] for row in RunFolder(path).read_rows("metrics")]
            assert transitions == [*EARLY[name], 1_600, 3_200, 4_800, 6_400]


def test_the_protocol_says_what_was_tried_and_chosen(finished_comparison):
    noted = protocol(finished_comparison)
    assert noted["comparison"] == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    assert noted["problem"] == json.loads(json.dumps(dataclasses.asdict(PROBLEM)))
    for name in NAMES:
        record, method = noted["methods"][name], METHODS[name]
        assert record["ranges"] == {parameter: list(ends) for parameter, ends in method.ranges.items()}
        assert [trial["parameters"] for trial in record["trials"]] == [method.draw(0, trial) for trial in range(3)]
        scores = [trial["score"] for trial in record["trials"]]
        for trial, score in enumerate(scores):
            (row,) = final_rows(finished_comparison.path / f"tuning/{name}/trial-{trial}")
            assert score == row["upper_objective"]
        assert record["chosen"] == record["trials"][int(np.argmin(scores))]["parameters"]
        assert record["at_edge"] == method.at_edge(record["chosen"])
    assert noted["methods"]["single-loop"]["transitions_per_iteration"] == 32
    assert noted["methods"]["partial-sgd"]["iterations"] == 400


def test_reported_seeds_are_others_than_those_of_the_tuning(finished_comparison):
    def key(path):
        return tuple(json.loads((finished_comparison.path / path / "run.json").read_text())["key"])

    for name in NAMES:
        keys = [key(f"final/{name}/seed-{seed}") for seed in range(3)]
        tuned = {key(f"tuning/{name}/trial-{trial}") for trial in range(3)}
        assert len(tuned) == 1
        assert len({*keys, *tuned}) == 4
        # Seed i of a run gets the key with i folded in: neither are those shared.
        keys_of_seeds = [jax.random.fold_in(jax.random.wrap_key_data(np.array(k, np.uint32)), 0) for k in keys]
        tuning_key = jax.random.wrap_key_data(np.array(*tuned, np.uint32))
        keys_of_seeds += [jax.random.fold_in(tuning_key, seed) for seed in range(3)]
        assert len({tuple(jax.random.key_data(k).tolist()) for k in keys_of_seeds}) == 6
        assert keys == [key(f"final/{NAMES[0]}/seed-{seed}") for seed in range(3)], "methods are paired"


def test_a_final_task_is_a_run_with_the_chosen_parameters(finished_comparison):
    name, problem = "single-loop", PROBLEM.problem()
    chosen = protocol(finished_comparison)["methods"][name]["chosen"]
    algorithm = METHODS[name].build(problem, chosen, lambda cost: 6_400 // cost)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 2)
    metrics = run(algorithm, key, 1, 200, LogPoints(50, 8), progress=False).metrics
    rows = RunFolder(finished_comparison.path / f"final/{name}/seed-2").read_rows("metrics")
    for column in ("upper_objective", "x0", "lower_mean_reward", "num_transitions"):
        assert [row[column] for row in rows] == metrics[column].tolist(), column


def test_the_table_holds_the_statistics_of_the_tasks(finished_comparison):
    header, _, *lines = ((finished_comparison.path / "table.md").read_text()).splitlines()
    assert header == f"| {' | '.join(HEADER)} |"
    table = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines}
    optimum = PROBLEM.optimum(PROBLEM.problem(), 0.01).objective
    for name in NAMES:
        finals = [
            final_rows(finished_comparison.path / f"final/{name}/seed-{s}")[0]["upper_objective"] for s in range(3)
        ]
        assert float(table[name][1]) == pytest.approx(interquartile_mean(np.array(finals)), abs=5e-5)
        assert float(table[name][3]) == pytest.approx(interquartile_mean(np.array(finals)) - optimum, abs=5e-5)
        assert table[name][-1] == "0 of 3"
    assert [table[name][0] for name in table] == sorted(NAMES, key=lambda name: float(table[name][1]))
    for name in NAMES:
        assert name in CONFIG.summarize(finished_comparison)
        assert name in (finished_comparison.path / "table.tex").read_text()
        assert name in (finished_comparison.path / "wall_clock.md").read_text()


def test_figures_and_tables_are_drawn_again_from_the_files_alone(copied, runs):
    for path in [*copied.figures().iterdir(), *(copied.path / name for name in RESULTS if name != "protocol.json")]:
        path.unlink()
    shutil.rmtree(copied.path / "final")
    CONFIG.plot(copied)
    assert runs == []
    figures = {f"{name}.png" for name in ("comparison", "final_gaps")}
    assert {path.name for path in copied.figures().iterdir()} == figures
    assert (copied.path / "table.md").read_text().count("\n") == 4
    page = (copied.path / "report.html").read_text()
    best = (copied.path / "table.md").read_text().splitlines()[2].split("|")[1].strip()
    assert f"{best} ends" in page
    assert page.count("data:image/png;base64,") == 2


@pytest.mark.long
def test_finished_tasks_are_not_run_again_and_missing_ones_are(finished_comparison, copied, runs):
    for task in ("tuning/single-loop/trial-1", "final/partial-sgd/seed-0"):
        shutil.rmtree(copied.path / task)
    half = copied.path / "final/single-loop/seed-1"
    lines = (half / "metrics.csv").read_text().splitlines(keepends=True)
    (half / "metrics.csv").write_text("".join(lines[:-1]))  # killed before the last log point
    shutil.rmtree(half / "checkpoints")
    for name in RESULTS:
        (copied.path / name).unlink()
    CONFIG.main(copied, progress=False)
    assert sorted(runs) == ["final/partial-sgd/seed-0", "final/single-loop/seed-1", "tuning/single-loop/trial-1"]
    for name in RESULTS:
        assert (copied.path / name).read_bytes() == (finished_comparison.path / name).read_bytes(), name


def test_tasks_of_other_settings_are_refused(copied, runs):
    shutil.rmtree(copied.path / "final/single-loop/seed-0")
    (copied.path / "final/single-loop/seed-1").rename(copied.path / "final/single-loop/seed-0")
    with pytest.raises(RunFolderError, match="seed-0 holds a task with other settings"):
        CONFIG.main(copied, progress=False)
    assert runs == []


# Tasks of problems and methods that are made up.


@dataclasses.dataclass(frozen=True)
class Cliff:
    """x[0] starts just below an edge beyond which the leader's cost is NaN."""

    def problem(self):
        start = small_algorithm().problem.initial_x[0]
        return small_algorithm(cost_edge=start + 0.01).problem

    def optimum(self, problem, entropy_weight):
        return exact.Solution(problem.initial_x, 0.0, 0.0, 0, status="converged")


STEADY = Method(
    "steady",
    lambda problem, step_sizes, num_chains: SingleLoopActorCritic(problem, step_sizes, Followers(num_chains // 4)),
    {"upper": (1e-9, 1.0)},
)


def on_the_cliff(path, upper):
    return Task(path, Cliff(), STEADY, {"upper": upper}, (0, 0), 2, 800, 2, 0, 0.01)


@pytest.fixture(scope="module")
def cliff(tmp_path_factory):
    """Tasks whose x hardly moves, and whose x goes beyond the edge."""
    tasks = [on_the_cliff(tmp_path_factory.mktemp("cliff") / "task", upper) for upper in (0.5, 1e-9)]
    for task in tasks:
        assert not task.is_finished()
        run_task(task)
    return tasks


@pytest.mark.long
def test_a_task_that_diverged_is_finished_and_has_the_worst_score(cliff, runs, tmp_path):
    diverged, steady = cliff
    assert len(RunFolder(diverged.folder).read_divergences()) == 2
    assert diverged.is_finished()
    assert steady.is_finished()
    run_task(diverged)
    assert runs == []
    assert diverged.score() == np.inf
    assert steady.score() == np.mean([row["upper_objective"] for row in final_rows(steady.folder)])
    assert len(final_rows(steady.folder)) == 2
    chosen, record = choose(cliff)
    half = replace(steady, folder=tmp_path / "half")
    RunFolder(half.folder).append_rows("metrics", RunFolder(steady.folder).read_rows("metrics")[:-1])
    RunFolder(half.folder).write_divergences(RunFolder(diverged.folder).read_divergences()[:1])
    assert half.score() == np.inf, "one seed of two diverged"
    assert chosen is steady
    assert [trial["score"] for trial in record["trials"]] == ["diverged", steady.score()]
    with pytest.raises(ValueError, match="steady diverged in each of its 1 trials"):
        choose([diverged])


@pytest.mark.long
def test_trials_of_a_method_share_compiled_programs(cliff, tmp_path, caplog):
    with jax.log_compiles():
        run_task(on_the_cliff(tmp_path / "task", 1e-8))
    assert [record.message for record in caplog.records if "XLA compilation" in record.message] == []


def test_a_seed_that_diverged_counts_as_its_start_or_as_its_end_where_that_is_worse(cliff):
    outcome = read_outcome([RunFolder(replace(task).folder) for task in cliff], seconds=1.0)
    assert outcome.has_diverged.tolist() == [True, False]
    np.testing.assert_array_equal(outcome.transitions, [0, 400, 800])
    assert not np.isnan(outcome.objectives).any()
    objectives = np.array([[5.0, 3.0], [5.0, 7.0], [5.0, 3.0]])
    outcome = Outcome(np.array([0, 8]), objectives, np.array([True, True, False]), seconds=1.0)
    assert outcome.final_objectives.tolist() == [5.0, 7.0, 3.0]
    ((*_, reached, diverged),) = table_rows({"method": outcome}, optimum=3.0)
    assert reached == "not reached (1 of 3)"
    assert diverged == "2 of 3"


def test_a_budget_is_not_exceeded_where_iterations_do_not_divide_it(tmp_path):
    task = on_the_cliff(tmp_path, 1e-9)
    assert [replace(task, budget=budget).num_iterations() for budget in (7, 8, 23, 24)] == [0, 1, 2, 3]


class FreeRide(SingleLoopActorCritic):
    """Takes no transitions, it says."""

    @property
    def num_transitions_per_iteration(self):
        return 0


@pytest.mark.long
def test_a_method_without_transitions_has_one_seed_and_is_a_line_to_compare_with(tmp_path, monkeypatch, copied):
    free = Method("free", lambda p, s, n: FreeRide(p, s, Followers(n)), {"upper": (0.01, 0.1)}, is_deterministic=True)
    monkeypatch.setitem(METHODS, "free", free)
    with_settings(methods=(*NAMES, "free")).main(copied, progress=False)
    assert [path.name for path in (copied.path / "final/free").iterdir()] == ["seed-0"]
    rows = RunFolder(copied.path / "final/free/seed-0").read_rows("metrics")
    assert [row["num_iterations"] for row in rows] == [0, 1, 2, 4, 9, 18, 37, 75, 150, 225, FREE_ITERATIONS]
    outcome = read_outcomes(copied)[0]["free"]
    assert outcome.is_reference
    assert outcome.objectives.shape == (1, 11)
    *_, last = (copied.path / "table.md").read_text().splitlines()
    assert last.startswith("| free | ")
    assert last.count("–") == 4  # two intervals, test, and transitions
    assert CONFIG.summarize(copied).rstrip().split(", ")[-1].startswith("free ")


def test_the_table_ranks_tests_and_marks():
    transitions, seeds = np.array([0, 50, 100]), np.arange(4) / 1000
    curves = {
        "slow": [1.0, 0.6, 0.5],
        "fast": [1.0, 0.13, 0.11],
        "line": [0.9, 0.2, 0.1],
    }
    outcomes = {
        name: Outcome(
            0 * transitions if name == "line" else transitions,
            np.array(curve) + seeds[:1, None] if name == "line" else np.array(curve) + seeds[:, None],
            np.zeros(1 if name == "line" else 4, bool),
            seconds=1.0,
        )
        for name, curve in curves.items()
    }
    fast, slow, line = table_rows(outcomes, optimum=0.1)
    # Middle half of 0, 1, 2, 3 thousandths: 0.0015. The worst resamples have the mean 0 or 0.003.
    assert fast[:2] == ["fast", "0.1115"]
    assert fast[3] == "0.0115"
    assert fast[5:] == ["–", "50", "0 of 4"]
    # All four differences are the same: 2 of 2⁴ flips are as extreme.
    assert slow[5:] == [f"{2 / 16:.3f}", "not reached (0 of 4)", "0 of 4"]
    assert line == ["line", "0.1000", "–", "0.0000", "–", "–", "–", "0 of 1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("single-loop", "simplex")}, "does not know simplex; it knows single-loop, single-loop-coupled"),
        ({"methods": ()}, "at least one method"),
        ({"methods": ("single-loop", "single-loop")}, "none twice"),
        ({"budget": -1.0}, "--budget must be a positive number of transitions, got -1"),
        ({"budget": 0.5}, "--budget must be"),
        ({"budget": float("inf")}, "--budget must be"),
        ({"budget": 31.0}, "does not pay for one iteration of single-loop, which takes 32 transitions"),
        ({"num_seeds": 0}, "--num-seeds must be at least 1"),
        ({"trials": 0}, "--trials must be at least 1"),
        ({"tuning_seeds": 0}, "--tuning-seeds must be at least 1"),
        ({"num_log_points": 0}, "--num-log-points must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"evaluation_entropy_weight": 0.0}, "--evaluation-entropy-weight must be finite and positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(**settings).check()
    with_settings(budget=32.0).check()
