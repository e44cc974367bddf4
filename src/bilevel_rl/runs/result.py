"""What a run ended with, as data: printed in a few lines, as a table, and as a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP
from bilevel_rl.files.arrays import read_arrays, write_arrays
from bilevel_rl.policies import NetworkPolicy
from bilevel_rl.runs.divergence import Divergence
from bilevel_rl.runs.tables import Row

if TYPE_CHECKING:
    import pandas as pd

NAME = "result.npz"
"""In a run folder."""

HEADLINES = "upper_objective", "upper_value"
"""The column that says how a run went, the first that there is."""

LARGEST_SAVED = 1_000_000
"""Probabilities; tables of all seeds that have more are not saved with a result."""

Policies = Float[np.ndarray, "seeds S A"]


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run ended with. Leading axis of every array: the seed.

    Attributes:
        x: final upper variables.
        states: final states of the algorithm; None where it was read from a file, or a trainer is the state itself.
        metrics: columns of equal length, one entry a seed and log point, ordered by iteration and then seed
            (docs/reference/metrics.md).
        divergences: seeds that stopped early.
        algorithm: what ran; None where it was read from a file.
        policies: of a result that was read from a file, the lower followers' probabilities, where they are tables.
    """

    x: PyTree
    states: Any
    metrics: dict[str, np.ndarray]
    divergences: Sequence[Divergence]
    algorithm: Any = field(default=None, kw_only=True)
    policies: Policies | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> list[dict[str, float]]:
        """The metrics, one row a seed and log point."""
        lines = zip(*(column.tolist() for column in self.metrics.values()), strict=True)
        return [dict(zip(self.metrics, line, strict=True)) for line in lines]

    def policy(self, seed: int = 0) -> Float[np.ndarray, "S A"] | NetworkPolicy:
        """What the lower follower of a seed has learned: probabilities, or, where states have no numbers, networks.

        Raises:
            TypeError, ValueError: there is no such seed, or the result does not know: it is that of a trainer, which
                holds its models itself, or it was read from a file that holds no tables.
        """
        if self.policies is None and self.states is None:
            raise ValueError("policy is not known to this result; of a run folder use brl.open_run(path).policy(seed)")
        last = len(jax.tree.leaves(self.x if self.policies is None else self.policies)[0]) - 1
        seed = checks.integer("seed", seed, at_least=0, at_most=last)
        if self.policies is not None:
            return self.policies[seed]
        state = jax.tree.map(lambda leaf: leaf[seed], self.states)
        if isinstance(self.algorithm.problem.environment, TabularMDP):
            return np.exp(np.asarray(_lower_log_policy(self.algorithm, state), np.float64))
        follower = jax.tree.map(lambda leaf: leaf[0], state.parameters)
        return NetworkPolicy(self.algorithm.followers.policies, follower.weights, follower.moments)

    def to_pandas(self) -> "pd.DataFrame":
        """The metrics as a table, one row a seed and log point.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_pandas needs pandas, which is not installed: pip install 'bilevel-rl[data]'", name="pandas"
            ) from error
        return pd.DataFrame(self.metrics)

    def save(self, path: Path | str):
        """Writes x, metrics, divergences and tables of policies as one `.npz` file, without pickle.

        Not the states: a run goes on from its folder. The structure of x stays where it is made of dicts, lists and
        tuples; other nodes come back as dicts. Tables of more than a million probabilities are left out.

        Args:
            path: of the file.
        """
        tables = self._tables()
        card = {"divergences": [asdict(divergence) for divergence in self.divergences]}
        write_arrays(Path(path), {"x": self.x, "metrics": self.metrics, "policies": tables}, card)

    @classmethod
    def load(cls, path: Path | str) -> "RunResult":
        """What `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is another one.
        """
        tree, card = read_arrays(Path(path))
        try:
            divergences = [Divergence(**entry) for entry in card["divergences"]]
            return cls(tree["x"], None, tree["metrics"], divergences, policies=tree["policies"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no result of a run, it lacks {error}") from error

    def _tables(self) -> Policies | None:
        if self.policies is not None or self.algorithm is None:
            return self.policies
        problem, num_seeds = self.algorithm.problem, len(jax.tree.leaves(self.x)[0])
        if not isinstance(problem.environment, TabularMDP):
            return None
        if num_seeds * problem.mdp.num_states * problem.mdp.num_actions > LARGEST_SAVED:
            return None
        return np.stack([np.asarray(self.policy(seed)) for seed in range(num_seeds)])

    def __repr__(self) -> str:
        seeds, iterations = (np.asarray(self.metrics.get(name, [])) for name in ("seed", "num_iterations"))
        method = f" of {type(self.algorithm).__name__}" if self.algorithm is not None else ""
        reached = f"{len(np.unique(seeds))} seeds, {iterations.max(initial=0):,} iterations"
        lines = [f"RunResult{method}: {reached}"]
        if headline := next((name for name in HEADLINES if name in self.metrics), None):
            values, point = self.metrics[headline], (iterations.min(), iterations.max())
            before, after = (np.median(values[iterations == k]) for k in point)
            lines.append(f"{headline}: {before:.4g} → {after:.4g} (median of the seeds)")
        parts = [
            f"{jax.tree_util.keystr(path)}{'=' if path else ''}{_short(leaf[0])}"
            for path, leaf in jax.tree.leaves_with_path(self.x)[:4]
        ]
        lines.append(f"x of seed 0: {', '.join(parts)}"[:120])
        stopped = [f"seed {entry.seed} after iteration {entry.num_iterations:,}" for entry in self.divergences]
        lines.append(f"divergences: {', '.join(stopped) or 'none'}"[:120])
        return "\n".join(lines)


def columns_of(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Metric rows as columns."""
    return {name: np.array([row[name] for row in rows]) for name in rows[-1]}


def _short(leaf: Any) -> str:
    return " ".join(np.array2string(np.asarray(leaf), precision=4, threshold=6, edgeitems=2).split())


@eqx.filter_jit
def _lower_log_policy(algorithm: Any, state: Any) -> Array:
    """Of one seed; one program, which the cache keeps, where single operations would each be compiled anew."""
    return algorithm.log_policies(state)[0]
