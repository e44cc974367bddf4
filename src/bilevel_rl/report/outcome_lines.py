"""What the files of a run say of its outcome, in a sentence and as data; nothing is executed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel_rl import figures
from bilevel_rl.outcome import Outcome, read_outcome
from bilevel_rl.runs import diagnosis
from bilevel_rl.runs.folder import RunFolder

MOST_SHOWN = 8
"""Entries of x in a sentence."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a run.

    Attributes:
        before: Φ at the start of each seed; where it was sampled, the mean of f(x, π) over the first log interval.
        after: the same at the end; over the last log interval.
        is_sampled: whether they are estimates of f(x, π), and not exact values of Φ(x).
        outcome: what became of x and of the follower.
    """

    before: Float[np.ndarray, " seeds"]
    after: Float[np.ndarray, " seeds"]
    is_sampled: bool
    outcome: Outcome

    def sentence(self) -> str:
        """For people, without the verdict."""
        what = "f(x, π) in the first and last log interval" if self.is_sampled else "Φ"
        of = f"median of {len(self.after)} seeds" if len(self.after) > 1 else "1 seed"
        parts = [f"{what} {np.median(self.before):.5g} → {np.median(self.after):.5g} ({of})"]
        if (optimum := self.outcome.optimum) is not None:
            parts.append(f"optimum {optimum.objective:.5g} ({optimum.how})")
        return "; ".join([*parts, named(self.outcome.x_names, np.median(self.outcome.final_x, axis=0))])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        optimum = self.outcome.optimum
        return {
            "initial_objectives": self.before.tolist(),
            "final_objectives": self.after.tolist(),
            "is_sampled": self.is_sampled,
            "optimal_objective": None if optimum is None else optimum.objective,
            "optimum_is": None if optimum is None else optimum.how,
            "labels": list(self.outcome.x_names),
            "initial_x": self.outcome.initial_x.tolist(),
            "x": self.outcome.final_x.tolist(),
        }


def read(folder: RunFolder, outcome: Outcome | None = None) -> Summary:
    """The outcome of a run; by default as it was measured.

    Raises:
        RunFolderError: the run has not come that far.
    """
    outcome = outcome or read_outcome(folder)
    is_sampled = figures.is_sampled(folder)
    curves = figures.read_curves(folder, "upper_value" if is_sampled else "upper_objective")
    first = figures.first_measured(curves, is_sampled=is_sampled)
    return Summary(curves.values[:, first], curves.values[:, -1], is_sampled, outcome)


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
    return f"{first.name} ({len(first.seeds)} of {figures.seeds_of(num_seeds)}){f': {why}' if why else ''}"
