"""Running mean and variance of what networks see."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST = 10.0
"""Normalized observations are clipped to ± this."""


class Moments(NamedTuple):
    """Mean and variance of all observations so far, and how many they are; one of mean 0 and variance 1 to begin with.

    In single precision the count stops near 10⁷; from there on old observations are slowly forgotten.
    """

    num_observations: Float[Array, ""]
    mean: Float[Array, "..."]
    variance: Float[Array, "..."]

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> "Moments":
        """Before the first observation."""
        return cls(jnp.ones(()), jnp.zeros(shape), jnp.ones(shape))

    def normalized(self, observations: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Observations less the mean, over the root of the variance, clipped."""
        return jnp.clip((observations - self.mean) / jnp.sqrt(self.variance + 1e-8), -LARGEST, LARGEST)

    def after(self, observations: Float[Array, "B ..."]) -> "Moments":
        """With a batch of further observations. Source: Chan, Golub and LeVeque, 1979."""
        count = self.num_observations + len(observations)
        share = len(observations) / count
        shift = jnp.mean(observations, axis=0) - self.mean
        spread = (1 - share) * self.variance + share * jnp.var(observations, axis=0)
        return Moments(count, self.mean + share * shift, spread + share * (1 - share) * shift**2)
