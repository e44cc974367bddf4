"""Goal placement: does the leader find the best of 100 cells, with only samples to go by?"""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Float

from bilevel_rl import exact, figures, problems
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_placement
from bilevel_rl.problems.goal_placement import HAZARDS, WALLS
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig

Cell = tuple[int, int]


@dataclass(frozen=True)
class GoalPlacementOptions:
    """Spread a reward over the cells of a walled, hazardous grid, and pay for the ground."""

    size: int = 10
    """cells along a side of the grid"""
    slip: float = 0.1
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.95
    """discount factor"""
    delivery: Cell = (9, 2)
    """row and column of the cell that the leader wants the follower at"""
    home: Cell = (0, 9)
    """row and column of the cell where the ground is free"""
    scale: float = 5.0
    """reward per step in a cell that holds the whole placement"""
    price: float = 0.03
    """price of ground at distance `size` from home"""
    splitting_fee: float = 0.05
    """fee for spreading the reward over many cells; none for a single cell"""
    walls: tuple[Cell, ...] = WALLS
    """cells that the follower cannot enter: row col row col ..."""
    hazards: tuple[Cell, ...] = HAZARDS
    """cells that send the follower back to the start: row col row col ..."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_placement(
            size=self.size,
            slip=self.slip,
            discount=self.discount,
            delivery=self.delivery,
            home=self.home,
            scale=self.scale,
            price=self.price,
            splitting_fee=self.splitting_fee,
            walls=self.walls,
            hazards=self.hazards,
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> exact.Solution:
        """The best of all single cells and of some exact descents."""
        return problems.goal_placement_optimum(problem, entropy_weight=entropy_weight)


@dataclass(frozen=True)
class GoalPlacement(GoalPlacementOptions):
    """Spread a reward over the cells of a walled, hazardous grid, and pay for the ground (about 15 s)."""

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


def main(config: GoalPlacement, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment, finds the known optimum, and draws the figures."""
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return
    if figures.is_sampled(folder):
        plot(folder)
        return

    problem, τ = algorithm.problem, config.run.evaluation_entropy_weight
    optimum = config.optimum(problem, τ)
    folder.write_arrays(
        "placement",
        final=np.stack([_placement(problem, x) for x in np.asarray(result.x)]) / config.scale,
        one_cell_objectives=problems.one_cell_objectives(problem, entropy_weight=τ),
        optimal=_placement(problem, optimum.x) / config.scale,
        optimal_objective=np.array(optimum.objective),
        end_policy=np.exp(algorithm.log_policies(jax.tree.map(lambda leaf: leaf[0], result.states))[0]),
    )
    plot(folder)


def _placement(problem: BilevelProblem, x: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """Reward per step in every cell."""
    cells = np.arange(len(x))
    return np.asarray(problem.rewards(x, cells, np.zeros_like(cells)))


def plot(folder: RunFolder):
    """Draws the figures of a run folder."""
    figures.draw_step_sizes(folder)
    if figures.is_sampled(folder):
        figures.draw_sampled_curves(folder)
        return
    figures.draw_goal_placement(folder)
    figures.draw_learning_curves(folder, optimal_objective=float(folder.read_arrays("placement")["optimal_objective"]))
    figures.draw_residuals(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    if figures.is_sampled(folder):
        return figures.summarize_samples(folder)
    optimal = float(folder.read_arrays("placement")["optimal_objective"])
    initial = figures.initial_values(folder, "upper_objective") - optimal
    shares = (figures.final_values(folder, "upper_objective") - optimal) / initial
    return (
        f"Φ* = {optimal:.4f}; final gap in percent of the initial one: largest {100 * shares.max():.2f} %, "
        f"median {100 * np.median(shares):.2f} % of {len(shares)} seeds"
    )
