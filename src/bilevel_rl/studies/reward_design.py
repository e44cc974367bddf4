"""What experiments have in common whose leader designs a reward for neural followers, with nothing known exactly."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bilevel_rl import checks
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.animations import save_animation
from bilevel_rl.figures.style import COLOURS, Style, save_figure
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
COLOUR_OF: dict[str, str] = dict(zip(WHENS, COLOURS[1::-1], strict=True))

SECONDS_SHOWN = 6.0
"""Of episodes, in the figure and in the animation."""


@dataclass(frozen=True)
class RewardDesign(SingleRun):
    """A run whose first and last x are judged by followers that are trained on them from scratch.

    Args:
        width: of both hidden layers of every network
        judging_transitions: for which followers are trained from scratch at the first and the last x, to judge these
    """

    results: ClassVar[str] = "followers"
    widths: ClassVar[Sequence[float]]
    """of the panels of the figure, in inches; the last is the designer's cost"""
    time_step: ClassVar[float]
    """seconds of a transition"""

    width: int = 64
    judging_transitions: float = 1e6

    @abc.abstractmethod
    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""

    @abc.abstractmethod
    def draw(self, panels: Sequence[Axes], data: Mapping[str, np.ndarray], style: Style):
        """Draws the panels of the experiment: the reward, and what followers do under it."""

    @abc.abstractmethod
    def animate(self, folder: RunFolder):
        """Writes the animation."""

    def check(self):
        """Raises `ValueError` for options that no follower can be trained with."""
        super().check()
        remedy = "at least one for each of num_chains"
        least = self.schedule.num_chains
        checks.number("judging_transitions", self.judging_transitions, at_least=least, remedy=remedy)

    def judge(self, algorithm: SingleLoopActorCritic, x: np.ndarray, seed: int) -> Rollout:
        """Episodes of a follower that is trained at x from scratch, and f estimated from them."""
        key = jax.random.fold_in(jax.random.fold_in(self.run.key(), seed), 2**31)
        learning, watching = jax.random.split(key)
        return watch(algorithm, learn(algorithm, x, learning, int(self.judging_transitions)), x, watching)

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The first and the last x of every seed, judged."""
        first, last = np.asarray(algorithm.problem.initial_x, np.float32), np.asarray(result.x)
        judged = {
            "before": [self.judge(algorithm, first, seed) for seed in range(self.run.num_seeds)],
            "after": [self.judge(algorithm, x, seed) for seed, x in enumerate(last)],
            "learned": [watch(algorithm, result.policy(i), x, jax.random.key(i)) for i, x in enumerate(last)],
        }
        episodes = {
            f"{name}_{when}": getattr(judged[when][0], name)[:, :SHOWN]
            for when in WHENS
            for name in ("states", "actions")
        }
        costs = {name: np.array([watched.upper_value for watched in of]) for name, of in judged.items()}
        return {"first_x": first, "last_x": last, **costs, **episodes}

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder, and the animation."""
        super().plot(folder)
        data = folder.read_arrays(self.results)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(sum(self.widths), 3.9))
            *panels, cost = figure.subplots(1, len(self.widths), width_ratios=self.widths)
            self.draw(panels, data, style)
            for axes in panels:
                axes.legend(fontsize="small")
            _draw_costs(cost, data, style)
            return figure

        save_figure(folder, self.name.replace("-", "_"), draw)
        self.animate(folder)

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

    def draw_over_time(self, axes: Axes, values: Float[np.ndarray, "steps episodes"], when: str, **look: Any):
        """Lines of some episodes under the first or the last reward."""
        seconds = self.time_step * np.arange(len(values))
        axes.plot(seconds, values, color=COLOUR_OF[when], linestyle="-", **look)[0].set_label(f"reward {when}")
        axes.set_xlabel("seconds")

    def save_follower(
        self,
        folder: RunFolder,
        picture: Callable[[np.ndarray, np.ndarray, np.ndarray, str], Image.Image],
        *,
        episode: int = 0,
        every: int = 1,
        abreast: bool = False,
    ):
        """`figures/follower.gif`: a follower under the first reward and one under the last, in real time.

        Args:
            folder: of the run.
            picture: of state, action, x and title.
            episode: which one of those that are kept.
            every: which steps are shown.
            abreast: as in `save_animation`.
        """
        data, steps = folder.read_arrays(self.results), slice(0, round(SECONDS_SHOWN / self.time_step), every)
        followers = []
        for when, x, title in zip(WHENS, (data["first_x"], data["last_x"][0]), TITLES, strict=True):
            moments = zip(data[f"states_{when}"][steps, episode], data[f"actions_{when}"][steps, episode], strict=True)
            followers.append([picture(state, action, x, title) for state, action in moments])
        pictures = zip(*followers, strict=True)
        save_animation(folder, "follower", pictures, round(1_000 * self.time_step * every), abreast=abreast)


def watch(algorithm: SingleLoopActorCritic, policy: Any, x: np.ndarray, key: jax.Array) -> Rollout:
    """Episodes of a follower, by which it is judged."""
    return rollout(algorithm.problem, policy, x, key, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS)


def _draw_costs(axes: Axes, data: Mapping[str, np.ndarray], style: Style):
    """The designer's cost of every seed: followers from scratch at the first and the last x, and the run's own."""
    costs = np.stack([data["before"], data["after"], data["learned"]])
    columns = ["first reward", "last reward", "last policy\nof the run"]
    axes.plot(columns, costs, "o-", color=style.path, alpha=0.6, linewidth=0.8)
    title = f"Designer's cost ({costs.shape[1]} seeds)"
    axes.set(ylabel="designer's cost", ylim=(0, 1.02 * max(1.0, costs.max())), title=title)
