"""Runs the single loop in a Gymnasium vector environment: metric rows, checkpoints and divergence as in `run`."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.runs import fingerprint
from bilevel_rl.runs.divergence import Divergence, Health, explain
from bilevel_rl.runs.folder import Row, RunFolder
from bilevel_rl.runs.host_loop import HostLoop
from bilevel_rl.runs.identity import identity_of
from bilevel_rl.runs.loop import Engine, Point, follow
from bilevel_rl.runs.metrics import Meter
from bilevel_rl.runs.result import NAME as RESULT, RunResult, columns_of
from bilevel_rl.runs.start import check_algorithm, check_run_arguments, check_start, check_storage

NO_ENTROPY_WEIGHT = 1.0
"""Metric rows are sampled, so the weight at which exact ones would be measured is not used."""


def run_host(
    algorithm: SingleLoopActorCritic,
    key: Array,
    envs: Any,
    num_iterations: int,
    log_every: int = 1_000,
    *,
    folder: RunFolder | Path | str | None = None,
    checkpoint_every: float = 10.0,
    progress: bool = True,
) -> RunResult:
    """Runs one seed of the single loop in a Gymnasium vector environment, which this process steps.

    The same equations, rows and files as `run`, which tells what the other arguments are. A folder that holds a
    checkpoint of the same run is continued from it in *new episodes*: environments cannot be saved, so that the rest of
    the run is another draw of the same law, and not the same bits.

    Args:
        algorithm: what runs, in a `HostEnvironment`; for several seeds call this with several keys.
        key: from `jax.random.key`. Environments are reset with seeds made of it, so that runs can be repeated.
        envs: a `gymnasium.vector.VectorEnv` of 2 B sub-environments (B = `algorithm.followers.num_chains`), with
            `AutoresetMode.DISABLED`. It is not closed.
        num_iterations: as `run`.
        log_every: as `run`.
        folder: as `run`.
        checkpoint_every: as `run`.
        progress: as `run`.

    Returns:
        As `run`, of one seed.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a count is not positive or too large, `checkpoint_every` is negative, the regularizer is not finite
            at `initial_x`, or as `HostLoop`.
        RunFolderError: the folder holds another run, or one that has gone further.

    Example:
        >>> import gymnasium, jax, bilevel_rl as brl
        >>> by_hand = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
        >>> envs = gymnasium.make_vec("CartPole-v1", 8, vectorization_mode="sync", vector_kwargs=by_hand)
        >>> problem = brl.BilevelProblem(
        ...     brl.HostEnvironment.from_vector(envs, discount=0.95),
        ...     reward=lambda x, s, a: 1.0 - (s[0] - x) ** 2,
        ...     upper=brl.OccupancyCost(lambda x, s, a: (s[0] - 0.5) ** 2 - 10.0),
        ...     initial_x=0.0,
        ... )
        >>> algorithm = brl.SingleLoopActorCritic(
        ...     problem,
        ...     brl.StepSizes.decaying(actor=1e-3, critic=3e-3),
        ...     brl.Followers(4, policies=brl.NeuralActorCritic.mlp(problem.environment, width=8)),
        ... )
        >>> result = brl.run_host(algorithm, jax.random.key(0), envs, 20, log_every=10, progress=False)
        >>> result.metrics["num_transitions"].tolist()
        [0, 80, 160]
    """
    check_algorithm(algorithm)
    remedy = "other methods run in tables, by run"
    checks.instance("algorithm", algorithm, SingleLoopActorCritic, remedy=remedy)
    checks.key(key)
    log_points = check_run_arguments(1, num_iterations, log_every, NO_ENTROPY_WEIGHT)
    check_storage(folder, checkpoint_every, progress)
    check_start(algorithm.problem)
    loop = HostLoop(algorithm, key, envs)
    engine = HostEngine(
        loop,
        Meter(algorithm, NO_ENTROPY_WEIGHT, "sampled"),
        lambda: identity_of(algorithm, key, log_points, loop.program()) | _described(envs),
    )
    kept = RunFolder(folder) if isinstance(folder, Path | str) else folder
    point, rows = follow(
        engine,
        num_iterations,
        log_points,
        folder=kept,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    x = algorithm.recommend(point.states)
    result = RunResult(x, point.states, columns_of(rows), point.divergences, algorithm=algorithm)
    if kept is not None:
        result.save(kept.path / RESULT)
    return result


class HostEngine(Engine):
    """One seed of an algorithm in a vector environment. States have an axis in front, as those of several seeds.

    Environments cannot be copied, so iterations are never taken again: the loop stops by itself at the last finite
    state, and the first one, whose Info the first row shows, is the one that the run goes on from.

    Args:
        loop: of the iterations.
        meter: of the metric rows.
        identity: gives that of the run; called where there is a folder.
    """

    call = "bilevel_rl.run_host"

    def __init__(self, loop: HostLoop, meter: Meter, identity: Callable[[], dict[str, Any]]):
        self._loop, self._meter, self._identity = loop, meter, identity

    def identity(self) -> dict[str, Any]:
        """As `Engine.identity`."""
        return self._identity()

    def start(self) -> Point:
        """As `Engine.start`."""
        progressed = self._loop.start()
        states = _with_seed(progressed.state)
        self._progressed, self._num_taken = self._loop.advance(progressed, 0, 1), 1
        return Point(0, states, np.zeros(1, bool), info_totals=_with_seed(self._progressed.info_totals), num_steps=1)

    def begin(self, point: Point):
        """As `Engine.begin`."""
        self._meter.begin(point.states)

    def advances_in_place(self, point: Point) -> bool:
        """Always: the environments go on."""
        return True

    def advance(self, point: Point, last: int) -> Callable[[], int]:
        """Gives the iteration reached."""

        def work() -> int:
            self._progressed = self._loop.advance(self._progressed, self._num_taken, last)
            self._num_taken = max(self._num_taken, self._loop.num_taken)
            return self._num_taken

        return work

    saves_between = True

    def settle(self, point: Point, advanced: int, saved: Callable[[], Point]) -> Point:
        """As `Engine.settle`."""
        progressed = self._progressed
        states, info_totals = _with_seed(progressed.state), _with_seed(progressed.info_totals)
        self._progressed = self._loop.cleared(progressed.state)
        divergences, last_finite = point.divergences, int(states.num_iterations[0])
        if last_finite < advanced:
            divergences = (*divergences, explain(Health(_with_seed(progressed.is_finite)), 0, last_finite))
            warnings.warn(str(divergences[-1]), RuntimeWarning, stacklevel=4)
        is_stopped, num_steps = np.array([bool(divergences)]), advanced - point.num_iterations
        return Point(advanced, states, is_stopped, divergences, info_totals, num_steps)

    def rows(self, point: Point) -> list[Row]:
        """As `Engine.rows`."""
        info = jax.tree.map(lambda total: total / np.float32(point.num_steps), point.info_totals)
        return self._meter.rows(point.states, info, ~point.is_stopped)

    def checkpoint(self, point: Point) -> PyTree:
        """As `Engine.checkpoint`."""
        return {"states": point.states, "is_stopped": point.is_stopped}

    def restored(self, folder: RunFolder, num_iterations: int) -> Point:
        """As `Engine.restored`, in new episodes."""
        like = {"states": _with_seed(self._loop.start().state), "is_stopped": np.zeros(1, bool)}
        saved = folder.restore_checkpoint(num_iterations, like)
        self._progressed = self._loop.resumed(jax.tree.map(lambda leaf: leaf[0], saved["states"]))
        self._num_taken = num_iterations
        divergences = [Divergence(**entry) for entry in folder.read_divergences()] if saved["is_stopped"][0] else []
        states = _with_seed(self._progressed.state)
        return Point(num_iterations, states, np.array(saved["is_stopped"]), tuple(divergences))

    def num_transitions(self, point: Point) -> int:
        """As `Engine.num_transitions`."""
        return point.num_iterations * self._meter.num_transitions_per_iteration


def _with_seed(tree: PyTree) -> PyTree:
    """As of many seeds: with an axis in front, on the host."""
    return jax.tree.map(lambda leaf: np.array(leaf)[None], tree)


def _described(envs: Any) -> dict[str, Any]:
    """What a vector environment says of itself; its code stays with the host."""
    spec = getattr(envs, "spec", None)
    names = "id", "entry_point", "kwargs", "max_episode_steps", "additional_wrappers"
    options = {name: getattr(spec, name, None) for name in names}
    return {
        "environment": type(envs.unwrapped).__name__ if spec is None else spec.id,
        "environment_options": fingerprint.of_object(options),
        "observations": str(envs.single_observation_space),
        "actions": str(envs.single_action_space),
    }
