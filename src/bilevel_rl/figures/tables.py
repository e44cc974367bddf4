"""Metric rows of a run folder as arrays, one line a seed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bilevel_rl.runs.folder import RunFolder, RunFolderError


class Curves(NamedTuple):
    """One metric over a run. A seed that stopped early keeps its last value, as its x does."""

    num_iterations: Int[np.ndarray, " points"]
    num_transitions: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points"]

    def above(self, level: float) -> "Curves":
        """How far they are above a level, such as an optimum."""
        return self._replace(values=self.values - level)


def columns_of(folder: RunFolder) -> set[str]:
    """What was measured.

    Raises:
        RunFolderError: the run has no metric rows yet.
    """
    rows = folder.read_rows("metrics")
    if not rows:
        raise RunFolderError(f"{folder.path} has no metrics yet; `bilevel-rl resume` it")
    return set(rows[0])


def read_curves(folder: RunFolder, metric: str) -> Curves:
    """A column of `metrics.csv`.

    Raises:
        RunFolderError: the run has no metric rows yet, or no such column.
    """
    columns, rows = columns_of(folder), folder.read_rows("metrics")
    if metric not in columns:
        raise RunFolderError(f"{folder.path} has no metric {metric!r}; it has {', '.join(rows[0])}")
    transitions = {row["num_iterations"]: row["num_transitions"] for row in rows}
    iterations = np.array(sorted(transitions))
    seeds = sorted({row["seed"] for row in rows})
    values = np.full((len(seeds), len(iterations)), np.nan)
    for row in rows:
        values[seeds.index(row["seed"]), np.searchsorted(iterations, row["num_iterations"])] = row[metric]
    for point in range(1, len(iterations)):
        missing = np.isnan(values[:, point])
        values[missing, point] = values[missing, point - 1]
    return Curves(iterations, np.array([transitions[k] for k in iterations]), values)


def read_paths(folder: RunFolder) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, "seeds points n"]]:
    """Transitions, and x of every seed at every log point, of an x of which `metrics.csv` holds all numbers."""
    number = len([column for column in columns_of(folder) if column.startswith("x") and column[1:].isdecimal()])
    entries = [read_curves(folder, f"x{i}") for i in range(number)]
    return entries[0].num_transitions, np.stack([entry.values for entry in entries], axis=-1)


def seeds_of(count: int) -> str:
    """How many there are, for people."""
    return "1 seed" if count == 1 else f"{count} seeds"


def first_measured(curves: Curves, *, is_sampled: bool) -> int:
    """The point that shows how a run began: a first sampled row is of the first iteration alone, in which chains are
    where they start, so that the next one, of a whole log interval, is the one to compare with."""
    return min(int(is_sampled), curves.values.shape[1] - 1)


def final_values(folder: RunFolder, metric: str) -> Float[np.ndarray, " seeds"]:
    """A metric at the end of the run, of each seed."""
    return read_curves(folder, metric).values[:, -1]


def initial_values(folder: RunFolder, metric: str) -> Float[np.ndarray, " seeds"]:
    """A metric at the start of the run, of each seed."""
    return read_curves(folder, metric).values[:, 0]


def is_sampled(folder: RunFolder) -> bool:
    """Whether the metric rows were estimated from samples, because the model is too large to be measured exactly."""
    rows = folder.read_rows("metrics")
    return bool(rows and rows[0].get("is_sampled"))


def summarize_samples(folder: RunFolder) -> str:
    """One line about a run that was not measured exactly."""
    first, last = initial_values(folder, "upper_value"), final_values(folder, "upper_value")
    return (
        f"sampled f(x, π), median of {len(last)} seeds: {np.median(first):.4f} in the first iteration, "
        f"{np.median(last):.4f} at the end (the model is too large for an exact Φ at every log point)"
    )
