"""Whether a run's learned reward teaches others than the follower that grew up with it, kept in the run's folder."""

import dataclasses
import json
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, PyTree

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.objectives import upper_value
from bilevel_rl.followers.rollout import rollout
from bilevel_rl.followers.training import NUM_EPISODES, LearnedPolicy, train
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.folder import DamagedFileError, RunFolder
from bilevel_rl.runs.json_files import FieldError, from_json, read_json

NAME = "fresh_followers.json"


@dataclass(frozen=True)
class Judgement:
    """What the leader pays for followers that were trained from scratch, with the first and with the learned reward.

    Attributes:
        num_transitions: from which each learned.
        before: f(x_0, π) of each; ∞ of one that diverged.
        after: f(x, π) of each at the learned x; likewise.
        own: f(x, π) of the run's own follower, which grew up with the reward.
    """

    num_transitions: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    own: float

    @property
    def share(self) -> float | None:
        """Of what the leader gains with the run's own follower, the part that fresh ones give too, by their medians;
        None where there is no gain, or most have diverged."""
        first, last = np.median(self.before), np.median(self.after)
        return (
            float((first - last) / (first - self.own))
            if first > self.own and np.isfinite([first, last]).all()
            else None
        )

    def sentence(self) -> str:
        """For people."""
        first, last = np.median(self.before), np.median(self.after)
        count = f"{len(self.after)} fresh followers" if len(self.after) > 1 else "a fresh follower"
        return f"f of {count} {first:.5g} → {last:.5g}, of the run's own {self.own:.5g}"


def write_judgement(
    folder: RunFolder,
    problem: BilevelProblem,
    x: PyTree,
    policy: LearnedPolicy,
    key: Array,
    num_transitions: int,
    *,
    num_followers: int = 4,
    algorithm: SingleLoopActorCritic | None = None,
) -> Judgement:
    """Trains fresh followers at the first and at the learned x, and writes what the leader pays for each.

    Args:
        folder: of the run.
        problem: that it solved.
        x: that it learned.
        policy: of the run's own follower, `RunResult.policy(seed)`.
        key: of all randomness.
        num_transitions: from which each follower learns.
        num_followers: at each x.
        algorithm: as `train`.

    Raises:
        TypeError, ValueError: as `train`.
    """
    counts = {"num_followers": num_followers, "algorithm": algorithm}
    before = train(problem, problem.initial_x, jax.random.fold_in(key, 0), num_transitions, **counts)
    after = train(problem, x, jax.random.fold_in(key, 1), num_transitions, **counts)
    if isinstance(problem.environment, TabularMDP):
        own = float(upper_value(problem, x, np.asarray(policy)))
    else:
        watched = rollout(problem, policy, x, jax.random.fold_in(key, 2), num_episodes=NUM_EPISODES)
        own = np.nan if watched.upper_value is None else watched.upper_value
    costs = (tuple(_finite(of.objectives).tolist()) for of in (before, after))
    judgement = Judgement(after.num_transitions, *costs, own=float(_finite(np.array(own))))
    folder.write_text(NAME, json.dumps(dataclasses.asdict(judgement), indent=2) + "\n")
    return judgement


def _finite(costs: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(costs), np.inf, costs)


def read_judgement(folder: RunFolder) -> Judgement | None:
    """What `write_judgement` wrote; None where it never did.

    Raises:
        DamagedFileError: the file is not what was written.
    """
    path = folder.path / NAME
    if not path.is_file():
        return None
    try:
        return from_json(Judgement, read_json(path))
    except FieldError as error:
        raise DamagedFileError(path, str(error)) from error
