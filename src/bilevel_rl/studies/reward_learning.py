"""A reward for every cell: written for a visitation, to act as an expert does, or to explain preferences.

Three experiments with one shape: the single loop runs, exact descent from the same start is the reference, and the
figure shows where the follower was meant to be, where it went at first, and where it goes now.
"""

import abc
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from bilevel_rl import checks, figures
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.grids import draw_cells
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.formulation import BilevelProblem, TrajectoryLoss
from bilevel_rl.formulation.segments import Segments
from bilevel_rl.problems import inverse_rl, preference_learning, target_visitation
from bilevel_rl.problems.grid import Cell, Grid
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import RunResult
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reference import BesideDescent, occupancy, visits


@dataclass(frozen=True)
class RewardLearning(BesideDescent):
    """What the three experiments have in common.

    Args:
        size: cells along a side of the grid
        slip: probability that a random direction is taken instead of the chosen action
        discount: discount factor
        price: price of a reward of 1 in every cell
    """

    results: ClassVar[str] = "reward_learning"
    descent: ClassVar[Mapping[str, Any]] = {"upper": 0.03, "num_iterations": 600}
    wanted_title: ClassVar[str]
    """what the map of `wanted` is called"""

    run: RunConfig = RunConfig(num_iterations=60_000, log_every=3_000, evaluation_entropy_weight=0.1)
    schedule: ScheduleConfig = ScheduleConfig(schedule="constant-entropy", upper=3e-5, penalty=0.05)
    size: int = 6
    slip: float = 0.1
    discount: float = 0.95
    price: float = 0.01

    @abc.abstractmethod
    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Where the follower is meant to be, as shares of its time."""

    @property
    def blocked(self) -> Sequence[Cell]:
        """Cells that nobody can enter, where there is an option for them."""
        return getattr(self, "walls", ())

    def measures(self, problem: BilevelProblem, x: Float[np.ndarray, " cells"]) -> dict[str, float]:
        """What counts beside Φ, of one x: how far the answer's visitation is from the wanted one."""
        return {"total variation": 0.5 * float(np.abs(visits(problem, x, self.τ) - self.wanted()).sum())}

    @property
    def τ(self) -> float:
        """Entropy weight of the follower, at which the outcome is measured too."""
        return self.schedule.entropy_weight

    def measure_run(self, algorithm: SingleLoopActorCritic, result: RunResult) -> dict[str, np.ndarray]:
        """What exact descent finds, visitations, and `measures` of every seed's x."""
        problem, xs = algorithm.problem, np.asarray(result.x, np.float64)
        arrays = self.descended(problem)
        arrays |= {"wanted": self.wanted(), "start": visits(problem, problem.initial_x, self.τ)}
        arrays |= {"learned": visits(problem, xs[0], self.τ), "reward": xs[0]}
        at = {"of seeds": xs, "at start": [problem.initial_x], "of exact descent": [arrays["optimum"]]}
        for which, points in at.items():
            measured = [self.measures(problem, np.asarray(x, np.float64)) for x in points]
            arrays |= {f"{name} {which}": np.array([of_x[name] for of_x in measured]) for name in measured[0]}
        return arrays

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        text = super().summarize(folder)
        data = {} if figures.is_sampled(folder) else folder.read_arrays(self.results)
        for name in sorted(key.removesuffix(" of seeds") for key in data if key.endswith(" of seeds")):
            first, best = data[f"{name} at start"][0], data[f"{name} of exact descent"][0]
            text += f"; {name} {np.median(data[f'{name} of seeds']):.3f} (start {first:.3f}, exact descent {best:.3f})"
        return text

    def draw(self, folder: RunFolder):
        """Four maps: three shares of the follower's time on one scale, and the learned reward."""
        data = folder.read_arrays(self.results)
        maps = {
            "wanted": self.wanted_title,
            "start": "Visitation without a reward",
            "learned": "Visitation in the end (seed 0)",
        }
        most = max(data[name].max() for name in maps)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(15, 3.9))
            *axes, right = figure.subplots(1, 4)
            for ax, (name, title) in zip(axes, maps.items(), strict=True):
                shades = {"vmin": 0, "vmax": most, "cmap": style.placement}
                draw_cells(ax, data[name], "share of the time", walls=self.blocked, **shades)
                ax.set_title(title)
            largest = np.abs(data["reward"]).max()
            shades = {"vmin": -largest, "vmax": largest, "cmap": "RdBu" if style.suffix == ".png" else "Greys"}
            draw_cells(right, data["reward"], "x", walls=self.blocked, **shades)
            right.set_title("Learned reward (seed 0)")
            return figure

        save_figure(folder, "maps", draw)


