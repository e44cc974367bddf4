"""What a log can say about the leader's cost: Φ(x), the optimum and the regret of x over models that the log allows.

A log leaves the kernel P uncertain. Models are drawn that it allows; each has a Φ of its own, with the follower's
answer to it; and of each model Φ is estimated again from a log drawn from it. Where the true Φ lies is read from both:
how far apart the models are, and how far estimates miss. What intervals cover is measured in
docs/reports/confidence.md.
"""

import itertools
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.environments import TransitionLog
from bilevel_rl.exact.objectives import hyper_objective
from bilevel_rl.exact.oracle import (
    as_upper_variable,
    check_feasible,
    check_finite,
    in_double_precision,
)
from bilevel_rl.exact.solver import solve
from bilevel_rl.exact.worlds import Method, Refit, Worlds
from bilevel_rl.formulation import BilevelProblem

Quantity = np.float64 | Float[np.ndarray, "..."]

BLOCK = 2**21
"""Entries of the kernels that are handed to a compiled program at once: 16 MB."""


@dataclass(frozen=True)
class Confidence:
    """A quantity that a log leaves uncertain.

    Attributes:
        estimate: its value under the kernel of maximum likelihood, where pairs that were never tried lead to each
            candidate alike, or to the trap if there is one.
        samples: its value under each model drawn, shape (num_models, …).
        errors: by how much it is missed if it is estimated from a log as long as this one that is drawn from the model,
            shape (num_models, …); None where no logs were drawn.
    """

    estimate: Quantity
    samples: Float[np.ndarray, "num_models ..."]
    errors: Float[np.ndarray, "num_models ..."] | None = None

    def interval(self, level: float = 0.9) -> tuple[Quantity, Quantity]:
        """Lower and upper end of what holds the quantity with this probability.

        Half way between two intervals. The quantiles of `samples` repeat the bias that estimates from few data have,
        instead of taking it away. The estimate less the quantiles of `errors` takes it away, and mirrors the law where
        it is skewed. The mean of their ends covers more evenly than either (docs/reports/confidence.md). With very
        short logs it may reach beyond the values that Φ can take. Without errors there is the first alone.

        Raises:
            TypeError: `level` is no number.
            ValueError: it does not lie within (0, 1).
        """
        level = checks.number("level", level, above=0, below=1)
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(self.samples, ends, axis=0)
        if self.errors is not None:
            smallest, largest = np.quantile(self.errors, ends, axis=0)
            low, high = (low + self.estimate - largest) / 2, (high + self.estimate - smallest) / 2
        return low, high

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.estimate:.4g} (90 %: {low:.4g} to {high:.4g})"


@dataclass(frozen=True)
class OptimumConfidence:
    """The optimum over the models that a log allows, and what x costs more than it.

    Attributes:
        x: the optimum of each model, its arrays end to end: shape (num_models, numbers in x).
        objective: its Φ.
        regret: Φ(x) − min Φ of each model, at the x that was asked about.
    """

    x: Confidence
    objective: Confidence
    regret: Confidence


def confidence(
    problem: BilevelProblem,
    log: TransitionLog,
    x: PyTree,
    *,
    entropy_weight: float,
    num_models: int = 200,
    method: Method = "dirichlet",
    seed: int = 0,
    refit: Refit | None = None,
) -> Confidence:
    """Φ_τ(x) over models of the dynamics that the log allows: does it suffice to tell what x leads to?

    Pairs that were never tried may lead to each candidate of their state, also where the problem lets them stay; where
    its environment has the trap of `unseen="pessimistic"`, they lead there in every model.

    Args:
        problem: its environment is replaced by each model; start law, terminal states and discount are kept.
        log: what was seen; it has the problem's states and actions.
        x: upper variable.
        entropy_weight: τ > 0.
        num_models: how many are drawn.
        method: law of the models. The bootstrap knows no successor but those of the pair itself, and its intervals are
            too narrow where pairs were tried only some times.
        seed: of the draws.
        refit: where more than the dynamics comes from the log, such as the follower's wishes by inverse reinforcement
            learning: makes the problem of a model and of drawn counts n(s, a), as in a Bayesian bootstrap of the log.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the log has other states or actions than the problem, whose dynamics depend on x; `num_models` is
            less than 2, `method` unknown, or `seed` negative; or as `hyper_objective`.
        OracleError: an oracle does not converge under one of the models.

    Example:
        >>> import jax.numpy as jnp, bilevel_rl as brl
        >>> states, actions, reached = [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0]
        >>> log = brl.TransitionLog.from_arrays(states * 5, actions * 5, reached * 5)
        >>> problem = brl.BilevelProblem(
        ...     log.mdp(discount=0.9),
        ...     lambda x, s, a: x * (s == 1),
        ...     brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0)),
        ...     0.0,
        ... )
        >>> print(brl.exact.confidence(problem, log, 1.0, entropy_weight=0.1))
        0.09093 (90 %: 0.0004085 to 0.2292)
    """
    checks.number("entropy_weight", entropy_weight, above=0)
    worlds = Worlds(problem, log, num_models, method, seed, refit)
    x, weight = as_upper_variable(problem, x), np.float64(entropy_weight)
    for leaf in jax.tree.leaves(x):
        checks.finite("x", leaf)
    check_feasible(problem, x)
    if refit is None:
        objectives = _mapped(worlds, x, weight)
    else:
        objectives = [in_double_precision(_objective, worlds.under(*world), x, weight) for world in worlds]
    check_finite("confidence", objectives)
    estimate, drawn = objectives[0], np.array(objectives[1:])
    if method == "bootstrap":
        return Confidence(estimate, drawn)
    return Confidence(estimate, drawn[0::2], drawn[1::2] - drawn[0::2])


