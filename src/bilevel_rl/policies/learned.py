"""What a follower has learned, as data: a table of probabilities, or the weights of networks. Saved without pickle."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.files.arrays import read_arrays, write_arrays
from bilevel_rl.policies.categorical import Categorical
from bilevel_rl.policies.networks import Parts
from bilevel_rl.policies.neural import NeuralActorCritic, NeuralFollower
from bilevel_rl.policies.observations import Moments

TABLE, NETWORKS = "table", "networks"
"""Kinds of policies, as files name them."""


class NetworkPolicy(eqx.Module):
    """A follower's networks, which can be called.

    Attributes:
        policies: the networks that the weights are for.
        weights: of trunk, actor and critic.
        moments: by which observations are normalized; None where they are taken as they are.
    """

    policies: NeuralActorCritic
    weights: Parts
    moments: Moments | None = None

    def __call__(self, states: PyTree) -> Float[Array, "B A"] | Float[Array, "B d"]:
        """Probabilities of the actions in a batch of states, or the means of actions that are vectors."""
        law = self.policies.law
        if isinstance(law, Categorical):
            return jax.nn.softmax(self.parameters(states))
        return law.law(self.parameters(states)).mean

    def parameters(self, states: PyTree) -> Float[Array, "B parameters"]:
        """Parameters of the laws of actions, such as logits, in a batch of states."""
        return self.policies.read(NeuralFollower(self.weights, (None, None), self.moments), states)[0]


def save(path: Path | str, policy: Any):
    """Writes a policy as one `.npz` file.

    Args:
        path: of the file.
        policy: probabilities of shape (S, A), or a `NetworkPolicy`, of which the weights are written, and not the code.

    Raises:
        TypeError, ValueError: it is no policy.

    Example:
        >>> import numpy as np, pathlib, tempfile, bilevel_rl as brl
        >>> with tempfile.TemporaryDirectory() as path:
        ...     brl.policies.save(pathlib.Path(path) / "policy.npz", np.array([[0.5, 0.5], [1.0, 0.0]]))
        ...     brl.policies.load(pathlib.Path(path) / "policy.npz")
        array([[0.5, 0.5],
               [1. , 0. ]])
    """
    if isinstance(policy, NetworkPolicy):
        write_arrays(Path(path), (policy.weights, policy.moments), {"kind": NETWORKS})
    else:
        write_arrays(Path(path), as_table("policy", policy), {"kind": TABLE})


def load(path: Path | str, policies: NeuralActorCritic | None = None) -> Float[np.ndarray, "S A"] | NetworkPolicy:
    """What `save` wrote.

    Args:
        path: of the file.
        policies: the networks that weights are for, built as those that were trained; not needed for tables.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no policy, or weights, and `policies` are missing or of other shapes.
    """
    tree, card = read_arrays(Path(path))
    kind = card.get("kind")
    if kind == TABLE:
        return tree
    if kind != NETWORKS:
        raise ValueError(f"{path} holds no policy, but {kind}")
    remedy = "the networks whose weights these are, such as NeuralActorCritic.mlp(problem.environment)"
    networks: NeuralActorCritic = checks.instance("policies", policies, NeuralActorCritic, remedy=remedy)
    like = jax.eval_shape(networks.init, jax.random.key(0))
    (weights, moments), expected = tree, (like.weights, like.moments)
    found = Parts(*map(tuple, weights)), None if moments is None else Moments(*moments)
    if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, expected):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (expected, found)]
        raise ValueError(
            f"policies must be those whose weights {path} holds: theirs are {shapes[0]}, these {shapes[1]}"
        )
    return NetworkPolicy(networks, *jax.tree.map(jnp.asarray, found))


def as_table(name: str, policy: Any) -> Float[np.ndarray, "S A"]:
    """Probabilities as an array in double precision.

    Raises:
        TypeError: they are no numbers.
        ValueError: a row is no distribution, or there are no rows.
    """
    table = np.asarray(checks.finite(name, policy), np.float64)
    if table.ndim != 2:
        raise ValueError(f"{name} must have shape (S, A), a row of probabilities for each state, got {table.shape}")
    worst = int(np.argmax(np.abs(table.sum(1) - 1) + (table.min(1) < 0)))
    if table[worst].min() < 0 or abs(table[worst].sum() - 1) > 1e-4:
        raise ValueError(f"{name} must be probabilities that sum to 1 in every state, got {table[worst]} in {worst}")
    return table
