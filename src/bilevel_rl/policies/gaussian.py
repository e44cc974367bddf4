"""Policies that choose a vector of d numbers, each normal with a mean and a spread of its own.

The score and the entropy's gradient are those of the law's parameters, (mean, log_std). Equation names are those of
docs/explanation/method.md, section 4.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

ENTROPY_OF_UNIT_SPREAD = 0.5 * math.log(2 * math.pi * math.e)


class GaussianLaw(NamedTuple):
    """π(·|s) of a batch of states: independent normal numbers."""

    mean: Float[Array, "*batch d"]
    log_std: Float[Array, "*batch d"]


class Gaussian(eqx.Module):
    """Normal actions of d numbers; the 2 d parameters are the means and then the logarithms of the spreads.

    Actions have no bounds: an environment or a reward clips what it cannot take.
    """

    num_dimensions: int = eqx.field(static=True)

    @property
    def num_parameters(self) -> int:
        """2 d."""
        return 2 * self.num_dimensions

    @property
    def entropy_bound(self) -> float:
        """Infinite: a differential entropy has no bound, and so critics have none."""
        return math.inf

    def num_extra_uniforms(self, coupled: bool) -> int:
        """Beside the first one: one for every further dimension. Coupled followers take no more."""
        return self.num_dimensions - 1

    def law(self, parameters: Float[Array, "*batch parameters"]) -> GaussianLaw:
        """The law that the parameters stand for."""
        return GaussianLaw(*jnp.split(parameters, 2, axis=-1))

    def draw(
        self,
        parameters: Float[Array, "F B parameters"],
        uniforms: Float[Array, "F B"],
        extra: Float[Array, "U F B"],
        coupled: bool,
    ) -> tuple[Float[Array, "F B d"], GaussianLaw, Float[Array, "F B"]]:
        """Actions a ~ π by inverse CDF, the laws they come from, and their entropies.

        Coupled followers share their uniforms, so their actions are equal where their laws are, and close where these
        are close.
        """
        law = self.law(parameters)
        uniforms = jnp.moveaxis(jnp.concatenate([uniforms[None], extra]), 0, -1)
        # A uniform may be 0 but not 1; half a step further it is symmetric.
        noise = ndtri(uniforms + jnp.finfo(uniforms.dtype).eps / 2)
        entropy = jnp.sum(law.log_std + ENTROPY_OF_UNIT_SPREAD, axis=-1)
        return law.mean + jnp.exp(law.log_std) * noise, law, entropy

    def direction(
        self, δ: Float[Array, " B"], a: Float[Array, "B d"], law: GaussianLaw, τ: Float[Array, " B"]
    ) -> Float[Array, "B parameters"]:
        """(A)'s direction of the parameters, δ ∇ log π(a|s) + τ ∇H(π(·|s))."""
        std = jnp.exp(law.log_std)
        z = (a - law.mean) / std
        return jnp.concatenate([δ[:, None] * z / std, δ[:, None] * (z**2 - 1) + τ[:, None]], axis=-1)
