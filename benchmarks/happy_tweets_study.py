"""Bi-level RLHF against its rivals on happy tweets, at the same number of human answers and of completions.

    python -m benchmarks.happy_tweets_study --folder runs/happy-tweets-study

Runs every method at every β and seed into a folder of its own, and continues what a killed study left. Then condenses
the run folders into curves.csv, scores.csv and provenance.json (`benchmarks.tidy`), prints the tables of
docs/reports/language_models.md and draws their figure, both from these files alone. `--report` runs nothing. Runs that
the files hold are finished, whether their folders are still there or not. A run of 100 iterations of 2 × 8 tweets takes
20 minutes on one core.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import scipy.stats
import tyro

from benchmarks import tidy
from benchmarks.tidy import Row, TidyStudy
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.happy_tweets.figures import WINDOW, StudyCurves, draw_happy_tweets_study
from bilevel_rl.studies.happy_tweets.study import HUMAN_MAXIMUM, HappyTweets, Method, TweetRunConfig

COLUMNS = {
    "score": "judge",
    "vader": "VADER",
    "nade": "NADE",
    "reward": "reward r_x",
    "gap": "reward − judge",
    "divergence": "KL (nats)",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "perplexity": "perplexity",
    "above_maximum": f"above {HUMAN_MAXIMUM}",
}
"""Scores of a policy, and what the tables of docs/reports/language_models.md call them."""

MADE_BY = (
    "benchmarks.happy_tweets_study, from a folder METHOD-beta-BETA-seed-SEED of every run. curves.csv: means of its "
    f"metrics.csv over {WINDOW} iterations, eight digits. scores.csv: its evaluation.csv. Here: the date of that file, "
    "seconds of its timing.csv; options, trainer and environment of its config.json, run.json and environment.json."
)


@dataclass(frozen=True)
class Study:
    """What is compared."""

    folder: Path = Path("runs/happy-tweets-study")
    """every run gets a folder in it"""
    methods: tuple[Method, ...] = ("bilevel", "two-stage", "iterated", "partial-sgd", "nested-loop")
    """what is compared"""
    betas: tuple[float, ...] = (0.01, 0.1)
    """weights of staying near the fine-tuned model"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """independent repetitions"""
    report: bool = False
    """only report what there is"""
    options: HappyTweets = field(default_factory=HappyTweets)
    """of every run; method, β and seed are replaced"""

    def config(self, method: Method, beta: float, seed: int) -> HappyTweets:
        """One run."""
        run: TweetRunConfig = dataclasses.replace(self.options.run, seed=seed)
        return dataclasses.replace(self.options, method=method, beta=beta, run=run)

    def path(self, method: str, beta: float, seed: int) -> Path:
        """Its folder."""
        return self.folder / f"{method}-beta-{beta:g}-seed-{seed}"


def run(study: Study, finished: TidyStudy):
    """All runs that are not finished, seeds outermost: an unfinished study compares all methods."""
    done = {tidy.key(run) for run in finished.runs}
    for seed in study.seeds:
        for beta in study.betas:
            for method in study.methods:
                if (method, beta, seed) in done:
                    continue
                path = study.path(method, beta, seed)
                config, folder = study.config(method, beta, seed), RunFolder(path)
                folder.write_config(config.to_json())
                config.main(folder)
                print(f"{path.name}: {config.summarize(folder)}", flush=True)


def condense(path: Path) -> TidyStudy:
    """What the study's files hold, once the finished runs whose folders are there are condensed into them."""
    kept = TidyStudy.read(path)
    folders = [RunFolder.open(evaluation.parent) for evaluation in sorted(path.glob("*/evaluation.csv"))]
    if not folders:
        return kept
    study = kept.updated([tidy.condense(folder, WINDOW) for folder in folders])
    study.write(path, MADE_BY)
    return study


def measures(row: Row) -> dict[str, float]:
    """A row of the scores as numbers."""
    numbers = {name: float(value) for name, value in row.items() if name not in ("method", "policy") and value}
    return numbers | {"gap": numbers["reward"] - numbers["score"]}


def curves(rows: list[Row]) -> StudyCurves:
    """One method's rows at one β as arrays, a line a seed."""
    lines = [list(line) for _, line in itertools.groupby(rows, tidy.key)]
    judge, reward, divergence = (
        np.array([[float(row[f"lower_{name}"]) for row in line] for line in lines])
        for name in ("judge_score", "mean_reward", "mean_divergence")
    )
    return StudyCurves(np.array([int(row["iteration"]) for row in lines[0]]), judge, reward, divergence)


def interval(values: list[float]) -> str:
    """Mean and half of the 95 % interval of Student's t over the seeds."""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


def line(title: str, rows: list[Row], without: tuple[str, ...] = ()) -> str:
    """A row of the table, a mean over seeds in each cell."""
    numbers = [measures(row) for row in rows]
    cells = ["" if name in without else interval([row[name] for row in numbers]) for name in COLUMNS]
    return f"| {title} | {len(rows)} | {' | '.join(cells)} |"


def report(study: TidyStudy, path: Path):
    """Prints a table for every β as Markdown, the model before training first, and draws the figure into the folder."""
    groups: dict[str, dict[str, StudyCurves]] = {}
    for beta in sorted({float(row["beta"]) for row in study.scores}):
        scores, points = ([row for row in rows if float(row["beta"]) == beta] for rows in (study.scores, study.curves))
        print(f"\nβ = {beta:g}\n\n| | seeds | {' | '.join(COLUMNS.values())} |\n|---|---|{'---|' * len(COLUMNS)}")
        # All methods start from one model; their rewards differ, as their offline preferences do.
        before = {row["seed"]: row for row in scores if row["policy"] == "before"}
        print(line("fine-tuned model", list(before.values()), without=("reward", "gap")))
        groups[f"β = {beta:g}"] = methods = {}
        for method in get_args(Method):
            if rows := [row for row in scores if (row["method"], row["policy"]) == (method, "lower")]:
                print(line(method, rows))
                methods[method] = curves([row for row in points if row["method"] == method])
    if groups:
        draw_happy_tweets_study(RunFolder(path), groups)


def main(study: Study):
    """Runs what is missing, unless only a report is asked for, and reports."""
    if not study.report:
        run(study, condense(study.folder))
    report(condense(study.folder), study.folder)


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
