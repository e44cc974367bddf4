"""Policies in files: tables as they are, networks by their weights, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import FunctionalEnvironment, NeuralActorCritic, policies
from bilevel_rl.policies import NetworkPolicy

ENVIRONMENT = FunctionalEnvironment(
    initial=lambda key: jnp.zeros(2),
    transition=lambda s, a, key: s,
    observe=lambda s: s,
    discount=0.9,
    num_actions=3,
)


def networks(width=4, normalizes=True, **options):
    return NeuralActorCritic.mlp(ENVIRONMENT, width=width, depth=1, normalizes=normalizes, **options)


def test_weights_and_moments_come_back_into_networks_of_the_same_shapes(tmp_path):
    own = networks()
    follower = own.init(jax.random.key(3))
    follower = follower._replace(moments=follower.moments.after(jnp.array([[1.0, -2.0], [3.0, 5.0]])))
    # An orthogonal start is close to uniform; a steeper last layer tells weights apart.
    weights = eqx.tree_at(lambda parts: parts.actor[-2], follower.weights, 50 * follower.weights.actor[-2])
    policy = NetworkPolicy(own, weights, follower.moments)
    states = ENVIRONMENT.reset(jnp.zeros(5))._replace(state=jax.random.normal(jax.random.key(0), (5, 2)))
    probabilities = np.asarray(policy(states))
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert np.ptp(probabilities, axis=0).max() > 0.05
    policies.save(tmp_path / "policy.npz", policy)
    np.testing.assert_array_equal(policies.load(tmp_path / "policy.npz", networks())(states), probabilities)
    with pytest.raises(ValueError, match="policies must be those whose weights"):
        policies.load(tmp_path / "policy.npz", networks(width=5))
    with pytest.raises(ValueError, match="policies must be those whose weights"):
        policies.load(tmp_path / "policy.npz", networks(normalizes=False))
    with pytest.raises(TypeError, match="policies must be a NeuralActorCritic, got None; the networks whose weights"):
        policies.load(tmp_path / "policy.npz")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([[0.5, 0.6]], "sum to 1 in every state"),
        ([[1.5, -0.5]], "sum to 1 in every state"),
        ([0.5, 0.5], r"must have shape \(S, A\)"),
        ([[np.nan, 1.0]], "must be finite"),
    ],
)
def test_what_is_no_table_is_not_written(tmp_path, policy, message):
    with pytest.raises(ValueError, match=message):
        policies.save(tmp_path / "policy.npz", policy)
    assert not any(tmp_path.iterdir())
