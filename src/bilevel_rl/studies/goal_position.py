"""Goal position: does the leader's goal walk to the known optimum?"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_position
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig

LANDSCAPE_RESOLUTION = 25
"""Points along each axis of the grid on which Φ is measured for the contour figure."""

Cell = tuple[int, int]


@dataclass(frozen=True)
class GoalPositionOptions:
    """Move a goal across a slippery grid so that the follower ends up at the target."""

    size: int = 10
    """cells along a side of the grid"""
    slip: float = 0.1
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.95
    """discount factor"""
    target: tuple[float, float] = (7, 3)
    """row and column that the leader wants the follower at"""
    width: float = 4.0
    """how far the goal's attraction reaches, in cells"""
    initial_x: tuple[float, float] = (2, 7)
    """row and column of the goal at the start"""
    walls: tuple[Cell, ...] = ()
    """cells that the follower cannot enter: row col row col ..."""
    installation_cost: float = 0.0
    """price of placing the goal away from home"""
    home: tuple[float, float] = (0, 0)
    """row and column where the goal stands for free"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_position(
            size=self.size,
            slip=self.slip,
            discount=self.discount,
            target=self.target,
            width=self.width,
            initial_x=self.initial_x,
            walls=self.walls,
            installation_cost=self.installation_cost,
            home=self.home,
        )

    def landscape(self, problem: BilevelProblem, entropy_weight: float) -> "Landscape":
        """Φ on a grid of goal positions, and the optimum: exact descent from the lowest of them and from the start."""
        axis = np.linspace(0.0, self.size - 1.0, LANDSCAPE_RESOLUTION)
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        objectives = exact.hyper_objectives(problem, grid, entropy_weight=entropy_weight)
        starts = [grid[objectives.argmin()], problem.initial_x]
        optimum = exact.solve(problem, entropy_weight=entropy_weight, starts=starts)
        return Landscape(axis, objectives.reshape(len(axis), len(axis)), optimum)

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> exact.Solution:
        """The known optimum."""
        return self.landscape(problem, entropy_weight).optimum


class Landscape(NamedTuple):
    """Φ at the positions (axis[i], axis[j]), and where it is lowest."""

    axis: Float[np.ndarray, " n"]
    objectives: Float[np.ndarray, "n n"]
    optimum: exact.Solution


@dataclass(frozen=True)
class GoalPosition(GoalPositionOptions):
    """Move a goal across a slippery grid so that the follower ends up at the target (about 10 s)."""

    run: RunConfig = field(default_factory=RunConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    coupled: bool = True
    """both policies' chains share their random numbers; without it they are the paper's"""

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        schedule = self.schedule
        return SingleLoopActorCritic(
            self.problem(), schedule.step_sizes(), Followers(schedule.num_chains, coupled=self.coupled)
        )


def main(config: GoalPosition, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment, measures the landscape of Φ around it, and draws the figures."""
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return
    if figures.is_sampled(folder):
        plot(folder)
        return

    problem, τ = algorithm.problem, config.run.evaluation_entropy_weight
    landscape = config.landscape(problem, τ)
    folder.write_arrays(
        "landscape",
        axis=landscape.axis,
        objective=landscape.objectives,
        optimum=landscape.optimum.x,
        optimal_objective=np.array(landscape.optimum.objective),
        start_policy=np.asarray(exact.lower_policy(problem, problem.initial_x, entropy_weight=τ)),
        end_policy=np.exp(algorithm.log_policies(jax.tree.map(lambda leaf: leaf[0], result.states))[0]),
    )
    plot(folder)


def plot(folder: RunFolder):
    """Draws the figures of a run folder."""
    figures.draw_step_sizes(folder)
    if figures.is_sampled(folder):
        figures.draw_sampled_curves(folder)
        return
    figures.draw_goal_position(folder)
    figures.draw_learning_curves(folder, optimal_objective=float(folder.read_arrays("landscape")["optimal_objective"]))
    figures.draw_residuals(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    if figures.is_sampled(folder):
        return figures.summarize_samples(folder)
    optimal = float(folder.read_arrays("landscape")["optimal_objective"])
    gaps = figures.final_values(folder, "upper_objective") - optimal
    return (
        f"Φ* = {optimal:.4f}; final Φ − Φ*: largest {gaps.max():.4f}, median {np.median(gaps):.4f} of {len(gaps)} seeds"
    )
