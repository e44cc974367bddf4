"""Rates: how fast does the exact hyper-gradient shrink, against the theory's exponents?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl import checks, exact, figures
from bilevel_rl.algorithms import Algorithm, Followers, NestedLoop, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import PowerDecay, StepSizes
from bilevel_rl.figures.curves import SMALLEST_SHOWN
from bilevel_rl.figures.style import Style, save_figure
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_position
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import fit_rate
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.experiment import Experiment, Finished

DECAYING: tuple[str, ...] = ("decaying", "decaying, coupled", "decaying, coupled, recursive")
CONSTANT: tuple[str, ...] = ("constant entropy", "constant entropy, coupled, recursive", "nested loop")
METHODS = DECAYING + CONSTANT
"""In the order of the figure's panels, three in a row."""

THEORY = {name: -1 / 10 for name in DECAYING} | {name: -1 / 3 for name in CONSTANT[:2]}
"""Exponents of the smallest squared gradient norm against transitions (arXiv 2601.16399), upper bounds."""

RECURSION_EXPONENT = 1 / 2
"""Of the recursive estimator's weight a_k: it follows the policies, whose steps decay with this exponent."""

RATES_PER_ROW = 3
"""Panels of the figure."""


@dataclass(frozen=True)
class Rates(Experiment):
    """Fit the rate at which the exact hyper-gradient shrinks: Algorithm 1, coupled, recursive, and a nested loop."""

    name: ClassVar[str] = "rates"
    results: ClassVar[str] = "rates"

    run: RunConfig = RunConfig(num_seeds=16, num_iterations=1_000_000, log_every=5_000)
    upper: float = 0.03
    """initial step size ζ of the upper variable, single loop"""
    nested_upper: float = 0.3
    """initial step size ζ of the upper variable, nested loop"""
    entropy_weight: float = 0.1
    """initial entropy weight τ of the follower"""
    offset: float = 2_000.0
    """iterations that the initial values of the single loop last"""
    num_chains: int = 16
    """parallel Markov chains per policy"""
    recursion: float = 0.1
    """initial weight a of the newest sample in the recursive estimator (STORM)"""
    num_inner_steps: int = 20
    """steps of the followers between two steps of x, nested loop"""
    installation_cost: float = 0.05
    """price of placing the goal away from home"""
    fit_from: float = 0.03
    """the slope is fitted to the points after this share of all transitions"""

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return goal_position(installation_cost=self.installation_cost)

    def algorithms(self) -> dict[str, Algorithm]:
        """One algorithm for each curve; building them checks every option."""
        checks.number("entropy_weight", self.entropy_weight, above=0)
        checks.number("recursion", self.recursion, above=0, at_most=1)
        checks.number("fit_from", self.fit_from, above=0, below=1)
        checks.integer("num_inner_steps", self.num_inner_steps, at_least=1)
        if self.run.log_every % self.num_inner_steps or self.run.num_iterations % self.num_inner_steps:
            raise ValueError(
                f"log_every and num_iterations must be multiples of num_inner_steps, {self.num_inner_steps}, so that "
                f"all methods are measured at the same transitions; got {self.run.log_every}, {self.run.num_iterations}"
            )
        checks.number("nested_upper", self.nested_upper, at_least=0)
        problem, τ = self.problem(), self.entropy_weight
        decaying = StepSizes.decaying(upper=self.upper, entropy=τ, offset=self.offset)
        constant = StepSizes.constant_entropy(upper=self.upper, entropy=τ, offset=self.offset)
        nested = StepSizes.fixed_target(upper=self.nested_upper, entropy=τ, offset=self.offset / self.num_inner_steps)
        recursive = UpperSteps(recursion=PowerDecay(self.recursion, RECURSION_EXPONENT, self.offset))
        algorithms = (
            SingleLoopActorCritic(problem, decaying, Followers(self.num_chains, coupled=False)),
            SingleLoopActorCritic(problem, decaying, Followers(self.num_chains)),
            SingleLoopActorCritic(problem, decaying, Followers(self.num_chains), upper_steps=recursive),
            SingleLoopActorCritic(problem, constant, Followers(self.num_chains, coupled=False)),
            SingleLoopActorCritic(problem, constant, Followers(self.num_chains), upper_steps=recursive),
            NestedLoop(problem, nested, self.num_chains, num_inner_steps=self.num_inner_steps),
        )
        return {_subfolder(name): algorithm for name, algorithm in zip(METHODS, algorithms, strict=True)}

    def settings(self, algorithm: Algorithm) -> RunConfig:
        """As many transitions for the nested loop, which makes several in an iteration."""
        steps = self.num_inner_steps if isinstance(algorithm, NestedLoop) else 1
        return replace(self.run, num_iterations=self.run.num_iterations // steps, log_every=self.run.log_every // steps)

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """Exact gradients along the paths of all methods, and fitted slopes."""
        problem = self.problem()
        # Each is measured by the gradient that its theory speaks of; a decaying τ is after the unregularized objective.
        weights = dict.fromkeys(DECAYING, self.run.evaluation_entropy_weight)
        weights |= dict.fromkeys(CONSTANT, self.entropy_weight)
        arrays: dict[str, np.ndarray] = {}
        for name in METHODS:
            transitions, path = figures.read_paths(finished[_subfolder(name)].folder)
            gradients = exact.hyper_gradients(problem, path.reshape(-1, 2), entropy_weight=weights[name])
            squared_norms = (gradients**2).sum(-1).reshape(path.shape[:2])
            fitted_from = self.fit_from * transitions[-1]
            slope, intercept = fit_rate(transitions, squared_norms, fitted_from=float(fitted_from))
            arrays |= {
                "transitions": transitions,
                "fitted from": np.array(fitted_from),
                f"{name} squared norm": squared_norms,
                f"{name} running minimum": np.minimum.accumulate(squared_norms.mean(0)),
                f"{name} slope": slope,
                f"{name} intercept": intercept,
            }
        return arrays

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        data = folder.read_arrays(self.results)
        slopes = "; ".join(f"{name} {data[f'{name} slope'][0]:.2f}" for name in METHODS)
        return f"slope of the smallest mean squared gradient norm: {slopes}"

    def plot(self, folder: RunFolder):
        """Mean squared gradient norm and its running minimum on log-log axes, with fitted and theoretical slopes."""
        data = folder.read_arrays(self.results)
        transitions = data["transitions"][1:]

        def draw(style: Style) -> Figure:
            num_rows = -(-len(METHODS) // RATES_PER_ROW)
            figure = Figure(figsize=(4.3 * RATES_PER_ROW, 3.9 * num_rows))
            panels = figure.subplots(num_rows, RATES_PER_ROW, sharey=True, sharex=True, squeeze=False)
            for axes, name in zip(panels.ravel(), METHODS, strict=True):
                squared_norms, smallest = data[f"{name} squared norm"][:, 1:], data[f"{name} running minimum"][1:]
                for values in squared_norms:
                    axes.plot(transitions, values, linewidth=0.4, alpha=0.35, color=style.path, linestyle="-")
                axes.plot(transitions, smallest, linewidth=2.4, label="smallest mean over seeds so far")
                slope, low, high = data[f"{name} slope"]
                fit = np.exp(data[f"{name} intercept"]) * transitions**slope
                is_fitted = transitions >= data["fitted from"]
                axes.plot(transitions[is_fitted], fit[is_fitted], label=f"fit, slope {slope:.2f}")
                if name in THEORY:
                    guide = 0.3 * smallest[-1] * (transitions / transitions[-1]) ** THEORY[name]
                    label = f"theory's slope {THEORY[name]:.2f}"
                    axes.plot(transitions, guide, color=style.accent, linestyle="--", linewidth=1.2, label=label)
                axes.set(xscale="log", yscale="log", title=f"{name}\n{slope:.2f} [{low:.2f}, {high:.2f}]")
                axes.legend(loc="upper right", fontsize="small")
            for axes in panels[-1]:
                axes.set_xlabel("environment transitions per seed")
            for axes in panels[:, 0]:
                axes.set_ylabel("‖∇Φ(x)‖²")
            panels[0, 0].set_ylim(bottom=SMALLEST_SHOWN / 100)
            return figure

        save_figure(folder, "rates", draw)


def _subfolder(method: str) -> str:
    return method.replace(",", "").replace(" ", "-")
