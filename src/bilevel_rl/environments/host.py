"""Environments that live outside of compiled programs: what a policy and a problem have to know of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.environments.environment import check_spaces
from bilevel_rl.environments.spaces import Actions, observed


class HostEpisode(NamedTuple):
    """Where a batch of chains is, as the host says. NumPy arrays there, and those of JAX in compiled programs.

    Attributes:
        state: the last observations, which are the states that a problem and a policy get to see.
        is_terminal: whether the environment has terminated; the chain waits here for its restart.
        is_truncated: whether the environment was cut off here, and not terminated.
    """

    state: Shaped[Any, "..."]
    is_terminal: Bool[Any, "*batch"]
    is_truncated: Bool[Any, "*batch"]


class HostEnvironment(eqx.Module):
    """The shapes of an environment that the host steps, and how its ends count. `run_host` brings the steps.

    An observation is the state: reward and cost are functions of (x, observation, action). Terminal states are
    absorbing and truncated ones are not, as in a `FunctionalEnvironment`.

    Attributes:
        observation: shape and type of one observation.
        observe: what a policy sees of an observation, an array.
        discount: γ, in [0, 1).
        num_actions: A, for actions 0…A−1; None where actions are vectors.
        num_action_dimensions: d, for actions that are vectors of d numbers; None for integers.
        make: makes one environment, where `from_env` was told how; `vector` steps copies of it.

    Raises:
        ValueError: `discount` lies outside of [0, 1), or not exactly one of the kinds of actions is given.

    Example:
        >>> import gymnasium, bilevel_rl as brl
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=2)
        >>> environment = brl.HostEnvironment.from_vector(envs, discount=0.99)
        >>> environment.observation.shape, environment.num_actions
        ((4,), 2)
    """

    observation: jax.ShapeDtypeStruct = eqx.field(static=True)
    observe: Callable[[Array], ArrayLike]
    discount: float = eqx.field(static=True)
    num_actions: int | None = eqx.field(static=True, default=None)
    num_action_dimensions: int | None = eqx.field(static=True, default=None)
    make: Callable[[], Any] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_spaces(self.discount, self.num_actions, self.num_action_dimensions)

    @classmethod
    def from_vector(cls, envs: Any, *, discount: float) -> "HostEnvironment":
        """From a `gymnasium.vector.VectorEnv`, whose spaces are read; policies see one-hot rows of discrete states.

        Where a `Discrete` space does not start at 0, reward and cost get the observation as it is, and actions counted
        from 0.

        Args:
            envs: whose single observations are `Box` or `Discrete`, and single actions `Discrete` or a `Box` of one
                axis.
            discount: γ.

        Raises:
            ValueError: `envs` is a single environment, a space is of another kind, or `discount` lies outside of
                [0, 1).
        """
        if not hasattr(envs, "single_observation_space"):
            raise ValueError(
                f"envs must be a gymnasium.vector.VectorEnv, got {envs!r}; several copies of one environment: "
                "gymnasium.vector.SyncVectorEnv([make_one] * num_envs, "
                "autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED)"
            )
        observation, observe = observed("single_observation_space", envs.single_observation_space)
        actions = Actions.of("single_action_space", envs.single_action_space)
        return cls(observation, observe, discount, actions.num_actions, actions.num_action_dimensions)

    @classmethod
    def from_env(cls, make: Callable[[], Any], *, discount: float) -> "HostEnvironment":
        """From a function that makes a `gymnasium.Env`, whose spaces are read as by `from_vector`.

        The environment then knows how to make the copies that `run_host` steps, so that `bilevel-rl run` can.

        Args:
            make: called without arguments, for instance `lambda: gymnasium.make("CartPole-v1")`, or the class itself.
            discount: γ.

        Raises:
            TypeError: `make` cannot be called.
            ValueError: as `from_vector`.

        Example:
            >>> import gymnasium, bilevel_rl as brl
            >>> environment = brl.HostEnvironment.from_env(lambda: gymnasium.make("CartPole-v1"), discount=0.99)
            >>> environment.vector(4).num_envs
            4
        """
        if not callable(make):
            raise TypeError(f"make must be a function or a class that gives an environment, got {make!r}")
        envs = _vector(make, 1)
        try:
            read = cls.from_vector(envs, discount=discount)
        finally:
            envs.close()
        return cls(read.observation, read.observe, discount, read.num_actions, read.num_action_dimensions, make)

    def vector(self, num_envs: int) -> Any:
        """Copies of the environment side by side, as `run_host` wants them: it restarts them itself.

        Raises:
            ValueError: the environment was not made by `from_env`.
        """
        if self.make is None:
            raise ValueError(
                "environment does not know how copies of it are made; build it by HostEnvironment.from_env(make, "
                "discount=…) instead of from_vector"
            )
        return _vector(self.make, checks.integer("num_envs", num_envs, at_least=1))

    @property
    def example_state(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shape and type of one observation."""
        return self.observation

    @property
    def example_action(self) -> Array:
        """Some action."""
        return jnp.int32(0) if self.num_action_dimensions is None else jnp.zeros(self.num_action_dimensions)

    def reset(self, uniform: ArrayLike, /) -> HostEpisode:
        """Not possible here.

        Raises:
            ValueError: always; `run_host` resets the environments.
        """
        raise ValueError(NOT_HERE)

    def step(self, episode: HostEpisode, action: ArrayLike, uniform: ArrayLike, /) -> HostEpisode:
        """Not possible here.

        Raises:
            ValueError: always; `run_host` steps the environments.
        """
        raise ValueError(NOT_HERE)

    def is_terminal(self, episode: HostEpisode, /) -> Bool[Array, "*batch"]:
        """Whether nothing accrues in these states any more."""
        return episode.is_terminal

    def is_truncated(self, episode: HostEpisode, /) -> Bool[Array, "*batch"]:
        """Whether these episodes were cut off."""
        return episode.is_truncated


def _vector(make: Callable[[], Any], num_envs: int) -> Any:
    import gymnasium

    return gymnasium.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED)


NOT_HERE = "a HostEnvironment cannot be stepped by a compiled run; use run_host instead of run"
