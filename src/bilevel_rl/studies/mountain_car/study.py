"""Reward shaping on MountainCar: does a leader shape a sparse reward so that followers find the goal?"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.comparison.tables import markdown
from bilevel_rl.followers import learn, rollout
from bilevel_rl.problems import MountainCarShaping
from bilevel_rl.problems.mountain_car import GOAL, known_shapings
from bilevel_rl.runs.compiled import key_of_start
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean
from bilevel_rl.studies.config import RunConfig, ScheduleConfig, of_networks
from bilevel_rl.studies.experiment import SingleRun
from bilevel_rl.studies.mountain_car.figures import animate_mountain_car, draw_mountain_car_shaping

NUM_EPISODES, NUM_STEPS = 256, 200
"""By which a follower is judged; the steps are those of Gymnasium's MountainCar-v0."""

SHOWN = 32
"""Episodes of the first seed whose states are kept."""

LABELS = {
    "learned": "learned",
    "policy": "learned, the run's own policy",
    "first": "as x was at the start",
    "none": "none",
    "none_longer": "none, 3 times the transitions",
    "height": "potential: height",
    "energy": "potential: energy",
    "hand": "by hand: push along",
}
"""What followers are trained under, as arrays, tables and figures have it."""


HEADER = "shaping", "transitions", "arrive in 200 steps, each seed", "interquartile mean", "95 % interval", "mean steps"


class Judged(NamedTuple):
    """Fresh episodes of every seed's follower.

    Attributes:
        transitions: that each follower learned from.
        arrived: share of the episodes that reached the goal.
        steps: mean number until then; episodes that do not arrive count all.
        states: of some episodes of the first seed, what each of their steps began and ended with.
    """

    transitions: int
    arrived: Float[np.ndarray, " seeds"]
    steps: Float[np.ndarray, " seeds"]
    states: Float[np.ndarray, "steps episodes 2"]