@dataclass(frozen=True)
class TargetVisitation(RewardLearning):
    """Write a reward that makes the follower spend its time as a map says (half a minute)."""

    name: ClassVar[str] = "target-visitation"
    wanted_title: ClassVar[str] = "Wanted visitation"

    schedule: ScheduleConfig = ScheduleConfig(schedule="constant-entropy", upper=3e-5, penalty=0.1)
    wells: tuple[Cell, ...] = ((4, 1), (1, 4))
    """cells around which the follower is wanted: row col row col ..."""
    shares: tuple[float, ...] = (2.0, 1.0)
    """how much of its time it is wanted at each"""
    width: float = 1.0
    """how far around them, in cells"""
    walls: tuple[Cell, ...] = ()
    """cells that nobody can enter: row col row col ..."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return target_visitation(self.wanted(), self.size, self.slip, self.discount, self.price, self.walls)

    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Bumps around the wells; nothing in walls."""
        grid = Grid(self.size, self.slip, self.walls)
        grid.check_cells("wells", self.wells)
        checks.number("width", self.width, above=0)
        for share in checks.instance("shares", self.shares, tuple, list):
            checks.number("shares", share, above=0)
        if len(self.shares) != len(self.wells) or not self.wells:
            raise ValueError(f"--shares must be as many as --wells, {len(self.wells)}, got {len(self.shares)}")
        bumps = [_bump(grid, well, self.width) for well in self.wells]
        weights = np.sum([n * bump / bump.sum() for n, bump in zip(self.shares, bumps, strict=True)], axis=0)
        weights[np.setdiff1d(np.arange(grid.num_cells), grid.free_states())] = 0
        return weights / weights.sum()


