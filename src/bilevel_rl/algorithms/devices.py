"""Chains of one seed on several devices."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree


def shared_by_devices(axis: str | None, transition: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Each device of a mesh axis computes its share of the chains, and all get the whole.

    The results are put together in the order of the chains, so sums over them have the same order on any number of
    devices.

    Args:
        axis: name of the mesh axis; None leaves the function as it is.
        transition: from arrays whose last axis is the chain to arrays (followers, chains, …).
    """
    if axis is None:
        return transition

    def share(*arrays: Array) -> PyTree:
        def own(array: Array) -> Array:
            size = array.shape[-1] // jax.lax.axis_size(axis)
            return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axis) * size, size, axis=-1)

        outcome = transition(*(own(array) for array in arrays))
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, axis=1, tiled=True), outcome)

    return share
