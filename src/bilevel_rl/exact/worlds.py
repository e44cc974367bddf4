"""Worlds that a log allows: models of its dynamics, and what logs drawn from them would show."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from bilevel_rl import checks
from bilevel_rl.checks.functions import takes
from bilevel_rl.environments import TabularMDP, TransitionLog
from bilevel_rl.environments.counts import KernelPosterior
from bilevel_rl.exact.oracle import check_problem
from bilevel_rl.formulation import BilevelProblem

Method = Literal["dirichlet", "bootstrap"]
"""Law of the models: the posterior of the kernel under the prior that fits the log best
(`TransitionCounts.fitted_prior`), or the shares of as many transitions of each pair, drawn anew from its counts."""

World = tuple[Float[np.ndarray, "S A K"], Float[np.ndarray, "S A"]]
Refit = Callable[[BilevelProblem, Float[np.ndarray, "S A"]], BilevelProblem]
"""What else comes from the log is fitted anew: the problem under a model, and how often each pair was tried in the log
that is drawn with it -> the problem."""


class Worlds:
    """Kernels and counts n(s, a): of the log's own estimate, and then of each model and of a log drawn from it in turn.

    All are of one shape, so that they share a compiled program. A bootstrap has no logs drawn from its models.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        log: TransitionLog,
        num_models: int,
        method: Method,
        seed: int,
        refit: Refit | None,
    ):
        check_problem(problem)
        checks.instance("log", log, TransitionLog)
        self.num_models = checks.integer("num_models", num_models, at_least=2)
        self.method = checks.one_of("method", method, get_args(Method))
        self.rng = np.random.default_rng(checks.integer("seed", seed, at_least=0))
        self.refit = refit if refit is None else takes("refit", refit, "problem", "visits")
        if problem.outcome_probabilities is not None:
            raise ValueError("problem must have dynamics that x leaves alone, got outcome_probabilities")
        mdp, counts = problem.mdp, log.counts
        if mdp.num_actions != counts.num_actions or mdp.num_states not in (log.trap, log.trap + 1):
            raise ValueError(
                f"log must have the states and actions of the problem, {mdp.num_states} and {mdp.num_actions}, got "
                f"{counts.num_states} and {counts.num_actions}; read it with all_states and all_actions"
            )
        if not np.array_equal(mdp.terminal[: log.trap], log.terminal):
            raise ValueError(
                f"log must say of the same states that they end an episode as the problem, {_ends(mdp.terminal)}, got "
                f"{_ends(log.terminal)}; read it with terminated"
            )
        has_trap = mdp.num_states == log.trap + 1
        unseen = "pessimistic" if has_trap else "prior"
        laws = (log.posterior(prior=prior, unseen=unseen) for prior in (0.0, log.counts.fitted_prior()))
        self.likeliest, self.posterior = (_padded(law) for law in laws)
        self.visits = log.visits()
        self.tries = np.pad(self.visits, ((0, int(has_trap)), (0, 0))).astype(int)
        model = TabularMDP(self.likeliest.successors, self.likeliest.mean(), mdp.initial, mdp.discount, mdp.terminal)
        self.problem = eqx.tree_at(lambda solved: solved.environment, problem, model)

    def __len__(self) -> int:
        return 1 + self.num_models * (1 if self.method == "bootstrap" else 2)

    def __iter__(self) -> Iterator[World]:
        size, rng = int(self.visits.sum()), self.rng
        yield self.likeliest.mean(), self.visits
        for _ in range(self.num_models):
            if self.method == "bootstrap":
                yield self._estimate(self.likeliest.mean()), self._choices(self.visits, size)
            else:
                kernel, visits = self.posterior.draw(rng), rng.standard_gamma(self.visits)
                yield kernel, visits
                yield self._estimate(kernel), self._choices(visits, size)

    def under(self, kernel: Float[np.ndarray, "S A K"], visits: Float[np.ndarray, "S A"]) -> BilevelProblem:
        """The problem in one of these worlds."""
        mdp = self.problem.mdp
        model = TabularMDP(mdp.successors, kernel, mdp.initial, mdp.discount, mdp.terminal)
        problem = eqx.tree_at(lambda solved: solved.environment, self.problem, model)
        if self.refit is None:
            return problem
        return checks.instance("refit's answer", self.refit(problem, visits), BilevelProblem)

    def _estimate(self, kernel: Float[np.ndarray, "S A K"]) -> Float[np.ndarray, "S A K"]:
        """The shares of as many transitions of each pair as the log has; without any, what the log's estimate says."""
        shares = self.rng.multinomial(self.tries, kernel) / np.maximum(self.tries, 1)[..., None]
        return np.where(self.tries[..., None] > 0, shares, self.likeliest.mean())

    def _choices(self, visits: Float[np.ndarray, "S A"], size: int) -> Float[np.ndarray, "S A"]:
        drawn = self.rng.multinomial(size, np.ravel(visits / visits.sum()))
        return drawn.reshape(visits.shape).astype(float)


def _ends(terminal: Bool[np.ndarray, " states"]) -> str:
    return checks.shown(np.flatnonzero(terminal).tolist())


def _padded(law: KernelPosterior) -> KernelPosterior:
    """With a power of two of successors, so that logs of one problem often share their programs, too."""
    return law.padded(2 ** int(np.ceil(np.log2(law.successors.shape[-1]))))
