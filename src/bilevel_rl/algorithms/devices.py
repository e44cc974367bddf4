"""Chains of one seed on several devices."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PyTree


def shared_by_devices(
    axis: str | None, transition: Callable[..., PyTree], chain_axes: tuple[int, ...] = (-1,)
) -> Callable[..., PyTree]:
    """Each device of a mesh axis computes its share of the chains, and all get the whole.

    The results are put together in the order of the chains, so sums over them have the same order on any number of
    devices.

    Args:
        axis: name of the mesh axis; None leaves the function as it is.
        transition: from pytrees of arrays to one of arrays (followers, chains, …).
        chain_axes: of every argument, the axis of its arrays that is the chain; the last one by default.
    """
    if axis is None:
        return transition

    def share(*arguments: PyTree) -> PyTree:
        def own(array: Array, chain_axis: int) -> Array:
            size = array.shape[chain_axis] // jax.lax.axis_size(axis)
            return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(axis) * size, size, axis=chain_axis)

        owned = (
            jax.tree.map(lambda array, chain_axis=chain_axis: own(array, chain_axis), argument)
            for argument, chain_axis in zip(arguments, chain_axes, strict=True)
        )
        outcome = transition(*owned)
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, axis=1, tiled=True), outcome)

    return share
