"""Ablations: break the method one way at a time, and see how it looks (docs/ablations.md)."""

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import PowerDecay, ScheduleWarning, StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import Grid, goal_position
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.ablations_figures import Panel, draw_ablation
from bilevel_rl.studies.config import RunConfig

OTHER_EXPONENTS = {
    "upper": (0.6, 1.3),
    "actor": (0.3, 0.8),
    "critic": (0.3, 0.8),
    "penalty": (0.05, 0.45),
    "entropy": (0.0, 0.4),
}
"""One smaller and one larger than the paper's, which are 9/10, 1/2, 1/2, 3/20, 1/20."""

StudyName = Literal["entropy", "exponents", "penalty", "time-scales", "entropy-decay", "little-entropy"]


class Study(NamedTuple):
    """One way to break the method.

    Attributes:
        problem: what is solved.
        num_chains: parallel Markov chains per policy.
        variants: step sizes by name, the reference first. They differ in numbers only, so they share their compilation.
        panels: of the figure.
    """

    problem: BilevelProblem
    num_chains: int
    variants: dict[str, StepSizes]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Ablations:
    """Break the method one way at a time, and see how it looks (20 to 60 s a study)."""

    study: StudyName = "time-scales"
    """what is varied"""
    run: RunConfig = field(default_factory=lambda: RunConfig(num_iterations=40_000, log_every=1_000))

    def algorithms(self) -> dict[str, SingleLoopActorCritic]:
        """One algorithm for each variant; a single warning names those whose step sizes are out of order on purpose."""
        study = STUDIES[self.study]()
        broken = {
            name: ", ".join(violation.partition(":")[0] for violation in violations)
            for name, step_sizes in study.variants.items()
            if (violations := step_sizes.violations())
        }
        if broken:
            listed = "; ".join(f"{name} ({conditions})" for name, conditions in broken.items())
            warnings.warn(f"variants break conditions on purpose: {listed}", ScheduleWarning, stacklevel=2)
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            return {
                name: SingleLoopActorCritic(study.problem, step_sizes, Followers(study.num_chains, coupled=False))
                for name, step_sizes in study.variants.items()
            }

    def algorithm(self) -> SingleLoopActorCritic:
        """The reference, the first of `algorithms`."""
        study = STUDIES[self.study]()
        return SingleLoopActorCritic(
            study.problem, next(iter(study.variants.values())), Followers(study.num_chains, coupled=False)
        )


def _gap(*variants: str) -> Panel:
    return Panel("gap", "Gap to the optimum, Φ(x) − Φ*", variants)


def _entropy() -> Study:
    def constant(entropy: float) -> StepSizes:
        return StepSizes.constant_entropy(upper=0.05, entropy=entropy, offset=2_000.0)

    decaying = StepSizes.decaying(upper=0.05, entropy=1.0, offset=2_000.0, exponents=(0.95, 0.5, 0.5, 0.21, 0.1))
    variants = {"decaying-1": decaying} | {f"constant-{τ:g}": constant(τ) for τ in (1.0, 0.3, 0.1, 0.03)}
    panels = (
        _gap(),
        Panel("lower_residual", "What the follower misses"),
        Panel("x0", "x, row of the goal", is_log=False),
    )
    return Study(goal_position(installation_cost=0.3), 16, variants, panels)


def _exponents() -> Study:
    offset = 1_000.0
    paper = StepSizes.decaying(offset=offset)

    def changed(name: str, exponent: float) -> StepSizes:
        return dataclasses.replace(paper, **{name: PowerDecay(getattr(paper, name).initial, exponent, offset)})

    variants = {"paper": paper}
    panels = []
    for name, others in OTHER_EXPONENTS.items():
        varied = {f"{name}-{value:g}": changed(name, value) for value in others}
        panels.append(Panel("gap", f"Φ(x) − Φ*, {name} exponent", ("paper", *varied)))
        variants |= varied
    panels.append(
        Panel(
            "lower_residual", "What the follower misses", ("paper", *(f"actor-{p:g}" for p in OTHER_EXPONENTS["actor"]))
        )
    )
    return Study(goal_position(), 16, variants, tuple(panels))


