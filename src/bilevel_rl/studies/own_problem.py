"""A problem of the user's, run. Whatever comes after the run works from its files alone."""

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np

from bilevel_rl import checks, figures
from bilevel_rl.algorithms import Algorithm, ExactDescent, Followers, ModelBased, SingleLoopActorCritic, untuned
from bilevel_rl.algorithms.step_sizes import GeometricDecay, PowerDecay, ScheduleWarning, StepSizes
from bilevel_rl.environments import HostEnvironment, TabularMDP
from bilevel_rl.exact.evaluation import DENSE_LIMIT
from bilevel_rl.followers import LearnedReward, read_judgement, write_judgement
from bilevel_rl.formulation import BilevelProblem, OccupancyCost
from bilevel_rl.outcome import Optimum, can_be_exact
from bilevel_rl.outcome.confidence import write_confidence
from bilevel_rl.references import ReferencedProblem
from bilevel_rl.references.problem import descend
from bilevel_rl.report import outcome_lines
from bilevel_rl.runs import diagnosis
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, of_networks
from bilevel_rl.studies.experiment import Finished, SingleRun
from bilevel_rl.studies.referenced import OfReference, default_problem, evaluated_at

Method = Literal["untuned", "model-based", "single-loop", "exact"]
"""As in a comparison."""

HELD = 40
"""Iterations of 16 chains, for each pair of state and action, that `untuned` holds its first steps; runs are thrice as
long, and not shorter than `RunConfig` says."""

FRESH = 4
"""Followers that are trained from scratch by default, where that is cheap."""