def optimum_confidence(
    problem: BilevelProblem,
    log: TransitionLog,
    x: PyTree,
    *,
    entropy_weight: float,
    num_models: int = 50,
    method: Method = "dirichlet",
    seed: int = 0,
    refit: Refit | None = None,
) -> OptimumConfidence:
    """The optimum of each model and the regret of x under it: is it x that could be better, or the log?

    Descent starts from x in every model, so it finds the optimum of the same valley. Arguments and errors are those of
    `confidence`; it takes as long as `solve` for every model.

    Example:
        >>> import jax.numpy as jnp, bilevel_rl as brl
        >>> states, actions, reached = [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0]
        >>> log = brl.TransitionLog.from_arrays(states * 5, actions * 5, reached * 5)
        >>> problem = brl.BilevelProblem(
        ...     log.mdp(discount=0.9),
        ...     lambda x, s, a: x * (s == 1),
        ...     brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0), regularizer=lambda x: x**2),
        ...     0.0,
        ... )
        >>> optimum = brl.exact.optimum_confidence(problem, log, 0.0, entropy_weight=0.1, num_models=5)
        >>> bool(optimum.regret.estimate > 0.01)
        True
    """

    def found(model: BilevelProblem) -> tuple[np.ndarray, float, float]:
        here = float(hyper_objective(model, x, entropy_weight=entropy_weight))
        best = solve(model, entropy_weight=entropy_weight, starts=[x])
        numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(best.x)])
        return numbers, best.objective, here - best.objective

    worlds = Worlds(problem, log, num_models, method, seed, refit)
    first, *drawn = worlds
    models = drawn if method == "bootstrap" else drawn[0::2]
    estimates, samples = (
        found(worlds.under(*first)),
        zip(*(found(worlds.under(*model)) for model in models), strict=True),
    )
    pairs = zip(estimates, samples, strict=True)
    return OptimumConfidence(*(Confidence(np.asarray(estimate)[()], np.array(values)) for estimate, values in pairs))


@eqx.filter_jit
def _objective(problem: BilevelProblem, x: PyTree, entropy_weight: Array) -> Float[Array, ""]:
    return jnp.asarray(hyper_objective(problem, x, entropy_weight=entropy_weight))


@eqx.filter_jit
def _objectives(
    problem: BilevelProblem, kernels: Float[Array, "models S A K"], x: PyTree, entropy_weight: Array
) -> Float[Array, " models"]:
    def objective(kernel: Array) -> Array:
        model = eqx.tree_at(lambda solved: solved.environment, problem, problem.mdp.with_probabilities(kernel))
        return _objective(model, x, entropy_weight)

    # One after the other, since batched factorizations may deadlock on two cores.
    return jax.lax.map(objective, kernels)


def _mapped(worlds: Worlds, x: PyTree, entropy_weight: np.float64) -> np.ndarray:
    """Φ under every kernel, in blocks of one shape."""
    problem, kernels = worlds.problem, (kernel for kernel, _ in worlds)
    size, objectives = min(len(worlds), max(1, BLOCK // problem.mdp.probabilities.size)), []
    while block := list(itertools.islice(kernels, size)):
        filled = np.stack(block + [block[-1]] * (size - len(block)))
        objectives.append(in_double_precision(_objectives, problem, filled, x, entropy_weight)[: len(block)])
    return np.concatenate(objectives)
