"""Kernels as users have them, made the successors and probabilities that a `TabularMDP` keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from bilevel_rl.checks.arrays import numbers

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
    num_successors = max(1, int((dense != 0).sum(-1).max()))
    # A stable sort on "is zero" moves the possible successors to the front and keeps their order.
    successors = np.argsort(dense == 0, axis=-1, kind="stable")[..., :num_successors]
    return successors, np.take_along_axis(dense, successors, axis=-1)


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
