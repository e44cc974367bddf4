"""Options that every experiment has: how long to run, with which step sizes. Every field is a flag."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax
from jaxtyping import Array, ArrayLike

from bilevel_rl import checks
from bilevel_rl.algorithms import Algorithm, Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.environments import HostEnvironment
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.policies import NeuralActorCritic
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.host import run_host
from bilevel_rl.runs.metrics import Diagnostics
from bilevel_rl.runs.run import RunResult, run
from bilevel_rl.runs.start import check_run_arguments, check_storage
from bilevel_rl.runs.study import Study
from bilevel_rl.runs.trackers import ReportTo, check_tracker

Generator = Literal["threefry2x32", "rbg"]
Schedule = Literal["decaying", "constant-entropy"]


@dataclass(frozen=True)
class RunConfig:
    """How long, how often, and from which seed."""

    num_seeds: int = 8
    """independent copies, run side by side"""
    num_iterations: int = 60_000
    """iterations of each copy; one costs 2 · num_chains environment transitions"""
    log_every: int = 2_000
    """iterations between two log points; each writes metrics"""
    checkpoint_every: float = 10.0
    """seconds between two checkpoints; 0 saves one at every log point"""
    seed: int = 0
    """root of all randomness: the same seed gives the same bits"""
    generator: Generator = "threefry2x32"
    """random number generator; on CPUs threefry2x32 is the faster one, on TPUs rbg"""
    evaluation_entropy_weight: float = 0.01
    """entropy weight at which the logged upper objective is measured exactly"""
    diagnostics: Diagnostics = "auto"
    """exact: measured on the known model; sampled: from the algorithm's samples; auto: exact up to 1,500 states"""
    seeds_per_group: int | None = None
    """seeds that are compiled side by side; decides the last bits; by default what fills a CPU's vector units"""
    report_to: ReportTo = "none"
    """where metrics go besides metrics.csv; each but tensorboard is an extra of its name"""

    def check(self):
        """Raises `TypeError`, `ValueError` or `ModuleNotFoundError` for settings that cannot be run with."""
        check_run_arguments(self.num_seeds, self.num_iterations, self.log_every, self.evaluation_entropy_weight)
        check_storage(None, self.checkpoint_every, True)
        checks.integer("seed", self.seed, at_least=0, at_most=2**32 - 1)
        checks.one_of("generator", self.generator, get_args(Generator))
        checks.one_of("diagnostics", self.diagnostics, get_args(Diagnostics))
        if self.seeds_per_group is not None:
            checks.integer("seeds_per_group", self.seeds_per_group, at_least=1)
        check_tracker(self.report_to)

    def key(self) -> Array:
        """The root of all randomness."""
        return jax.random.key(self.seed, impl=self.generator)

    def run(self, algorithm: Algorithm, folder: RunFolder, *, progress: bool) -> RunResult:
        """Runs an algorithm with these settings, continuing what the folder holds."""
        key, length = self.key(), (self.num_iterations, self.log_every)
        shared = {"folder": folder, "checkpoint_every": self.checkpoint_every, "progress": progress}
        if isinstance(algorithm.problem.environment, HostEnvironment):
            return self._run_host(algorithm, key, *length, **shared)
        return run(
            algorithm,
            key,
            self.num_seeds,
            *length,
            evaluation_entropy_weight=self.evaluation_entropy_weight,
            diagnostics=self.diagnostics,
            seeds_per_group=self.seeds_per_group,
            **shared,
        )

    def _run_host(self, algorithm: Any, key: Array, *length: int, **shared: Any) -> RunResult:
        if self.num_seeds != 1:
            raise ValueError(
                f"num_seeds must be 1 in a HostEnvironment, got {self.num_seeds}; several seeds are several runs, each "
                "with its own --seed"
            )
        with contextlib.closing(algorithm.problem.environment.vector(2 * algorithm.followers.num_chains)) as envs:
            return run_host(algorithm, key, envs, *length, **shared)


class OfRuns(Study):
    """A study whose field `run` says how long it runs, and where its rows go."""

    run: Any
    """with `num_iterations` and `report_to`"""

    @property
    def num_iterations(self) -> int | None:
        """Iterations of a run."""
        return self.run.num_iterations

    @property
    def report_to(self) -> ReportTo:
        """Where its metric rows go besides `metrics.csv`."""
        return self.run.report_to


@dataclass(frozen=True)
class ScheduleConfig:
    """The five step-size sequences of the single-loop method, and its batch."""

    schedule: Schedule = "decaying"
    """decaying solves the unregularized problem, constant-entropy the regularized one"""
    upper: float = 0.03
    """initial step size ζ of the upper variable"""
    actor: float = 1.0
    """initial step size α of both policies"""
    critic: float = 4.0
    """initial step size β of both critics; not above num-chains"""
    penalty: float = 1.0
    """initial penalty parameter w: smaller is a harder penalty, with less bias and more noise"""
    entropy_weight: float = 0.1
    """initial entropy weight τ of the follower"""
    offset: float = 20_000.0
    """iterations that the initial values last; 1 is the paper's form c / (k + 1)^p"""
    num_chains: int = 16
    """parallel Markov chains per policy; 1 is the paper's"""

    def step_sizes(self) -> StepSizes:
        """The five sequences."""
        checks.one_of("schedule", self.schedule, get_args(Schedule))
        checks.number("entropy_weight", self.entropy_weight, above=0)
        build = StepSizes.decaying if self.schedule == "decaying" else StepSizes.constant_entropy
        return build(
            upper=self.upper,
            actor=self.actor,
            critic=self.critic,
            penalty=self.penalty,
            entropy=self.entropy_weight,
            offset=self.offset,
        )

    def neural_loop(
        self,
        problem: BilevelProblem,
        *,
        width: int,
        observe: Callable[[Any], ArrayLike] | None = None,
        averaging: float = 3.0,
        num_steps: int = 1,
        gae_lambda: float = 0.0,
    ) -> SingleLoopActorCritic:
        """Algorithm 1 with networks for both followers and Adam on x.

        Args:
            problem: what is solved.
            width: of both hidden layers of every network.
            observe: what the networks see of a state, where that is not what the environment says.
            averaging: the answer is the mean of all x_k, weighted as k to this power.
            num_steps: as in `Followers`.
            gae_lambda: as in `Followers`.

        Raises:
            ValueError: `width` < 1, or as `Followers` and `SingleLoopActorCritic`.
        """
        checks.integer("width", width, at_least=1)
        policies = NeuralActorCritic.mlp(problem.environment, observe, width=width)
        followers = Followers(self.num_chains, policies=policies, num_steps=num_steps, gae_lambda=gae_lambda)
        steps = UpperSteps(optax.adam(1.0), averaging=averaging)
        return SingleLoopActorCritic(problem, self.step_sizes(), followers, upper_steps=steps)


def of_networks(**changes: Any) -> ScheduleConfig:
    """Steps where followers are networks, with changes; nothing is worked out from the problem."""
    rates = {"schedule": "constant-entropy", "upper": 1e-3, "actor": 1e-3, "critic": 3e-3}
    return ScheduleConfig(**{**rates, "penalty": 0.3, "offset": 3_000.0, "num_chains": 32, **changes})
