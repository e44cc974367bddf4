"""A run folder as an object: what it holds, what can be rebuilt of it, and going on."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import Algorithm
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.outcome import Optimum
from bilevel_rl.policies import NetworkPolicy
from bilevel_rl.results.loaded import Results, load
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.result import NAME, RunResult
from bilevel_rl.runs.run import run

if TYPE_CHECKING:
    from bilevel_rl.studies.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class OpenRun(Results):
    """The files of a run folder, and the run that can be made of them again.

    Attributes:
        path: of the folder.
        given_problem: the problem, where the folder cannot tell it; as `open_run` was given it.
    """

    path: Path
    given_problem: BilevelProblem | None = None

    @property
    def num_iterations(self) -> int:
        """Up to which there are metric rows; 0 before the first."""
        return int(np.max(self.metrics.get("num_iterations", np.zeros(1))))

    @property
    def result(self) -> RunResult | None:
        """What the run ended with, as far as files say; None where it has not ended, or was not of `run` or `run_host`.

        `restore` also has the states.
        """
        if not (self.path / NAME).is_file():
            return None
        found = RunResult.load(self.path / NAME)
        # A run that was continued, and has not ended again, has an older one.
        is_old = int(found.metrics["num_iterations"].max()) < self.num_iterations
        return None if is_old else found

    @property
    def x(self) -> PyTree[np.ndarray]:
        """The upper variables at the end; the seed is the first axis. Of a run that has not ended, those that the
        metrics tell: its numbers in a row, at the last log point.

        Raises:
            RunFolderError: it has not ended, and its metrics do not tell x, which they do up to 16 numbers.
        """
        if (result := self.result) is not None:
            return result.x
        columns = [self.metrics[f"x{i}"] for i in range(16) if f"x{i}" in self.metrics]
        if not columns:
            raise RunFolderError(f"{self.path} does not tell x: the run has not ended, or is that of another library")
        seeds = self.metrics["seed"]
        last = [int(np.flatnonzero(seeds == seed)[-1]) for seed in np.unique(seeds)]
        return np.stack(columns, axis=-1)[last]

    @property
    def problem(self) -> BilevelProblem:
        """What is solved, rebuilt where the folder is that of an experiment.

        Raises:
            RunFolderError: it is not, and no problem was given.
        """
        if self.given_problem is not None:
            return self.given_problem
        return self._algorithm("problem=…, as in open_run(path, problem=problem)").problem

    def policy(self, seed: int = 0, algorithm: Algorithm | None = None) -> Float[np.ndarray, "S A"] | NetworkPolicy:
        """What the lower follower of a seed has learned: probabilities, or networks.

        Args:
            seed: which.
            algorithm: what ran; needed for networks and very large tables of a run from Python.

        Raises:
            TypeError, ValueError: there is no such seed.
            RunFolderError: the algorithm is needed, or as `restore`.
        """
        result = self.result
        if result is None or result.policies is None:
            result = self.restore(algorithm)
        return result.policy(seed)

    def restore(self, algorithm: Algorithm | None = None) -> RunResult:
        """The result with its states. Nothing is computed; metric rows after the newest checkpoint are dropped.

        Args:
            algorithm: as `continue_`.

        Raises:
            RunFolderError: as `continue_`, or there is no checkpoint.
        """
        done = RunFolder(self.path).latest_checkpoint()
        if done is None:
            raise RunFolderError(f"{self.path} has no checkpoint yet")
        return self._run(self._algorithm("algorithm") if algorithm is None else algorithm, done, progress=False)

    def continue_(self, num_iterations: int, algorithm: Algorithm | None = None, *, progress: bool = True) -> RunResult:
        """Runs on to more iterations, with the bits that a run to that many would have had from the start.

        An experiment's figures and arrays are made anew. This object stays what it was: open the folder again.

        Args:
            num_iterations: of each seed, from the start.
            algorithm: what ran; needed for a run from Python, whose problem no file holds.
            progress: show a progress bar.

        Raises:
            RunFolderError: the algorithm is needed, it is another one, the folder has gone further, or it is not one of
                `run`, such as that of a trainer.
            TypeError, ValueError: as `run`.
        """
        num_iterations = checks.integer("num_iterations", num_iterations, at_least=1)
        if algorithm is not None:
            return self._run(algorithm, num_iterations, progress=progress)
        rebuilt, experiment, folder = self._algorithm("algorithm"), self._experiment(), RunFolder(self.path)
        if (folder.latest_checkpoint() or 0) > num_iterations:
            return self._run(rebuilt, num_iterations, progress=progress)  # Which refuses, and says why.
        settings = dataclasses.replace(experiment.run, num_iterations=num_iterations)
        longer = dataclasses.replace(experiment, run=settings)
        folder.write_config(longer.to_json())
        longer.main(folder, progress=progress)
        return self._run(rebuilt, num_iterations, progress=False)

    def write_report(self, *, optimum: Optimum | None = None) -> Path:
        """Writes what a run of the command line leaves, of a run from Python that has ended: what became of x and of
        the follower, the learned reward of the best seed, figures, and `report.html`.

        Of an experiment's folder, which has all that, the report alone.

        Args:
            optimum: the best that is known; `exact.solve` may find it.

        Returns:
            The report's path.

        Raises:
            TypeError: `optimum` is none.
            RunFolderError: the run has not ended, or no problem was given.
        """
        from bilevel_rl.report import write_report
        from bilevel_rl.studies.python_run import PythonRun
        from bilevel_rl.studies.registry import open_study

        folder = RunFolder.open(self.path)
        if isinstance(study := open_study(folder), PythonRun):
            problem, result = self.problem, self.result
            if result is None:
                raise RunFolderError(f"{self.path} has not ended: continue_({study.iterations}, algorithm) goes on")
            study.measure(folder, problem, result, optimum)
        return write_report([self.path])

    def _run(self, algorithm: Algorithm, num_iterations: int, *, progress: bool) -> RunResult:
        noted = self.identity
        if "seeds_per_group" not in noted:
            raise RunFolderError(
                f"{self.path} is not that of bilevel_rl.run: call again what began it, with this folder and more "
                "iterations"
            )
        key = jax.random.wrap_key_data(jnp.asarray(noted["key"], jnp.uint32), impl=noted["generator"])
        return run(
            algorithm,
            key,
            noted["num_seeds"],
            num_iterations,
            LogPoints(noted["log_every"], noted["num_halvings"]),
            folder=self.path,
            evaluation_entropy_weight=noted["evaluation_entropy_weight"],
            diagnostics=noted["diagnostics"],
            seeds_per_group=noted["seeds_per_group"],
            progress=progress,
        )

    def _algorithm(self, wanted: str) -> Any:
        from bilevel_rl.studies.experiment import WHOLE

        algorithms = self._experiment(wanted).algorithms()
        if list(algorithms) != [WHOLE]:
            raise RunFolderError(f"{self.path} holds several runs: open one of {', '.join(algorithms)} in it")
        return algorithms[WHOLE]

    def _experiment(self, wanted: str = "algorithm") -> "Experiment":
        """The experiment that the folder is of. Studies draw, so they are imported where they are asked for."""
        from bilevel_rl.studies.experiment import Experiment
        from bilevel_rl.studies.registry import open_study

        study = open_study(RunFolder.open(self.path)) if self.config is not None else None
        if not isinstance(study, Experiment):
            raise RunFolderError(
                f"{self.path} was begun in Python, and its problem is in the code that began it: give {wanted}"
            )
        return study


def open_run(path: Path | str, *, problem: BilevelProblem | None = None) -> OpenRun:
    """Opens a run folder: its files as data, and the run to go on with.

    Args:
        path: of the folder.
        problem: what was solved, where the folder cannot tell; folders of experiments can.

    Raises:
        TypeError: `problem` is none.
        RunFolderError: there is no run in the folder.

    Example:
        >>> import jax, tempfile, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> algorithm, folder = brl.SingleLoopActorCritic(problem), tempfile.TemporaryDirectory()
        >>> _ = brl.run(algorithm, jax.random.key(0), 2, 100, log_every=100, folder=folder.name, progress=False)
        >>> opened = brl.open_run(folder.name)
        >>> opened.x.shape, opened.policy(1).shape, opened.num_iterations
        ((2, 2), (9, 5), 100)
        >>> longer = opened.continue_(200, algorithm, progress=False)
        >>> brl.open_run(folder.name).num_iterations
        200
    """
    if problem is not None:
        checks.instance("problem", problem, BilevelProblem)
    found = load(path)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return OpenRun(**fields, path=Path(path), given_problem=problem)
