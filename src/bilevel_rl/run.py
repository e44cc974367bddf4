"""Runs an algorithm: compiled chunks over all seeds, metric rows, checkpoints, exact resume, divergence as a result.

Between two log points everything happens inside one compiled loop. Step k of seed i uses the key
`fold_in(fold_in(key, i), k)`, so a seed's path depends neither on the other seeds nor on where the run was interrupted.
Only rounding may depend on how many seeds run side by side: a batch of sums may be added in another order than one.
"""

import bisect
import hashlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, PyTree

from bilevel_rl.algorithms import Algorithm
from bilevel_rl.diagnostics import metric_rows
from bilevel_rl.progress import Progress
from bilevel_rl.results import RunFolder, RunFolderError

LIKELY_CAUSES = {
    "x": "the upper step is too large for its noise, which grows like 1/penalty: lower `upper`, raise `penalty` or "
    "`num_chains`, or bound x by `project`; or the regularizer or the reward has no finite gradient at the last x",
    "followers": "the policies outrun their critics: lower `actor` and `critic`, keeping actor <= critic; or the "
    "reward or cost is not finite at the last x: check both, and clip the critics by `reward_bound` and `cost_bound`",
}


@dataclass(frozen=True)
class Divergence:
    """A seed that was stopped because its next iteration would have left the finite numbers.

    Attributes:
        seed: which.
        num_iterations: iterations done; the state kept is that one, the last finite.
        quantity: the part of the state that the next iteration would have spoiled.
        likely_cause: what usually does that, and what to change.
    """

    seed: int
    num_iterations: int
    quantity: str
    likely_cause: str

    def __str__(self) -> str:
        return (
            f"seed {self.seed} diverged: {self.quantity} is not finite after iteration {self.num_iterations}; the last "
            f"finite state is kept. Likely cause: {self.likely_cause}."
        )


@dataclass(frozen=True)
class RunResult:
    """What a run ended with. Leading axis of every array: the seed.

    Attributes:
        x: final upper variables.
        states: final states of the algorithm.
        metrics: columns of equal length, one entry a seed and log point, ordered by iteration and then seed
            (docs/metrics.md).
        divergences: seeds that stopped early.
    """

    x: PyTree
    states: Any
    metrics: dict[str, np.ndarray]
    divergences: Sequence[Divergence]


def run(
    algorithm: Algorithm,
    key: Array,
    num_seeds: int,
    num_iterations: int,
    log_every: int = 1_000,
    *,
    folder: RunFolder | Path | str | None = None,
    evaluation_entropy_weight: float = 0.01,
    progress: bool = True,
) -> RunResult:
    """Runs `num_seeds` independent copies of an algorithm.

    With a folder, every log point appends the metric rows and then saves a checkpoint. A folder that holds a checkpoint
    of the same run is continued from it (also to more iterations than first asked for), and ends with the same bits as
    if it had never been interrupted.

    Args:
        algorithm: what runs.
        key: from `jax.random.key`.
        num_seeds: independent copies, run side by side.
        num_iterations: iterations of each.
        log_every: iterations between two log points.
        folder: where to keep metrics and checkpoints; nothing is written by default.
        evaluation_entropy_weight: τ at which the `upper_objective` Φ_τ(x_k) is measured.
        progress: show a progress bar.

    Raises:
        ValueError: a count is not positive, or `evaluation_entropy_weight` is not.
        RunFolderError: the folder holds another run, or one that has gone further.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> algorithm = brl.SingleLoopActorCritic(problem)
        >>> result = brl.run(algorithm, jax.random.key(0), 2, 200, log_every=100, progress=False)
        >>> result.x.shape, result.metrics["num_iterations"].tolist()
        ((2, 2), [0, 0, 100, 100, 200, 200])
    """
    check_run_arguments(num_seeds, num_iterations, log_every, evaluation_entropy_weight)
    folder = RunFolder(folder) if isinstance(folder, Path | str) else folder
    seed_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_seeds))
    # Steps fold in 0, 1, 2, …, so the last value that can be folded in is free for the start.
    states = jax.vmap(lambda key: algorithm.init(jax.random.fold_in(key, np.uint32(2**32 - 1))))(seed_keys)
    is_stopped = np.zeros(num_seeds, bool)
    divergences: list[Divergence] = []
    rows: list[dict[str, float]] = []
    num_done = 0

    def log(info: PyTree):
        new_rows = metric_rows(algorithm, states, info, ~is_stopped, evaluation_entropy_weight)
        rows.extend(new_rows)
        if folder is not None:
            folder.append_rows("metrics", new_rows)
            folder.append_rows("timing", [{"num_iterations": num_done, "seconds": time.perf_counter() - started}])
            folder.write_divergences([asdict(divergence) for divergence in divergences])
            folder.save_checkpoint(num_done, {"states": states, "is_stopped": is_stopped})
        bar.update(num_done, num_done * algorithm.num_transitions_per_iteration * num_seeds, new_rows)

    started = time.perf_counter()
    with Progress(num_iterations, is_shown=progress) as bar:
        if folder is not None:
            identity = _identity(algorithm, key, num_seeds, log_every, evaluation_entropy_weight)
            checkpoint = _find_checkpoint(folder, identity, num_iterations)
            if checkpoint is not None:
                saved = folder.restore_checkpoint(checkpoint, {"states": states, "is_stopped": is_stopped})
                states, is_stopped, num_done = saved["states"], np.array(saved["is_stopped"]), checkpoint
                divergences = [Divergence(**e) for e in folder.read_divergences() if e["num_iterations"] < num_done]
            rows = folder.read_rows("metrics")
        if not rows:
            # The first row shows the first iteration's Info, from a step that is taken again below.
            log(_advance(algorithm, states, seed_keys, is_stopped, jnp.int32(1))[1])
        while num_done < num_iterations and not is_stopped.all():
            num_steps = min(log_every - num_done % log_every, num_iterations - num_done)
            last_states = states
            states, info, is_finite = _advance(algorithm, states, seed_keys, is_stopped, jnp.int32(num_steps))
            for seed in np.flatnonzero(~np.asarray(is_finite)):
                state, divergence = _locate_divergence(
                    algorithm, last_states, seed_keys, is_stopped, num_steps, int(seed)
                )
                warnings.warn(str(divergence), RuntimeWarning, stacklevel=2)
                states = jax.tree.map(lambda all_seeds, one, i=seed: all_seeds.at[i].set(one), states, state)
                divergences.append(divergence)
                is_stopped[seed] = True
            num_done += num_steps
            log(info)
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[-1]}
    return RunResult(states.x, states, metrics, divergences)


