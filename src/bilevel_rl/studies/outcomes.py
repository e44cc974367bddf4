"""What a run of a user's problem came to, read from its files: nothing of the problem is executed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel_rl import figures
from bilevel_rl.runs import diagnosis
from bilevel_rl.runs.folder import RunFolder

MOST_SHOWN = 8
"""Entries of x in a sentence."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        before: Φ at the start of each seed; where it was sampled, the mean of f(x, π) over the first log interval.
        after: the same at the end; over the last log interval.
        is_sampled: whether they are estimates of f(x, π), and not exact values of Φ(x).
        labels: what the entries of x are called.
        initial_x: x_0.
        x: at the end, of each seed.
        optimal_objective: Φ at the optimum, None where it is not known.
        optimum_is: where that comes from.
    """

    before: Float[np.ndarray, " seeds"]
    after: Float[np.ndarray, " seeds"]
    is_sampled: bool
    labels: Sequence[str]
    initial_x: Float[np.ndarray, " n"]
    x: Float[np.ndarray, "seeds n"]
    optimal_objective: float | None
    optimum_is: str

    def sentence(self) -> str:
        """For people, without the verdict."""
        what = "f(x, π) in the first and last log interval" if self.is_sampled else "Φ"
        of = f"median of {len(self.after)} seeds" if len(self.after) > 1 else "1 seed"
        parts = [f"{what} {np.median(self.before):.5g} → {np.median(self.after):.5g} ({of})"]
        if self.optimal_objective is not None:
            parts.append(f"optimum {self.optimal_objective:.5g} ({self.optimum_is})")
        return "; ".join([*parts, named(self.labels, np.median(self.x, axis=0))])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "initial_objectives": self.before.tolist(),
            "final_objectives": self.after.tolist(),
            "is_sampled": self.is_sampled,
            "optimal_objective": self.optimal_objective,
            "optimum_is": self.optimum_is,
            "labels": list(self.labels),
            "initial_x": self.initial_x.tolist(),
            "x": self.x.tolist(),
        }


def read(folder: RunFolder) -> Outcome:
    """The outcome of a run.

    Raises:
        RunFolderError: the run has not come that far.
    """
    data = folder.read_arrays("outcome")
    is_sampled = figures.is_sampled(folder)
    curves = figures.read_curves(folder, "upper_value" if is_sampled else "upper_objective").values
    # The first sampled row is of the first iteration alone, in which chains are where they start.
    first = min(int(is_sampled), curves.shape[1] - 1)
    return Outcome(
        before=curves[:, first],
        after=curves[:, -1],
        is_sampled=is_sampled,
        labels=data["labels"].tolist(),
        initial_x=data["initial_x"],
        x=data["x"],
        optimal_objective=float(data["optimal_objective"]) if "optimal_objective" in data else None,
        optimum_is=str(data.get("optimum_is", "")),
    )


def named(labels: Sequence[str], x: Float[np.ndarray, " n"]) -> str:
    """x by the names of its entries; of many those that are largest."""
    shown = np.sort(np.argsort(-np.abs(x), kind="stable")[:MOST_SHOWN])
    entries = ", ".join(f"{labels[i]} = {x[i]:.3g}" for i in shown)
    return entries if len(x) <= MOST_SHOWN else f"the largest of {len(x)}: {entries}"


def findings(folder: RunFolder) -> list[dict[str, Any]]:
    """What `diagnose` finds, as data."""
    return [asdict(finding) for finding in diagnosis.diagnose(folder)]


def verdict(found: Sequence[diagnosis.Finding]) -> str:
    """What `diagnose` finds, in a few words: the most frequent finding."""
    first, num_seeds = found[0], sum(len(finding.seeds) for finding in found)
    why = first.remedy or (first.evidence if first.name == diagnosis.NOT_JUDGED else "")
    return f"{first.name} ({len(first.seeds)} of {num_seeds} seeds){f': {why}' if why else ''}"
