"""Pytrees in one file: structure and bits come back, nothing is run, and a torn file is refused."""

from collections import namedtuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.files.arrays import read_arrays, write_arrays

Pair = namedtuple("Pair", ["left", "right"])


class Module(eqx.Module):
    weight: jax.Array
    bias: jax.Array
    name: str = eqx.field(static=True)


def test_structure_types_and_bits_come_back(tmp_path):
    tree = {"b": [np.float32(0.1), None, (np.arange(3), True)], "a": Pair(np.eye(2), {"x": np.int8(-3)})}
    write_arrays(tmp_path / "file.npz", tree, {"note": "ζ", "numbers": [1, 2.5]})
    found, card = read_arrays(tmp_path / "file.npz")
    assert card == {"note": "ζ", "numbers": [1, 2.5]}
    assert list(found) == ["b", "a"]
    assert isinstance(found["b"], list)
    assert found["b"][1] is None
    assert isinstance(found["b"][2], tuple)
    assert found["a"]._fields == ("left", "right")
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert ours.dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)


def test_modules_come_back_as_dicts_of_their_parts_in_their_order(tmp_path):
    write_arrays(tmp_path / "file.npz", Module(jnp.ones(2), jnp.zeros(1), "static"), {})
    found, _ = read_arrays(tmp_path / "file.npz")
    np.testing.assert_array_equal(found["weight"], np.ones(2))
    assert [len(leaf) for leaf in jax.tree.leaves(found)] == [2, 1]  # A dict's would be sorted by their keys.


def test_keys_that_are_no_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keys of dicts must be texts to be written, got 3"):
        write_arrays(tmp_path / "file.npz", {3: np.ones(1)}, {})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "file.npz"
    write_arrays(path, {"x": np.arange(100)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"file\.npz is not a file of arrays that this package wrote"):
        read_arrays(path)


def test_another_npz_and_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", card=np.array([print], object), tree=np.array([print], object))
    np.savez(tmp_path / "plain.npz", a=np.ones(1))
    for name in ("other", "plain"):
        with pytest.raises(ValueError, match="not a file of arrays"):
            read_arrays(tmp_path / f"{name}.npz")
