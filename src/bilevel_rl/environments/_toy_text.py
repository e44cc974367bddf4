"""Reads the transition table `P[s][a] = [(probability, next state, reward, terminated), …]` of Gymnasium's toy-text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

NUM_EPISODES, NUM_STEPS = 100, 10
"""Of the comparison with the table; some 30 ms."""


@dataclass(frozen=True)
class ToyTextTable:
    """A toy-text `P` table as arrays; outcomes are padded to K with probability 0."""

    successors: Int[np.ndarray, "S A K"]
    probabilities: Float[np.ndarray, "S A K"]
    rewards: Float[np.ndarray, "S A K"]
    initial: Float[np.ndarray, " S"]
    terminal: Bool[np.ndarray, " S"]

    @classmethod
    def load(cls, environment_id: str, make_arguments: dict[str, Any]) -> "ToyTextTable":
        """Makes the environment and reads its table.

        Raises:
            ValueError: the environment has no `P` table, enters one state both ending and not ending the episode, or
                takes steps that its table does not list.
        """
        import gymnasium

        environment: Any = gymnasium.make(environment_id, **make_arguments).unwrapped
        table = getattr(environment, "P", None)
        initial = getattr(environment, "initial_state_distrib", None)
        if table is None or initial is None:
            raise ValueError(
                f"environment_id must name a toy-text environment with a `P` table and an `initial_state_distrib`, got "
                f"{environment_id!r}; for other environments build the tables and use TabularMDP.from_successors"
            )
        num_states, num_actions = len(table), len(table[0])
        num_outcomes = max(len(outcomes) for actions in table.values() for outcomes in actions.values())
        shape = (num_states, num_actions, num_outcomes)
        successors, probabilities, rewards = np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape)
        for state, action, k, (probability, successor, reward, _) in _outcomes(table):
            index = state, action, k
            successors[index], probabilities[index], rewards[index] = successor, probability, reward
        terminal = np.zeros(num_states, bool)
        terminal[[s for _, _, _, (p, s, _, terminated) in _outcomes(table) if p > 0 and terminated]] = True
        visited = _visited(table, initial, terminal)
        for state, _, _, (probability, successor, _, terminated) in _outcomes(table):
            # What the table lists beyond an episode's end, or where no episode gets, cannot contradict the end.
            if visited[state] and terminal[successor] and probability > 0 and not terminated:
                raise ValueError(
                    f"environment_id {environment_id!r} enters state {successor} both with and without ending the "
                    "episode; give such states a terminal copy and use TabularMDP.from_successors"
                )
        _check_steps(environment_id, environment, table, terminal)
        return cls(successors, probabilities, rewards, np.asarray(initial, np.float64), terminal)


def _check_steps(environment_id: str, environment: Any, table: dict, terminal: Bool[np.ndarray, " S"]):
    """Takes steps, and raises `ValueError` at one that the table does not list: some options act outside of it.

    The environment is put into states of every kind, since an episode of random actions gets to few; where it keeps its
    state under another name than `s`, as it goes on from where it is, that cannot be told from a state that is listed.
    """
    import gymnasium

    random = np.random.default_rng(0)
    acts = [state for state in table if not terminal[state]]
    if not acts or type(environment).step is gymnasium.Env.step:  # Nothing but a table.
        return
    for episode in range(NUM_EPISODES):
        state = int(environment.reset(seed=episode)[0])
        for _ in range(NUM_STEPS):
            before, put = state, acts[random.integers(len(acts))]
            if hasattr(environment, "s"):
                environment.s = put
            action = int(random.integers(len(table[put])))
            state, reward, is_end, *_ = environment.step(action)
            listed = [*table[put][action], *table[before][action]]
            if not any(p > 0 and s == state and np.isclose(r, reward) and e == is_end for p, s, r, e in listed):
                raise ValueError(
                    f"environment_id {environment_id!r} must step as its table `P` says, got from state {put} by "
                    f"action {action} to state {state} with reward {reward}{' at an end' if is_end else ''}, which is "
                    "not among its outcomes; leave out the options that act outside of the table, or build the tables "
                    "and use TabularMDP.from_successors"
                )
            if is_end:
                break


def _outcomes(table: dict) -> Iterator[tuple[int, int, int, tuple[float, int, float, bool]]]:
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for k, outcome in enumerate(outcomes):
                yield state, action, k, outcome


def _visited(table: dict, initial: np.ndarray, terminal: np.ndarray) -> Bool[np.ndarray, " S"]:
    """Whether some episode acts in a state."""
    visited, frontier = np.zeros(len(terminal), bool), np.flatnonzero(initial).tolist()
    while frontier:
        state = frontier.pop()
        if not visited[state] and not terminal[state]:
            visited[state] = True
            frontier += [successor for outcomes in table[state].values() for p, successor, _, _ in outcomes if p > 0]
    return visited


def gymnasium_reward(environment_id: str, **make_arguments: Any) -> Float[np.ndarray, "S A"]:
    """Expected reward r(s, a) of a Gymnasium toy-text environment, 0 in terminal states.

    Raises:
        ValueError: as `TabularMDP.from_gymnasium`.
    """
    table = ToyTextTable.load(environment_id, make_arguments)
    expected = (table.probabilities * table.rewards).sum(-1)
    return np.where(table.terminal[:, None], 0.0, expected)