@dataclass(frozen=True)
class InverseRL(RewardLearning):
    """Recover a reward from an expert's demonstrations: maximum-entropy inverse RL (half a minute)."""

    name: ClassVar[str] = "inverse-rl"
    wanted_title: ClassVar[str] = "Expert's visitation"

    likes: tuple[Cell, ...] = ((5, 5), (0, 3))
    """cells that the expert likes: row col row col ..."""
    dislikes: tuple[Cell, ...] = ((3, 3), (4, 3), (3, 4))
    """cells that the expert avoids: row col row col ..."""
    num_demonstrations: int = 2_000
    """pairs of state and action that the expert shows"""
    price: float = 0.002
    walls: tuple[Cell, ...] = ()
    """cells that nobody can enter: row col row col ..."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        states, actions = self.demonstrations()
        return inverse_rl(
            states, actions, self.size, self.slip, self.discount, self.τ, price=self.price, walls=self.walls
        )

    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Where the expert spends its time."""
        return self._expert().sum(1)

    def demonstrations(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Pairs drawn from the expert's occupancy, the same for all seeds of a run."""
        checks.integer("--num-demonstrations", self.num_demonstrations, at_least=1)
        d = self._expert()
        generator = np.random.default_rng([self.run.seed, 1])
        return np.divmod(generator.choice(d.size, size=self.num_demonstrations, p=d.ravel() / d.sum()), d.shape[1])

    def _expert(self) -> Float[np.ndarray, "cells A"]:
        """Occupancy of the soft-optimal policy of the expert's own reward."""
        grid, reward = Grid(self.size, self.slip, self.walls), np.zeros(self.size**2)
        for cell, value in _tastes(grid, self.likes, self.dislikes):
            reward[grid.state(cell)] = value
        # Of this problem only the reward of cells and the grid matter here, not what its leader wants.
        problem = target_visitation(np.ones(self.size**2), self.size, self.slip, self.discount, walls=self.walls)
        return occupancy(problem, reward, self.τ)


@dataclass(frozen=True)
class Preferences(RewardLearning):
    """Learn a reward from preferences between the follower's own trajectories (a minute)."""

    name: ClassVar[str] = "preferences"
    wanted_title: ClassVar[str] = "Answer to the true reward"

    run: RunConfig = RunConfig(num_iterations=15_000, log_every=1_500, evaluation_entropy_weight=0.3)
    schedule: ScheduleConfig = ScheduleConfig(schedule="constant-entropy", upper=3e-3, penalty=0.3, entropy_weight=0.3)
    size: int = 4
    slip: float = 0.0
    discount: float = 0.9
    price: float = 0.003
    likes: tuple[Cell, ...] = ((3, 2),)
    """cells around which the annotator likes a trajectory to be: row col row col ..."""
    dislikes: tuple[Cell, ...] = ((1, 1),)
    """cells around which it does not: row col row col ..."""
    num_steps: int = 3
    """steps of each trajectory that is compared"""
    num_offline: int = 30
    """pairs of trajectories of random walks that were compared before"""
    sharpness: float = 2.0
    """how decided the annotator is"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        checks.integer("--num-offline", self.num_offline, at_least=0)
        names = ("size", "slip", "discount", "num_steps", "sharpness", "price")
        build = functools.partial(
            preference_learning, self.true_reward(), **{name: getattr(self, name) for name in names}
        )
        segments = _segments(build())
        chosen = np.random.default_rng([self.run.seed, 2]).choice(
            len(segments.chances), size=(self.num_offline, 2), p=segments.chances / segments.chances.sum()
        )
        return build(segments.states[chosen])

    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Where a follower goes that is rewarded by the annotator's taste itself."""
        return visits(self.problem(), self.true_reward(), self.τ)

    def true_reward(self) -> Float[np.ndarray, " cells"]:
        """The annotator's taste: bumps of ±1 with a width of one cell."""
        grid = Grid(self.size, self.slip)
        tastes = _tastes(grid, self.likes, self.dislikes)
        return sum((sign * _bump(grid, centre) for centre, sign in tastes), np.zeros(grid.num_cells))

    def measures(self, problem: BilevelProblem, x: Float[np.ndarray, " cells"]) -> dict[str, float]:
        """Also the share of held-out pairs, trajectories of random walks, that x orders as the annotator does."""
        segments = _segments(problem)
        states = segments.states
        true_sums, sums = self.true_reward()[states].sum(1), x[states].sum(1)
        said, modelled = np.subtract.outer(true_sums, true_sums), np.subtract.outer(sums, sums)
        weights = np.multiply.outer(segments.chances, segments.chances) * (np.abs(said) > 1e-9)
        agrees = np.where(np.abs(modelled) > 1e-9, said * modelled > 0, 0.5)
        return super().measures(problem, x) | {"held-out accuracy": float(np.sum(weights * agrees) / weights.sum())}


def _segments(problem: BilevelProblem) -> Segments:
    """All trajectories that are compared; `ValueError` where they are too many."""
    if not isinstance(problem.upper, TrajectoryLoss) or problem.upper.segments is None:
        raise ValueError(
            "--num-steps must leave few enough trajectories to be counted; choose a smaller one, or --size"
        )
    return problem.upper.segments


def _tastes(grid: Grid, likes: Sequence[Cell], dislikes: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
    """Cells with 1 where they are liked, and −1 where they are not."""
    for name, cells, sign in (("likes", likes, 1.0), ("dislikes", dislikes, -1.0)):
        grid.check_cells(name, cells)
        yield from ((cell, sign) for cell in cells)


def _bump(grid: Grid, centre: Cell, width: float = 1.0) -> Float[np.ndarray, " cells"]:
    """exp(−distance² / (2 width²)) for every cell."""
    cells = np.stack(np.divmod(np.arange(grid.num_cells), grid.size), axis=-1)
    return np.exp(-((cells - centre) ** 2).sum(1) / (2 * width**2))
