"""Episodes of a policy, as arrays: in tables, in environments of JAX functions, and in Gymnasium on the host."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.environments import HostEnvironment, HostEpisode, ObservedEnvironment, TabularMDP
from bilevel_rl.exact.oracle import as_policy, as_upper_variable
from bilevel_rl.formulation import BilevelProblem, OccupancyCost
from bilevel_rl.policies import Categorical, NetworkPolicy

LEFT_OUT = 1e-3
"""Share of the discounted time that comes after the last step, by default."""

NUM_FIXED_UNIFORMS = 4
"""For the action, the transition, the restart, which does not happen here, and the start."""

AnyPolicy = Float[Any, "S A"] | NetworkPolicy | Callable[[Any, Array], Any]


class Rollout(NamedTuple):
    """Episodes side by side; time is the first axis. Rewards and costs are those of every step, also after the end.

    Attributes:
        states: s_t; a number, or what the environment says its state is; the observation where the host steps it.
        actions: a_t.
        next_states: s_{t+1}.
        rewards: r_x(s_t, a_t); 0 in terminal states.
        costs: c_x(s_t, a_t), likewise; None where the leader's objective is no mean of costs.
        is_over: whether the episode had ended before the step, in a terminal state or at its time limit. Terminal
            states lead to themselves; compiled environments go on after a time limit.
        discount: γ.
        upper_value: f(x, π), estimated by these costs: their discounted mean, ends in time not counted as ends, and
            the price of x. None without costs.
    """

    states: PyTree[Shaped[Any, "T N ..."]]
    actions: Shaped[Any, "T N ..."]
    next_states: PyTree[Shaped[Any, "T N ..."]]
    rewards: Float[np.ndarray, "T N"]
    costs: Float[np.ndarray, "T N"] | None
    is_over: Bool[np.ndarray, "T N"]
    discount: float
    upper_value: float | None

    @property
    def num_steps(self) -> Int[np.ndarray, " N"]:
        """Transitions of each episode until its end."""
        return (~self.is_over).sum(0)

    @property
    def returns(self) -> Float[np.ndarray, " N"]:
        """Σ γ^t r_t of each episode until its end; times 1 − γ it is per step, as metrics are."""
        return self._discounted(self.rewards)

    @property
    def cost_returns(self) -> Float[np.ndarray, " N"]:
        """Σ γ^t c_t of each episode until its end, what the leader pays beside the price of x.

        Raises:
            ValueError: the leader's objective has no cost per step.
        """
        if self.costs is None:
            raise ValueError("the leader's objective is no OccupancyCost, so no step has a cost of its own")
        return self._discounted(self.costs)

    def _discounted(self, values: Float[np.ndarray, "T N"]) -> Float[np.ndarray, " N"]:
        weights = self.discount ** np.arange(len(values))
        return weights @ np.where(self.is_over, 0.0, values)


def rollout(
    problem: BilevelProblem,
    policy: AnyPolicy,
    x: PyTree,
    key: Array,
    *,
    num_episodes: int = 1,
    num_steps: int | None = None,
    env: Any = None,
) -> Rollout:
    """Lets a policy act, and says what the follower earned and the leader paid under x.

    Args:
        problem: whose environment, reward and cost are used.
        policy: probabilities of shape (S, A) in a `TabularMDP`, a `NetworkPolicy`, or a function of an observation (of
            a table: the state's number) and a random key that returns an action; of JAX where the environment is.
        x: the upper variable.
        key: of all randomness, from `jax.random.key`.
        num_episodes: N.
        num_steps: T of each; by default so many that a thousandth of the discounted time comes later.
        env: a `gymnasium.Env` of the kind that a `HostEnvironment` stands for; not needed otherwise. Not closed.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a count is not positive, x or a table has another shape, or `env` is missing, or not needed.

    Example:
        >>> import jax, numpy as np, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> uniform = np.full((9, 5), 0.2)
        >>> found = brl.rollout(problem, uniform, problem.initial_x, jax.random.key(0), num_episodes=7, num_steps=20)
        >>> found.states.shape, found.returns.shape, found.cost_returns.shape
        ((20, 7), (7,), (7,))
    """
    checks.instance("problem", problem, BilevelProblem)
    checks.key(key)
    num_episodes = checks.integer("num_episodes", num_episodes, at_least=1)
    environment = problem.environment
    by_default = math.ceil(math.log(LEFT_OUT) / math.log(max(environment.discount, LEFT_OUT)))
    length: int = by_default if num_steps is None else checks.integer("num_steps", num_steps, at_least=1)
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), as_upper_variable(problem, x))
    policy = _checked(problem, policy)
    if (env is None) == isinstance(environment, HostEnvironment):
        raise ValueError(
            "env must be given where the environment is a HostEnvironment, such as gymnasium.make(…), and only there, "
            f"got {checks.shown(env)} for a {type(environment).__name__}"
        )
    if env is None:
        walked = _walk(problem, policy, x, key, num_episodes, length)
    else:
        walked = _walk_on_host(problem, policy, x, key, env, (length, num_episodes))
    walked = jax.tree.map(np.asarray, walked)
    upper_value = None
    if walked["costs"] is not None:
        weights = environment.discount ** np.arange(length)
        mean_cost = float(weights @ walked["costs"].mean(1) / weights.sum())
        upper_value = mean_cost + float(jnp.asarray(problem.upper.regularizer(x)))
    return Rollout(**walked, discount=environment.discount, upper_value=upper_value)


def _checked(problem: BilevelProblem, policy: Any) -> Any:
    """A table's logarithms, networks, or a function."""
    if isinstance(policy, NetworkPolicy):
        policy.policies.check(problem.environment)
        return policy
    if callable(policy):
        return policy
    if not isinstance(problem.environment, TabularMDP):
        kind = type(problem.environment).__name__
        raise TypeError(f"policy must be a NetworkPolicy or a function in a {kind}, got {checks.shown(policy)}")
    table = as_policy(problem, policy)
    return jnp.asarray(np.log(table, out=np.full_like(table, -np.inf), where=table > 0), float)


@eqx.filter_jit
def _walk(
    problem: BilevelProblem, policy: Any, x: PyTree, key: Array, num_episodes: int, num_steps: int
) -> dict[str, Any]:
    environment = problem.driven_environment(x)
    law = Categorical(1) if callable(policy) and not isinstance(policy, NetworkPolicy) else _law(problem, policy)
    num_uniforms = NUM_FIXED_UNIFORMS + law.num_extra_uniforms(False)
    uniforms = jax.random.uniform(key, (num_steps * num_uniforms, num_episodes))
    uniforms = uniforms.reshape(num_steps, num_uniforms, num_episodes)

    def step(carry: tuple, uniforms: Array) -> tuple:
        states, is_over = carry
        actions = _actions(problem, policy, states, uniforms)
        next_states = environment.step(states, actions, uniforms[1])
        costs = problem.costs(x, states, actions) if isinstance(problem.upper, OccupancyCost) else None
        seen = {
            "states": _shown(states),
            "actions": actions,
            "next_states": _shown(next_states),
            "rewards": problem.rewards(x, states, actions),
            "costs": costs,
            "is_over": is_over | environment.is_terminal(states),
        }
        if isinstance(environment, ObservedEnvironment):
            is_over = is_over | environment.is_truncated(next_states)  # pyright: ignore[reportArgumentType]
        return (next_states, is_over), seen

    start = environment.reset(uniforms[0, 3]), jnp.zeros(num_episodes, bool)
    return jax.lax.scan(step, start, uniforms)[1]


def _law(problem: BilevelProblem, policy: Any) -> Any:
    return policy.policies.law if isinstance(policy, NetworkPolicy) else Categorical(problem.mdp.num_actions)


def _actions(problem: BilevelProblem, policy: Any, states: Any, uniforms: Float[Array, "U N"]) -> Array:
    """What the policy does in a batch of states."""
    if isinstance(policy, NetworkPolicy | jax.Array):
        parameters = policy.parameters(states) if isinstance(policy, NetworkPolicy) else policy[states]
        extra = uniforms[NUM_FIXED_UNIFORMS:, None]
        return _law(problem, policy).draw(parameters[None], uniforms[:1], extra, False)[0][0]
    environment = problem.environment
    observed = states if isinstance(environment, TabularMDP) else jax.vmap(environment.observe)(states.state)
    keys = jax.vmap(lambda uniform: jax.random.key((uniform * 2.0**32).astype(jnp.uint32)))(uniforms[0])
    actions = jnp.asarray(jax.vmap(policy)(observed, keys))
    is_number = isinstance(environment, TabularMDP) or environment.num_actions is not None
    return actions.astype(jnp.int32) if is_number else actions


def _shown(states: Any) -> PyTree:
    """The environment's own state, without the counts of its episode."""
    return states.state if hasattr(states, "state") else states


def _walk_on_host(
    problem: BilevelProblem, policy: Any, x: PyTree, key: Array, env: Any, shape: tuple[int, int]
) -> dict[str, Any]:
    """One episode after the other; what comes after an end is 0."""
    environment = problem.environment
    assert isinstance(environment, HostEnvironment)
    action = np.asarray(environment.example_action)
    states, next_states = (np.zeros(shape + environment.observation.shape, environment.observation.dtype) for _ in "12")
    actions, is_over = np.zeros(shape + action.shape, action.dtype), np.ones(shape, bool)
    first = int(getattr(env.action_space, "start", 0))
    decide = jax.jit(lambda observation, uniforms: _actions(problem, policy, _alone(observation), uniforms)[0])
    for episode in range(shape[1]):
        key_of_episode = jax.random.fold_in(key, episode)
        num_extra = 0 if not isinstance(policy, NetworkPolicy) else policy.policies.law.num_extra_uniforms(False)
        uniforms = np.asarray(jax.random.uniform(key_of_episode, (shape[0], NUM_FIXED_UNIFORMS + num_extra, 1)))
        seed = int(jax.random.bits(jax.random.fold_in(key_of_episode, 1)))
        observation, _ = env.reset(seed=seed)
        for t in range(shape[0]):
            states[t, episode], is_over[t, episode] = observation, False
            if isinstance(policy, NetworkPolicy):
                chosen = np.asarray(decide(states[t, episode], uniforms[t]))
            else:
                chosen = np.asarray(policy(observation, jax.random.fold_in(key_of_episode, 2 + t)))
            actions[t, episode] = chosen
            observation, _, terminated, truncated, _ = env.step(_acted(env, chosen, first))
            next_states[t, episode] = observation
            if terminated or truncated:
                break
    episodes = HostEpisode(jnp.asarray(states), jnp.asarray(is_over), jnp.zeros(shape, bool))
    costs = problem.costs(x, episodes, actions) if isinstance(problem.upper, OccupancyCost) else None
    rewards = problem.rewards(x, episodes, actions)
    return {
        "states": states,
        "actions": actions,
        "next_states": next_states,
        "rewards": rewards,
        "costs": costs,
        "is_over": is_over,
    }


def _alone(observation: Any) -> HostEpisode:
    nowhere = np.zeros(1, bool)
    return HostEpisode(observation[None], nowhere, nowhere)


def _acted(env: Any, action: np.ndarray, first: int) -> Any:
    """As the environment wants it: counted from its first action, or within its bounds."""
    if action.ndim == 0:
        return int(action) + first
    return np.clip(action, env.action_space.low, env.action_space.high).astype(env.action_space.dtype)
