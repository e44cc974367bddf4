"""Weights of equinox modules: taken out, put back, and drawn orthogonally.

Source of the gains: Huang et al., "The 37 implementation details of proximal policy optimization", ICLR blog track,
2022.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN = 2.0**0.5, 0.01, 1.0
"""Gains of the orthogonal start: of all layers but the last, of the actor's last, and of the critic's last."""


class Parts(NamedTuple):
    """The three parts of a network, or their weights. The trunk is None where actor and critic share nothing."""

    trunk: Any
    actor: Any
    critic: Any


def weights_of(part: PyTree) -> list[Array]:
    """The floating-point arrays of a module."""
    return [leaf for leaf in jax.tree.leaves(part) if _is_weight(leaf)]


def with_weights(part: Any, weights: tuple[Array, ...]) -> Any:
    """The module with other weights, in the order of `weights_of`."""
    own = iter(weights)
    return jax.tree.map(lambda leaf: next(own) if _is_weight(leaf) else leaf, part)


def orthogonal(part: PyTree, last_gain: float, key: Array) -> PyTree:
    """The module with orthogonal weights and biases of 0 in its linear layers; other weights stay."""
    layers = _layers(part)
    if not layers:
        return part
    gains = [HIDDEN_GAIN] * (len(layers) - 1) + [last_gain]
    keys = jax.random.split(key, len(layers))
    drawn = [_orthogonal_weight(layer, gain, k) for layer, gain, k in zip(layers, gains, keys, strict=True)]
    part = eqx.tree_at(lambda part: [layer.weight for layer in _layers(part)], part, drawn)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if not biases:
        return part
    return eqx.tree_at(
        lambda part: [layer.bias for layer in _layers(part) if layer.bias is not None],
        part,
        [jnp.zeros_like(bias) for bias in biases],
    )


def _orthogonal_weight(layer: eqx.nn.Linear, gain: float, key: Array) -> Array:
    """A weight of the layer's shape; under vmap one after the other, since batched factorizations can deadlock."""
    implementation = jax.random.key_impl(key)

    @jax.custom_batching.sequential_vmap
    def draw(key_data: Array) -> Array:
        key = jax.random.wrap_key_data(key_data, impl=implementation)
        return jax.nn.initializers.orthogonal(gain)(key, layer.weight.shape, layer.weight.dtype)

    return draw(jax.random.key_data(key))


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def _layers(part: PyTree) -> list[eqx.nn.Linear]:
    return [node for node in jax.tree.leaves(part, is_leaf=_is_linear) if _is_linear(node)]
