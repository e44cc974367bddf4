"""Fresh followers on a reward that stays: does it teach others than those which grew up with it?

A reward that suits the follower which moved with it may not suit another, so a learned one is judged by followers that
are trained on it from scratch.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, untuned
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.environments import HostEnvironment, TabularMDP
from bilevel_rl.exact.objectives import lower_policy, upper_value
from bilevel_rl.exact.oracle import as_upper_variable
from bilevel_rl.followers.rollout import Rollout, rollout
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.policies import NetworkPolicy, NeuralActorCritic

NUM_EPISODES = 256
"""By which followers with networks are judged."""

ENTROPY_WEIGHT = 0.01
"""τ of the exact answer, where the problem has none of its own."""

LearnedPolicy = Float[np.ndarray, "S A"] | NetworkPolicy


class FreshFollowers(NamedTuple):
    """Followers that learned at one x from scratch, and what the leader pays for them.

    Attributes:
        objectives: f(x, π) of each: exact in tables, and otherwise estimated from episodes.
        policies: what each has learned.
        num_transitions: from which each learned; 0 for the exact answer.
        episodes: by which each was judged; empty in tables.
    """

    objectives: Float[np.ndarray, " followers"]
    policies: Sequence[LearnedPolicy]
    num_transitions: int
    episodes: Sequence[Rollout]


def train(
    problem: BilevelProblem,
    x: PyTree,
    key: Array,
    num_transitions: int | None,
    *,
    num_followers: int = 4,
    algorithm: SingleLoopActorCritic | None = None,
    num_episodes: int = NUM_EPISODES,
    num_steps: int | None = None,
) -> FreshFollowers:
    """Trains followers at a fixed x, and says what the leader pays for each.

    Compare `objectives` with what the run's own follower cost, and with those at the first x.

    Args:
        problem: whose reward at x is learned.
        x: the upper variable.
        key: of all randomness, from `jax.random.key`.
        num_transitions: from which each learns; None, in tables only, for the exact answer.
        num_followers: trained one after the other, each by randomness of its own.
        algorithm: whose policies, chains and step sizes they have; by default `untuned` in tables, and otherwise two
            hidden layers of 64 units with Adam.
        num_episodes: by which networks are judged.
        num_steps: of each episode, as `rollout`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a count is not positive, x has another shape, the exact answer is asked for where there are no
            tables, or the environment is stepped by the host.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
        >>> brl.followers.train(problem, (2.0, 0.0), jax.random.key(0), None).objectives.round(2)
        array([0.04])
    """
    checks.instance("problem", problem, BilevelProblem)
    checks.key(key)
    checks.integer("num_followers", num_followers, at_least=1)
    x = as_upper_variable(problem, x)
    if num_transitions is None:
        weight = ENTROPY_WEIGHT if problem.entropy_weight is None else problem.entropy_weight
        answer = lower_policy(problem, x, entropy_weight=weight)
        return FreshFollowers(np.array([upper_value(problem, x, answer)]), [np.asarray(answer)], 0, [])
    checks.integer("num_transitions", num_transitions, at_least=1)
    if isinstance(problem.environment, HostEnvironment):
        remedy = "train any library's agent in LearnedReward.of(problem, x).as_gymnasium_wrapper(env)"
        raise ValueError(f"problem.environment must not be a HostEnvironment, which run_host steps; {remedy}")
    if algorithm is None:
        algorithm = _by_default(problem)
    else:
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):  # Told when it was made.
            algorithm = dataclasses.replace(algorithm, problem=problem)
    keys = [jax.random.split(jax.random.fold_in(key, i)) for i in range(num_followers)]
    # One after the other: weights of seeds side by side are drawn by batched factorizations, which can deadlock.
    policies = [learn(algorithm, x, learning, num_transitions) for learning, _ in keys]
    used = num_transitions - num_transitions % algorithm.followers.num_samples
    if isinstance(problem.environment, TabularMDP):
        objectives = [upper_value(problem, x, np.asarray(table)) for table in policies]
        return FreshFollowers(np.array(objectives), policies, used, [])
    counts = {"num_episodes": num_episodes, "num_steps": num_steps}
    episodes = [
        rollout(problem, policy, x, watching, **counts) for policy, (_, watching) in zip(policies, keys, strict=True)
    ]
    return FreshFollowers(np.array([of.upper_value for of in episodes], float), policies, used, episodes)


def learn(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_transitions: int) -> LearnedPolicy:
    """What a follower learns at a fixed x, as the lower one of the algorithm would: the same policies and step sizes.

    Args:
        algorithm: whose problem, policies, chains and step sizes are used.
        x: the upper variable.
        key: of all randomness.
        num_transitions: of all chains together, rounded down to whole iterations. One compiled program serves for all.
    """
    num_iterations = num_transitions // algorithm.followers.num_samples
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), x)
    follower = _learned(algorithm, x, key, jnp.int32(num_iterations))
    environment, followers = algorithm.problem.environment, algorithm.followers
    if isinstance(environment, TabularMDP):
        log_policies = followers.log_policies(environment, jax.tree.map(lambda leaf: leaf[None], follower))
        return np.exp(np.asarray(log_policies[0], np.float64))
    assert followers.policies is not None
    return NetworkPolicy(followers.policies, follower.weights, follower.moments)


@eqx.filter_jit
def _learned(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_iterations: Int[Array, ""]) -> PyTree:
    problem, environment = algorithm.problem, algorithm.problem.driven_environment(x)
    followers = dataclasses.replace(algorithm.followers, coupled=False)
    key_of_weights, key_of_start, key_of_steps = jax.random.split(key, 3)
    shape = (1, followers.num_chains)

    def iterate(k: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        parameters, states = carry
        numbers = jax.random.uniform(jax.random.fold_in(key_of_steps, k), (followers.num_uniforms(environment), *shape))
        transitions, states = followers.act(environment, parameters, states, followers.uniforms(numbers))
        rewards = problem.rewards(x, transitions.states, transitions.actions)
        parameters, _ = followers.learn(
            environment, parameters, transitions, rewards, algorithm.step_sizes(k), problem.reward_bound
        )
        return parameters, states

    start = followers.init(environment, 1, key_of_weights), environment.reset(jax.random.uniform(key_of_start, shape))
    parameters, _ = jax.lax.fori_loop(0, num_iterations, iterate, start)
    return jax.tree.map(lambda leaf: leaf[0], parameters)


def _by_default(problem: BilevelProblem) -> SingleLoopActorCritic:
    if isinstance(problem.environment, TabularMDP):
        return untuned(problem)
    step_sizes = StepSizes.constant_entropy(actor=1e-3, critic=3e-3, entropy=ENTROPY_WEIGHT, offset=3_000.0)
    return SingleLoopActorCritic(
        problem, step_sizes, Followers(32, policies=NeuralActorCritic.mlp(problem.environment, width=64))
    )
