"""Happy tweets: what judge and reward say of the tweets, against iterations and distance; several runs together."""

import csv
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.figures.tables import read_curves
from bilevel_rl.runs.folder import RunFolder, RunFolderError

WINDOW = 10
"""Iterations that a point of a curve is the mean of: a batch alone is too small to read."""


def read_evaluation(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of `evaluation.csv`: one for the model before, and one for every policy.

    Raises:
        RunFolderError: the run has not come that far.
    """
    path = folder.path / "evaluation.csv"
    if not path.is_file():
        raise RunFolderError(f"{folder.path} has no evaluation: the run has not come that far; `bilevel-rl resume` it")
    with path.open(newline="") as file:
        return [
            {name: value if name == "policy" else float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def smoothed(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Means over windows of `WINDOW` neighbours; of all values where there are fewer."""
    width = min(WINDOW, len(values))
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def draw_happy_tweets(folder: RunFolder):
    """Judge and reward over the run, the way away from the fine-tuned model, and the scores before and after."""
    curves = {
        name: smoothed(read_curves(folder, f"lower_{name}").values[0])
        for name in ("judge_score", "mean_reward", "mean_divergence")
    }
    iterations = np.arange(len(curves["mean_reward"])) + WINDOW
    scores = folder.read_arrays("evaluation")

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(12.6, 3.9))
        left, middle, right = figure.subplots(1, 3)
        left.plot(iterations, curves["judge_score"], label="judge")
        left.plot(iterations, curves["mean_reward"], label="reward r_x")
        left.set(xlabel="iteration", ylabel="score", title=f"What the tweets are worth (mean of {WINDOW} iterations)")
        left.legend()
        middle.plot(curves["mean_divergence"], curves["judge_score"], label="judge")
        middle.plot(curves["mean_divergence"], curves["mean_reward"], label="reward r_x")
        middle.set(xlabel="KL from the fine-tuned model (nats)", ylabel="score", title="… and how far that takes")
        bins = np.linspace(-4, 4, 33)
        for name, label in (("before", "before"), ("lower", "after")):
            right.hist(scores[f"{name}_score"], bins=bins.tolist(), alpha=0.6, label=label)
        right.set(xlabel="judge's score of a tweet", ylabel="tweets", title="All tweets, before and after")
        right.legend()
        return figure

    save_figure(folder, "happy_tweets", draw)


class StudyCurves(NamedTuple):
    """Runs of one method, all of one length: means over `WINDOW` iterations."""

    iterations: Int[np.ndarray, " points"]
    """the last iteration of each window"""
    judge: Float[np.ndarray, "seeds points"]
    """mean score that the judge gives the follower's tweets"""
    reward: Float[np.ndarray, "seeds points"]
    """mean r_x of the follower's tweets"""
    divergence: Float[np.ndarray, "seeds points"]
    """KL from the fine-tuned model, nats"""


def draw_happy_tweets_study(folder: RunFolder, groups: Mapping[str, Mapping[str, StudyCurves]]):
    """Runs of several methods: for every weight β the judge and the reward over iterations and against the distance.

    Lines are means over the seeds; the shade is from the lowest to the highest seed's judge.

    Args:
        folder: where the figure goes.
        groups: title of a column → method → its runs.
    """

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(6.2 * len(groups), 8.2))
        columns = figure.subplots(2, len(groups), squeeze=False).T
        for (above, below), (title, methods) in zip(columns, groups.items(), strict=True):
            for method, (iterations, judge, reward, divergence) in methods.items():
                (line,) = above.plot(iterations, judge.mean(axis=0), label=method)
                colour = line.get_color()
                above.fill_between(iterations, judge.min(axis=0), judge.max(axis=0), color=colour, alpha=0.12, lw=0)
                above.plot(iterations, reward.mean(axis=0), color=colour, linestyle=":", linewidth=1)
                below.plot(divergence.mean(axis=0), judge.mean(axis=0), color=colour)
                below.plot(divergence.mean(axis=0), reward.mean(axis=0), color=colour, linestyle=":", linewidth=1)
            above.set(xlabel="iteration", ylabel="judge (lines), reward (dots)", title=title)
            below.set(xlabel="KL from the fine-tuned model (nats)", ylabel="judge (lines), reward (dots)")
            above.legend()
        return figure

    save_figure(folder, "happy_tweets_study", draw)
