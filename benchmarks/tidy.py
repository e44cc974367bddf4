"""What a study of language models keeps of its run folders, in three files that are small enough to share.

STUDY/curves.csv       a row for every window of iterations of a run: means over it; counters as at its end
STUDY/scores.csv       a row for every policy that a run scored at its end: `evaluation.csv`
STUDY/provenance.json  how these files were made; options, versions, platform, commit, date and seconds of every run

Rows are dictionaries of text, as in a CSV file. The columns `KEY` tell which run a row is of.
"""

import csv
import datetime
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bilevel_rl.runs.folder import RunFolder

KEY = ("method", "beta", "seed")
COUNTERS = ("num_transitions", "num_answers")
WITHOUT_CURVE = ("seed", "num_iterations", "upper_step", "actor_step", "critic_step", "penalty", "entropy_weight")
"""Columns of `metrics.csv` that the key, the iteration and the options determine."""

Row = dict[str, str]


def key(row: dict[str, Any]) -> tuple[str, float, int]:
    """The run that a row is of."""
    return row["method"], float(row["beta"]), int(row["seed"])


@dataclass(frozen=True)
class TidyStudy:
    """Contents of the three files, sorted by run."""

    curves: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    """a flat dictionary a run"""

    @classmethod
    def read(cls, path: Path) -> "TidyStudy":
        """The files in a study's folder; nothing where there are none."""
        if not (path / "provenance.json").is_file():
            return cls()
        provenance = json.loads((path / "provenance.json").read_text())
        runs = [provenance["shared"] | run for run in provenance["runs"]]
        return cls(_read_rows(path / "curves.csv"), _read_rows(path / "scores.csv"), runs)

    def write(self, path: Path, made_by: str):
        """Writes the files into a study's folder. In `provenance.json` what all runs share stands once.

        Args:
            path: the folder.
            made_by: how the files were made, for whoever finds them without the run folders.
        """
        _write_rows(path / "curves.csv", self.curves)
        _write_rows(path / "scores.csv", self.scores)
        shared = {
            name: value
            for name, value in self.runs[0].items()
            if name not in KEY and all(name in run and run[name] == value for run in self.runs)
        }
        runs = [{name: run[name] for name in (*KEY, *run) if name not in shared} for run in self.runs]
        provenance = {"made_by": made_by, "shared": shared, "runs": runs}
        (path / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")

    def updated(self, newer: Sequence["TidyStudy"]) -> "TidyStudy":
        """With other runs, which replace those of the same key."""
        replaced = {key(run) for study in newer for run in study.runs}

        def merge(name: str) -> list[dict[str, Any]]:
            kept = [row for row in getattr(self, name) if key(row) not in replaced]
            return sorted([*kept, *(row for study in newer for row in getattr(study, name))], key=key)

        return TidyStudy(merge("curves"), merge("scores"), merge("runs"))


def condense(folder: RunFolder, window: int) -> TidyStudy:
    """A finished run.

    Args:
        folder: with a row in `metrics.csv` for every iteration of one seed.
        window: iterations that a row of the curves is the mean of; a run that is shorter has one row.
    """
    options = folder.config()["options"]
    run = options.pop("run")
    name = {"method": options.pop("method"), "beta": options.pop("beta"), "seed": run.pop("seed")}
    text = {column: str(value) for column, value in name.items()}
    with (folder.path / "evaluation.csv").open(newline="") as file:
        scores = [text | row for row in csv.DictReader(file)]
    provenance = {
        "date": datetime.date.fromtimestamp((folder.path / "evaluation.csv").stat().st_mtime).isoformat(),
        "seconds": round(_seconds([row["seconds"] for row in folder.read_rows("timing")]), 1),
        "options": options | {"run": run},
        "trainer": json.loads((folder.path / "run.json").read_text()),
        "environment": json.loads((folder.path / "environment.json").read_text()),
    }
    curves = [text | row for row in window_means(folder.read_rows("metrics"), window)]
    return TidyStudy(curves, scores, [name | dict(_flat(provenance))])


def window_means(rows: Sequence[dict[str, float]], window: int) -> list[Row]:
    """Metric rows of every `window`-th iteration: means over the iterations up to it, with eight digits."""
    width = min(window, len(rows))
    means: list[Row] = []
    for end in range(width, len(rows) + 1, width):
        block = rows[end - width : end]
        means.append({"iteration": str(block[-1]["num_iterations"])})
        for column in block[-1]:
            if column in COUNTERS:
                means[-1][column] = str(block[-1][column])
            elif column not in WITHOUT_CURVE:
                means[-1][column] = f"{np.mean([row[column] for row in block]):.8g}"
    return means


def _seconds(elapsed: Sequence[float]) -> float:
    """Seconds of a run whose clock starts again with every resume."""
    return elapsed[-1] + sum(before for before, after in itertools.pairwise(elapsed) if after < before)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read_rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: Sequence[Row]):
    """Columns that a row does not have stay empty."""
    columns = dict.fromkeys(column for row in rows for column in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
