"""The reward that a leader has learned, as a file for others: its numbers, and a card that says where it is from."""

import datetime
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from bilevel_rl import checks
from bilevel_rl.checks.functions import takes
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.oracle import as_upper_variable, in_double_precision
from bilevel_rl.exact.tables import reward_table
from bilevel_rl.files.arrays import read_arrays, write_arrays
from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.json_files import read_object
from bilevel_rl.runs.result import RunResult

ARRAYS, CARD = "reward.npz", "reward.json"

PACKAGES = "bilevel-rl", "jax", "numpy"

RewardFunction = Callable[[PyTree, Any, Any], Any]
"""(x, state, action) -> reward, as a problem has it."""


@dataclass(frozen=True)
class LearnedReward:
    """r_x at the x that was learned.

    Attributes:
        x: the upper variable.
        table: r_x(s, a) of every pair, of shape (S, A); None where the environment has no tables.
        function: r as the problem has it; None where it was read from files and not given again, which a table does
            not need.
        card: where it is from: `problem`, `objective` and what it was `measured` by, `seed`, `num_seeds`, `versions`,
            `date`; free of code.

    Example:
        >>> import tempfile, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> reward = brl.LearnedReward.of(problem, (2.0, 0.0), note={"problem": "goal-position"})
        >>> with tempfile.TemporaryDirectory() as path:
        ...     reward.save(path)
        ...     again = brl.LearnedReward.load(path)
        >>> again.card["problem"], again(6, 0) == reward(6, 0)
        ('goal-position', True)
    """

    x: PyTree[np.ndarray]
    table: Float[np.ndarray, "S A"] | None
    function: RewardFunction | None
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: BilevelProblem, x: PyTree, *, note: Mapping[str, Any] | None = None) -> "LearnedReward":
        """The reward of a problem at x.

        Args:
            problem: whose reward.
            x: the upper variable, without an axis of seeds.
            note: what the card says besides versions and date, as JSON.

        Raises:
            TypeError, ValueError: an argument is of another type, or x of another shape.
        """
        checks.instance("problem", problem, BilevelProblem)
        x = as_upper_variable(problem, x)
        table = None
        if isinstance(problem.environment, TabularMDP):
            table = np.asarray(in_double_precision(jax.jit(lambda _, x: reward_table(problem, x)), None, x))
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(x, table, problem.reward, {**(note or {}), "versions": versions, "date": date})

    def __call__(self, state: Any, action: Any) -> float:
        """r_x(s, a) of one pair.

        Raises:
            ValueError: it was read from files without the function, and has no table.
        """
        if self.table is not None:
            return float(self.table[int(state), int(action)])
        return float(self._compiled(state, action))

    def save(self, path: Path | str):
        """Writes `reward.npz` (x, and the table) and the card, `reward.json`.

        Args:
            path: of a folder; made if it does not exist.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        write_arrays(path / ARRAYS, {"x": self.x, "table": self.table}, self.card)
        numbers = {jax.tree_util.keystr(at) or "x": leaf.tolist() for at, leaf in jax.tree.leaves_with_path(self.x)}
        text = json.dumps({**self.card, "x": numbers, "has_table": self.table is not None}, indent=2)
        write_atomically(path / CARD, text + "\n")

    @classmethod
    def load(cls, path: Path | str, reward: RewardFunction | None = None) -> "LearnedReward":
        """What `save` wrote.

        Args:
            path: of the folder.
            reward: the function (x, state, action) whose x this is, where there is no table: files hold no code.

        Raises:
            FileNotFoundError: there is no reward in the folder.
            TypeError, ValueError: `reward` is no such function, or the files are damaged.
        """
        path = Path(path)
        tree, card = read_arrays(path / ARRAYS)
        read_object(path / CARD)  # Which people may have edited; what counts is in the arrays' file.
        if reward is not None:
            takes("reward", reward, "x", "state", "action")
        return cls(tree["x"], tree["table"], reward, card)

    def as_gymnasium_wrapper(
        self, env: Any, *, adds: bool = False, state_of: Callable[[Any], Any] | None = None
    ) -> Any:
        """A `gymnasium.Env` that pays this reward, for any library's agents.

        A step from s by a pays r_x(s, a); a state is what `env` shows, unless `state_of` says otherwise.

        Args:
            env: a `gymnasium.Env`.
            adds: pays it beside the environment's own reward, and not instead.
            state_of: from an observation to the state that the reward is a function of.

        Raises:
            TypeError: `env` is none.
            ValueError: the environment does not number as many states and actions as the table, or there is neither a
                table nor a function.
        """
        from bilevel_rl.followers.gymnasium_wrapper import LearnedRewardWrapper

        return LearnedRewardWrapper(env, self, adds=adds, state_of=state_of)

    @property
    def _compiled(self) -> Callable[[Any, Any], Any]:
        """The function at x, compiled once."""
        if "compiled" not in self.__dict__:
            if self.function is None:
                raise ValueError("reward must be given: LearnedReward.load(path, reward=…), since files hold no code")
            function, x = self.function, jax.tree.map(lambda leaf: jnp.asarray(leaf, float), self.x)
            compiled = jax.jit(lambda state, action: jnp.asarray(function(x, state, action), float))
            object.__setattr__(self, "compiled", compiled)
        return self.__dict__["compiled"]


def write_reward(folder: RunFolder, problem: BilevelProblem, result: RunResult, *, reference: str) -> LearnedReward:
    """Leaves the reward of a run's best seed in its folder, as `reward.npz` and `reward.json`.

    The best is the one whose last `upper_objective` is lowest, or, where rows were sampled, whose `upper_value` is.

    Args:
        folder: of the run.
        problem: that it solved.
        result: what it ended with.
        reference: by which others find the problem, such as the name of an experiment.
    """
    measured = "upper_objective" if "upper_objective" in result.metrics else "upper_value"
    last = {int(row["seed"]): row[measured] for row in result.rows}
    stopped = {divergence.seed for divergence in result.divergences}
    candidates = [seed for seed in last if seed not in stopped] or list(last)
    best = min(candidates, key=lambda seed: last[seed])
    note = {
        "problem": reference,
        "objective": last[best],
        "measured": measured,
        "seed": best,
        "num_seeds": len(last),
        "objectives": list(last.values()),
    }
    reward = LearnedReward.of(problem, jax.tree.map(lambda leaf: np.asarray(leaf[best]), result.x), note=note)
    reward.save(folder.path)
    return reward
