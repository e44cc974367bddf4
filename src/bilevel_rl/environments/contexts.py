"""Several followers in one: which MDP an episode takes place in is drawn at its start."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl.environments.tabular import TabularMDP


class Contexts(eqx.Module):
    """The disjoint union of MDPs: context i is drawn with probability `weights[i]`, and then its MDP is followed.

    The leader's x is common to all contexts: its objective is `f(x, π) = Σ_i weights[i] f_i(x, π_i)`, and Φ and ∇Φ are
    such means too. Start laws, dynamics and terminal states are each MDP's own; reward and cost may tell contexts apart
    by `split`. States of `environment` are those of the first MDP, then those of the second, and so on; tables stay
    sparse. Also known as contextual bi-level RL (Thoma et al., NeurIPS 2024).

    Attributes:
        environment: the union, for a `BilevelProblem`.
        weights: chances of the C contexts; sum to 1.
        first_states: of each context in `environment`.

    Raises:
        ValueError: no MDP is given, they differ in actions or discount, or `weights` are not C positive numbers that
            sum to 1.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> mdps = [brl.TabularMDP.from_dense(np.eye(n)[:, None], initial=np.eye(n)[0], discount=0.9) for n in (2, 3)]
        >>> contexts = brl.Contexts(mdps, weights=[0.25, 0.75])
        >>> contexts.environment.num_states, contexts.environment.initial.tolist()
        (5, [0.25, 0.0, 0.75, 0.0, 0.0])
        >>> [int(part) for part in contexts.split(4)]
        [1, 2]
    """

    environment: TabularMDP
    weights: Float[np.ndarray, " C"]
    first_states: Int[np.ndarray, " C"]

    def __init__(self, mdps: Sequence[TabularMDP], weights: npt.ArrayLike | Sequence[float] | None = None):
        if not len(mdps):
            raise ValueError("mdps must hold at least one MDP, got none")
        for name in ("num_actions", "discount"):
            values = [getattr(mdp, name) for mdp in mdps]
            if len(set(values)) > 1:
                remedy = "pad with actions that repeat another" if name == "num_actions" else "choose one for all"
                raise ValueError(f"mdps must have the same {name}, got {values}; {remedy}")
        self.weights = np.full(len(mdps), 1 / len(mdps)) if weights is None else np.asarray(weights, np.float64)
        if self.weights.shape != (len(mdps),):
            raise ValueError(f"weights must have shape ({len(mdps)},), one for each MDP, got {self.weights.shape}")
        if not np.all(self.weights > 0) or abs(self.weights.sum() - 1) > 1e-6:
            raise ValueError(
                f"weights must be positive and sum to 1, got {self.weights}; leave out contexts of weight 0"
            )
        self.first_states = np.cumsum([0, *(mdp.num_states for mdp in mdps[:-1])]).astype(np.int32)
        self.environment = TabularMDP(
            _joined([mdp.successors + first for mdp, first in zip(mdps, self.first_states, strict=True)], "edge"),
            _shared_or_joined(mdps),
            np.concatenate([weight * mdp.initial for mdp, weight in zip(mdps, self.weights, strict=True)]),
            mdps[0].discount,
            np.concatenate([mdp.terminal for mdp in mdps]),
        )

    @property
    def num_contexts(self) -> int:
        """C."""
        return len(self.weights)

    def split(self, state: Int[ArrayLike, "*batch"]) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
        """Number of the context, and the state within its MDP, of a state of `environment`."""
        first_states, state = jnp.asarray(self.first_states), jnp.asarray(state)
        context = jnp.sum(state[..., None] >= first_states, axis=-1, dtype=jnp.int32) - 1
        return context, state - first_states[context]

    def join(self, context: Int[ArrayLike, "*#batch"], state: Int[ArrayLike, "*#batch"]) -> Int[Array, "*batch"]:
        """The state of `environment` that is a state of a context's MDP."""
        return jnp.asarray(self.first_states)[jnp.asarray(context)] + jnp.asarray(state)


def _shared_or_joined(mdps: Sequence[TabularMDP]) -> Float[np.ndarray, "#S #A K"]:
    """Outcome probabilities; those that all states of all contexts share stay one row."""
    tables = [mdp.probabilities for mdp in mdps]
    if all(len(table) == 1 and np.array_equal(table, tables[0]) for table in tables):
        return tables[0]
    return _joined([np.repeat(mdp.probabilities, mdp.num_states // len(mdp.probabilities), axis=0) for mdp in mdps])


def _joined(tables: Sequence[np.ndarray], padding: str = "constant") -> np.ndarray:
    """Tables (S_i, A or 1, K_i) one below the other, with as many outcomes as the longest."""
    num_actions, num_outcomes = (max(table.shape[axis] for table in tables) for axis in (1, 2))
    rows = []
    for table in tables:
        widths = (0, 0), (0, 0), (0, num_outcomes - table.shape[2])
        rows.append(np.pad(np.broadcast_to(table, (len(table), num_actions, table.shape[2])), widths, padding))  # pyright: ignore
    return np.concatenate(rows)