@dataclass(frozen=True)
class MountainCarStudy(SingleRun, MountainCarShaping):
    """Shape MountainCar's sparse reward until followers find its goal, against other shapings (5 minutes)."""

    name: ClassVar[str] = "mountain-car"
    results: ClassVar[str] = "followers"

    averaging: float = 0.0
    """the answer is the mean of all x_k, weighted as k to this power"""
    height_scale: float = 30.0
    """of the potential that is the hill's height, in the comparison"""
    energy_scale: float = 3.0
    """of the potential that is mechanical energy, in the comparison"""
    width: int = 64
    """of both hidden layers of every network"""
    run: RunConfig = RunConfig(num_seeds=5, num_iterations=30_000, log_every=1_000)
    schedule: ScheduleConfig = of_networks(entropy_weight=0.01, offset=6_000.0)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        for name in ("height_scale", "energy_scale"):
            checks.number(name, getattr(self, name), at_least=0)
        return self.schedule.neural_loop(self.problem(), width=self.width, averaging=self.averaging)

    @property
    def num_transitions(self) -> int:
        """That the run's own follower learns from, the lower one of the two."""
        return self.run.num_iterations * self.schedule.num_chains

    def other_shapings(self) -> dict[str, tuple[tuple[float, float, float], int]]:
        """Weights of `known_shapings`, and from how many transitions followers learn under them."""
        return {
            "none": ((0.0, 0.0, 0.0), self.num_transitions),
            "none_longer": ((0.0, 0.0, 0.0), 3 * self.num_transitions),
            "height": ((0.0, self.height_scale, 0.0), self.num_transitions),
            "energy": ((0.0, 0.0, self.energy_scale), self.num_transitions),
            "hand": ((1.0, 0.0, 0.0), self.num_transitions),
        }

    def key(self, seed: int) -> Array:
        """Of a seed, as `run` has it."""
        return jax.random.fold_in(self.run.key(), seed)

    def judge(self, algorithm: SingleLoopActorCritic, xs: PyTree, num_transitions: int) -> Judged:
        """Followers that are trained from scratch, each seed's at its x, and then watched."""
        # One after the other: weights of seeds side by side are drawn by batched factorizations, which can deadlock.
        followers = [
            learn(algorithm, x, jax.random.fold_in(self.key(seed), 2**31), num_transitions) for seed, x in enumerate(xs)
        ]
        return self.watch(algorithm, xs, followers, num_transitions)

    def watch(
        self, algorithm: SingleLoopActorCritic, xs: PyTree, followers: Sequence[PyTree], num_transitions: int
    ) -> Judged:
        """How many of the episodes of every seed's follower arrive, and when."""
        keys = [jax.random.fold_in(self.key(seed), 2**31 + 1) for seed in range(len(followers))]
        episodes = [
            rollout(algorithm.problem, follower, x, key, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS + 1).states
            for x, follower, key in zip(xs, followers, keys, strict=True)
        ]
        is_there = np.asarray(episodes)[..., 0] >= GOAL
        return Judged(
            transitions=num_transitions,
            arrived=is_there[:, -1].mean(-1),
            steps=(~is_there[:, :-1]).sum(1).mean(-1),
            states=np.asarray(episodes[0])[:, :SHOWN],
        )

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """The first and the last x, and how followers under every shaping fare."""
        first = np.stack([_first_x(algorithm, self.key(seed)) for seed in range(self.run.num_seeds)])
        judged = self.compare(algorithm, first, result)
        arrays = {"first_x": first, "last_x": np.asarray(result.x)}
        for name, of_shaping in judged.items():
            arrays |= {f"{name}_{key}": np.asarray(value) for key, value in of_shaping._asdict().items()}
        return arrays

    def compare(
        self, algorithm: SingleLoopActorCritic, first: Float[np.ndarray, "seeds P V"], result: RunResult
    ) -> dict[str, Judged]:
        """Followers under every shaping; the names are those of `LABELS`."""
        num_transitions, last = self.num_transitions, np.asarray(result.x)
        own = [result.policy(seed) for seed in range(len(last))]
        judged = {
            "learned": self.judge(algorithm, last, num_transitions),
            "policy": self.watch(algorithm, last, own, num_transitions),
            "first": self.judge(algorithm, first, num_transitions),
        }
        known = dataclasses.replace(algorithm, problem=known_shapings(self.discount, NUM_STEPS))
        for name, (weights, count) in self.other_shapings().items():
            judged[name] = self.judge(known, np.tile(np.asarray(weights, np.float32), (len(last), 1)), count)
        return judged

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder and the animation, and writes its table."""
        super().plot(folder)
        draw_mountain_car_shaping(folder, LABELS)
        animate_mountain_car(folder)
        folder.write_text("table.md", self.table(folder))

    def table(self, folder: RunFolder) -> str:
        """Share of the episodes that arrive under every shaping, in Markdown."""
        data = folder.read_arrays(self.results)
        rows = []
        for name, label in LABELS.items():
            arrived, steps = data[f"{name}_arrived"], data[f"{name}_steps"]
            low, high = bootstrap_interval(arrived)
            shares, mean = " ".join(f"{share:.3f}" for share in arrived), f"{interquartile_mean(arrived):.3f}"
            transitions, interval = f"{int(data[f'{name}_transitions']):,}", f"[{low:.3f}, {high:.3f}]"
            rows.append([label, transitions, shares, mean, interval, f"{steps.mean():.0f}"])
        return markdown(HEADER, rows)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        learned, none, longer = (
            f"{100 * data[f'{name}_arrived'].min():.0f} to {100 * data[f'{name}_arrived'].max():.0f} %"
            for name in ("learned", "none", "none_longer")
        )
        return (
            f"episodes that reach the goal, followers trained from scratch, {len(data['last_x'])} seeds: with the "
            f"learned shaping {learned}, without {none}, without and with 3 times the transitions {longer}"
        )


def _first_x(algorithm: SingleLoopActorCritic, seed_key: Array) -> Float[np.ndarray, "P V"]:
    """Where the run of a seed begins."""
    return np.asarray(algorithm.init(key_of_start(seed_key)).x)
