"""Environments whose state is any pytree, from plain JAX functions, and adapters for two libraries of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from bilevel_rl.environments.environment import check_spaces
from bilevel_rl.environments.gymnax import GymnaxState, step_of
from bilevel_rl.environments.moved import PathwiseTransition, ScoreTransition, TransitionAt
from bilevel_rl.environments.spaces import Actions


class Episode(NamedTuple):
    """Where a batch of chains is.

    Attributes:
        state: the environment's own, every leaf with the batch's axes in front.
        num_steps: transitions since the start of the episode.
    """

    state: PyTree
    num_steps: Int[Array, "*batch"]


def _never(state: PyTree) -> bool:
    return False


class FunctionalEnvironment(eqx.Module):
    """An environment made of plain JAX functions of one state; it makes batches of them. Rewards are the problem's.

    It offers what sampling asks of a `TabularMDP`, and likewise takes a uniform in [0, 1) where it draws: `initial` and
    `transition` get a key made of the uniform's bits. In single precision these are 2²³ different keys, which is how
    finely start and transition are resolved.

    *Terminal* states are absorbing, as in a `TabularMDP`: nothing (reward, cost, entropy) accrues in them, their value
    is 0, and the chain stays there until it restarts with probability 1 − γ, so that its law is d^π. *Truncated* ones,
    at the time limit, are not: the chain restarts at once, and what it learns about the last transition still counts
    the value of the state that it would have gone on from. With a limit of T steps the chains' law is that of the
    process which restarts after T steps at the latest; of the time in d^π a share γ^T is later than that.

    Dynamics that depend on x are a `PathwiseTransition` or a `ScoreTransition`, which say how their part of the
    gradient is estimated. Such an environment is stepped at an x: `environment.at(x)`.

    Attributes:
        initial: start state from a key.
        transition: next state from (state, action, key), or a transition that depends on x.
        observe: what a policy sees of a state, an array.
        discount: γ, in [0, 1).
        num_actions: A, for actions 0…A−1; None where actions are vectors.
        num_action_dimensions: d, for actions that are vectors of d numbers; None for integers.
        is_end: whether a state is terminal; never by default.
        time_limit: T; None for no limit.

    Raises:
        ValueError: `discount` lies outside of [0, 1), not exactly one of the kinds of actions is given, a count is not
            positive, `transition` does not keep the state's structure, shapes and types, or states hold typed keys. Or
            `is_end` is beside a `PathwiseTransition`, whose derivative does not see that ends come sooner or later.

    Example:
        >>> import jax, jax.numpy as jnp, bilevel_rl as brl
        >>> walk = brl.FunctionalEnvironment(
        ...     initial=lambda key: jax.random.normal(key),
        ...     transition=lambda s, a, key: s + jnp.where(a == 1, 0.1, -0.1),
        ...     observe=lambda s: s[None],
        ...     discount=0.9,
        ...     num_actions=2,
        ...     is_end=lambda s: s > 3.0,
        ... )
        >>> start = walk.reset(jnp.array([0.2, 0.7]))
        >>> walk.step(start, jnp.array([0, 1]), jnp.array([0.5, 0.5])).num_steps.tolist()
        [1, 1]
    """

    initial: Callable[[Array], PyTree]
    transition: Callable[[PyTree, Array, Array], PyTree] | PathwiseTransition | ScoreTransition
    observe: Callable[[PyTree], Array]
    discount: float = eqx.field(static=True)
    num_actions: int | None = eqx.field(static=True, default=None)
    num_action_dimensions: int | None = eqx.field(static=True, default=None)
    is_end: Callable[[PyTree], Bool[ArrayLike, ""]] = _never
    time_limit: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_spaces(self.discount, self.num_actions, self.num_action_dimensions)
        for name in ("num_actions", "num_action_dimensions", "time_limit"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        state = self.example_state
        if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
            raise ValueError(
                "states must not hold typed keys, which runs cannot save; keep jax.random.key_data of them"
            )
        if isinstance(self.transition, PathwiseTransition) and self.is_end is not _never:
            raise ValueError(
                "is_end must be left out beside a PathwiseTransition: V jumps where an episode ends, which no path's "
                "derivative sees; use a ScoreTransition, or a smooth cost instead of the end"
            )
        if not self.is_driven:
            self._check_following()

    @classmethod
    def from_func_env(
        cls, func_env: Any, *, discount: float, time_limit: int | None = None, params: Any = None
    ) -> "FunctionalEnvironment":
        """From a `gymnasium.experimental.functional.FuncEnv`, e.g. `gymnasium.envs.phys2d.CartPoleFunctional()`.

        Its own reward is not used. Observations and ends must not be random: their `rng` is None.

        Args:
            func_env: whose action space is `Discrete`, or a `Box` of one axis.
            discount: γ.
            time_limit: T, where Gymnasium's wrapper would truncate.
            params: its parameters; its `default_params` if None.

        Raises:
            ValueError: the action space is another one, `discount` lies outside of [0, 1), `time_limit` is not
                positive, or a transition does not keep the state's structure, shapes and types.
        """
        params = func_env.default_params if params is None else params
        known = () if params is None else (params,)
        actions = Actions.of("action_space", func_env.action_space)
        return cls(
            initial=lambda key: func_env.initial(key, *known),
            transition=lambda state, action, key: func_env.transition(state, action + actions.first, key, *known),
            observe=lambda state: func_env.observation(state, None, *known),
            discount=discount,
            is_end=lambda state: func_env.terminal(state, None, *known),
            num_actions=actions.num_actions,
            num_action_dimensions=actions.num_action_dimensions,
            time_limit=time_limit,
        )

    @classmethod
    def from_gymnax(
        cls, environment: Any, params: Any = None, *, discount: float, time_limit: int | None = None
    ) -> "FunctionalEnvironment":
        """From an environment with gymnax's `reset(key, params)`, `step(key, state, action, params)`, `action_space`.

        Its own reward is not used. States are `GymnaxState`s. Where steps tell terminated and truncated apart, as those
        of gymnax 1.0, its own time limit restarts the chain as `time_limit` does. Before, `done` was both, which is
        terminal here: raise the limit in `params`, and give `time_limit`.

        Args:
            environment: wrapped or not. `step_env` is used where it is not stepped around by that, since `step` starts
                anew after an end.
            params: its parameters; its `default_params` if None.
            discount: γ.
            time_limit: T.

        Raises:
            ValueError: `environment` has no step, or one of other values, the action space has neither an `n` nor one
                axis, `discount` lies outside of [0, 1), `time_limit` is not positive, or a transition does not keep the
                state's structure, shapes and types.
        """
        params = environment.default_params if params is None else params
        step, actions = step_of(environment), Actions.of("action_space", environment.action_space(params))

        def initial(key: Array) -> GymnaxState:
            observation, state = environment.reset(key, params)
            return GymnaxState(observation, state, jnp.array(False), jnp.array(False))

        return _Gymnax(
            initial=initial,
            transition=lambda state, action, key: step(key, state.state, action + actions.first, params),
            observe=lambda state: state.observation,
            discount=discount,
            num_actions=actions.num_actions,
            num_action_dimensions=actions.num_action_dimensions,
            is_end=lambda state: state.is_done,
            time_limit=time_limit,
        )

    @property
    def is_driven(self) -> bool:
        """Whether the dynamics depend on x."""
        return isinstance(self.transition, PathwiseTransition | ScoreTransition)

    def at(self, x: PyTree) -> "FunctionalEnvironment":
        """The environment at an x, which can be stepped; itself where x leaves it alone.

        Raises:
            ValueError: the next state at x has another structure, shapes or types than the state.
        """
        if not isinstance(self.transition, PathwiseTransition | ScoreTransition):
            return self
        following = TransitionAt(self.transition.next_state, jax.tree.map(jnp.asarray, x))
        at_x = eqx.tree_at(lambda environment: environment.transition, self, following)
        at_x._check_following()
        return at_x

    def log_density(self, x: PyTree, episode: Episode, action: Array, following: Episode) -> Float[Array, "*batch"]:
        """log p_x(s'|s, a) of a batch, differentiable in x; 0 in terminal states.

        Raises:
            TypeError: `transition` is no `ScoreTransition`.
        """
        if not isinstance(self.transition, ScoreTransition):
            raise TypeError(f"transition must be a ScoreTransition, got a {type(self.transition).__name__}")
        function, x = self.transition.log_density, jax.tree.map(jnp.asarray, x)
        of_pairs = over_axes(lambda *pair: jnp.asarray(function(x, *pair), float), episode.num_steps.ndim)
        found = of_pairs(episode.state, action, following.state)
        return jnp.where(self.is_terminal(episode), 0.0, found)

    @property
    def example_state(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes and types of one state."""
        return jax.eval_shape(lambda: self._first(0.0))

    @property
    def example_action(self) -> Array:
        """Some action."""
        return jnp.int32(0) if self.num_action_dimensions is None else jnp.zeros(self.num_action_dimensions)

    def reset(self, uniform: Float[ArrayLike, "*batch"]) -> Episode:
        """Start states of a batch, or one."""
        uniform = jnp.asarray(uniform)
        return Episode(over_axes(self._first, uniform.ndim)(uniform), jnp.zeros(uniform.shape, jnp.int32))

    def step(self, episode: Episode, action: Array, uniform: Float[ArrayLike, "*batch"]) -> Episode:
        """Next states of a batch; terminal ones stay. Leading axes of `action`: the batch."""
        state = over_axes(self._next, episode.num_steps.ndim)(episode.state, action, jnp.asarray(uniform))
        return Episode(state, episode.num_steps + 1)

    def is_terminal(self, episode: Episode) -> Bool[Array, "*batch"]:
        """Whether nothing accrues in these states any more."""
        return over_axes(self._is_end, episode.num_steps.ndim)(episode.state)

    def is_truncated(self, episode: Episode) -> Bool[Array, "*batch"]:
        """Whether the time limit ends these episodes, and not a terminal state."""
        if self.time_limit is None:
            return jnp.zeros(episode.num_steps.shape, bool)
        return (episode.num_steps >= self.time_limit) & ~self.is_terminal(episode)

    def _first(self, uniform: ArrayLike) -> PyTree[Array]:
        return jax.tree.map(_strong, self.initial(_key_of(uniform)))

    def _next(self, state: PyTree, action: Array, uniform: ArrayLike) -> PyTree[Array]:
        is_end, following = self._is_end(state), self._following(state, action, uniform)
        return jax.tree.map(lambda old, new: jnp.where(is_end, old, new), state, following)

    def _check_following(self):
        state = self.example_state
        after = jax.eval_shape(lambda: self._following(self._first(0.0), self.example_action, 0.0))
        if _signature(after) != _signature(state):
            raise ValueError(
                f"transition must keep the structure, shapes and types of the state, got {after} for {state}"
            )

    def _following(self, state: PyTree, action: Array, uniform: ArrayLike) -> PyTree[Array]:
        if isinstance(self.transition, PathwiseTransition | ScoreTransition):
            raise ValueError("transition depends on x, so that the environment must be stepped as environment.at(x)")
        return jax.tree.map(_strong, self.transition(state, action, _key_of(uniform)))

    def _is_end(self, state: PyTree) -> Bool[Array, ""]:
        return jnp.asarray(self.is_end(state), bool)


def over_axes(function: Callable, num_axes: int) -> Callable:
    """A function of single entries, for batches with that many axes in front."""
    for _ in range(num_axes):
        function = jax.vmap(function)
    return function


def _key_of(uniform: ArrayLike) -> Array:
    return jax.random.key((jnp.asarray(uniform, float) * 2.0**32).astype(jnp.uint32), impl="threefry2x32")


def _strong(leaf: ArrayLike) -> Array:
    """An array whose type is its own, and not that of whatever it meets."""
    return jnp.asarray(leaf, jnp.asarray(leaf).dtype)


def _signature(state: PyTree) -> tuple:
    return jax.tree.structure(state), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]


class _Gymnax(FunctionalEnvironment):
    """States say for themselves whether the environment has cut an episode off."""

    def is_truncated(self, episode: Episode) -> Bool[Array, "*batch"]:
        """Whether either time limit ends these episodes, and not a terminal state."""
        return super().is_truncated(episode) | episode.state.is_truncated