def _penalty() -> Study:
    variants = {f"w-{w:g}": StepSizes.decaying(penalty=w) for w in (1.0, 0.3, 0.1, 0.03, 0.01)}
    panels = (
        _gap(),
        Panel("upper_noise", "Noise of one sample of (U)"),
        Panel("x_movement", "How far x moves between log points"),
        Panel("path", "Path of x (seed 0)", ("w-1", "w-0.1", "w-0.01")),
    )
    return Study(goal_position(), 16, variants, panels)


def _time_scales() -> Study:
    variants = {
        "reference": StepSizes.decaying(),
        "actor-10": StepSizes.decaying(actor=10.0),
        "actor-100": StepSizes.decaying(actor=100.0),
        "upper-1": StepSizes.decaying(upper=1.0),
        "upper-10": StepSizes.decaying(upper=10.0),
        "follower-0.01": StepSizes.decaying(actor=0.01, critic=0.04),
    }
    panels = (
        _gap(),
        Panel("lower_mean_entropy", "Entropy of the policy, nats", is_log=False),
        Panel("lower_residual", "What the follower misses"),
        Panel("path", "Path of x (seed 0)", ("reference", "actor-100", "upper-10")),
    )
    return Study(goal_position(), 16, variants, panels)


def _entropy_decay() -> Study:
    slow = StepSizes.decaying(upper=0.01, penalty=0.3)
    fast = {
        f"exponent-{p:g}": dataclasses.replace(slow, entropy=PowerDecay(0.1, p, 1_000.0)) for p in (0.5, 1.0, 2.0, 3.0)
    }
    panels = (
        _gap(),
        Panel("hyper_gradient_norm", "Slope of Φ at the current τ"),
        Panel("hyper_gradient_norm_at_first_entropy", "Slope at the same x, at the first τ"),
        Panel("path", "Path of x (seed 0)", ("reference", "exponent-3")),
    )
    return Study(goal_position(), 64, {"reference": slow, **fast}, panels)


def _little_entropy() -> Study:
    size, slip, discount = 6, 0.1, 0.95
    problem = goal_position(size, slip, discount, target=(5, 1), initial_x=(1, 4), width=3.0)
    corner = Grid(size, slip).mdp(start=[(0, 0)], discount=discount)
    problem = dataclasses.replace(problem, environment=corner)
    variants = {f"τ-{τ:g}": StepSizes.decaying(entropy=τ, offset=5_000.0) for τ in (0.3, 0.1, 0.03, 0.01, 0.003)}
    panels = (
        _gap(),
        Panel("lower_mean_entropy", "Entropy of the policy, nats", is_log=False),
        Panel("missed_occupancy", "Share of the best answer's time in unseen states", is_log=False),
        Panel("lower_residual", "What the follower misses"),
    )
    return Study(problem, 16, variants, panels)


STUDIES = {
    "entropy": _entropy,
    "exponents": _exponents,
    "penalty": _penalty,
    "time-scales": _time_scales,
    "entropy-decay": _entropy_decay,
    "little-entropy": _little_entropy,
}


def main(config: Ablations, folder: RunFolder, *, progress: bool = True):
    """Runs every variant into a subfolder of its own, finds the optimum, and draws the figure."""
    algorithms = config.algorithms()
    for name, algorithm in algorithms.items():
        config.run.run(algorithm, RunFolder(folder.path / name), progress=progress)
    if not processes.is_writer():
        return
    problem = STUDIES[config.study]().problem
    # At small τ there are several stationary points close together; annealing from a large τ leads to the lowest.
    weights = np.geomspace(1.0, config.run.evaluation_entropy_weight, 5).tolist()
    starts = [problem.initial_x, np.array([5.0, 3.0]) * (problem.mdp.num_states**0.5 - 1) / 9]
    optimum = exact.solve(problem, entropy_weight=weights, starts=starts)
    folder.write_arrays("reference", optimum=optimum.x, optimal_objective=np.array(optimum.objective))
    plot(folder)


def plot(folder: RunFolder):
    """Draws the figure of a run folder."""
    study = STUDIES[folder.config()["options"]["study"]]()
    draw_ablation(folder, tuple(study.variants), study.panels)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    optimal = float(folder.read_arrays("reference")["optimal_objective"])
    variants = STUDIES[folder.config()["options"]["study"]]().variants
    gaps = {
        name: np.median(figures.final_values(RunFolder(folder.path / name), "upper_objective")) for name in variants
    }
    return f"Φ* = {optimal:.4f}; final Φ − Φ*, median: " + ", ".join(
        f"{name} {gap - optimal:.4f}" for name, gap in gaps.items()
    )
