"""The smallest policies for linear systems: actions linear in what is seen, values quadratic in it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bilevel_rl import checks
from bilevel_rl.environments import FunctionalEnvironment, HostEnvironment, ObservedEnvironment, TabularMDP
from bilevel_rl.policies.gaussian import Gaussian
from bilevel_rl.policies.neural import ADAM, NeuralActorCritic


class LinearActor(eqx.Module):
    """Means W o + b of the observation o, and spreads that are alike everywhere."""

    weight: Float[Array, "m n"]
    bias: Float[Array, " m"]
    log_std: Float[Array, " m"]

    def __call__(self, observation: Float[Array, " n"]) -> Float[Array, " parameters"]:
        """Means, and logarithms of the spreads."""
        return jnp.concatenate([self.weight @ observation + self.bias, self.log_std])


class QuadraticCritic(eqx.Module):
    """õᵀ U õ with õ = (o, 1); only the symmetric part of U counts."""

    weight: Float[Array, "s s"]

    def __call__(self, observation: Float[Array, " n"]) -> Float[Array, ""]:
        """The value."""
        extended = jnp.append(observation, 1.0)
        return extended @ self.weight @ extended


def linear_quadratic(
    environment: ObservedEnvironment | TabularMDP,
    *,
    std: float = 1.0,
    actor_optimizer: optax.GradientTransformation = ADAM,
    critic_optimizer: optax.GradientTransformation = ADAM,
) -> NeuralActorCritic:
    """A `NeuralActorCritic` that holds the answer to a linear system with quadratic losses, and little else.

    Both start at 0, and every seed alike.

    Args:
        environment: whose observation is a vector, and whose actions are vectors.
        std: spread of the actions at the start.
        actor_optimizer: as in `NeuralActorCritic`.
        critic_optimizer: likewise.

    Raises:
        TypeError: an argument is of another type.
        ValueError: actions or observations are no vectors, or `std` is not positive.

    Example:
        >>> import jax.numpy as jnp, bilevel_rl as brl
        >>> walk = brl.FunctionalEnvironment(
        ...     initial=lambda key: jnp.zeros(3),
        ...     transition=lambda s, a, key: 0.9 * s + a[0],
        ...     observe=lambda s: s,
        ...     discount=0.9,
        ...     num_action_dimensions=1,
        ... )
        >>> policies = brl.policies.linear_quadratic(walk)
        >>> policies.actor(jnp.ones(3)).shape, policies.critic(jnp.ones(3)).shape
        ((2,), ())
    """
    checks.instance("environment", environment, FunctionalEnvironment, HostEnvironment)
    assert isinstance(environment, ObservedEnvironment)
    log_std = jnp.log(checks.number("std", std, above=0))
    m = environment.num_action_dimensions
    shape = jax.eval_shape(lambda state: jnp.asarray(environment.observe(state)), environment.example_state).shape
    if m is None or len(shape) != 1:
        raise ValueError(
            f"environment must have vectors as observations and actions, got observations of shape {shape} and "
            f"num_action_dimensions {m}; NeuralActorCritic.mlp fits all"
        )
    (n,) = shape

    def see(state: Any) -> Array:
        return jnp.asarray(environment.observe(state), float)

    return NeuralActorCritic(
        actor=LinearActor(jnp.zeros((m, n)), jnp.zeros(m), jnp.full(m, log_std)),
        critic=QuadraticCritic(jnp.zeros((n + 1, n + 1))),
        law=Gaussian(m),
        observe=see,
        actor_optimizer=actor_optimizer,
        critic_optimizer=critic_optimizer,
    )
