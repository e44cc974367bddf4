"""What a study keeps of its run folders says what the folders said. The folders are written by hand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import happy_tweets_study as study, tidy
from benchmarks.tidy import TidyStudy
from bilevel_rl.figures.style import LIGHT
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.happy_tweets import figures as tweet_figures

COLUMNS = (
    *("policy", "distinct_1", "distinct_2", "reward", "divergence", "score", "score_se"),
    *("vader", "nade", "perplexity", "above_maximum"),
)
ROOT = Path(__file__).parents[2]


def judge(method, seed, k):
    """What the judge says in iteration k of a run: 0.1 k, and an offset for every method and seed."""
    return 0.1 * k + {"bilevel": 1, "two-stage": 0}[method] + 10 * seed


def metrics(method, seed, k):
    row = {"seed": seed, "num_iterations": k, "num_transitions": 7 * k, "num_answers": 8 * k, "upper_step": 0.5}
    row |= {"lower_mean_reward": -k, "lower_mean_divergence": k / 4, "lower_judge_score": judge(method, seed, k)}
    return row | ({"reward_difference": 0.25} if method == "bilevel" else {})


def write_run(path, method, seed, num_iterations=20, final=2.0):
    folder = RunFolder(path / f"{method}-beta-0.1-seed-{seed}")
    run = {"num_iterations": num_iterations, "seed": seed}
    folder.write_config({"experiment": "happy-tweets", "options": {"run": run, "method": method, "beta": 0.1}})
    folder.write_text("run.json", json.dumps({"method": f"{method} trainer", "discount": 1.0}))
    folder.write_text("environment.json", json.dumps({"versions": {"numpy": "2.4.6"}, "python": "3.11.7"}))
    iterations = range(1, num_iterations + 1)
    folder.append_rows("metrics", [metrics(method, seed, k) for k in iterations])
    folder.append_rows("timing", [{"seed": seed, "num_iterations": k, "seconds": 1.5 * k} for k in iterations])
    rows = [
        ("before", 0.5, 0.9, 0.0, 0.0, 0.25 + seed, 0.5, 0.1, 0.2, 70.0, 0.0),
        ("lower", 0.25, 0.75, final - 0.5, 6.0, final, 0.5, 3.0, 2.5, 30.0, 0.125),
    ]
    lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
    folder.write_text("evaluation.csv", "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    for method in ("bilevel", "two-stage"):
        for seed in (0, 1):
            write_run(tmp_path, method, seed, final=1.0 + 2 * seed)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(tweet_figures, "save_figure", lambda folder, name, draw: figures.append(draw(LIGHT)))
    return figures


def remove_run_folders(path):
    for evaluation in path.glob("*/evaluation.csv"):
        shutil.rmtree(evaluation.parent)


def lines_of(figure):
    return [line.get_xydata() for axes in figure.axes for line in axes.lines]


def test_a_row_is_the_mean_over_ten_iterations_up_to_it(tmp_path):
    curves = tidy.condense(write_run(tmp_path, "bilevel", 0, num_iterations=25), window=10).curves
    assert [row["iteration"] for row in curves] == ["10", "20"]  # the last five fill no window
    assert [row["lower_judge_score"] for row in curves] == ["1.55", "2.55"]  # 1 + 0.1 · 5.5, 1 + 0.1 · 15.5
    assert [row["lower_mean_reward"] for row in curves] == ["-5.5", "-15.5"]
    assert [row["lower_mean_divergence"] for row in curves] == ["1.375", "3.875"]
    assert [(row["num_transitions"], row["num_answers"]) for row in curves] == [("70", "80"), ("140", "160")]
    assert "upper_step" not in curves[0]


def test_a_run_shorter_than_a_window_has_one_row(tmp_path):
    (row,) = tidy.condense(write_run(tmp_path, "bilevel", 0, num_iterations=4), window=10).curves
    assert (row["iteration"], row["lower_judge_score"]) == ("4", "1.25")


def test_the_kept_files_print_and_draw_what_the_run_folders_do(runs, drawn, capsys):
    arguments = study.Study(folder=runs, report=True)
    study.main(arguments)
    with_folders = capsys.readouterr().out
    remove_run_folders(runs)
    study.main(arguments)
    assert capsys.readouterr().out == with_folders
    for kept, first in zip(lines_of(drawn[1]), lines_of(drawn[0]), strict=True):
        np.testing.assert_array_equal(kept, first)


def test_tables_and_lines_by_hand(runs, drawn, capsys):
    study.main(study.Study(folder=runs, report=True))
    tables = capsys.readouterr().out
    # Student's t with one degree of freedom: 12.706 · (standard deviation √2) / √2.
    assert "| bilevel | 2 | 2.00 ± 12.71 | 3.00 ± 0.00 | 2.50 ± 0.00 | 1.50 ± 12.71 | -0.50 ± 0.00 |" in tables
    assert "| fine-tuned model | 2 | 0.75 ± 6.35 | 0.10 ± 0.00 | 0.20 ± 0.00 |  |  | 0.00 ± 0.00 |" in tables
    above, below = drawn[0].axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["bilevel", "two-stage"]
    for number, method in enumerate(("bilevel", "two-stage")):
        means = [np.mean([judge(method, seed, k) for seed in (0, 1)]) for k in (5.5, 15.5)]
        assert above.lines[2 * number].get_xydata() == pytest.approx(np.array([[10, means[0]], [20, means[1]]]))
        assert below.lines[2 * number].get_xydata() == pytest.approx(np.array([[1.375, means[0]], [3.875, means[1]]]))
        shade = above.collections[number].get_paths()[0].vertices[:, 1]
        assert (shade.min(), shade.max()) == pytest.approx((judge(method, 0, 5.5), judge(method, 1, 15.5)))


def test_what_runs_share_stands_once(runs):
    study.condense(runs)
    provenance = json.loads((runs / "provenance.json").read_text())
    shared = {"options.run.num_iterations": 20, "trainer.discount": 1.0, "environment.versions.numpy": "2.4.6"}
    assert provenance["shared"].items() >= shared.items()
    first = provenance["runs"][0]
    assert list(first)[:3] == ["method", "beta", "seed"]
    assert first == {"method": "bilevel", "beta": 0.1, "seed": 0, "trainer.method": "bilevel trainer"}
    assert provenance["shared"]["seconds"] == 30.0


def test_seconds_of_a_resumed_run_are_those_of_all_its_parts(tmp_path):
    folder = write_run(tmp_path, "bilevel", 0)
    folder.append_rows("timing", [{"seed": 0, "num_iterations": k, "seconds": k - 20} for k in (21, 22)])
    assert tidy.condense(folder, window=10).runs[0]["seconds"] == 30 + 2


def test_files_read_back_as_they_were_written(runs):
    written = study.condense(runs)
    remove_run_folders(runs)
    read = study.condense(runs)
    assert read.runs == written.runs
    assert read.scores == written.scores
    # A column that another method has is empty.
    assert [{name: value for name, value in row.items() if value} for row in read.curves] == written.curves
    assert TidyStudy.read(runs / "nothing") == TidyStudy()


def test_new_runs_join_the_kept_ones_and_replace_their_own(runs):
    before = study.condense(runs)
    remove_run_folders(runs)
    write_run(runs, "bilevel", 1, final=3.5)
    write_run(runs, "bilevel", 2)
    after = study.condense(runs)
    key = ("bilevel", 0.1)
    assert [tidy.key(run) for run in after.runs] == [
        *((*key, seed) for seed in (0, 1, 2)),
        *(("two-stage", 0.1, seed) for seed in (0, 1)),
    ]
    scores = [row["score"] for row in after.scores if row["policy"] == "lower"]
    assert scores == ["1.0", "3.5", "2.0", "1.0", "3.0"]
    assert len(after.curves) == len(before.curves) + 2


def test_runs_that_the_files_hold_are_not_run_again(runs, drawn, monkeypatch):
    study.condense(runs)
    remove_run_folders(runs)

    def run(config, folder, *, progress=True):
        shutil.rmtree(folder.path)
        write_run(runs, config.method, config.run.seed)

    monkeypatch.setattr(study.HappyTweets, "main", run)
    study.main(study.Study(folder=runs, methods=("bilevel", "two-stage"), betas=(0.1,), seeds=(0, 1, 2)))
    assert {path.parent.name for path in runs.glob("*/evaluation.csv")} == {
        "bilevel-beta-0.1-seed-2",
        "two-stage-beta-0.1-seed-2",
    }
    assert len(TidyStudy.read(runs).runs) == 6


def test_the_page_states_what_the_kept_files_say(drawn, capsys):
    for name in ("happy_tweets", "happy_tweets_tiny"):
        path = ROOT / "benchmarks" / "results" / name
        study.report(TidyStudy.read(path), path)
    reported = _rows(capsys.readouterr().out)
    stated = _rows((ROOT / "docs" / "reports" / "language_models.md").read_text())
    assert len(stated) == 15
    for name, cells in stated:
        assert any(name == method and set(cells) <= set(others) for method, others in reported), (name, cells)


def _rows(text):
    """Method, number of seeds and means with intervals, of each row of a table of methods."""
    rows = []
    for name, seeds, cells in re.findall(r"^\| ([^|]+) \| (\d+) \|(.*)\|$", text, flags=re.MULTILINE):
        intervals = [cell.strip().replace("−", "-") for cell in cells.split("|") if "±" in cell]
        rows.append((name.replace("-", "").replace(" ", "").lower(), [seeds, *intervals]))
    return rows
