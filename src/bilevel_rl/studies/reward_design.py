"""What experiments have in common whose leader designs a reward for neural followers, with nothing known exactly."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from matplotlib.axes import Axes

from bilevel_rl import checks, figures
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.style import Style
from bilevel_rl.followers import Rollout, learn, rollout
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.experiment import SingleRun

NUM_EPISODES, NUM_STEPS = 256, 800
"""By which a follower is judged at the end; 0.99^800 = 0.0003 of the time is later."""

SHOWN = 32
"""Episodes of the first seed whose states and actions are kept."""

WHENS = ("before", "after")
TITLES = ("before: the first reward", "after: the reward that the leader drew")


@dataclass(frozen=True)
class RewardDesign(SingleRun):
    """A run whose first and last x are judged by followers that are trained on them from scratch.

    Args:
        width: of both hidden layers of every network
        judging_transitions: for which followers are trained from scratch at the first and the last x, to judge these
    """

    results: ClassVar[str] = "followers"

    width: int = 64
    judging_transitions: float = 1e6

    @abc.abstractmethod
    def draw(self, folder: RunFolder):
        """Draws the figure of the experiment, and the animation."""

    def check(self):
        """Raises `ValueError` for options that no follower can be trained with."""
        super().check()
        remedy = "at least one for each of num_chains"
        least = self.schedule.num_chains
        checks.number("judging_transitions", self.judging_transitions, at_least=least, remedy=remedy)

    def judge(self, algorithm: SingleLoopActorCritic, x: np.ndarray, seed: int) -> Rollout:
        """Episodes of a follower that is trained at x from scratch, and f estimated from them."""
        key = jax.random.key(self.run.seed, impl=self.run.generator)
        learning, watching = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, seed), 2**31))
        follower = learn(algorithm, x, learning, int(self.judging_transitions))
        return rollout(algorithm.problem, follower, x, watching, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The first and the last x of every seed, judged."""
        problem = algorithm.problem
        first, last = np.asarray(problem.initial_x, np.float32), np.asarray(result.x)
        before = [self.judge(algorithm, first, seed) for seed in range(self.run.num_seeds)]
        after = [self.judge(algorithm, x, seed) for seed, x in enumerate(last)]
        learned = [
            rollout(
                problem, result.policy(seed), x, jax.random.key(seed), num_episodes=NUM_EPISODES, num_steps=NUM_STEPS
            )
            for seed, x in enumerate(last)
        ]
        episodes = {
            f"{name}_{when}": leaf[:, :SHOWN]
            for when, watched in zip(WHENS, (before[0], after[0]), strict=True)
            for name, leaf in (("states", watched.states), ("actions", watched.actions))
        }
        judged = {"before": before, "after": after, "learned": learned}
        costs = {name: np.array([watched.upper_value for watched in of]) for name, of in judged.items()}
        return {"first_x": first, "last_x": last, **costs, **episodes}

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder, and the animation."""
        figures.draw_step_sizes(folder)
        figures.draw_sampled_curves(folder)
        self.draw(folder)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        before, after, learned = (np.median(data[name]) for name in ("before", "after", "learned"))
        worst = 100 * (data["after"] / data["before"] - 1).max()
        return (
            f"designer's cost of followers trained from scratch, median of {len(data['after'])} seeds: {before:.3f} "
            f"with the first reward, {after:.3f} with the last (worst seed {worst:+.0f} %); its own policies "
            f"{learned:.3f}"
        )


def draw_costs(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """The designer's cost of every seed: followers from scratch at the first and the last x, and the run's own."""
    columns = ["first reward", "last reward", "last policy\nof the run"]
    for values in zip(data["before"], data["after"], data["learned"], strict=True):
        axes.plot(columns, values, "o-", color=style.path, alpha=0.6, linewidth=0.8)
    highest = max(1.0, *(data[name].max() for name in (*WHENS, "learned")))
    axes.set(ylabel="designer's cost", ylim=(0, 1.02 * highest), title=f"Designer's cost ({len(data['after'])} seeds)")
