"""Batches of samples that stay one under `vmap`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


def over_samples(function: Callable) -> Callable:
    """Makes a function of batches of samples stay one under `vmap`: a batch of batches is one longer batch.

    XLA's loops over a few short axes are several times slower than over one long axis, and `vmap` adds axes.

    Args:
        function: from arrays with a common leading axis, the samples, to arrays with the same leading axis.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def merge(size: int, is_batched: list[bool], *arrays: Array):
        pairs = zip(arrays, is_batched, strict=True)
        arrays = tuple(array if has else jnp.broadcast_to(array, (size, *array.shape)) for array, has in pairs)
        results = batched(*(array.reshape(-1, *array.shape[2:]) for array in arrays))
        results = jax.tree.map(lambda result: result.reshape(size, -1, *result.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    return batched
