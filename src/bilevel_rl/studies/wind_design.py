"""Wind design: can the leader steer by the dynamics alone, and does a sampled run find what exact descent finds?"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import wind_design
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reference import exact_descent
from bilevel_rl.studies.wind_design_figures import draw_wind_design

Cell = tuple[int, int]

EXACT_ITERATIONS = 1_500
"""Of the reference; its gradient is then 1e-4 of what it is at the start."""


def single_loop(problem: BilevelProblem, step_sizes: StepSizes, num_chains: int) -> SingleLoopActorCritic:
    """Coupled chains, Adam on x, averaged iterates."""
    upper_steps = UpperSteps(optax.adam(1.0), averaging=3.0)
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains), upper_steps=upper_steps)


@dataclass(frozen=True)
class WindDesignOptions:
    """Blow a follower off its way to where the leader wants it, and pay for the energy."""

    size: int = 6
    """cells along a side of the grid"""
    slip: float = 0.1
    """probability that a random direction is taken instead of the chosen action"""
    discount: float = 0.95
    """discount factor"""
    goal: Cell = (0, 5)
    """row and column of the cell that the follower is drawn to"""
    target: Cell = (4, 1)
    """row and column of the cell that the leader wants it at"""
    strength: float = 0.9
    """probability that a full wind moves the follower"""
    price: float = 0.05
    """price of full wind everywhere"""
    walls: tuple[Cell, ...] = ()
    """cells that the follower cannot enter: row col row col ..."""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return wind_design(
            size=self.size,
            slip=self.slip,
            discount=self.discount,
            goal=self.goal,
            target=self.target,
            strength=self.strength,
            price=self.price,
            walls=self.walls,
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> exact.Solution:
        """What exact descent from the start finds; no better point is known."""
        reference = exact_descent(problem, entropy_weight, entropy_weight, upper=0.1, num_iterations=EXACT_ITERATIONS)
        x, metrics = reference.x[0], reference.metrics
        objective, slope = metrics["upper_objective"][-1], metrics["hyper_gradient_norm"][-1]
        x = np.asarray(x, np.float64)
        return exact.Solution(x, float(objective), float(slope), EXACT_ITERATIONS, status="iteration limit")


@dataclass(frozen=True)
class WindDesign(WindDesignOptions):
    """Blow a follower off its way to where the leader wants it, and pay for the energy (a minute)."""

    run: RunConfig = field(
        default_factory=lambda: RunConfig(num_iterations=100_000, log_every=2_500, evaluation_entropy_weight=0.1)
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(schedule="constant-entropy", upper=0.02, penalty=0.2)
    )

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return single_loop(self.problem(), self.schedule.step_sizes(), self.schedule.num_chains)


def main(config: WindDesign, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment and exact descent, and draws the figures."""
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return
    τ, problem = config.run.evaluation_entropy_weight, algorithm.problem
    reference = exact_descent(problem, config.schedule.entropy_weight, τ, upper=0.1, num_iterations=EXACT_ITERATIONS)
    x = np.asarray(result.x)[0]
    arrays = {"optimal_objective": np.array(reference.metrics["upper_objective"][-1]), "final": x}
    for name, value in (("start", problem.initial_x), ("end", x), ("optimum", reference.x[0])):
        arrays[f"{name} wind"] = _wind(np.asarray(value, np.float64))
        policy = exact.lower_policy(problem, value, entropy_weight=τ)
        with jax.enable_x64(True):
            mdp = problem.environment_at(np.asarray(value, np.float64))
            arrays[f"{name} visits"] = np.asarray(exact.occupancy(mdp, jnp.asarray(policy))).sum(1)
    folder.write_arrays("wind", **arrays)
    plot(folder)


def _wind(x: np.ndarray) -> np.ndarray:
    """(row, column) of the mean push in every cell, in shares of a full wind."""
    shares = np.exp(x) / (1 + np.exp(x).sum(1, keepdims=True))
    up, down, left, right = shares.T
    return np.stack([down - up, right - left], axis=1)


def plot(folder: RunFolder):
    """Draws the figures of a run folder."""
    figures.draw_step_sizes(folder)
    draw_wind_design(folder)
    figures.draw_learning_curves(folder, optimal_objective=float(folder.read_arrays("wind")["optimal_objective"]))
    figures.draw_residuals(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    optimal = float(folder.read_arrays("wind")["optimal_objective"])
    initial = figures.initial_values(folder, "upper_objective") - optimal
    shares = (figures.final_values(folder, "upper_objective") - optimal) / initial
    return (
        f"Φ of exact descent = {optimal:.4f}; final gap to it in percent of the initial one: largest "
        f"{100 * shares.max():.2f} %, median {100 * np.median(shares):.2f} % of {len(shares)} seeds"
    )