def check_run_arguments(num_seeds: int, num_iterations: int, log_every: int, evaluation_entropy_weight: float):
    """Raises `ValueError` for numbers that `run` cannot work with."""
    for name, count in (("num_seeds", num_seeds), ("num_iterations", num_iterations), ("log_every", log_every)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not 0 < evaluation_entropy_weight < float("inf"):
        raise ValueError(
            f"evaluation_entropy_weight must be finite and positive, got {evaluation_entropy_weight}; use 0.01 to be "
            "close to the unregularized objective"
        )


@eqx.filter_jit
def _advance(
    algorithm: Algorithm, states: PyTree, seed_keys: Array, is_stopped: Bool[ArrayLike, " seeds"], num_steps: Array
) -> tuple[PyTree, PyTree, Bool[Array, " seeds"]]:
    """All seeds' states after `num_steps` iterations (stopped ones unchanged), mean Infos, and which stayed finite."""

    def one_seed(state: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        def step(_: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            state, total = carry
            state, info = algorithm.step(jax.random.fold_in(key, state.num_iterations), state)
            return state, jax.tree.map(jnp.add, total, info)

        _, info_shapes = jax.eval_shape(algorithm.step, key, state)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info_shapes)
        state, total = jax.lax.fori_loop(0, num_steps, step, (state, zeros))
        return state, jax.tree.map(lambda leaf: leaf / num_steps, total)

    new_states, info = jax.vmap(one_seed)(states, seed_keys)
    states = jax.vmap(lambda stop, old, new: jax.tree.map(lambda o, n: jnp.where(stop, o, n), old, new))(
        is_stopped, states, new_states
    )
    return states, info, jax.vmap(_is_finite)(states)


def _is_finite(state: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))


def _locate_divergence(
    algorithm: Algorithm,
    states: PyTree,
    seed_keys: Array,
    is_stopped: Bool[np.ndarray, " seeds"],
    num_steps: int,
    seed: int,
) -> tuple[PyTree, Divergence]:
    """Halves the chunk that one seed left the finite numbers in; the same compiled loop leads to the same bits."""

    def advance(steps: int) -> tuple[PyTree, bool]:
        new_states, _, is_finite = _advance(algorithm, states, seed_keys, is_stopped, jnp.int32(steps))
        return jax.tree.map(lambda leaf: leaf[seed], new_states), bool(is_finite[seed])

    num_finite = bisect.bisect_left(range(1, num_steps), True, key=lambda steps: not advance(steps)[1])
    last, spoiled = advance(num_finite)[0], advance(num_finite + 1)[0]
    names = [
        jax.tree_util.keystr(path).lstrip(".")
        for path, leaf in jax.tree.leaves_with_path(spoiled)
        if not np.all(np.isfinite(leaf))
    ]
    cause = next((cause for name, cause in LIKELY_CAUSES.items() if names[0].startswith(name)), LIKELY_CAUSES["x"])
    return last, Divergence(seed, int(last.num_iterations), " and ".join(names), cause)


def _identity(
    algorithm: Algorithm, key: Array, num_seeds: int, log_every: int, evaluation_entropy_weight: float
) -> dict[str, Any]:
    """What must not change between the parts of an interrupted run."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(eqx.filter(algorithm, eqx.is_array_like)):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return {
        "algorithm": type(algorithm).__name__,
        "arrays_of_algorithm_and_problem": digest.hexdigest(),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "discount": algorithm.problem.environment.discount,
        "num_seeds": num_seeds,
        "num_transitions_per_iteration": algorithm.num_transitions_per_iteration,
        "log_every": log_every,
        "evaluation_entropy_weight": evaluation_entropy_weight,
    }


def _find_checkpoint(folder: RunFolder, identity: dict[str, Any], num_iterations: int) -> int | None:
    """Iteration to continue from; files are cut back to it. None for a new run, whose identity is noted."""
    noted = folder.note_identity(identity)
    for name, value in identity.items():
        if noted.get(name) != value:
            raise RunFolderError(
                f"{folder.path} holds another run: its {name} is {noted.get(name)}, not {value}; use another folder"
            )
    checkpoint = folder.latest_checkpoint()
    if checkpoint is not None and checkpoint > num_iterations:
        raise RunFolderError(f"{folder.path} has already done {checkpoint} iterations, more than {num_iterations}")
    for name, (then, now) in folder.changed_versions().items():
        warnings.warn(f"{name} is now {now}, was {then}: results may differ in the last bits", stacklevel=3)
    for table in ("metrics", "timing"):
        folder.truncate_rows(table, -1 if checkpoint is None else checkpoint)
    return checkpoint
