"""What makes a run the same run, and where a folder lets it go on.

An identity is JSON: options as they are, and `digests` of what is too long to be written out: arrays, and the programs
that functions are traced to. So a run is another one as soon as what it computes is, wherever the number stands that
was changed. Digests name the part, so that a refusal can.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from bilevel_rl.algorithms import Algorithm, Followers
from bilevel_rl.environments import FunctionalEnvironment, HostEnvironment, ScoreTransition
from bilevel_rl.formulation import BilevelProblem, OccupancyCost, OccupancyFunctional, PolicyLoss, TrajectoryLoss
from bilevel_rl.runs import fingerprint
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints

NO_CHECKPOINT, REFUSED = -1, -2

SETTINGS = "jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision"
"""Settings of JAX that decide numbers; a generator is part of the key."""

PROGRAM = "program"
"""The digest of a whole iteration. It differs wherever a part does, so it is spoken of where no part explains it."""

Examples = tuple[PyTree, ...]
"""What a function is traced with: the shapes of its arguments."""


def identity_of(algorithm: Algorithm, key: Array, log_points: LogPoints, program: str | None = None) -> dict[str, Any]:
    """What must not change between the parts of an interrupted run, whatever runs it.

    Args:
        algorithm: what runs.
        key: root of its randomness.
        log_points: when the run is measured.
        program: digest of an iteration; by default that of `init`, `draw`, `step` and `recommend`, traced here.
    """
    numbers, digests = {}, {}
    for name, value, function, examples in (*_parts_of(algorithm.problem), *_fields(algorithm)):
        if value is None or isinstance(value, bool | int | float | str):
            numbers[name] = value
        else:
            traced = () if function is None else (fingerprint.of_program(function, value, *examples)[0],)
            digests[name] = fingerprint.of_texts(fingerprint.of_arrays(value), *traced)
    return {
        "algorithm": type(algorithm).__name__,
        **_options(algorithm),
        **numbers,
        "generator": str(jax.random.key_impl(key)),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **{name: getattr(jax.config, name) for name in SETTINGS},
        "discount": algorithm.problem.environment.discount,
        "num_transitions_per_iteration": algorithm.num_transitions_per_iteration,
        "log_every": log_points.every,
        "num_halvings": log_points.num_halvings,
        "digests": digests | {PROGRAM: _program(algorithm, key) if program is None else program},
    }


def _options(part: Any) -> dict[str, Any]:
    """Numbers and switches that are not arrays, of an algorithm and of its followers."""
    options: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Followers):
            options |= _options(value)
        elif isinstance(value, bool | int | float | str):
            options[field.name] = value
    return options


Part = tuple[str, Any, Callable | None, Examples]
"""Name, value, what is traced of it as a function of it and of the examples, and these."""


def _fields(algorithm: Any) -> Iterator[Part]:
    for field in dataclasses.fields(algorithm):
        if field.name != "problem":
            yield field.name, getattr(algorithm, field.name), None, ()


def _parts_of(problem: BilevelProblem) -> Iterator[Part]:
    x, pair = problem.initial_x, _pair(problem.environment)

    def called(function: Any, *args: Any) -> Any:
        return function(*args)

    match problem.environment:
        case FunctionalEnvironment() as environment:
            examples = jnp.float32(0), environment.example_action
            if environment.is_driven:
                yield "environment", environment, _lived_through_at, (x, *examples)
            else:
                yield "environment", environment, _lived_through, examples
        case HostEnvironment():
            yield "environment", problem.environment.observe, called, (problem.environment.example_state,)
        case environment:
            yield "environment", environment, None, ()
    yield "reward", problem.reward, called, (x, *pair)
    of_upper = _arguments(problem) | {"regularizer": (x,)}
    for field in dataclasses.fields(problem.upper):
        examples = of_upper.get(field.name)
        yield field.name, getattr(problem.upper, field.name), called if examples else None, examples or ()
    yield "projection", problem.project, called, (x,)
    yield "outcome_probabilities", problem.outcome_probabilities, called, (x, *pair)
    for name in ("initial_x", "reward_bound", "initial_spread", "entropy_weight"):
        yield name, getattr(problem, name), None, ()


def _lived_through(environment: FunctionalEnvironment, uniform: Array, action: Array) -> PyTree:
    """All that an environment's functions say of one transition."""
    first = environment.reset(uniform)
    following = environment.step(first, action, uniform)
    ends = environment.is_terminal(following), environment.is_truncated(following)
    return first, following, ends, environment.observe(following.state)


def _lived_through_at(environment: FunctionalEnvironment, x: PyTree, uniform: Array, action: Array) -> PyTree:
    """The same where the dynamics depend on x, with the density that they have."""
    at_x = environment.at(x)
    first = at_x.reset(uniform)
    density = (
        (environment.log_density(x, first, action, first),)
        if isinstance(environment.transition, ScoreTransition)
        else ()
    )
    return _lived_through(at_x, uniform, action), density


