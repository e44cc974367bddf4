"""Kernels in other forms than (S, A, S)."""

import numpy as np
import pytest
import scipy.sparse

from bilevel_rl import TabularMDP
from dense_reference import kernel

START = {"initial": [0.2, 0.5, 0.3], "discount": 0.8}
DENSE = np.array(
    [
        [[0.0, 1.0, 0.0], [0.5, 0.2, 0.3]],
        [[0.6, 0.0, 0.4], [0.0, 0.0, 1.0]],
        [[0.1, 0.9, 0.0], [1.0, 0.0, 0.0]],
    ]
)


def of_objects(matrices):
    array = np.empty(len(matrices), object)
    array[:] = matrices
    return array


@pytest.mark.parametrize("container", [list, tuple, of_objects])
@pytest.mark.parametrize("form", ["csr_matrix", "coo_array", "lil_matrix"])
def test_one_sparse_matrix_an_action(form, container):
    matrices = container([getattr(scipy.sparse, form)(DENSE[:, a]) for a in range(2)])
    mdp, dense = TabularMDP.from_dense(matrices, **START), TabularMDP.from_dense(DENSE, **START)
    np.testing.assert_array_equal(kernel(mdp), DENSE)
    assert mdp.successors.shape == dense.successors.shape == (3, 2, 3)


def test_entries_that_are_listed_twice_add_up():
    rows, columns, chances = [0, 0, 1], [1, 1, 0], [0.25, 0.75, 1.0]
    mdp = TabularMDP.from_dense([scipy.sparse.coo_array((chances, (rows, columns)))], initial=[1, 0], discount=0.5)
    assert mdp.successors.tolist() == [[[1]], [[0]]]
    assert mdp.probabilities.tolist() == [[[1.0]], [[1.0]]]


def test_sparse_matrices_are_not_made_dense():
    size = 100_000
    ring = scipy.sparse.csr_array((np.ones(size), (np.arange(size), np.roll(np.arange(size), 1))))
    mdp = TabularMDP.from_dense([ring, ring.T], initial=np.eye(1, size)[0], discount=0.9)
    assert mdp.successors[:2].tolist() == [[[size - 1], [1]], [[0], [2]]]


def test_nested_lists_are_an_array():
    np.testing.assert_array_equal(kernel(TabularMDP.from_dense(DENSE.tolist(), **START)), DENSE)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (scipy.sparse.eye(3), r"got one sparse matrix of shape \(3, 3\); put the matrices of all actions in a list"),
        (DENSE.swapaxes(0, 1), r"got \(2, 3, 3\); of a kernel \(A, S, S\) take np\.swapaxes"),
        ([scipy.sparse.eye(3), scipy.sparse.eye(2)], r"one for each action, got \[\(3, 3\), \(2, 2\)\]"),
        ([scipy.sparse.csr_array(1j * np.eye(3))], r"real numbers, got the type complex128"),
        ([[[1.0, 0.0], [1.0]]], "rows of one length"),
        (None, "array of numbers, got None"),
        (np.zeros((0, 2, 0)), "empty"),
    ],
    ids=["one matrix", "by action", "two sizes", "complex", "ragged", "none", "empty"],
)
def test_what_is_no_kernel_is_refused(given, seen):
    with pytest.raises(ValueError, match=rf"^transition_probabilities.*{seen}"):
        TabularMDP.from_dense(given, **START)


def test_rows_of_sparse_matrices_must_sum_to_one():
    with pytest.raises(ValueError, match=r"^probabilities must sum to 1 .*got 0\.0 at \(2, 0\)"):
        TabularMDP.from_dense([scipy.sparse.csr_array(np.diag([1.0, 1.0, 0.0]))], **START)
