"""What a log can say about the leader's cost: Φ(x), the optimum and the regret of x over models that the log allows.

A log leaves the kernel P uncertain. Given the counts, each row has a Dirichlet law, or is drawn anew by a bootstrap.
Each model that is drawn has a Φ of its own, with the follower's answer to it; their quantiles are the interval.
Which law gives intervals that cover the true Φ is measured in docs/logged_data.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP, TransitionLog
from bilevel_rl.exact.objectives import hyper_objective
from bilevel_rl.exact.oracle import (
    as_upper_variable,
    check_feasible,
    check_finite,
    check_problem,
    check_weights,
    in_double_precision,
)
from bilevel_rl.exact.solver import solve
from bilevel_rl.formulation import BilevelProblem

Method = Literal["dirichlet", "bootstrap"]
"""Law of the models: the posterior of the kernel under the prior that fits the log best
(`TransitionCounts.fitted_prior`), or the shares of as many transitions of each pair, drawn anew from its counts."""

Quantity = np.float64 | Float[np.ndarray, "..."]

Refit = Callable[[BilevelProblem, Float[np.ndarray, "S A"]], BilevelProblem]
"""What else comes from the log is fitted anew: the problem under a model, and how often each pair was tried in the log
that is drawn with it -> the problem."""


@dataclass(frozen=True)
class Confidence:
    """A quantity over the models that a log allows.

    Attributes:
        samples: its value under each model, shape (num_models, …).
    """

    samples: Float[np.ndarray, "num_models ..."]

    def interval(self, level: float = 0.9) -> tuple[Quantity, Quantity]:
        """Lower and upper end of what holds this share of the samples, as many of the others below as above.

        Raises:
            TypeError: `level` is no number.
            ValueError: it does not lie within (0, 1).
        """
        level = checks.number("level", level, above=0, below=1)
        low, high = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    @property
    def median(self) -> Quantity:
        """Half of the samples lie below."""
        return np.median(self.samples, axis=0)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.median:.4g} (90 %: {low:.4g} to {high:.4g})"


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
        >>> log = brl.TransitionLog.from_arrays([0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0])
        >>> problem = brl.BilevelProblem(
        ...     log.mdp(discount=0.9),
        ...     lambda x, s, a: x * (s == 1),
        ...     brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0)),
        ...     0.0,
        ... )
        >>> print(brl.exact.confidence(problem, log, 1.0, entropy_weight=0.1))
        0.2485 (90 %: 0.07774 to 0.6345)
    """
    check_weights({"entropy_weight": entropy_weight})
    models = _models(problem, log, num_models, method, seed, refit)
    x = as_upper_variable(problem, x)
    check_feasible(problem, x)
    samples = [in_double_precision(_objective, model, x, np.float64(entropy_weight)) for model in models]
    check_finite("confidence", samples)
    return Confidence(np.array(samples))


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
        >>> log = brl.TransitionLog.from_arrays([0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0])
        >>> problem = brl.BilevelProblem(
        ...     log.mdp(discount=0.9),
        ...     lambda x, s, a: x * (s == 1),
        ...     brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0), regularizer=lambda x: x**2),
        ...     0.0,
        ... )
        >>> optimum = brl.exact.optimum_confidence(problem, log, 0.0, entropy_weight=0.1, num_models=5)
        >>> bool(optimum.regret.median > 0.05)
        True
    """
    optima, objectives, regrets = [], [], []
    for model in _models(problem, log, num_models, method, seed, refit):
        here = hyper_objective(model, x, entropy_weight=entropy_weight)
        best = solve(model, entropy_weight=entropy_weight, starts=[x])
        optima.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(best.x)]))
        objectives.append(best.objective)
        regrets.append(float(here) - best.objective)
    return OptimumConfidence(*(Confidence(np.array(values)) for values in (optima, objectives, regrets)))


@eqx.filter_jit
def _objective(problem: BilevelProblem, x: PyTree, entropy_weight: Array) -> Float[Array, ""]:
    return jnp.asarray(hyper_objective(problem, x, entropy_weight=entropy_weight))


def _models(
    problem: BilevelProblem, log: TransitionLog, num_models: int, method: Method, seed: int, refit: Refit | None
) -> Iterator[BilevelProblem]:
    """Checks the arguments; then the problem under one model after the other, drawn when it is asked for.

    The models are of one shape, so they share their compiled programs. They are solved one after the other, since
    batched factorizations may deadlock on two cores.
    """
    check_problem(problem)
    checks.instance("log", log, TransitionLog)
    checks.integer("num_models", num_models, at_least=2)
    checks.one_of("method", method, get_args(Method))
    rng = np.random.default_rng(checks.integer("seed", seed, at_least=0))
    if refit is not None:
        checks.function("refit", refit)
    if problem.outcome_probabilities is not None:
        raise ValueError("problem must have dynamics that x leaves alone, got outcome_probabilities")
    mdp, counts = problem.mdp, log.counts
    has_trap = mdp.num_states == log.trap + 1
    if mdp.num_actions != counts.num_actions or mdp.num_states not in (log.trap, log.trap + 1):
        raise ValueError(
            f"log must have the states and actions of the problem, {mdp.num_states} and {mdp.num_actions}, got "
            f"{counts.num_states} and {counts.num_actions}; read it with all_states and all_actions"
        )
    return _drawn(problem, log, has_trap, num_models, method, rng, refit)


def _drawn(
    problem: BilevelProblem,
    log: TransitionLog,
    has_trap: bool,
    num_models: int,
    method: Method,
    rng: np.random.Generator,
    refit: Refit | None,
) -> Iterator[BilevelProblem]:
    of_unseen = "pessimistic" if has_trap else "prior"
    law = log.posterior(prior=log.counts.fitted_prior() if method == "dirichlet" else 0.0, unseen=of_unseen)
    # A power of two, so that logs of one problem often share their programs, too.
    law = law.padded(2 ** int(np.ceil(np.log2(law.successors.shape[-1]))))
    visits = log.visits()
    tries = np.maximum(np.pad(visits, ((0, int(has_trap)), (0, 0))), 1).astype(int)
    for _ in range(num_models):
        if method == "dirichlet":
            kernel, tried = law.draw(rng), rng.standard_gamma(visits)
        else:
            kernel = rng.multinomial(tries, law.mean()) / tries[..., None]
            tried = rng.multinomial(int(visits.sum()), np.ravel(visits / visits.sum())).reshape(visits.shape)
        mdp = TabularMDP(law.successors, kernel, problem.mdp.initial, problem.mdp.discount, problem.mdp.terminal)
        model = eqx.tree_at(lambda solved: solved.environment, problem, mdp)
        yield (
            model if refit is None else checks.instance("what refit returns", refit(model, tried * 1.0), BilevelProblem)
        )
