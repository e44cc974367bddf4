"""An MDP whose outcome probabilities depend on an upper variable."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from bilevel_rl.environments.tabular import TabularMDP


class DrivenMDP(eqx.Module):
    """A tabular MDP at one x: the successors of `mdp`, reached with probabilities that are a function of x.

    Nothing is stored for the pairs: a step works out the probabilities of the pairs that it meets. It has
    the methods of a `TabularMDP` that sampling calls.

    Attributes:
        mdp: successors, start, terminal states and discount.
        outcome_probabilities: (x, state, action) → probabilities of the K outcomes.
        x: upper variable.
    """

    mdp: TabularMDP
    outcome_probabilities: Callable
    x: PyTree

    @property
    def num_states(self) -> int:
        """S."""
        return self.mdp.num_states

    @property
    def num_actions(self) -> int:
        """A."""
        return self.mdp.num_actions

    @property
    def discount(self) -> float:
        """γ."""
        return self.mdp.discount

    def reset(self, uniform: Float[ArrayLike, "*#batch"]) -> Int[Array, "*batch"]:
        """Start state drawn from ρ, as `TabularMDP.reset`."""
        return self.mdp.reset(uniform)

    def is_terminal(self, state: Int[ArrayLike, "*#batch"]) -> Bool[Array, "*batch"]:
        """Whether nothing accrues in these states any more."""
        return self.mdp.is_terminal(state)

    def outcome(
        self, state: Int[ArrayLike, "*#batch"], action: Int[ArrayLike, "*#batch"], uniform: Float[ArrayLike, "*#batch"]
    ) -> Int[Array, "*batch"]:
        """Number of the outcome that a uniform in [0, 1) picks, by inverse CDF."""
        thresholds = jnp.cumsum(self._probabilities(state, action), axis=-1)[..., :-1]
        return jnp.sum(jnp.asarray(uniform)[..., None] >= thresholds, axis=-1, dtype=jnp.int32)

    def step(
        self, state: Int[ArrayLike, "*#batch"], action: Int[ArrayLike, "*#batch"], uniform: Float[ArrayLike, "*#batch"]
    ) -> Int[Array, "*batch"]:
        """Next state drawn from P_x(·|s, a)."""
        return self.mdp.successor(state, action, self.outcome(state, action, uniform))

    def log_probability(
        self, state: Int[ArrayLike, "*#batch"], action: Int[ArrayLike, "*#batch"], outcome: Int[ArrayLike, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """log P_x of an outcome of a pair, differentiable in x; 0 in terminal states and for what cannot happen."""
        chosen = jnp.take_along_axis(self._probabilities(state, action), jnp.asarray(outcome)[..., None], axis=-1)[
            ..., 0
        ]
        return jnp.log(jnp.where(self.is_terminal(state) | (chosen <= 0), 1.0, chosen))

    def whole(self) -> TabularMDP:
        """The same MDP with the probabilities of all pairs in a table; terminal states keep what `mdp` says of them."""
        states, actions = jnp.arange(self.num_states)[:, None], jnp.arange(self.num_actions)
        table = self._probabilities(*jnp.broadcast_arrays(states, actions))
        table = jnp.where(self.mdp.terminal[:, None, None], self.mdp.probabilities, table)
        return self.mdp.with_probabilities(table)

    def _probabilities(self, state: ArrayLike, action: ArrayLike) -> Array:
        function = jnp.vectorize(
            lambda s, a: jnp.asarray(self.outcome_probabilities(self.x, s, a), dtype=float), signature="(),()->(k)"
        )
        return function(jnp.asarray(state), jnp.asarray(action))
