"""`outcome.json` and `outcome.npz` of a run folder."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from bilevel_rl.formulation import Names
from bilevel_rl.outcome.outcome import Answer, Costs, Exact, Optimum, Outcome, Slopes
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.result import NAME as RESULT, RunResult

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
        "names": outcome.names.to_json(),
        "entropy_weight": outcome.entropy_weight,
        "shown_seed": None if exact is None else exact.shown_seed,
        "optimum": None if best is None else {"objective": best.objective, "how": best.how},
    }
    folder.write_text(f"{NAME}.json", json.dumps(text, indent=2) + "\n")


def find_outcome(folder: RunFolder) -> Outcome | None:
    """What became of a run, as far as its files say: what was measured, or else names and x alone.

    What was measured counts only if the run ended there: one that went on later has another x.

    Returns:
        None where the run has not ended, or has no x.

    Raises:
        DamagedFileError: a file is not what was written.

    Warns:
        UserWarning: `outcome.json` is missing beside `outcome.npz`.
    """
    told = _of_result(folder.path / RESULT)
    if not (folder.path / f"{NAME}.json").is_file():
        if (folder.path / f"{NAME}.npz").is_file():
            warnings.warn(
                f"{folder.path / NAME}.json is missing, so what was measured at the end is not shown: "
                "`bilevel-rl resume` measures it again",
                stacklevel=2,
            )
        return told
    measured = read_outcome(folder)
    is_old = told is not None and not np.array_equal(told.final_x, measured.final_x)
    return told if is_old else measured


def _of_result(path: Path) -> Outcome | None:
    """Names and x, as the result of a run has them."""
    if not path.is_file():
        return None
    result = RunResult.load(path)
    if result.names is None or not jax.tree.leaves(result.initial_x):
        return None
    initial = _flat(result.initial_x, 1)[0]
    return Outcome(result.names, None, initial, _flat(result.x, len(jax.tree.leaves(result.x)[0])))


def _flat(x: PyTree, num_seeds: int) -> Float[np.ndarray, "seeds n"]:
    return np.concatenate([np.reshape(leaf, (num_seeds, -1)) for leaf in jax.tree.leaves(x)], axis=1).astype(np.float64)


def read_outcome(folder: RunFolder) -> Outcome:
    """What `write_outcome` wrote.

    Raises:
        RunFolderError: it never did.
        DamagedFileError: a file is not what was written.
    """
    path = folder.path / f"{NAME}.json"
    if not path.is_file():
        raise RunFolderError(f"{folder.path} has no {path.name}: the run has not come that far; `bilevel-rl resume` it")
    text, arrays = read_object(path), folder.read_arrays(NAME)
    try:
        best = text["optimum"]
        optimum = None if best is None else Optimum(best["objective"], arrays.get("optimum_x"), best["how"])
        seed, exact = text["shown_seed"], None
        if seed is not None:
            parts = {part: _part(kind, part, arrays) for part, kind in PARTS.items()}
            exact = Exact(seed, **{name: arrays[name] for name in OF_EXACT}, **parts)
        start, end = (arrays[name] for name in OF_OUTCOME)
        return Outcome(Names.from_json(text["names"]), text["entropy_weight"], start, end, optimum, exact)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(path, f"it is no outcome, {error}") from error


def _part(kind: type, part: str, arrays: dict[str, np.ndarray]) -> Any:
    return kind(**{field.name: arrays.get(f"{part}_{field.name}") for field in dataclasses.fields(kind)})
