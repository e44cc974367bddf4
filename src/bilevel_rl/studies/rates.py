"""Rates: how fast does the exact hyper-gradient shrink, against the theory's exponents?"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import Algorithm, Followers, NestedLoop, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import PowerDecay, StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import goal_position
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig

DECAYING: tuple[str, ...] = ("decaying", "decaying, coupled", "decaying, coupled, recursive")
CONSTANT: tuple[str, ...] = ("constant entropy", "constant entropy, coupled, recursive", "nested loop")
METHODS = DECAYING + CONSTANT
"""In the order of the figure's panels, three in a row."""

THEORY = {name: -1 / 10 for name in DECAYING} | {name: -1 / 3 for name in CONSTANT[:2]}
"""Exponents of the smallest squared gradient norm against transitions (arXiv 2601.16399), upper bounds."""

RECURSION_EXPONENT = 1 / 2
"""Of the recursive estimator's weight a_k: it follows the policies, whose steps decay with this exponent."""

NUM_RESAMPLES = 1_000
"""Bootstrap samples of the interval of a slope."""


@dataclass(frozen=True)
class Rates:
    """Fit the rate at which the exact hyper-gradient shrinks: Algorithm 1, coupled, recursive, and a nested loop."""

    run: RunConfig = field(default_factory=lambda: RunConfig(num_seeds=16, num_iterations=1_000_000, log_every=5_000))
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
        if not 0 < self.fit_from < 1:
            raise ValueError(f"fit_from must lie between 0 and 1, got {self.fit_from}")
        if self.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps must be at least 1, got {self.num_inner_steps}")
        if self.run.log_every % self.num_inner_steps or self.run.num_iterations % self.num_inner_steps:
            raise ValueError(
                f"log_every and num_iterations must be multiples of num_inner_steps, {self.num_inner_steps}, so that "
                f"all methods are measured at the same transitions; got {self.run.log_every}, {self.run.num_iterations}"
            )
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
        return dict(zip(METHODS, algorithms, strict=True))

    def algorithm(self) -> Algorithm:
        """The first of `algorithms`."""
        return self.algorithms()[METHODS[0]]


def main(config: Rates, folder: RunFolder, *, progress: bool = True):
    """Runs the methods, measures exact gradients along their paths, fits slopes, and draws the figure."""
    problem, evaluation = config.problem(), config.run.evaluation_entropy_weight
    # Each is measured by the gradient that its theory speaks of; a decaying τ is after the unregularized objective.
    weights = dict.fromkeys(DECAYING, evaluation) | dict.fromkeys(CONSTANT, config.entropy_weight)
    arrays: dict[str, np.ndarray] = {}
    for name, algorithm in config.algorithms().items():
        run_folder = RunFolder(folder.path / name.replace(",", "").replace(" ", "-"))
        steps = config.num_inner_steps if isinstance(algorithm, NestedLoop) else 1
        settings = replace(
            config.run, num_iterations=config.run.num_iterations // steps, log_every=config.run.log_every // steps
        )
        settings.run(algorithm, run_folder, progress=progress)
        rows, columns = (figures.read_curves(run_folder, f"x{i}") for i in range(2))
        path = np.stack([rows.values, columns.values], axis=-1)
        gradients = exact.hyper_gradients(problem, path.reshape(-1, 2), entropy_weight=weights[name])
        arrays[f"{name} squared norm"] = (gradients**2).sum(-1).reshape(path.shape[:2])
        arrays["transitions"] = rows.num_transitions
    if not processes.is_writer():
        return
    transitions = arrays["transitions"]
    arrays["fitted from"] = np.array(config.fit_from * transitions[-1])
    for name in METHODS:
        squared_norms = arrays[f"{name} squared norm"]
        arrays[f"{name} running minimum"] = np.minimum.accumulate(squared_norms.mean(0))
        arrays[f"{name} slope"], arrays[f"{name} intercept"] = fit_rate(
            transitions, squared_norms, fitted_from=float(arrays["fitted from"])
        )
    folder.write_arrays("rates", **arrays)
    plot(folder)


def fit_rate(
    transitions: Int[np.ndarray, " points"], squared_norms: Float[np.ndarray, "seeds points"], *, fitted_from: float
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, ""]]:
    """Slope and intercept of log min_{j≤k} mean ‖∇Φ(x_j)‖² against log transitions, by least squares.

    The mean is over the seeds, because the theory bounds an expectation: the smallest norm of a single seed is that of
    a lucky moment of its noise. The slope comes with its bootstrap 95 % interval over the seeds.

    Args:
        transitions: of every log point.
        squared_norms: of every seed.
        fitted_from: transitions of the first point that is fitted.
    """
    is_fitted = transitions >= fitted_from

    def fit(squared_norms: np.ndarray) -> np.ndarray:
        smallest = np.minimum.accumulate(squared_norms.mean(0))[is_fitted]
        return np.polyfit(np.log(transitions[is_fitted]), np.log(smallest), deg=1)

    slope, intercept = fit(squared_norms)
    rng = np.random.default_rng(0)
    num_seeds = len(squared_norms)
    resampled = [fit(squared_norms[rng.integers(num_seeds, size=num_seeds)])[0] for _ in range(NUM_RESAMPLES)]
    return np.array([slope, *np.percentile(resampled, [2.5, 97.5])]), np.array(intercept)


def plot(folder: RunFolder):
    """Draws the figure of a run folder."""
    figures.draw_rates(folder, METHODS, THEORY)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    data = folder.read_arrays("rates")
    slopes = "; ".join(f"{name} {data[f'{name} slope'][0]:.2f}" for name in METHODS)
    return f"slope of the smallest mean squared gradient norm: {slopes}"
