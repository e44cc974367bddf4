"""Kernels as users have them, made the successors and probabilities that a `TabularMDP` keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from jaxtyping import Bool, Float, Int, Integer

from bilevel_rl.checks.arrays import array_of, numbers

Outcomes = tuple[Int[np.ndarray, "S A K"], Float[np.ndarray, "S A K"]]
"""Successors and their probabilities, padded with probability 0."""


def outcomes_of(kernel: Any) -> Outcomes:
    """Of an array P[s, a, s'], or of one sparse matrix (S, S) for each action. K is the most successors of a pair.

    Sparse matrices are never made dense.

    Raises:
        ValueError: `kernel` is neither.
    """
    if scipy.sparse.issparse(kernel):
        raise ValueError(
            f"transition_probabilities must be an array (S, A, S) or a list with one sparse matrix (S, S) for each "
            f"action, got one sparse matrix of shape {kernel.shape}; put the matrices of all actions in a list"
        )
    matrices = list(kernel) if isinstance(kernel, Sequence) or _holds_objects(kernel) else []
    if any(scipy.sparse.issparse(matrix) for matrix in matrices):
        return _of_matrices(matrices)
    return _of_dense(numbers("transition_probabilities", kernel))


def _holds_objects(kernel: Any) -> bool:
    """As an array of matrices does, which is how pymdptoolbox keeps them."""
    return isinstance(kernel, np.ndarray) and kernel.dtype == object and kernel.ndim == 1


def _of_dense(dense: Float[np.ndarray, "..."]) -> Outcomes:
    if dense.ndim != 3 or dense.shape[0] != dense.shape[2]:
        is_by_action = dense.ndim == 3 and dense.shape[1] == dense.shape[2]
        remedy = "; of a kernel (A, S, S) take np.swapaxes(kernel, 0, 1)" if is_by_action else ""
        raise ValueError(f"transition_probabilities must have shape (S, A, S), got {dense.shape}{remedy}")
    successors = possible_successors(dense != 0)
    return successors, np.take_along_axis(dense, successors, axis=-1)


def possible_successors(is_possible: Bool[np.ndarray, "S A S"]) -> Int[np.ndarray, "S A K"]:
    """The states that each pair may lead to, in their order; K is what the pair with most of them has."""
    num_successors = max(1, int(is_possible.sum(-1).max()))
    # A stable sort on "is impossible" moves them to the front and keeps their order.
    return np.argsort(~is_possible, axis=-1, kind="stable")[..., :num_successors]


def _of_matrices(matrices: list) -> Outcomes:
    shapes = [np.shape(matrix) for matrix in matrices]
    size = shapes[0][0] if shapes[0] else 0
    if any(shape != (size, size) for shape in shapes):
        raise ValueError(
            f"transition_probabilities must be a list of sparse matrices (S, S), one for each action, got {shapes}"
        )
    rows = []
    for action, matrix in enumerate(matrices):
        entries = scipy.sparse.csr_array(matrix)
        entries.sum_duplicates()
        rows.append((entries, numbers(f"transition_probabilities[{action}]", entries.data), np.diff(entries.indptr)))
    successors = np.zeros((size, len(matrices), max(int(counts.max()) for *_, counts in rows)), np.int64)
    probabilities = np.zeros(successors.shape)
    for action, (entries, chances, counts) in enumerate(rows):
        state = np.repeat(np.arange(size), counts)
        k = np.arange(len(chances)) - entries.indptr[state]
        successors[state, action, k], probabilities[state, action, k] = entries.indices, chances
    return successors, probabilities


def states_of(table: npt.ArrayLike) -> Integer[np.ndarray, "..."]:
    """A copy of the successors, not yet narrowed: states beyond 32 bits would wrap around into the range."""
    states = array_of("successors", table)
    if not np.issubdtype(states.dtype, np.integer):
        raise ValueError(f"successors must hold integers, got {states.dtype}; convert the states to int")
    return states.copy()


def check_distribution(name: str, table: np.ndarray):
    """Raises `ValueError` unless the last axis holds distributions."""
    if not np.all(np.isfinite(table)) or table.min() < 0:
        raise ValueError(f"{name} must be finite and non-negative, got a lowest entry of {table.min()}")
    sums = table.sum(-1)
    worst = np.unravel_index(np.argmax(np.abs(sums - 1)), sums.shape)
    if abs(sums[worst] - 1) > 1e-6:
        where = f" at {tuple(map(int, worst))}" if worst else ""
        raise ValueError(f"{name} must sum to 1 along the last axis, got {sums[worst]}{where}; normalize the table")


def cumulative_of(probabilities: np.ndarray) -> np.ndarray:
    """Cumulative sums along the last axis that are exactly 1 from the last possible outcome on.

    Without the exact 1, rounding would let a uniform close to 1 select an outcome of probability zero.
    """
    cumulative = np.cumsum(probabilities, axis=-1)
    is_possible = probabilities > 0
    outcomes_left = np.flip(np.cumsum(np.flip(is_possible, axis=-1), axis=-1), axis=-1)
    from_last_possible = outcomes_left - is_possible == 0
    return np.where(from_last_possible, 1.0, cumulative)
