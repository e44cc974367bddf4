"""Arrays as users have them: what is understood, and what is refused by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.checks.arrays import flags, numbers, whole_numbers


@pytest.mark.parametrize(
    "values",
    [
        [3, 0, 2],
        (3.0, 0.0, 2.0),
        np.array([3, 0, 2], np.uint64),
        np.array([3, 0, 2], np.int8),
        np.float16([3, 0, 2]),
        jnp.array([3, 0, 2]),
        jnp.array([3, 0, 2], jnp.bfloat16),
    ],
    ids=str,
)
def test_whole_numbers_of_any_type(values):
    read = whole_numbers("states", values)
    assert read.dtype == np.int32
    assert read.tolist() == [3, 0, 2]


def test_the_largest_number_of_32_bits_stays_what_it_is():
    assert whole_numbers("states", np.array([2**31 - 1])).tolist() == [2**31 - 1]


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (np.array([1, 2**32 + 1]), "4294967297"),  # which would wrap around to 1
        (np.array([2**63 + 2], np.uint64), "9223372036854775810"),
        ([2**31], "2147483648"),
        ([0, -1], "-1"),
        ([0.0, 1.5], r"1\.5"),
        ([np.nan], "nan"),
        ([np.inf], "inf"),
        ([True, False], "type bool"),
        ([1 + 0j], "type complex128"),
        (["1"], "type <U1"),
        ([[0, 1], [2]], r"rows of one length, got \[\[0, 1\], \[2\]\]"),
        (None, "got None"),
        ([], "not be empty"),
        (np.zeros((0, 3), int), r"empty, got an array of shape \(0, 3\)"),
    ],
    ids=str,
)
def test_what_is_no_whole_number_is_refused(values, seen):
    with pytest.raises(ValueError, match=rf"^states must .*{seen}"):
        whole_numbers("states", values)


def test_real_numbers_and_no_others():
    assert numbers("initial", [True, False]).tolist() == [1.0, 0.0]
    assert numbers("initial", jnp.array([0.5], jnp.bfloat16)).dtype == np.float64
    for values, seen in ((["0.5"], "type <U3"), ([0.5 + 0j], "type complex128"), ([None], "got")):
        with pytest.raises(ValueError, match=rf"^initial must .*{seen}"):
            numbers("initial", values)


def test_flags_are_true_or_false():
    assert flags("terminal", [0, 1, 1]).tolist() == [False, True, True]
    assert flags("terminal", np.array([True])).dtype == bool
    for values in (["no"], [0, 2], [np.nan], [0.5], []):
        with pytest.raises(ValueError, match=r"^terminal must"):
            flags("terminal", values)
