"""What is known of an MDP from its own transitions: counts, and the kernel and start distribution that fit them best.

A method that plans on such a model sees of the environment which states there are, which of them are terminal, and
where its own transitions led. It need not know beforehand where they may lead: a successor that was never seen has the
probability 0, whether it is listed or not. A pair that nobody tried yet stays where it is.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bilevel_rl.algorithms.transitions import Transitions
from bilevel_rl.environments import TabularMDP


class Counts(NamedTuple):
    """How often what was seen.

    Attributes:
        outcomes: N, of every transition in the list.
        starts: chains that started in a state.
    """

    outcomes: Int[Array, " E"]
    starts: Int[Array, " S"]

    @property
    def start_shares(self) -> Float[Array, " S"]:
        """ρ̂."""
        return self.starts / jnp.sum(self.starts)


class PossibleTransitions(eqx.Module):
    """A list of the transitions (s, a, s') that an MDP may make: what there is to count.

    As a list, and not as a table (S, A, K), since few pairs may have many successors. A pair's transitions are
    neighbors in it.

    Attributes:
        pairs: s A + a.
        successors: s'.
        places: where the k-th outcome of a pair stands in the list; anywhere for outcomes of probability 0.
    """

    pairs: Int[np.ndarray, " E"]
    successors: Int[np.ndarray, " E"]
    places: Int[np.ndarray, "S A K"]

    @classmethod
    def of(cls, mdp: TabularMDP) -> "PossibleTransitions":
        """Those of an MDP whose tables are known numbers."""
        shape = mdp.num_states, mdp.num_actions, mdp.successors.shape[-1]
        is_possible = np.broadcast_to(mdp.probabilities, shape) > 0
        states, actions, _ = np.nonzero(is_possible)
        places = np.cumsum(is_possible).reshape(shape) - 1
        successors = np.broadcast_to(mdp.successors, shape)[is_possible]
        pairs = states * mdp.num_actions + actions
        return cls(pairs.astype(np.int32), successors.astype(np.int32), places.astype(np.int32))

    def none_counted(self, mdp: TabularMDP, chain_states: Int[Array, "F B"]) -> Counts:
        """When chains have just started."""
        starts = jnp.zeros(mdp.num_states, jnp.int32).at[chain_states.reshape(-1)].add(1)
        return Counts(jnp.zeros(self.pairs.shape, jnp.int32), starts)

    def counted(
        self, counts: Counts, mdp: TabularMDP, transitions: Transitions, chain_states: Int[Array, "1 B"]
    ) -> Counts:
        """With all transitions of an iteration, and with the starts of the chains that did not go on.

        Args:
            counts: of what came before.
            mdp: whose successors are listed; its probabilities are not read.
            transitions: of one follower, T B of them in the order of time and then of chains.
            chain_states: where the chains go on afterwards.
        """
        states, actions, arrivals = (
            leaf[0] for leaf in (transitions.states, transitions.actions, transitions.next_states)
        )
        num_outcomes = self.places.shape[-1]
        listed = mdp.successor(states[:, None], actions[:, None], jnp.arange(num_outcomes))
        outcomes = jnp.argmax(listed == arrivals[:, None], axis=-1)
        following = jnp.concatenate([states[chain_states.shape[-1] :], chain_states[0]])
        return Counts(
            counts.outcomes.at[jnp.asarray(self.places)[states, actions, outcomes]].add(1),
            counts.starts.at[following].add(~transitions.goes_on[0]),
        )

    def tries(self, counts: Counts) -> Int[Array, "S A"]:
        """n(s, a)."""
        shape = self.places.shape[:2]
        return jnp.zeros(np.prod(shape), jnp.int32).at[self.pairs].add(counts.outcomes).reshape(shape)

    def likeliest(self, counts: Counts) -> "LearnedModel":
        """P̂ = N / n, the kernel of largest likelihood."""
        tries = self.tries(counts).reshape(-1)
        shares = counts.outcomes / jnp.maximum(tries, 1)[self.pairs]
        return LearnedModel(self, shares, jnp.asarray(tries == 0, float))


class LearnedModel(eqx.Module):
    """A kernel P̂ on listed transitions.

    Attributes:
        transitions: the list.
        shares: P̂ of each.
        stays: 1 for a pair that was never tried, otherwise 0.
    """

    transitions: PossibleTransitions
    shares: Float[Array, " E"]
    stays: Float[Array, " pairs"]

    def expected_next(self, values: Float[Array, "F S"]) -> Float[Array, "F S A"]:
        """(P̂ v)(s, a) of several v."""
        num_states, num_actions = self.transitions.places.shape[:2]
        pairs, successors = self.transitions.pairs, self.transitions.successors
        flat = self.stays[:, None] * jnp.repeat(values.T, num_actions, axis=0)
        flat = flat.at[pairs].add(self.shares[:, None] * values.T[successors], indices_are_sorted=True)
        return flat.T.reshape(-1, num_states, num_actions)

    def inflow(self, weights: Float[Array, "F S A"]) -> Float[Array, "F S"]:
        """(P̂ᵀ m)(s') of several m, the adjoint of `expected_next`."""
        flat = weights.reshape(len(weights), -1)
        stay = jnp.sum((self.stays * flat).reshape(weights.shape), axis=-1)
        flow = (flat[:, self.transitions.pairs] * self.shares).T
        return stay + jnp.zeros((weights.shape[1], len(weights))).at[self.transitions.successors].add(flow).T

    def as_mdp(self, mdp: TabularMDP, counts: Counts) -> TabularMDP:
        """As a `TabularMDP`, for oracles: P̂ and ρ̂ in the place of P and ρ. One outcome more is that of staying."""
        num_states, num_actions = self.transitions.places.shape[:2]
        is_possible = jnp.broadcast_to(jnp.asarray(mdp.probabilities), self.transitions.places.shape) > 0
        shares = jnp.where(is_possible, self.shares[jnp.asarray(self.transitions.places)], 0.0)
        stays = jnp.broadcast_to(jnp.arange(num_states)[:, None, None], (*mdp.successors.shape[:2], 1))
        return eqx.tree_at(
            lambda model: (model.successors, model.probabilities, model.initial),
            mdp,
            (
                jnp.concatenate([jnp.asarray(mdp.successors), stays], axis=-1),
                jnp.concatenate([shares, self.stays.reshape(num_states, num_actions, 1)], axis=-1),
                counts.start_shares,
            ),
        )
