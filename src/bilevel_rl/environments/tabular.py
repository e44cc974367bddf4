"""Finite Markov decision processes with sparse successors, stepped through explicit uniforms."""

import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from bilevel_rl import checks
from bilevel_rl.checks.arrays import flags, numbers
from bilevel_rl.environments._toy_text import ToyTextTable
from bilevel_rl.environments.counts import TransitionCounts, Unseen, start_law
from bilevel_rl.environments.environment import check_discount
from bilevel_rl.environments.kernels import check_distribution, cumulative_of, outcomes_of, states_of


class TabularMDP(eqx.Module):
    """States 0…S−1, actions 0…A−1 and at most K successors of each pair. Rewards are the problem's business.

    Memory is O(S·A·K) and a step is O(K), so neither grows with S². Where all actions of a state have the same possible
    successors, or all states the same outcome probabilities, that axis of the table may have length 1: a grid of 10⁶
    cells then takes 20 MB. Tables are kept as NumPy arrays in double precision: a compiled loop casts them to its own
    precision, an oracle reads them exactly.

    Terminal states are absorbing: nothing (reward, cost, entropy) accrues in them. Build one with `from_dense`,
    `from_successors`, `from_gymnasium` or `from_transitions`; all raise `ValueError` for what is not an MDP.

    Attributes:
        successors: state reached by the k-th outcome of (s, a), of shape (S, A or 1, K).
        probabilities: its probability, of shape (S or 1, A or 1, K); sums to 1 over k.
        initial: start distribution ρ; sums to 1.
        terminal: whether a state ends the episode.
        discount: γ, in [0, 1).

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> stay_or_swap = np.array([[[1.0, 0.0], [0.1, 0.9]], [[0.0, 1.0], [0.9, 0.1]]])
        >>> mdp = brl.TabularMDP.from_dense(stay_or_swap, initial=[1.0, 0.0], discount=0.9)
        >>> mdp.num_states, mdp.num_actions, int(mdp.step(0, 1, uniform=0.5))
        (2, 2, 1)
    """

    successors: Int[np.ndarray, "S #A K"]
    probabilities: Float[np.ndarray, "#S #A K"]
    initial: Float[np.ndarray, " S"]
    terminal: Bool[np.ndarray, " S"]
    discount: float = eqx.field(static=True)
    cumulative_probabilities: Float[np.ndarray, "#S #A K"]
    start_states: Int[np.ndarray, " starts"]
    cumulative_start: Float[np.ndarray, " starts"] | None

    def __init__(
        self,
        successors: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        initial: npt.ArrayLike,
        discount: float,
        terminal: npt.ArrayLike | None = None,
    ):
        self.probabilities = numbers("probabilities", probabilities)
        self.successors = states_of(successors)
        self.initial = numbers("initial", initial)
        num_states = len(self.initial) if self.initial.ndim else 0
        self.terminal = np.zeros(num_states, bool) if terminal is None else flags("terminal", terminal)
        self.discount = check_discount(discount)
        self._validate()
        self.successors = self.successors.astype(np.int32)
        self.probabilities = self.probabilities / self.probabilities.sum(-1, keepdims=True)
        self.initial = self.initial / self.initial.sum()
        self.cumulative_probabilities = cumulative_of(self.probabilities)
        self.start_states = np.flatnonzero(self.initial).astype(np.int32)
        chances = self.initial[self.start_states]
        self.cumulative_start = None if np.ptp(chances) <= 1e-12 * chances.max() else cumulative_of(chances)

    @classmethod
    def from_successors(
        cls,
        successors: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        *,
        initial: npt.ArrayLike,
        discount: float,
        terminal: npt.ArrayLike | None = None,
    ) -> "TabularMDP":
        """From the K successor states of each pair and their probabilities (pad with probability 0).

        Args:
            successors: shape (S, A, K), states; (S, 1, K) where all actions share them.
            probabilities: shape (S, A, K), sums to 1 over the last axis; (1, A, K) where all states share them.
            initial: shape (S,), start distribution ρ.
            discount: γ.
            terminal: shape (S,), whether a state ends the episode. Rows of such states are overwritten: they lead to
                themselves.

        Raises:
            ValueError: shapes disagree, an array is empty or holds something else, an index is out of range, a
                distribution is negative or does not sum to 1, or `discount` lies outside [0, 1).
        """
        successors, probabilities = states_of(successors), numbers("probabilities", probabilities)
        if terminal is not None and (terminal := flags("terminal", terminal)).shape == successors.shape[:1]:
            ends = np.flatnonzero(terminal)
            if successors.ndim == 3:
                successors[ends] = ends[:, None, None]
            if probabilities.ndim == 3 and len(probabilities) == len(successors):
                probabilities[ends] = np.eye(probabilities.shape[-1])[0]
        return cls(successors, probabilities, initial, discount, terminal)

    @classmethod
    def from_dense(
        cls,
        transition_probabilities: npt.ArrayLike | Any,
        *,
        initial: npt.ArrayLike,
        discount: float,
        terminal: npt.ArrayLike | None = None,
    ) -> "TabularMDP":
        """From a whole kernel P[s, a, s'] = Pr(s' | s, a), of shape (S, A, S).

        K becomes the largest number of possible successors.

        Args:
            transition_probabilities: P, sums to 1 over the last axis. A list of A sparse matrices (S, S) of SciPy, one
                for each action, is read without being made dense.
            initial: shape (S,), start distribution ρ.
            discount: γ.
            terminal: shape (S,), whether a state ends the episode. Rows of such states are overwritten: they lead to
                themselves.

        Raises:
            ValueError: P has another shape or holds something else than numbers, a distribution is negative or does not
                sum to 1, or `discount` lies outside [0, 1).
        """
        successors, probabilities = outcomes_of(transition_probabilities)
        return cls.from_successors(successors, probabilities, initial=initial, discount=discount, terminal=terminal)

    @classmethod
    def from_gymnasium(cls, environment_id: str, *, discount: float, **make_arguments: Any) -> "TabularMDP":
        """From the `P` table of a Gymnasium toy-text environment, e.g. `"FrozenLake-v1"`.

        A state that is entered with `terminated=True` becomes terminal. The environment's own expected reward is
        `environments.gymnasium_reward(environment_id, **make_arguments)`.

        Args:
            environment_id: registered name; extra keyword arguments go to `gymnasium.make`.
            discount: γ, in [0, 1); Gymnasium's toy-text environments do not define one.

        Raises:
            ValueError: the environment has no `P` table, enters one state both ending and not ending the episode, or
                takes steps that its table does not list, as some of its options make it do.
        """
        table = ToyTextTable.load(environment_id, make_arguments)
        return cls.from_successors(
            table.successors,
            table.probabilities,
            initial=table.initial,
            discount=discount,
            terminal=table.terminal,
        )

    @classmethod
    def from_transitions(
        cls,
        states: npt.ArrayLike,
        actions: npt.ArrayLike,
        next_states: npt.ArrayLike,
        *,
        num_states: int,
        num_actions: int,
        discount: float,
        initial: npt.ArrayLike | None = None,
        terminal: npt.ArrayLike | None = None,
        prior: float = 0.0,
        unseen: Unseen = "stay",
    ) -> "TabularMDP":
        """From N observed transitions: how often each state followed a pair, as a share. No dense kernel is made.

        `TransitionLog` also reads files and labels, ends of episodes and their starts, and lists what was not seen.

        Args:
            states: s, shape (N,), numbers from 0.
            actions: a, shape (N,).
            next_states: s', shape (N,).
            num_states: S.
            num_actions: A.
            discount: γ.
            initial: shape (S,), ρ; by default every state is as likely that is not terminal.
            terminal: shape (S,), whether a state ends the episode; none by default.
            prior: pseudo-counts of each pair, spread evenly over the states that were seen to follow its state under
                any action; 0 for maximum likelihood.
            unseen: what pairs do that were never tried. `"stay"`: they leave the state as it is; `"prior"`: each state
                that was seen to follow is as likely; `"pessimistic"`: they lead to an additional last state, the trap,
                which is never left, and where reward and cost have to be defined (`TransitionLog.with_trap`).

        Raises:
            TypeError: an argument is of another type.
            ValueError: transitions are out of range (the message names the row) or of different length, `prior` is
                negative, or as `from_successors`.

        Warns:
            UserWarning: pairs were never tried; the message counts them.

        Example:
            >>> import bilevel_rl as brl
            >>> seen = {"states": [0, 0, 0, 1], "actions": [0, 0, 0, 0], "next_states": [1, 1, 0, 0]}
            >>> mdp = brl.TabularMDP.from_transitions(**seen, num_states=2, num_actions=1, discount=0.9)
            >>> mdp.successors[0, 0].tolist(), mdp.probabilities[0, 0].round(3).tolist()
            ([0, 1], [0.333, 0.667])
        """
        checks.number("discount", discount, at_least=0, below=1)
        counts = TransitionCounts.of(states, actions, next_states, num_states=num_states, num_actions=num_actions)
        ends = np.zeros(counts.num_states, bool) if terminal is None else flags("terminal", terminal)
        if ends.shape != (counts.num_states,):
            raise ValueError(f"terminal must have shape ({counts.num_states},), got {ends.shape}")
        missing = counts.unseen(ends)
        if len(missing):
            warnings.warn(
                f"{len(missing):,} of {counts.num_states * counts.num_actions:,} pairs were never tried, the first is "
                f"state {missing[0, 0]} with action {missing[0, 1]}; unseen={unseen!r} says what they do",
                stacklevel=2,
            )
        law = counts.posterior(ends, prior=prior, unseen=unseen)
        size = len(law.successors)
        start = start_law(initial, None, ends, size)
        ends = np.pad(ends, (0, size - len(ends)))
        return cls.from_successors(law.successors, law.mean(), initial=start, discount=discount, terminal=ends)

    @property
    def num_states(self) -> int:
        """S."""
        return self.initial.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return max(self.successors.shape[1], self.probabilities.shape[1])

    def reset(self, uniform: Float[ArrayLike, "*#batch"]) -> Int[Array, "*batch"]:
        """Start state drawn from ρ by inverse CDF of a uniform in [0, 1).

        In single precision a uniform has 2²³ values, which is also how finely ρ is resolved.
        """
        starts, uniform = jnp.asarray(self.start_states), jnp.asarray(uniform)
        if self.cumulative_start is None:
            # Where ρ is uniform its inverse CDF is a product; rounding may reach the number of starts itself.
            draws = jnp.minimum((uniform * len(starts)).astype(jnp.int32), len(starts) - 1)
        else:
            thresholds = jnp.asarray(self.cumulative_start)
            draws = jnp.searchsorted(thresholds, uniform, side="right", method="scan_unrolled")
        return starts.at[draws].get(mode="promise_in_bounds")

    def step(
        self, state: Int[ArrayLike, "*#batch"], action: Int[ArrayLike, "*#batch"], uniform: Float[ArrayLike, "*#batch"]
    ) -> Int[Array, "*batch"]:
        """Next state drawn from P(·|s, a) by inverse CDF of a uniform in [0, 1)."""
        thresholds = _entries(self.cumulative_probabilities, state, action, slice(None, -1))
        outcome = jnp.sum(jnp.asarray(uniform)[..., None] >= thresholds, axis=-1, dtype=jnp.int32)
        return self.successor(state, action, outcome)

    def successor(
        self, state: Int[ArrayLike, "*#batch"], action: Int[ArrayLike, "*#batch"], outcome: Int[ArrayLike, "*#batch"]
    ) -> Int[Array, "*batch"]:
        """State that an outcome of a pair leads to."""
        return _entries(self.successors, state, action, outcome)

    def with_probabilities(self, probabilities: Float[Array, "S A K"]) -> "TabularMDP":
        """The same MDP with other outcome probabilities, which may be traced."""
        return eqx.tree_at(
            lambda mdp: (mdp.probabilities, mdp.cumulative_probabilities),
            self,
            (probabilities, jnp.cumsum(probabilities, axis=-1)),
        )

    def is_terminal(self, state: Int[ArrayLike, "*#batch"]) -> Bool[Array, "*batch"]:
        """Whether nothing accrues in these states any more."""
        return jnp.asarray(self.terminal).at[jnp.asarray(state)].get(mode="promise_in_bounds")

    def _validate(self):
        shapes = reached, chances = self.successors.shape, self.probabilities.shape
        num_states = reached[0] if reached else 0
        if not (
            len(reached) == len(chances) == 3
            and reached[2] == chances[2]
            and chances[0] in (1, num_states)
            and (reached[1] == chances[1] or 1 in (reached[1], chances[1]))
        ):
            raise ValueError(
                "successors and probabilities must both have shape (S, A, K), where successors may have 1 instead of "
                f"A and probabilities 1 instead of S or A, got {shapes[0]} and {shapes[1]}"
            )
        for name, table in (("initial", self.initial), ("terminal", self.terminal)):
            if table.shape != (num_states,):
                raise ValueError(f"{name} must have shape ({num_states},), got {table.shape}")
        if self.successors.min() < 0 or self.successors.max() >= num_states:
            raise ValueError(
                f"successors must lie in 0..{num_states - 1}, got {self.successors.min()}..{self.successors.max()}"
            )
        check_distribution("initial", self.initial)
        check_distribution("probabilities", self.probabilities)


def _entries(table: ArrayLike, state: ArrayLike, action: ArrayLike, outcome: ArrayLike | slice) -> Array:
    """Entries of a table that may have length 1 instead of S or A; indices are trusted, which saves a check."""
    table = jnp.asarray(table)
    state = jnp.asarray(state) if table.shape[0] > 1 else jnp.zeros_like(state)
    action = jnp.asarray(action) if table.shape[1] > 1 else jnp.zeros_like(action)
    return table.at[state, action, outcome].get(mode="promise_in_bounds")