def _pair(environment: Any) -> Examples:
    """One state and one action."""
    if isinstance(environment, FunctionalEnvironment | HostEnvironment):
        return environment.example_state, environment.example_action
    return jnp.int32(0), jnp.int32(0)


def _arguments(problem: BilevelProblem) -> dict[str, Examples]:
    """What the functions of the upper objective are called with, by the name of the function."""
    x, pair = problem.initial_x, _pair(problem.environment)
    match problem.upper:
        case OccupancyCost():
            return {"cost": (x, *pair)}
        case OccupancyFunctional():
            return {"functional": (x, np.zeros((problem.mdp.num_states, problem.mdp.num_actions)))}
        case PolicyLoss():
            return {"loss": (x, np.zeros(problem.mdp.num_actions), *pair)}
        case TrajectoryLoss(num_trajectories=n, num_steps=H):
            return {"loss": (x, np.zeros((n, H), np.int32), np.zeros((n, H), np.int32))}
    return {}


def _program(algorithm: Algorithm, key: Array) -> str:
    """Digest of an iteration of one seed. How many run side by side, and on which devices, is the layout's business."""

    def begin(algorithm: Algorithm, key: Array) -> tuple[PyTree, PyTree]:
        return algorithm.init(key), jax.tree.map(lambda leaf: leaf[0], algorithm.draw(key, 1))

    def iterate(algorithm: Algorithm, noise: PyTree, state: Any) -> PyTree:
        return algorithm.step(noise, state), algorithm.recommend(state)

    begun, (state, noise) = fingerprint.of_program(begin, algorithm, key)
    return fingerprint.of_texts(begun, fingerprint.of_program(iterate, algorithm, noise, state)[0])


def differences(noted: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """What is not as it was noted, a plain sentence each; none for the same run."""
    found = [
        f"its {name} is {noted.get(name)}, not {value}"
        for name, value in identity.items()
        if name != "digests" and noted.get(name) != value
    ]
    then, now = noted.get("digests"), identity.get("digests", {})
    if then is None and now:
        return [*found, "it was begun by a version that did not note what it computes"]
    others = [name for name, value in now.items() if (then or {}).get(name) != value]
    found += [f"its {name} is another one" for name in others if name != PROGRAM]
    if others == [PROGRAM] and not found:
        found.append("its program is another one (a function or an option of the algorithm, or this package's code)")
    return found


def find_checkpoint(
    folder: RunFolder, identity: Mapping[str, Any], num_iterations: int, crew: Any, packages: Sequence[str] = ()
) -> int | None:
    """Iteration to continue from; files are cut back to it. None for a new run, whose identity is noted.

    Args:
        folder: of the run.
        identity: what decides the run's numbers.
        num_iterations: to which the run shall go.
        crew: the processes that run it together, a `loop.Crew`; the writer looks, and all learn what it found.
        packages: whose versions are noted besides those of the core.

    Raises:
        RunFolderError: the folder holds another run, one that has gone further, or one whose files are damaged.
    """
    if not crew.is_writer:
        checkpoint = crew.agree(NO_CHECKPOINT)
        if checkpoint == REFUSED:
            raise RunFolderError(f"process 0 cannot continue {folder.path}; it says why")
        return None if checkpoint == NO_CHECKPOINT else checkpoint
    try:
        checkpoint = _cut_back(folder, identity, num_iterations, packages)
    except (RunFolderError, OSError):
        crew.agree(REFUSED)
        raise
    crew.agree(NO_CHECKPOINT if checkpoint is None else checkpoint)
    return checkpoint


def _cut_back(
    folder: RunFolder, identity: Mapping[str, Any], num_iterations: int, packages: Sequence[str]
) -> int | None:
    found = differences(folder.note_identity(identity, packages), identity)
    changes = [f"{name} is now {now}, was {then}" for name, (then, now) in folder.changed_versions().items()]
    if found:
        # Another version may trace the same functions to another program.
        note = f" ({', '.join(changes)}, which may be why)" if changes else ""
        raise RunFolderError(f"{folder.path} holds another run: {', '.join(found)}{note}; use another folder")
    checkpoint = folder.sound_checkpoint()
    if checkpoint is not None and checkpoint > num_iterations:
        raise RunFolderError(
            f"{folder.path} has already done {checkpoint} iterations, more than {num_iterations}: ask for "
            f"num_iterations={checkpoint} (of a trainer, max_steps={checkpoint}) to load what it holds, for more to go "
            "on, or use another folder"
        )
    for change in changes:
        warnings.warn(f"{change}: results may differ in the last bits", stacklevel=4)
    folder.cut_back(checkpoint)
    return checkpoint
