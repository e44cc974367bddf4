"""Sums over many iterations, in single precision.

Numbers are added one by one for up to `ITERATIONS_PER_SUM` iterations; what they come to is added to the sum of all
before together with what its rounding lost (Kahan, 1965). A plain sum would stop growing where a number is no more than
the distance between two neighbours of it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

ITERATIONS_PER_SUM = 2**14
"""Added one by one; more than the default studies take between two log points, whose last bits this decides."""


class Sums(NamedTuple):
    """Of the Infos since a log point.

    Attributes:
        recent: of the latest up to `ITERATIONS_PER_SUM` iterations.
        earlier: of those before.
        excess: by which rounding has made `earlier` too large.
    """

    recent: PyTree
    earlier: PyTree
    excess: PyTree

    @classmethod
    def of(cls, zeros: PyTree) -> "Sums":
        """Of no iterations."""
        return cls(zeros, zeros, zeros)

    def with_recent(self, recent: PyTree, is_full: Bool[Array, ""]) -> "Sums":
        """The same with another recent sum, which is added to the earlier ones where it is full."""

        def add(recent: Array, earlier: Array, excess: Array) -> tuple[Array, Array, Array]:
            increment = recent - excess
            added = earlier + increment
            folded = jnp.zeros_like(recent), added, (added - earlier) - increment
            return jax.tree.map(lambda new, old: jnp.where(is_full, new, old), folded, (recent, earlier, excess))

        leaves = zip(*map(jax.tree.leaves, (recent, self.earlier, self.excess)), strict=True)
        columns = zip(*(add(*leaf) for leaf in leaves), strict=True)
        structure = jax.tree.structure(recent)
        return Sums(*(jax.tree.unflatten(structure, column) for column in columns))

    def total(self) -> Any:
        """Of all iterations."""
        return jax.tree.map(lambda r, e, x: e + (r - x), self.recent, self.earlier, self.excess)