@dataclass(frozen=True)
class OwnProblem(SingleRun, OfReference):
    """Run your own problem: `bilevel-rl run path/to/file.py:name`."""

    name: ClassVar[str] = "own-problem"

    method: Method = "untuned"
    """untuned: steps worked out from the problem; single-loop: the steps below; exact: no samples, for tables only"""
    coupled: bool = True
    """of single-loop in tables: both policies' chains share their random numbers"""
    width: int = 64
    """of both hidden layers of every network, where there is no table"""
    find_optimum: bool = True
    """work out the optimum after the run, by exact descent, where it is not known and there are small tables"""
    fresh_followers: int | None = None
    """followers trained from scratch after the run, with the first and with the learned reward, to see whether it
    teaches others too; by default 4 where there are small tables, and none otherwise"""

    @classmethod
    def of(cls, problem: ReferencedProblem) -> "OwnProblem":
        """With defaults that suit the problem."""
        built = default_problem(problem)
        if built is None or isinstance(built.environment, TabularMDP):
            return cls(problem=problem, run=_run_of_tables(built))
        seeds = 1 if isinstance(built.environment, HostEnvironment) else 4
        run = RunConfig(num_seeds=seeds, num_iterations=20_000, log_every=500)
        return cls(problem=problem, run=run, method="single-loop", schedule=of_networks())

    def check(self):
        """Raises `ValueError` for options that cannot be run with."""
        super().check()
        if self.fresh_followers is not None:
            checks.integer("fresh_followers", self.fresh_followers, at_least=0)
            self._check_judged(self.problem.problem())

    def _check_judged(self, problem: BilevelProblem):
        has_tables, has_costs = isinstance(problem.environment, TabularMDP), isinstance(problem.upper, OccupancyCost)
        if self.fresh_followers and isinstance(problem.environment, HostEnvironment):
            remedy = "train any library's agent in LearnedReward.load(folder, reward=…).as_gymnasium_wrapper(env)"
            raise ValueError(f"--fresh-followers cannot be trained in a HostEnvironment; {remedy}")
        if self.fresh_followers and not (problem.upper.has_exact_value if has_tables else has_costs):
            kind = type(problem.upper).__name__
            raise ValueError(
                f"--fresh-followers must be 0, since what the leader pays for them, a {kind}, is not known"
            )

    def algorithm(self) -> Algorithm:
        """What runs; building it checks every option."""
        checks.one_of("method", self.method, get_args(Method))
        checks.flag("coupled", self.coupled)
        problem, schedule = self.problem.problem(), self.schedule
        if not isinstance(problem.environment, TabularMDP):
            if self.method != "single-loop":
                kind = type(problem.environment).__name__
                raise ValueError(f"--method {self.method} needs tables, which a {kind} has not; use single-loop")
            return schedule.neural_loop(problem, width=self.width)
        if self.method == "untuned":
            return untuned(problem, schedule.num_chains)
        if self.method == "model-based":
            return ModelBased.untuned(problem, schedule.num_chains)
        step_sizes = _at_own_entropy(problem, schedule.step_sizes())
        if self.method == "single-loop":
            chains = Followers(schedule.num_chains, coupled=self.coupled)
            return SingleLoopActorCritic(problem, step_sizes, chains)
        if problem.entropy_weight is None:
            evaluated = self.run.evaluation_entropy_weight
            annealed = GeometricDecay(max(schedule.entropy_weight, evaluated), evaluated, self.run.num_iterations / 2)
            step_sizes = dataclasses.replace(step_sizes, entropy=annealed)
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            return ExactDescent(problem, step_sizes)

    def settled(self) -> "OwnProblem":
        """Says what was chosen for the problem, where that may not suit it."""
        problem = self.problem.problem()
        if not isinstance(problem.environment, TabularMDP):
            warnings.warn(
                f"{type(problem.environment).__name__} has no tables: followers are networks of width {self.width}, "
                f"with step sizes that are not worked out from the problem (upper {self.schedule.upper:g}, actor "
                f"{self.schedule.actor:g}, critic {self.schedule.critic:g}; --upper, --actor, --critic)",
                stacklevel=2,
            )
        elif self.method == "untuned" and self.run.num_iterations < _length(problem) * 16 / self.schedule.num_chains:
            warnings.warn(
                f"untuned takes some {_length(problem) * 16 // self.schedule.num_chains:,} iterations on "
                f"{problem.mdp.num_states:,} states and {problem.mdp.num_actions} actions, got --num-iterations "
                f"{self.run.num_iterations:,}",
                stacklevel=2,
            )
        return self

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Runs it, works out the optimum, and draws the figures."""
        study = self.of_now(folder)
        study.keep_source(folder)
        super(OwnProblem, study).main(folder, progress=progress)

    @property
    def reference_name(self) -> str:
        """By which others find the problem."""
        return self.problem.title

    def keep(self, folder: RunFolder, single: Finished, *, progress: bool) -> LearnedReward:
        """As `Experiment.keep`; for a problem of logged data how sure of Φ that makes one; what fresh followers do."""
        reward = super().keep(folder, single, progress=progress)
        if (log := self.problem.log()) is not None:
            write_confidence(folder, single.algorithm.problem, log, reward.x, self.run.evaluation_entropy_weight)
        self._judge(folder, single, reward)
        return reward

    def _judge(self, folder: RunFolder, single: Finished, reward: LearnedReward):
        """Trains fresh followers, each on as many transitions as the run's own, or as `untuned` takes."""
        problem, ran = single.algorithm.problem, single.algorithm
        by_default = FRESH if can_be_exact(problem) else 0
        num_followers = by_default if self.fresh_followers is None else self.fresh_followers
        if num_followers == 0:
            return
        algorithm = ran if isinstance(ran, SingleLoopActorCritic) else None
        of_run = 0 if algorithm is None else self.run.num_iterations * algorithm.followers.num_samples
        num_transitions = of_run or _length(problem) * 16
        key = jax.random.fold_in(jax.random.key(self.run.seed, impl=self.run.generator), 2**31)
        policy = single.result.policy(reward.card["seed"])
        counts = {"num_followers": num_followers, "algorithm": algorithm}
        write_judgement(folder, problem, reward.x, policy, key, num_transitions, **counts)

    def best_known(self, folder: RunFolder, single: Finished, *, progress: bool) -> Optimum | None:
        """As the problem says it, or as exact descent finds it from the start and from the best seed's end."""
        problem, τ = single.algorithm.problem, self.run.evaluation_entropy_weight
        if figures.is_sampled(folder):
            return None
        if self.problem.knows_optimum():
            known = self.problem.optimum(problem, τ)
            return Optimum(known.objective, known.x, "known optimum")
        if not self.find_optimum or problem.mdp.num_states > DENSE_LIMIT:
            return None
        best = int(np.argmin(figures.final_values(folder, "upper_objective")))
        starts = [problem.initial_x, jax.tree.map(lambda leaf: np.asarray(leaf[best], np.float64), single.result.x)]
        found = descend(problem, τ, starts, progress=progress)
        return Optimum(found.objective, found.x, f"found by exact descent, {found.status}")

    def outcome(self, folder: RunFolder) -> dict[str, Any]:
        """The outcome as data."""
        judgement = read_judgement(folder)
        return super().outcome(folder) | {
            "fresh_followers": None if judgement is None else dataclasses.asdict(judgement)
        }

    def summarize(self, folder: RunFolder) -> str:
        """Φ before and after, the optimum, what x is, what fresh followers make of it, and what `diagnose` says."""
        read, judgement = outcome_lines.read(folder), read_judgement(folder)
        parts = [read.sentence(), *([] if judgement is None else [judgement.sentence()])]
        return "; ".join([*parts, outcome_lines.verdict(diagnosis.diagnose(folder))])


def _length(problem: BilevelProblem) -> int:
    """Iterations of 16 chains after which the steps of `untuned` have faded."""
    pairs = problem.mdp.num_states * problem.mdp.num_actions
    return max(RunConfig().num_iterations, 3_000 * math.ceil(3 * HELD * pairs / 3_000))


def _run_of_tables(problem: BilevelProblem | None) -> RunConfig:
    length = RunConfig().num_iterations if problem is None else _length(problem)
    return RunConfig(num_iterations=length, log_every=length // 30, evaluation_entropy_weight=evaluated_at(problem))


def _at_own_entropy(problem: BilevelProblem, step_sizes: StepSizes) -> StepSizes:
    """A follower with an entropy weight of its own keeps it."""
    if problem.entropy_weight is None:
        return step_sizes
    return dataclasses.replace(step_sizes, entropy=PowerDecay(problem.entropy_weight, 0.0))
