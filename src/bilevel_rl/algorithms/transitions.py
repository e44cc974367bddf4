"""What a transition of the followers' chains is drawn with, what it is, and how those of a window are put in a row.

Shapes: F followers, each with B chains; T transitions of every chain in an iteration, N = T B.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from bilevel_rl.policies import CategoricalLaw, GaussianLaw

States = PyTree[Shaped[Array, "F B ..."]]
"""States of the chains: numbers (F, B), an `Episode` or a `HostEpisode`."""

Actions = Int[Array, "F B"] | Float[Array, "F B d"]


class Uniforms(NamedTuple):
    """All that one transition of every chain is drawn with, uniform in [0, 1); of several transitions T is in front.

    Attributes:
        action: for a ~ π_θ(·|s).
        transition: for s' ~ P(·|s,a).
        restart: whether the chain starts afresh.
        start: where it then starts.
        extra: what the law takes beside `action`: of coupled followers with countable actions one, for whether the
            second does as the first; of actions that are vectors one for each number but the first.
    """

    action: Float[Array, "*T F B"]
    transition: Float[Array, "*T F B"]
    restart: Float[Array, "*T F B"]
    start: Float[Array, "*T F B"]
    extra: Float[Array, "*T U F B"]


class Decision(NamedTuple):
    """The action of every chain, with what the followers thought of its state; fields as those of `Transitions`."""

    actions: Actions
    law: CategoricalLaw | GaussianLaw
    entropy: Float[Array, "F B"]
    values: Float[Array, "F B"]


class Transitions(NamedTuple):
    """N transitions of every follower, in the order of time and then of chains, and what it thought when it acted.

    Attributes:
        states: s.
        actions: a.
        next_states: s', before a restart.
        law: π(·|s).
        entropy: H(π(·|s)); 0 in terminal states.
        values: V(s).
        next_values: V(s').
        is_terminal: whether s is.
        goes_on: whether the chain went on from s'; otherwise it started afresh.
    """

    states: States
    actions: Actions
    next_states: States
    law: CategoricalLaw | GaussianLaw
    entropy: Float[Array, "F N"]
    values: Float[Array, "F N"]
    next_values: Float[Array, "F N"]
    is_terminal: Bool[Array, "F N"]
    goes_on: Bool[Array, "F N"]


def draw_uniforms(key: Array, *shape: int) -> Float[Array, "..."]:
    """Uniforms in [0, 1) of any shape; drawn as one long axis, which is the fastest to fill."""
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def in_a_row(transitions: PyTree[Shaped[Array, "T F B ..."]]) -> PyTree[Shaped[Array, "F N ..."]]:
    """All transitions of a follower along one axis, in the order of time and then of chains."""

    def joined(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])

    return jax.tree.map(joined, transitions)


def coincide(transitions: Transitions) -> Bool[Array, " N"]:
    """Where two followers were in the same state and chose the same action."""

    def agree(leaf: Array) -> Array:
        is_same = leaf[0] == leaf[1]
        return jnp.all(is_same.reshape(len(is_same), -1), axis=1) if is_same.ndim > 1 else is_same

    pairs = transitions.states, transitions.actions
    return functools.reduce(jnp.logical_and, jax.tree.leaves(jax.tree.map(agree, pairs)))
