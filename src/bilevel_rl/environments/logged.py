"""A log of what people did: which transitions were seen, what the log lacks, and the MDP that it amounts to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bilevel_rl import checks
from bilevel_rl.environments.columns import Labels, columns_of, flags_of, numbered
from bilevel_rl.environments.counts import KernelPosterior, TransitionCounts, Unseen, start_law
from bilevel_rl.environments.tabular import TabularMDP

NUM_NAMED = 5
"""Pairs that a report names; `TransitionLog.unseen` has all of them."""


@dataclass(frozen=True, eq=False)
class TransitionLog:
    """Counts of logged transitions, with what states and actions are called.

    Build one with `read` (a data frame, a mapping of columns, a CSV or Parquet file) or `from_arrays`. Printing it
    reports its size and which pairs were never tried.

    Attributes:
        counts: n(s, a, s').
        terminal: which states end an episode, shape (S,).
        starts: how many episodes began in each state, shape (S,); None where the log does not tell.
        state_labels: what states are called, in the order of their numbers; None where the log has numbers.
        action_labels: the same of actions.

    Example:
        >>> import bilevel_rl as brl
        >>> log = brl.TransitionLog.read(
        ...     {
        ...         "state": ["home", "home", "office", "home"],
        ...         "action": ["walk", "walk", "stay", "stay"],
        ...         "next_state": ["office", "home", "office", "home"],
        ...     }
        ... )
        >>> print(log)
        4 transitions of 2 states and 2 actions; each pair was tried 0 to 2 times.
        1 of 4 pairs was never tried: (office, walk).
        >>> home, walk = log.state("home"), log.action("walk")
        >>> log.mdp(discount=0.9).probabilities[home, walk, :2].tolist()
        [0.5, 0.5]
    """

    counts: TransitionCounts
    terminal: Bool[np.ndarray, " S"]
    starts: Float[np.ndarray, " S"] | None = None
    state_labels: Labels = None
    action_labels: Labels = None

    @classmethod
    def from_arrays(
        cls,
        states: Any,
        actions: Any,
        next_states: Any,
        *,
        terminated: Any = None,
        starts: Any = None,
        all_states: int | Sequence[Any] | None = None,
        all_actions: int | Sequence[Any] | None = None,
    ) -> "TransitionLog":
        """From an entry for each transition, in any order.

        Args:
            states: s, shape (N,): numbers from 0, or labels.
            actions: a, shape (N,).
            next_states: s', shape (N,).
            terminated: shape (N,), whether s' ended the episode; not whether the episode was cut off there.
            starts: states in which episodes began, any number of them.
            all_states: how many states there are, or their labels in the order of their numbers. By default those that
                the log has: up to the largest number, or labels in the order of the alphabet.
            all_actions: the same of actions.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a cell is missing, out of range or none of the labels, or lengths differ; a state was entered
                both ending and not ending the episode, or left after its end. The message names column and row.
        """
        given = {"states": states, "actions": actions, "next_states": next_states}
        given |= {} if terminated is None else {"terminated": terminated}
        columns = columns_of(given, {name: name for name in given})
        ends = None if terminated is None else "terminated"
        log = cls._of(columns, ("states", "actions", "next_states"), ends, all_states, all_actions)
        if starts is None:
            return log
        known = log.state_labels or log.counts.num_states
        (began,), _, _ = numbered(columns_of({"starts": starts}, {"starts": "starts"}), ["starts"], known, "all_states")
        return cls(log.counts, log.terminal, _tally(began, log), log.state_labels, log.action_labels)

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        state: str = "state",
        action: str = "action",
        next_state: str = "next_state",
        terminated: str | None = None,
        episode: str | None = None,
        all_states: int | Sequence[Any] | None = None,
        all_actions: int | Sequence[Any] | None = None,
    ) -> "TransitionLog":
        """From columns of a data frame, a mapping, or a file, a row for each transition.

        CSV files, whose first line names the columns, need nothing beside NumPy; Parquet files need the extra `[data]`.

        Args:
            source: a mapping or data frame of columns, the path of a CSV file, or of one that ends in .parquet.
            state: name of the column of s, numbers from 0 or labels.
            action: name of the column of a.
            next_state: name of the column of s'.
            terminated: name of the column that says whether s' ended the episode, if there is one.
            episode: name of the column that tells episodes apart, if there is one: their first rows are starts.
            all_states: as in `from_arrays`.
            all_actions: as in `from_arrays`.

        Raises:
            TypeError: as `from_arrays`, or `source` is something else.
            ValueError: as `from_arrays`, or there is no such file or column.
            ImportError: a Parquet file is to be read without pandas.
        """
        given = {"state": state, "action": action, "next_state": next_state}
        also = {"terminated": terminated, "episode": episode}
        given |= {argument: name for argument, name in also.items() if name is not None}
        names = {argument: checks.instance(argument, name, str) for argument, name in given.items()}
        columns = columns_of(source, names)
        log = cls._of(columns, (state, action, next_state), terminated, all_states, all_actions)
        if episode is None:
            return log
        _, firsts = np.unique(columns.cells[episode].astype(str), return_index=True)
        known = log.state_labels or log.counts.num_states
        (began,), _, _ = numbered(columns, [state], known, "all_states")
        return cls(log.counts, log.terminal, _tally(began[firsts], log), log.state_labels, log.action_labels)

    @classmethod
    def _of(
        cls,
        columns: Any,
        names: Sequence[str],
        terminated: str | None,
        all_states: int | Sequence[Any] | None,
        all_actions: int | Sequence[Any] | None,
    ) -> "TransitionLog":
        state, action, next_state = names
        (left, reached), S, state_labels = numbered(columns, (state, next_state), all_states, "all_states")
        (acts,), A, action_labels = numbered(columns, (action,), all_actions, "all_actions")
        counts = TransitionCounts.of(left, acts, reached, num_states=S, num_actions=A)
        terminal = np.zeros(S, bool)
        if terminated is not None:
            ends = flags_of(columns, terminated)
            terminal[reached[ends]] = True
            for column, is_wrong, did in (
                (next_state, terminal[reached] & ~ends, "entered without ending the episode"),
                (state, terminal[left], "left"),
            ):
                if np.any(is_wrong):
                    row = int(np.argmax(is_wrong))
                    raise ValueError(
                        f"column {terminated} says that {columns.cells[column][row]} ends the episode, but in "
                        f"{columns.place(row)} it is {did}; let ends lead to a state of their own"
                    )
        return cls(counts, terminal, None, state_labels, action_labels)

    def state(self, label: Any) -> int:
        """Number of a state by its label; `ValueError` for none."""
        return _number("label", label, self.state_labels, self.counts.num_states)

    def action(self, label: Any) -> int:
        """Number of an action by its label; `ValueError` for none."""
        return _number("label", label, self.action_labels, self.counts.num_actions)

    @property
    def trap(self) -> int:
        """Number of the additional state of `unseen="pessimistic"`: S."""
        return self.counts.num_states

    @property
    def unseen(self) -> Int[np.ndarray, "pairs 2"]:
        """Pairs (s, a) that were never tried, where the episode goes on."""
        return self.counts.unseen(self.terminal)

    def visits(self) -> Float[np.ndarray, "S A"]:
        """n(s, a)."""
        return self.counts.visits()

    def mdp(self, *, discount: float, initial: Any = None, prior: float = 0.0, unseen: Unseen = "stay") -> TabularMDP:
        """The MDP that the log amounts to: the mean of `posterior`.

        Args:
            discount: γ.
            initial: ρ, shape (S,). By default as often as episodes of the log began in each state; where it does not
                tell, every state is as likely in which the episode goes on.
            prior: pseudo-counts of a row, see `TransitionCounts.posterior`; 0 for maximum likelihood.
            unseen: what pairs do that were never tried: `"stay"`, `"prior"` or `"pessimistic"`, see there. The last
                adds a state: wrap reward and cost in `with_trap`.

        Raises:
            TypeError: an argument is of another type.
            ValueError: `prior` is negative, `unseen` is unknown, or as `TabularMDP`.
        """
        checks.number("discount", discount, at_least=0, below=1)
        law = self.posterior(prior=prior, unseen=unseen)
        num_states = len(law.successors)
        return TabularMDP.from_successors(
            law.successors,
            law.mean(),
            initial=start_law(initial, self.starts, self.terminal, num_states),
            discount=discount,
            terminal=np.pad(self.terminal, (0, num_states - len(self.terminal))),
        )

    def posterior(self, *, prior: float = 0.0, unseen: Unseen = "stay") -> KernelPosterior:
        """The law of the kernel, as `TransitionCounts.posterior`."""
        return self.counts.posterior(self.terminal, prior=prior, unseen=unseen)

    def with_trap(self, function: Callable, worst: Callable = jnp.min) -> Callable:
        """A reward or cost of the log's states that is also defined in the trap, and as bad there as anywhere.

        There it is `worst` of all pairs at the same x. So with the reward's minimum the trap is worth
        (min r_x + τ log A) / (1−γ) to the follower, whatever r_x is, and under no kernel is a state worth less in which
        the episode goes on for ever, since the even policy is worth that. An end is worth 0, which is less where
        min r_x > −τ log A: there take `worst=lambda table: jnp.min(table) - entropy_weight * jnp.log(num_actions)`.

        Args:
            function: r_x(s, a) or c_x(s, a), a plain JAX function (x, state, action) -> scalar.
            worst: of an array of all values: `jnp.min` for a reward, `jnp.max` for the leader's cost.

        Raises:
            TypeError: either cannot be called.
        """
        checks.function("function", function)
        checks.function("worst", worst)
        S, A, terminal = self.counts.num_states, self.counts.num_actions, self.terminal

        def extended(x: Any, s: Any, a: Any) -> Array:
            def value(state: Array, action: Array) -> Array:
                # Nothing accrues where the episode has ended.
                return jnp.where(jnp.asarray(terminal)[state], 0.0, jnp.asarray(function(x, state, action), float))

            table = jax.vmap(lambda state: jax.vmap(lambda action: value(state, action))(jnp.arange(A)))(jnp.arange(S))
            return jnp.where(s == S, worst(table), function(x, jnp.minimum(s, S - 1), a))

        return extended

    def __str__(self) -> str:
        counts, visits = self.counts, self.visits()
        tried = visits[~self.terminal] if not np.all(self.terminal) else visits
        missing = self.unseen
        text = (
            f"{counts.counts.sum():,.0f} transitions of {counts.num_states:,} states and {counts.num_actions:,} "
            f"actions; each pair was tried {tried.min():,.0f} to {tried.max():,.0f} times."
        )
        if not len(missing):
            return text + "\nEvery pair was tried."
        named = ", ".join(
            f"({_name(self.state_labels, s)}, {_name(self.action_labels, a)})" for s, a in missing[:NUM_NAMED].tolist()
        )
        more = f" and {len(missing) - NUM_NAMED:,} more" if len(missing) > NUM_NAMED else ""
        were = "was" if len(missing) == 1 else "were"
        return text + f"\n{len(missing):,} of {tried.size:,} pairs {were} never tried: {named}{more}."


def _tally(states: Int[np.ndarray, " starts"], log: TransitionLog) -> Float[np.ndarray, " S"]:
    return np.bincount(states, minlength=log.counts.num_states).astype(np.float64)


def _name(labels: Labels, number: int) -> str:
    return str(number) if labels is None else labels[number]


def _number(name: str, label: Any, labels: Labels, count: int) -> int:
    if labels is not None:
        return labels.index(checks.one_of(name, label, labels))
    return checks.integer(name, label, at_least=0, at_most=count - 1)
