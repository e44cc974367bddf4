"""Happy tweets: what judge and reward say of the tweets, against iterations and distance."""

import csv
from typing import Any

import numpy as np
from jaxtyping import Float
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
        for axes, along in ((left, iterations), (middle, curves["mean_divergence"])):
            axes.plot(along, curves["judge_score"], label="judge")
            axes.plot(along, curves["mean_reward"], label="reward r_x")
        left.set(xlabel="iteration", ylabel="score", title=f"What the tweets are worth (mean of {WINDOW} iterations)")
        left.legend()
        middle.set(xlabel="KL from the fine-tuned model (nats)", ylabel="score", title="… and how far that takes")
        bins = np.linspace(-4, 4, 33)
        for name, label in (("before", "before"), ("lower", "after")):
            right.hist(scores[f"{name}_score"], bins=bins.tolist(), alpha=0.6, label=label)
        right.set(xlabel="judge's score of a tweet", ylabel="tweets", title="All tweets, before and after")
        right.legend()
        return figure

    save_figure(folder, "happy_tweets", draw)
