"""What comparisons and searches came to, read from their run folders."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bilevel_rl.figures.curves import SMALLEST_SHOWN
from bilevel_rl.figures.tables import read_curves
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import interquartile_mean


class Outcome(NamedTuple):
    """The final runs of a method."""

    transitions: Int[np.ndarray, " points"]
    objectives: Float[np.ndarray, "seeds points"]
    has_diverged: Bool[np.ndarray, " seeds"]
    seconds: float

    @property
    def is_reference(self) -> bool:
        """Whether the method takes no transitions, so that it is a line to compare with."""
        return not self.transitions.any()

    @property
    def final_objectives(self) -> Float[np.ndarray, " seeds"]:
        """Φ at the end. A seed that diverged has nothing to show: it counts as its start, or as its end where worse."""
        first, last = self.objectives[:, 0], self.objectives[:, -1]
        return np.where(self.has_diverged, np.maximum(first, last), last)


def read_outcome(folders: Sequence[RunFolder], seconds: float) -> Outcome:
    """The outcome of a method from the run folders of its seeds, one each.

    Args:
        folders: of finished runs.
        seconds: that the iterations of a seed take.

    Raises:
        RunFolderError: a run has no metrics.
    """
    curves = [read_curves(folder, "upper_objective") for folder in folders]
    longest = max(curves, key=lambda curve: len(curve.num_transitions))
    objectives = [np.pad(c.values[0], (0, len(longest.num_transitions) - c.values.shape[1]), "edge") for c in curves]
    has_diverged = np.array([bool(folder.read_divergences()) for folder in folders])
    return Outcome(longest.num_transitions, np.stack(objectives), has_diverged, seconds)


def read_outcomes(folder: RunFolder) -> tuple[dict[str, Outcome], float]:
    """The outcome of every method of a comparison, and Φ at the known optimum.

    Raises:
        RunFolderError: the comparison has not come that far.
    """
    data = folder.read_arrays("comparison")
    outcomes = {
        str(name): Outcome(
            data[f"{name} transitions"],
            data[f"{name} objectives"],
            data[f"{name} has_diverged"],
            float(data[f"{name} seconds"]),
        )
        for name in data["methods"]
    }
    return outcomes, float(data["optimal_objective"])


def ranked(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Names of the methods, lowest interquartile mean of Φ first; methods that take no transitions last."""
    means = {name: float(interquartile_mean(outcome.final_objectives)) for name, outcome in outcomes.items()}
    return sorted(outcomes, key=lambda name: (outcomes[name].is_reference, means[name]))


def decimals(outcomes: Mapping[str, Outcome], optimum: float) -> int:
    """How many tell a thousandth of the gap at the start, and at least four."""
    return decimals_of(max(float(outcome.objectives[:, 0].max()) for outcome in outcomes.values()) - optimum)


def decimals_of(gap: float) -> int:
    """How many tell a thousandth of a gap, and at least four.

    >>> decimals_of(0.32), decimals_of(0.0019)
    (4, 6)
    """
    return max(4, 3 - math.floor(math.log10(gap))) if 0 < gap < math.inf else 4


def gaps(outcomes: Mapping[str, Outcome], optimum: float) -> dict[str, float]:
    """Interquartile mean of the final Φ − Φ* of every method, as `ranked`."""
    return {name: float(interquartile_mean(outcomes[name].final_objectives)) - optimum for name in ranked(outcomes)}


class Trials(NamedTuple):
    """What a search tried, in order. Φ is infinite where a seed diverged."""

    objectives: Float[np.ndarray, " trials"]
    transitions: Int[np.ndarray, " trials"]
    optimal_objective: float
    parameters: dict[str, Float[np.ndarray, " trials"]]

    @property
    def best(self) -> int:
        """Number of the best trial, the first of equals."""
        return int(np.argmin(self.objectives))

    @property
    def decimals(self) -> int:
        """How many tell the trials apart, and at least four."""
        finite = self.objectives[np.isfinite(self.objectives)]
        return decimals_of(float(finite.max()) - self.optimal_objective) if len(finite) else 4

    @property
    def gaps(self) -> Float[np.ndarray, " trials"]:
        """Φ − Φ*, not below what is shown."""
        return np.maximum(self.objectives - self.optimal_objective, SMALLEST_SHOWN)


def read_trials(folder: RunFolder) -> Trials:
    """The trials of a search.

    Raises:
        RunFolderError: the search has not come to its end.
    """
    data = folder.read_arrays("tuning")
    parameters = {str(name): column for name, column in zip(data["names"], data["parameters"].T, strict=True)}
    return Trials(data["objectives"], data["transitions"], float(data["optimal_objective"]), parameters)
