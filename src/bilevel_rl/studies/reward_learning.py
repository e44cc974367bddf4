"""A reward for every cell: written for a visitation, to act as an expert does, or to explain preferences.

Three experiments with one shape: the single loop runs, exact descent from the same start is the reference, and the
figure shows where the follower was meant to be, where it went at first, and where it goes now.
"""

import abc
import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.formulation import BilevelProblem, TrajectoryLoss
from bilevel_rl.formulation.segments import Segments
from bilevel_rl.problems import inverse_rl, preference_learning, target_visitation
from bilevel_rl.problems.grid import Cell, Grid
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reference import exact_descent
from bilevel_rl.studies.reward_learning_figures import draw_reward_learning

EXACT_ITERATIONS = 600
"""Of the reference, with Adam."""


@dataclass(frozen=True)
class RewardLearning(abc.ABC):
    """What the three experiments have in common."""

    run: RunConfig = field(
        default_factory=lambda: RunConfig(num_iterations=60_000, log_every=3_000, evaluation_entropy_weight=0.1)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(schedule="constant-entropy", upper=3e-5, penalty=0.05)
    )

    @abc.abstractmethod
    def problem(self) -> BilevelProblem:
        """What is solved."""

    @abc.abstractmethod
    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Where the follower is meant to be, as shares of its time."""

    def measures(self, problem: BilevelProblem, x: Float[np.ndarray, " cells"]) -> dict[str, float]:
        """What counts beside Φ, of one x: how far the answer's visitation is from the wanted one."""
        return {"total variation": 0.5 * float(np.abs(visits(problem, x, self.τ) - self.wanted()).sum())}

    @property
    def τ(self) -> float:
        """Entropy weight of the follower, at which the outcome is measured too."""
        return self.schedule.entropy_weight

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs: coupled chains, Adam on x, averaged iterates; building it checks every option."""
        return SingleLoopActorCritic(
            self.problem(),
            self.schedule.step_sizes(),
            Followers(self.schedule.num_chains),
            upper_steps=UpperSteps(optax.adam(1.0), averaging=3.0),
        )


@dataclass(frozen=True)
class TargetVisitation(RewardLearning):
    """Write a reward that makes the follower spend its time as a map says (half a minute)."""

    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(schedule="constant-entropy", upper=3e-5, penalty=0.1)
    )
    size: int = 6
    """cells along a side of the grid"""
    slip: float = 0.1
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.95
    """discount factor"""
    wells: tuple[Cell, ...] = ((4, 1), (1, 4))
    """cells around which the follower is wanted: row col row col ..."""
    shares: tuple[float, ...] = (2.0, 1.0)
    """how much of its time it is wanted at each"""
    width: float = 1.0
    """how far around them, in cells"""
    price: float = 0.01
    """price of a reward of 1 in every cell"""
    walls: tuple[Cell, ...] = ()
    """cells that the follower cannot enter: row col row col ..."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return target_visitation(self.wanted(), self.size, self.slip, self.discount, self.price, self.walls)

    def wanted(self) -> Float[np.ndarray, " cells"]:
        """Bumps around the wells; nothing in walls."""
        grid = Grid(self.size, self.slip, self.walls)
        if len(self.shares) != len(self.wells):
            raise ValueError(f"--shares must be as many as --wells, {len(self.wells)}, got {len(self.shares)}")
        cells, weights = np.stack(np.divmod(np.arange(grid.num_cells), self.size), axis=-1), np.zeros(grid.num_cells)
        for well, share in zip(self.wells, self.shares, strict=True):
            grid.check_cell("wells", well)
            bump = np.exp(-((cells - well) ** 2).sum(1) / (2 * self.width**2))
            weights += share * bump / bump.sum()
        weights[np.setdiff1d(np.arange(grid.num_cells), grid.free_states())] = 0
        return weights / weights.sum()


@dataclass(frozen=True)
class InverseRL(RewardLearning):
    """Recover a reward from an expert's demonstrations: maximum-entropy inverse RL (half a minute)."""

    size: int = 6
    """cells along a side of the grid"""
    slip: float = 0.1
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.95
    """discount factor"""
    likes: tuple[Cell, ...] = ((5, 5), (0, 3))
    """cells that the expert likes: row col row col ..."""
    dislikes: tuple[Cell, ...] = ((3, 3), (4, 3), (3, 4))
    """cells that the expert avoids: row col row col ..."""
    num_demonstrations: int = 2_000
    """pairs of state and action that the expert shows"""
    price: float = 0.002
    """price of a reward of 1 in every cell"""
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
        if self.num_demonstrations < 1:
            raise ValueError(f"--num-demonstrations must be at least 1, got {self.num_demonstrations}")
        d = self._expert()
        generator = np.random.default_rng([self.run.seed, 1])
        return np.divmod(generator.choice(d.size, size=self.num_demonstrations, p=d.ravel() / d.sum()), d.shape[1])

    def _expert(self) -> Float[np.ndarray, "cells A"]:
        """Occupancy of the soft-optimal policy of the expert's own reward."""
        grid, reward = Grid(self.size, self.slip, self.walls), np.zeros(self.size**2)
        for name, cells, value in (("likes", self.likes, 1.0), ("dislikes", self.dislikes, -1.0)):
            for cell in cells:
                grid.check_cell(name, cell)
                reward[grid.state(cell)] = value
        # Of this problem only the reward of cells and the grid matter here, not what its leader wants.
        problem = target_visitation(np.ones(self.size**2), self.size, self.slip, self.discount, walls=self.walls)
        return _occupancy(problem, reward, self.τ)


