"""Constant against decaying entropy weight: which optimum does each schedule reach, and how fast?"""

from dataclasses import dataclass, field

import numpy as np

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_position
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig

SCHEDULES = ("constant", "decaying")


@dataclass(frozen=True)
class EntropySchedules:
    """Constant against decaying entropy weight, where the two lead to different optima (about 15 s)."""

    run: RunConfig = field(default_factory=lambda: RunConfig(num_iterations=100_000, log_every=2_000))
    entropy_weight: float = 1.0
    """entropy weight τ at the start of both schedules; large, so that its bias shows"""
    entropy_exponent: float = 0.1
    """how fast the decaying schedule lowers it; the paper's is 1/20"""
    penalty_exponent: float = 0.21
    """how fast the decaying schedule lowers the penalty parameter; above twice the entropy exponent"""
    upper: float = 0.05
    """initial step size ζ of the upper variable"""
    offset: float = 2_000.0
    """iterations that the initial values last"""
    num_chains: int = 16
    """parallel Markov chains per policy"""
    installation_cost: float = 0.3
    """price of placing the goal away from home: it makes the optimum depend on the entropy weight"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_position(installation_cost=self.installation_cost)

    def algorithms(self) -> dict[str, SingleLoopActorCritic]:
        """One algorithm for each schedule; building them checks every option."""
        problem = self.problem()
        exponents = (0.95, 0.5, 0.5, self.penalty_exponent, self.entropy_exponent)
        constant = StepSizes.constant_entropy(upper=self.upper, entropy=self.entropy_weight, offset=self.offset)
        decaying = StepSizes.decaying(
            upper=self.upper, entropy=self.entropy_weight, offset=self.offset, exponents=exponents
        )
        return {
            name: SingleLoopActorCritic(problem, step_sizes, Followers(self.num_chains, coupled=False))
            for name, step_sizes in zip(SCHEDULES, (constant, decaying), strict=True)
        }

    def algorithm(self) -> SingleLoopActorCritic:
        """The first of `algorithms`."""
        return self.algorithms()[SCHEDULES[0]]


def main(config: EntropySchedules, folder: RunFolder, *, progress: bool = True):
    """Runs both schedules, measures both objectives along both paths, and draws the figure."""
    problem, evaluation = config.problem(), config.run.evaluation_entropy_weight
    weights = {"regularized": config.entropy_weight, "unregularized": evaluation}
    start = [np.array([5.0, 3.0])]
    # At small τ there are several stationary points close together; annealing from the large τ leads to the lowest.
    annealed = np.geomspace(config.entropy_weight, evaluation, 5).tolist()
    optima = {
        "regularized": exact.solve(problem, entropy_weight=config.entropy_weight, starts=start),
        "unregularized": exact.solve(problem, entropy_weight=annealed, starts=start),
    }
    bias = exact.hyper_objective(problem, optima["regularized"].x, entropy_weight=evaluation)
    arrays: dict[str, np.ndarray] = {"bias": np.array(bias - optima["unregularized"].objective)}
    for name, algorithm in config.algorithms().items():
        run_folder = RunFolder(folder.path / name)
        config.run.run(algorithm, run_folder, progress=progress)
        rows, columns = (figures.read_curves(run_folder, f"x{i}") for i in range(2))
        arrays["transitions"] = rows.num_transitions
        arrays[f"{name} entropy weight"] = figures.read_curves(run_folder, "entropy_weight").values[0]
        path = np.stack([rows.values, columns.values], axis=-1)
        for objective, τ in weights.items():
            objectives = exact.hyper_objectives(problem, path.reshape(-1, 2), entropy_weight=τ)
            arrays[f"{name} {objective} gap"] = objectives.reshape(path.shape[:2]) - optima[objective].objective
    if not processes.is_writer():
        return
    folder.write_arrays("trade_off", **arrays)
    plot(folder)


def plot(folder: RunFolder):
    """Draws the figure of a run folder."""
    figures.draw_trade_off(folder, SCHEDULES)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    data = folder.read_arrays("trade_off")
    gaps = {name: np.median(data[f"{name} unregularized gap"][:, -1]) for name in SCHEDULES}
    return (
        "final Φ(x) − Φ*, median: "
        + ", ".join(f"{name} {gap:.4f}" for name, gap in gaps.items())
        + f"; at the regularized optimum it is {float(data['bias']):.4f}"
    )
