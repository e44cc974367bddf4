"""`outcome.json` and `outcome.npz` of a run folder."""

import dataclasses
import json
from typing import Any

import numpy as np

from bilevel_rl.formulation import GraphLayout, GridLayout, Names
from bilevel_rl.formulation.names import Layout
from bilevel_rl.outcome.outcome import Answer, Costs, Exact, Optimum, Outcome, Slopes
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError
from bilevel_rl.runs.json_files import read_object

NAME = "outcome"
PARTS = {"costs": Costs, "before": Answer, "after": Answer, "slopes": Slopes}
OF_OUTCOME, OF_EXACT = ("initial_x", "final_x"), ("edges", "terminal")


def write_outcome(folder: RunFolder, outcome: Outcome):
    """Writes `outcome.npz`, and then `outcome.json`, whose presence says that both are there."""
    arrays = {name: getattr(outcome, name) for name in OF_OUTCOME}
    exact = outcome.exact
    if exact is not None:
        arrays |= {name: getattr(exact, name) for name in OF_EXACT}
        for part in PARTS:
            arrays |= {f"{part}_{name}": array for name, array in vars(getattr(exact, part)).items()}
    best = outcome.optimum
    if best is not None:
        arrays["optimum_x"] = best.x
    folder.write_arrays(NAME, **{name: array for name, array in arrays.items() if array is not None})
    text = {
        "names": dataclasses.asdict(dataclasses.replace(outcome.names, layout=None)) | {"layout": _written(outcome)},
        "entropy_weight": outcome.entropy_weight,
        "shown_seed": None if exact is None else exact.shown_seed,
        "optimum": None if best is None else {"objective": best.objective, "how": best.how},
    }
    folder.write_text(f"{NAME}.json", json.dumps(text, indent=2) + "\n")


def has_outcome(folder: RunFolder) -> bool:
    """Whether one was written."""
    return (folder.path / f"{NAME}.json").is_file()


def read_outcome(folder: RunFolder) -> Outcome:
    """What `write_outcome` wrote.

    Raises:
        RunFolderError: it never did.
        DamagedFileError: a file is not what was written.
    """
    if not has_outcome(folder):
        raise RunFolderError(f"{folder.path} has no {NAME}.json: the run has not come that far; `bilevel-rl resume` it")
    path = folder.path / f"{NAME}.json"
    text, arrays = read_object(path), folder.read_arrays(NAME)
    try:
        best = text["optimum"]
        optimum = None if best is None else Optimum(best["objective"], arrays.get("optimum_x"), best["how"])
        seed, exact = text["shown_seed"], None
        if seed is not None:
            parts = {part: _part(kind, part, arrays) for part, kind in PARTS.items()}
            exact = Exact(seed, **{name: arrays[name] for name in OF_EXACT}, **parts)
        start, end = (arrays[name] for name in OF_OUTCOME)
        return Outcome(_names(text["names"]), text["entropy_weight"], start, end, optimum, exact)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(path, f"it is no outcome, {error}") from error


def _part(kind: type, part: str, arrays: dict[str, np.ndarray]) -> Any:
    return kind(**{field.name: arrays.get(f"{part}_{field.name}") for field in dataclasses.fields(kind)})


def _written(outcome: Outcome) -> dict[str, Any] | None:
    match outcome.names.layout:
        case GridLayout(cells):
            return {"cells": cells}
        case GraphLayout(positions):
            return {"positions": positions}
    return None


def _names(written: dict[str, Any]) -> Names:
    match written.pop("layout"):
        case {"cells": cells}:
            layout: Layout | None = GridLayout(cells)
        case {"positions": positions}:
            layout = GraphLayout(positions)
        case _:
            layout = None
    return Names(**written, layout=layout)
