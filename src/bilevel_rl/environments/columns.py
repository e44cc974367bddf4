"""Columns of a log as users have them: mappings, data frames, CSV and Parquet files; labels become numbers."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bilevel_rl import checks

WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*")
FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}

Labels = tuple[str, ...] | None
"""What states or actions are called, in the order of their numbers; None where the log has numbers."""


class Columns(NamedTuple):
    """Columns by name, and what to call a row of theirs in a message."""

    cells: dict[str, np.ndarray]
    source: str
    first_row: int

    def place(self, row: int) -> str:
        """As in "row 3" of arrays, and "line 5 of trips.csv" of a file, whose first line is its header."""
        return f"{'line' if self.source else 'row'} {row + self.first_row}{self.source}"


def columns_of(source: Any, names: Mapping[str, str]) -> Columns:
    """Some columns by name.

    Args:
        source: a mapping or data frame of columns, or the path of a file that ends in .parquet, or else is a CSV file
            with a header.
        names: of the columns, by the argument that gives each.

    Raises:
        TypeError: `source` is none of these, or a column no array.
        ValueError: there is no such file, a column is missing, columns differ in length, there are no rows, or a line
            has other cells than the header.
        ImportError: a Parquet file is to be read without pandas.
    """
    first_row, place = 0, ""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise ValueError(f"source must be a file, a data frame or a mapping of columns, got {str(source)!r}")
        place = f" of {Path(source).name}"
        is_parquet = Path(source).suffix == ".parquet"
        first_row, source = (1, _parquet(source)) if is_parquet else (2, _csv(Path(source)))
    elif not isinstance(source, Mapping) and not hasattr(source, "columns"):
        raise TypeError(f"source must be a path, a data frame or a mapping of columns, got {checks.shown(source)}")
    held = list(getattr(source, "columns", source))
    cells = {}
    for argument, name in names.items():
        if name not in held:
            shown = ", ".join(map(repr, held))
            raise ValueError(f"source must have the column {name!r} that {argument} names, got {shown}")
        try:
            cells[name] = np.asarray(source[name])
        except (TypeError, ValueError) as error:
            raise TypeError(f"column {name} must be an array, got {checks.shown(source[name])}") from error
    lengths = {name: len(column) if column.ndim == 1 else column.shape for name, column in cells.items()}
    if len(set(lengths.values())) > 1 or any(column.ndim != 1 for column in cells.values()):
        raise ValueError(f"columns must hold one cell a row, all of them equally many, got {lengths}")
    if 0 in lengths.values():
        raise ValueError(f"source must hold at least one row of {', '.join(lengths)}, got none")
    return Columns(cells, place, first_row)


def _csv(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        rows = []
        for line in lines:
            if len(line) not in (0, len(header)):
                raise ValueError(
                    f"line {lines.line_num} of {path.name} has {len(line)} cells, its header has {len(header)}"
                )
            if line:
                rows.append(line)
    return {name.strip(): [row[i] for row in rows] for i, name in enumerate(header)}


def _parquet(path: str | Path) -> Any:
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{path} needs pandas and pyarrow: pip install 'bilevel-rl[data]', or save it as CSV"
        ) from error
    return pandas.read_parquet(path)


def numbered(
    columns: Columns, names: Sequence[str], known: int | Sequence[Any] | None, argument: str
) -> tuple[list[Int[np.ndarray, " rows"]], int, Labels]:
    """Cells of columns that speak of the same things, as numbers.

    Args:
        columns: where they are.
        names: of the columns.
        known: how many things there are, or their labels in order; None for as many as the columns have. Labels are
            then in the order of the alphabet.
        argument: what `known` is called.

    Returns:
        A number for each cell of each column, how many things there are, and their labels.

    Raises:
        TypeError: `known` is of another type.
        ValueError: a cell is empty, no whole number beside numbers, out of range, or none of the labels; labels are
            given twice.
    """
    if known is not None and not isinstance(known, int | np.integer):
        return _labelled(columns, names, _labels(known, argument), argument)
    read = [_numbers_or_text(columns, name) for name in names]
    if all(column.dtype.kind == "i" for column in read):
        largest = max(int(column.max()) for column in read)
        count = largest + 1 if known is None else checks.integer(argument, known, at_least=1)
        for name, column in zip(names, read, strict=True):
            is_wrong = (column < 0) | (column >= min(count, checks.LARGEST_INTEGER))
            if np.any(is_wrong):
                row = int(np.argmax(is_wrong))
                raise ValueError(
                    f"column {name} must hold numbers from 0 to {min(count, checks.LARGEST_INTEGER) - 1}, got "
                    f"{column[row]} in {columns.place(row)}; give the labels of identifiers as {argument}"
                )
        return read, count, None
    if known is not None:
        raise ValueError(f"{argument} must be the labels where column {names[0]} has words, got {known}")
    found = np.unique(np.concatenate([column.astype(str) for column in read]))
    return _labelled(columns, names, tuple(map(str, found)), argument)


def _labels(known: Any, argument: str) -> tuple[str, ...]:
    if isinstance(known, str) or not isinstance(known, Sequence | np.ndarray):
        raise TypeError(f"{argument} must be a number or a list of labels, got {checks.shown(known)}")
    labels = tuple(str(label) for label in known)
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"{argument} must hold labels that differ, at least one, got {checks.shown(known)}")
    return labels


def _labelled(
    columns: Columns, names: Sequence[str], labels: tuple[str, ...], argument: str
) -> tuple[list, int, Labels]:
    number_of = {label: number for number, label in enumerate(labels)}
    read = []
    for name in names:
        column = _numbers_or_text(columns, name, mixed=True).astype(str)
        cells, inverse = np.unique(column, return_inverse=True)
        numbers = np.array([number_of.get(str(cell), -1) for cell in cells])[inverse]
        if np.any(numbers < 0):
            row = int(np.argmax(numbers < 0))
            raise ValueError(
                f"column {name} holds {str(column[row])!r} in {columns.place(row)}, which {argument} does not list: "
                f"{checks.shown(list(labels))}"
            )
        read.append(numbers)
    return read, len(labels), labels


def _numbers_or_text(columns: Columns, name: str, mixed: bool = False) -> np.ndarray:
    """A column as 64-bit integers where all its cells are whole numbers, else as text without spaces around it."""
    cells = columns.cells[name]
    if cells.dtype.kind == "f":
        is_wrong = ~(np.isfinite(cells) & (cells == np.floor(np.where(np.isfinite(cells), cells, 0.5))))
        is_wrong |= np.abs(cells) > checks.LARGEST_INTEGER
        _refuse(columns, name, is_wrong, "a whole number or a word")
        return cells.astype(np.int64)
    if cells.dtype.kind in "iu":
        return np.clip(cells, -1, 2**62).astype(np.int64)
    is_missing = np.array([_is_missing(cell) for cell in cells])
    _refuse(columns, name, is_missing, "a whole number or a word")
    text = np.array([str(cell).strip() for cell in cells])
    is_whole = np.array([WHOLE.fullmatch(cell) is not None for cell in text])
    if np.all(is_whole):
        return np.array([min(int(float(cell)), 2**62) for cell in text], np.int64)
    if not mixed and np.any(is_whole):
        # A word among numbers, or a number among words: the rarer is the slip.
        _refuse(columns, name, is_whole if is_whole.mean() < 0.5 else ~is_whole, "either numbers or words")
    return text


def flags_of(columns: Columns, name: str) -> Bool[np.ndarray, " rows"]:
    """A column of True and False, also written 1 and 0.

    Raises:
        ValueError: a cell is something else.
    """
    read = [FLAGS.get(str(cell).strip().lower()) for cell in columns.cells[name]]
    _refuse(columns, name, np.array([flag is None for flag in read]), "True or False")
    return np.array(read, bool)


def _is_missing(cell: Any) -> bool:
    return cell is None or isinstance(cell, bool | np.bool_) or str(cell).strip() in ("", "nan", "NaN", "<NA>", "None")


def _refuse(columns: Columns, name: str, is_wrong: Bool[np.ndarray, " rows"], wanted: str):
    if np.any(is_wrong):
        row = int(np.argmax(is_wrong))
        cell = checks.shown(columns.cells[name][row])
        raise ValueError(f"column {name} must hold {wanted} in every row, got {cell} in {columns.place(row)}")