@dataclass(frozen=True)
class Preferences(RewardLearning):
    """Learn a reward from preferences between the follower's own trajectories (a minute)."""

    run: RunConfig = field(
        default_factory=lambda: RunConfig(num_iterations=15_000, log_every=1_500, evaluation_entropy_weight=0.3)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(schedule="constant-entropy", upper=3e-3, penalty=0.3, entropy_weight=0.3)
    )
    size: int = 4
    """cells along a side of the grid"""
    slip: float = 0.0
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.9
    """discount factor"""
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
    price: float = 0.003
    """price of a reward of 1 in every cell"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        if self.num_offline < 0:
            raise ValueError(f"--num-offline must not be negative, got {self.num_offline}")
        build = functools.partial(
            preference_learning,
            self.true_reward(),
            size=self.size,
            slip=self.slip,
            discount=self.discount,
            num_steps=self.num_steps,
            sharpness=self.sharpness,
            price=self.price,
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
        grid, reward = Grid(self.size, self.slip), np.zeros(self.size**2)
        cells = np.stack(np.divmod(np.arange(grid.num_cells), self.size), axis=-1)
        for name, centres, sign in (("likes", self.likes, 1.0), ("dislikes", self.dislikes, -1.0)):
            for centre in centres:
                grid.check_cell(name, centre)
                reward += sign * np.exp(-((cells - centre) ** 2).sum(1) / 2)
        return reward

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


def main(config: RewardLearning, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment and exact descent, and draws the figures."""
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return
    problem, xs = algorithm.problem, np.asarray(result.x, np.float64)
    evaluation = config.run.evaluation_entropy_weight
    reference = exact_descent(problem, config.τ, evaluation, upper=0.03, num_iterations=EXACT_ITERATIONS)
    arrays = {
        "optimal_objective": np.array(reference.metrics["upper_objective"][-1]),
        "wanted": config.wanted(),
        "start": visits(problem, problem.initial_x, config.τ),
        "learned": visits(problem, xs[0], config.τ),
        "reward": xs[0],
    }
    for name in config.measures(problem, xs[0]):
        points = {"of seeds": xs, "at start": [problem.initial_x], "of exact descent": reference.x}
        for which, values in points.items():
            arrays[f"{name} {which}"] = np.array(
                [config.measures(problem, np.asarray(x, np.float64))[name] for x in values]
            )
    folder.write_arrays("reward_learning", **arrays)
    plot(folder)


def visits(problem: BilevelProblem, x: Float[np.ndarray, " cells"], τ: float) -> Float[np.ndarray, " cells"]:
    """Shares of the time that the best answer to x spends in every cell."""
    return _occupancy(problem, x, τ).sum(1)


def _occupancy(problem: BilevelProblem, x: Float[np.ndarray, " cells"], τ: float) -> Float[np.ndarray, "cells A"]:
    policy = exact.lower_policy(problem, x, entropy_weight=τ)
    with jax.enable_x64(True):
        return np.asarray(exact.occupancy(problem.mdp, jnp.asarray(policy)))


def plot(folder: RunFolder):
    """Draws the figures of a run folder."""
    figures.draw_step_sizes(folder)
    draw_reward_learning(folder)
    figures.draw_learning_curves(
        folder, optimal_objective=float(folder.read_arrays("reward_learning")["optimal_objective"])
    )
    figures.draw_residuals(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    data = folder.read_arrays("reward_learning")
    optimal = float(data["optimal_objective"])
    initial = figures.initial_values(folder, "upper_objective") - optimal
    shares = (figures.final_values(folder, "upper_objective") - optimal) / initial
    text = (
        f"Φ of exact descent = {optimal:.4f}; final gap to it in percent of the initial one: largest "
        f"{100 * shares.max():.1f} %, median {100 * np.median(shares):.1f} % of {len(shares)} seeds"
    )
    for name in sorted(key.removesuffix(" of seeds") for key in data if key.endswith(" of seeds")):
        first, best = data[f"{name} at start"][0], data[f"{name} of exact descent"][0]
        text += f"; {name} {np.median(data[f'{name} of seeds']):.3f} (start {first:.3f}, exact descent {best:.3f})"
    return text
