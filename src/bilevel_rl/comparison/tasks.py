"""A task: the smallest piece of work of a comparison, one `run` in a folder of its own.

What a task computes depends on its description alone, not on the worker or on its neighbours.
"""

import dataclasses
import functools
import json
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from bilevel_rl.algorithms import Algorithm
from bilevel_rl.checks import LARGEST_INTEGER
from bilevel_rl.comparison.methods import FREE_ITERATIONS, Method, Parameters
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import WorkedProblem
from bilevel_rl.runs import compiler, lock
from bilevel_rl.runs.compiled import Layout, Loop
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.run import run

TUNING, FINAL = 0, 1
"""Folded into the root key: seeds that parameters were tuned on are never those that are reported."""


@dataclass(frozen=True)
class Task:
    """What one run of a comparison is.

    Attributes:
        folder: run folder, which other tasks do not use.
        problem: what is solved.
        method: which method solves it.
        parameters: its parameters.
        key: seed of the root key, and the numbers that are folded into it one after the other.
        num_seeds: seeds of the run.
        budget: environment transitions of each seed, all chains and inner loops included.
        num_log_points: log points after the start, evenly.
        num_halvings: more of them before the first, after a half, a quarter, … of its transitions.
        evaluation_entropy_weight: τ at which Φ is measured.
    """

    folder: Path
    problem: WorkedProblem
    method: Method
    parameters: Parameters
    key: tuple[int, ...]
    num_seeds: int
    budget: int
    num_log_points: int
    num_halvings: int
    evaluation_entropy_weight: float

    def algorithm(self) -> Algorithm:
        """What runs."""
        return self.method.build(_problem(self.problem), self.parameters, self._affordable)

    def num_iterations(self) -> int:
        """As many as the budget pays for."""
        return self._affordable(self.algorithm().num_transitions_per_iteration)

    def _affordable(self, num_transitions_per_iteration: int) -> int:
        if num_transitions_per_iteration == 0:
            return FREE_ITERATIONS
        return self.budget // num_transitions_per_iteration

    def check(self):
        """Raises `ValueError` if the budget does not pay for an iteration, or the method cannot solve this problem."""
        if self.num_iterations() > LARGEST_INTEGER:
            raise ValueError(
                f"--budget {self.budget:g} pays for {self.num_iterations():,} iterations of {self.method.name}, more "
                f"than the {LARGEST_INTEGER:,} that can be run"
            )
        if self.num_iterations() < 1:
            raise ValueError(
                f"--budget {self.budget:g} does not pay for one iteration of {self.method.name}, which takes "
                f"{self.algorithm().num_transitions_per_iteration:,} transitions"
            )

    def description(self) -> dict[str, Any]:
        """What `config.json` of its folder holds: all that decides the results."""
        options = dataclasses.asdict(self.problem) | {"kind": type(self.problem).__name__}  # pyright: ignore
        settings = {
            name: getattr(self, name) for name in ("key", "num_seeds", "budget", "num_log_points", "num_halvings")
        }
        settings |= {"evaluation_entropy_weight": self.evaluation_entropy_weight}
        return {"experiment": "task", "problem": options, "parameters": dict(self.parameters), **settings}

    def is_finished(self) -> bool:
        """Whether every seed has come to the end, or has diverged.

        Raises:
            RunFolderError: the folder holds another task.
        """
        if not (self.folder / "config.json").is_file():
            return False
        folder, num_iterations = RunFolder(self.folder), self.num_iterations()
        if folder.config() != json.loads(json.dumps(self.description())):
            raise RunFolderError(f"{self.folder} holds a task with other settings or parameters; use another folder")
        arrived = sum(row["num_iterations"] == num_iterations for row in folder.read_rows("metrics"))
        return arrived + len(folder.read_divergences()) == self.num_seeds

    def score(self) -> float:
        """Mean over the seeds, once finished, of the final Φ, lower is better; infinite where one of them diverged."""
        folder, num_iterations = RunFolder(self.folder), self.num_iterations()
        if folder.read_divergences():
            return math.inf
        final = [r["upper_objective"] for r in folder.read_rows("metrics") if r["num_iterations"] == num_iterations]
        mean = float(np.mean(final))
        return mean if math.isfinite(mean) else math.inf


def run_task(task: Task):
    """Runs a task in this process, or what is left of it. Two workers at the same task take turns."""
    _prepare_process()
    folder = RunFolder(task.folder)
    with lock.hold(task.folder, waits=True), warnings.catch_warnings():
        # Divergences are in the folder; the terminal of a worker is not the place for them.
        warnings.simplefilter("ignore", RuntimeWarning)
        if task.is_finished():
            return
        folder.write_config(task.description())
        num_iterations = task.num_iterations()
        run(
            task.algorithm(),
            _key(task.key),
            task.num_seeds,
            num_iterations,
            log_every=LogPoints(math.ceil(num_iterations / task.num_log_points), task.num_halvings),
            folder=folder,
            evaluation_entropy_weight=task.evaluation_entropy_weight,
            diagnostics="exact",
            seeds_per_group=1,
            progress=False,
        )


def seconds_of_loop(task: Task) -> float:
    """Wall-clock time of all iterations of one seed in this process, without compilation, diagnostics and files."""
    _prepare_process()
    algorithm, num_iterations = task.algorithm(), task.num_iterations()
    loop = Loop(algorithm, _key(task.key), Layout.plan(algorithm, num_seeds=1, seeds_per_group=1))
    jax.block_until_ready(loop.advance(loop.start(), 0, 1))
    states = jax.block_until_ready(loop.start())
    started = time.perf_counter()
    jax.block_until_ready(loop.advance(states, 0, num_iterations))
    return time.perf_counter() - started


def _prepare_process():
    compiler.fuse_small_loops(None)
    compiler.cache_compilations()


@functools.cache
def _problem(options: WorkedProblem) -> BilevelProblem:
    """One object a process: programs are compiled again for functions that are not the same object."""
    return options.problem()


def _key(numbers: tuple[int, ...]) -> Array:
    return functools.reduce(jax.random.fold_in, numbers[1:], jax.random.key(numbers[0]))
