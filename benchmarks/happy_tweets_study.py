"""Bi-level RLHF against its rivals on happy tweets, at the same number of human answers and of completions.

    python -m benchmarks.happy_tweets_study --folder runs/happy-tweets-study

Runs every method at every β and seed into a folder of its own, continues what a killed study left, and prints the table
of docs/language_models.md; `--report` prints what there is and runs nothing. A run of 100 iterations of
2 × 8 tweets takes 20 minutes on one core.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import tyro

from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import to_json
from bilevel_rl.studies.happy_tweets import study as happy_tweets
from bilevel_rl.studies.happy_tweets.figures import draw_happy_tweets_study, read_evaluation
from bilevel_rl.studies.happy_tweets.study import HappyTweets, Method, TweetRunConfig

COLUMNS = (
    "score",
    "reward",
    "gap",
    "vader",
    "nade",
    "divergence",
    "distinct_1",
    "distinct_2",
    "perplexity",
    "above_maximum",
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


def run(study: Study):
    """All runs that are not finished, seeds outermost: an unfinished study compares all methods."""
    for seed in study.seeds:
        for beta in study.betas:
            for method in study.methods:
                path = study.path(method, beta, seed)
                if (path / "evaluation.csv").is_file():
                    continue
                config, folder = study.config(method, beta, seed), RunFolder(path)
                folder.write_config(to_json("happy-tweets", config))
                happy_tweets.main(config, folder)
                print(f"{path.name}: {happy_tweets.summarize(folder)}", flush=True)


def measures(folder: RunFolder) -> dict[str, float]:
    """The follower's row of a finished run."""
    row: dict[str, Any] = next(row for row in read_evaluation(folder) if row["policy"] == "lower")
    return row | {"gap": row["reward"] - row["score"]}


def interval(values: list[float]) -> str:
    """Mean and half of the 95 % interval of Student's t over the seeds."""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


def report(study: Study):
    """Prints the table as Markdown and draws the figure."""
    groups: dict[str, dict[str, list[RunFolder]]] = {}
    for beta in study.betas:
        print(f"\nβ = {beta:g}\n\n| method | seeds | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
        methods: dict[str, list[RunFolder]] = {}
        for method in study.methods:
            paths = [study.path(method, beta, seed) for seed in study.seeds]
            finished = [RunFolder.open(path) for path in paths if (path / "evaluation.csv").is_file()]
            if not finished:
                continue
            methods[method] = finished
            rows = [measures(folder) for folder in finished]
            cells = [interval([row[name] for row in rows]) if name in rows[0] else "–" for name in COLUMNS]
            print(f"| {method} | {len(rows)} | {' | '.join(cells)} |")
        if methods:
            groups[f"β = {beta:g}"] = methods
    if groups:
        draw_happy_tweets_study(RunFolder(study.folder), groups)


if __name__ == "__main__":
    arguments = tyro.cli(Study, description=__doc__)
    if not arguments.report:
        run(arguments)
    report(arguments)
