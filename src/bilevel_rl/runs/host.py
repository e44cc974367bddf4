"""Runs the single loop in a Gymnasium vector environment: metric rows, checkpoints and divergence as in `run`."""

import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.runs.divergence import Divergence, explain
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.host_loop import HostLoop, Progressed
from bilevel_rl.runs.identity import find_checkpoint, identity_of
from bilevel_rl.runs.metrics import distances, metric_columns, metric_rows
from bilevel_rl.runs.progress import Progress
from bilevel_rl.runs.run import RunResult

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
        envs: a `gymnasium.vector.VectorEnv` of 2 B sub-environments (B = `algorithm.num_chains`), with
            `AutoresetMode.DISABLED`. It is not closed.
        num_iterations: as `run`.
        log_every: as `run`.
        folder: as `run`.
        checkpoint_every: as `run`.
        progress: as `run`.

    Returns:
        As `run`, of one seed.

    Raises:
        ValueError: a count is not positive, `checkpoint_every` is negative, or as `HostLoop`.
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
        ...     num_chains=4,
        ...     policies=brl.NeuralActorCritic.mlp(problem.environment, width=8),
        ... )
        >>> result = brl.run_host(algorithm, jax.random.key(0), envs, 20, log_every=10, progress=False)
        >>> result.metrics["num_transitions"].tolist()
        [0, 80, 160]
    """
    for name, count in (("num_iterations", num_iterations), ("log_every", log_every)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every must be a number of seconds, got {checkpoint_every}")
    loop = HostLoop(algorithm, key, envs)
    folder = RunFolder(folder) if isinstance(folder, Path | str) else folder
    started = saved_at = time.perf_counter()
    rows: list[dict[str, float]] = []
    divergences: list[Divergence] = []
    done = 0

    def log(states: PyTree, info_totals: PyTree, num_steps: int):
        nonlocal saved_at, logged_x
        info = jax.tree.map(lambda total: total / np.float32(num_steps), info_totals)
        columns = metric_columns(algorithm, states, info, NO_ENTROPY_WEIGHT, "sampled")
        columns |= {"x_movement": distances(algorithm.recommend(states), logged_x)}
        logged_x = algorithm.recommend(states)
        new_rows, now = metric_rows(columns, np.array([not divergences])), time.perf_counter()
        rows.extend(new_rows)
        if folder is not None:
            folder.append_rows("metrics", new_rows)
            folder.append_rows("timing", [{"num_iterations": done, "seconds": now - started}])
            folder.write_divergences([asdict(divergence) for divergence in divergences])
            if now - saved_at >= checkpoint_every or divergences or done == num_iterations:
                folder.save_checkpoint(done, _checkpoint(states, divergences))
                saved_at = time.perf_counter()
        bar.update(done, done * algorithm.num_transitions_per_iteration, new_rows)

    with Progress(num_iterations, is_shown=progress) as bar:
        progressed = loop.start()
        checkpoint = None
        if folder is not None:
            identity = identity_of(algorithm, key, log_every) | {"environment": _name(envs)}
            checkpoint = find_checkpoint(folder, identity, num_iterations)
            rows = folder.read_rows("metrics")
        if folder is not None and checkpoint is not None:
            saved = folder.restore_checkpoint(checkpoint, _checkpoint(_with_seed(progressed.state), divergences))
            done, progressed = checkpoint, loop.resumed(jax.tree.map(lambda leaf: leaf[0], saved["states"]))
            if saved["is_stopped"][0]:
                divergences = [Divergence(**entry) for entry in folder.read_divergences()]
        logged_x = algorithm.recommend(_with_seed(progressed.state))
        while done < num_iterations and not divergences:
            first, num_steps = done, min(done - done % log_every + log_every, num_iterations) - done
            if not rows:  # The first row shows the first iteration's Info.
                states = _with_seed(progressed.state)
                progressed = loop.advance(progressed, 0, 1)
                log(states, _with_seed(progressed.info_totals), 1)
                first = 1
            done += num_steps
            progressed = loop.advance(progressed, first, done)
            divergences += _divergence(progressed, done)
            log(_with_seed(progressed.state), _with_seed(progressed.info_totals), num_steps)
            progressed = loop.cleared(progressed.state)
    states = _with_seed(progressed.state)
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[-1]}
    return RunResult(algorithm.recommend(states), states, metrics, divergences)


def _divergence(progressed: Progressed, num_iterations: int) -> list[Divergence]:
    """Why the run has stopped before an iteration; nothing where it has not."""
    last = int(progressed.state.num_iterations)
    if last == num_iterations:
        return []
    divergence = explain(_with_seed(progressed.is_finite), 0, last)
    warnings.warn(str(divergence), RuntimeWarning, stacklevel=3)
    return [divergence]


def _with_seed(tree: PyTree) -> PyTree:
    """As of many seeds: with an axis in front, on the host."""
    return jax.tree.map(lambda leaf: np.array(leaf)[None], tree)


def _checkpoint(states: PyTree, divergences: list[Divergence]) -> dict[str, PyTree]:
    return {"states": states, "is_stopped": np.array([bool(divergences)])}


def _name(envs: Any) -> str:
    """What a vector environment calls itself."""
    spec = getattr(envs, "spec", None)
    return str(envs.single_observation_space) if spec is None else spec.id
