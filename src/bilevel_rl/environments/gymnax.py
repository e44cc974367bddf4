"""gymnax's environments and the wrappers around them, as the functions of a `FunctionalEnvironment`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


class GymnaxState(NamedTuple):
    """What `FunctionalEnvironment.from_gymnax` gives to reward and cost as the state.

    Attributes:
        observation: what the environment showed last.
        state: the environment's own.
        is_done: whether it has terminated.
        is_truncated: whether it was cut off here.
    """

    observation: PyTree
    state: PyTree
    is_done: Bool[Array, ""]
    is_truncated: Bool[Array, ""]


Step = Callable[[Array, PyTree, Array, Any], GymnaxState]
"""(key, state, action, params) -> what follows."""


def step_of(environment: Any) -> Step:
    """The step of the outermost object that has one.

    `step_env` goes on after an end, where `step` starts anew, so it is preferred; but not where a wrapper, or a
    subclass, brings a `step` of its own, which would be stepped around.

    Raises:
        ValueError: the environment has neither.
    """
    step, cuts = getattr(environment, "step", None), None
    step_env = getattr(environment, "step_env", None)
    if step_env is not None and (step is None or _is_beside(step_env, step)):
        step, cuts = step_env, getattr(environment, "is_truncated", None)
    if step is None:
        raise ValueError(f"environment must have `reset` and `step` as gymnax's have, got {environment!r}")

    def following(key: Array, state: PyTree, action: Array, params: Any) -> GymnaxState:
        observation, after, _, *ends, info = step(key, state, action, params)
        if len(ends) not in (1, 2):
            raise ValueError(
                "environment must give (observation, state, reward, done, info), or terminated and truncated instead "
                f"of done, after a step, got {len(ends) + 4} values"
            )
        if len(ends) == 1:
            ends = [ends[0], False if cuts is None else cuts(after, params)]
        is_done, is_truncated = (jnp.asarray(end, bool) for end in ends)
        return GymnaxState(_last_seen(observation, info, is_truncated), after, is_done, is_truncated & ~is_done)

    return following


def _last_seen(observation: PyTree, info: Any, is_truncated: Array) -> PyTree:
    """A `step` that starts anew tells what it saw before: the value of a cut transition is that of this state."""
    final = info.get("final_observation") if isinstance(info, dict) else None
    if final is None or jax.eval_shape(lambda: final) != jax.eval_shape(lambda: observation):
        return observation
    return jax.tree.map(lambda last, new: jnp.where(is_truncated, last, new), final, observation)


def _is_beside(step_env: Any, step: Any) -> bool:
    """Whether both belong to one object, and no subclass has overridden `step` alone."""
    owner = getattr(step, "__self__", None)
    if owner is None or getattr(step_env, "__self__", None) is not owner:
        return False
    depths = [
        next((depth for depth, kind in enumerate(type(owner).__mro__) if name in vars(kind)), -1)
        for name in ("step_env", "step")
    ]
    return depths[0] <= depths[1]
