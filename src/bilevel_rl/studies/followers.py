"""Neural followers of experiments: in the single loop, and trained from scratch on a reward to see what it is worth."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms import Followers, SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.followers import Uniforms
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.policies import NeuralActorCritic
from bilevel_rl.studies.config import ScheduleConfig


class Watched(NamedTuple):
    """Episodes of a follower, without restarts: fallen ones stay where they fell.

    Attributes:
        states: the environment's own.
        actions: what the follower did.
        objective: f, the leader's objective: the discounted mean cost, and the price of x.
    """

    states: PyTree[Float[Array, "steps episodes ..."]]
    actions: Array
    objective: Float[Array, ""]


def single_loop(
    problem: BilevelProblem,
    schedule: ScheduleConfig,
    *,
    width: int,
    observe: Callable[[Any], ArrayLike] | None = None,
    averaging: float = 3.0,
    num_steps: int = 1,
    gae_lambda: float = 0.0,
) -> SingleLoopActorCritic:
    """Algorithm 1 with networks for both followers and Adam on x.

    Args:
        problem: what is solved.
        schedule: step sizes and chains.
        width: of both hidden layers of every network.
        observe: what the networks see of a state, where that is not what the environment says.
        averaging: the answer is the mean of all x_k, weighted as k to this power.
        num_steps: as in `Followers`.
        gae_lambda: as in `Followers`.

    Raises:
        ValueError: `width` < 1, or as `Followers` and `SingleLoopActorCritic`.
    """
    checks.integer("width", width, at_least=1)
    return SingleLoopActorCritic(
        problem,
        schedule.step_sizes(),
        Followers(
            schedule.num_chains,
            policies=NeuralActorCritic.mlp(problem.environment, observe, width=width),
            num_steps=num_steps,
            gae_lambda=gae_lambda,
        ),
        upper_steps=UpperSteps(optax.adam(1.0), averaging=averaging),
    )


def lower(states: Any, seed: int) -> PyTree:
    """The lower follower of a seed of a run."""
    return jax.tree.map(lambda leaf: leaf[seed, 0], states.parameters)


def train(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_transitions: int) -> PyTree:
    """A follower that learns at a fixed x, as the lower one of the algorithm would: the same networks, windows and
    step sizes.

    Args:
        algorithm: whose problem, policies, chains and step sizes are used.
        x: the upper variable.
        key: of all randomness.
        num_transitions: of all chains together, rounded down to whole iterations. One compiled program serves for all.
    """
    num_iterations = num_transitions // algorithm.followers.num_samples
    return _train(algorithm, x, key, jnp.int32(num_iterations))


@eqx.filter_jit
def _train(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_iterations: Int[Array, ""]) -> PyTree:
    problem, environment = algorithm.problem, algorithm.problem.environment
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


@eqx.filter_jit
def watch(
    algorithm: SingleLoopActorCritic, x: PyTree, follower: PyTree, key: Array, num_episodes: int, num_steps: int
) -> Watched:
    """Episodes of one follower under its own law, and f estimated from them.

    Args:
        algorithm: whose problem and policies are used.
        x: the upper variable.
        follower: its parameters.
        key: of all randomness.
        num_episodes: side by side.
        num_steps: of each. What comes later is left out, a share γ^num_steps of the discounted time.
    """
    problem, environment = algorithm.problem, algorithm.problem.environment
    followers = Followers(num_episodes, coupled=False, policies=algorithm.followers.policies, num_steps=num_steps)
    parameters = jax.tree.map(lambda leaf: leaf[None], follower)
    numbers = jax.random.uniform(key, (followers.num_uniforms(environment), 1, num_episodes))

    def transition(states: Any, uniforms: Uniforms) -> tuple[PyTree, tuple[PyTree, Array, Array]]:
        actions = followers.decide(environment, parameters, states, uniforms).actions
        seen = jax.tree.map(lambda leaf: leaf[0], (states.state, actions))
        next_states = environment.step(states, actions, uniforms.transition)
        return next_states, (*seen, jnp.mean(problem.costs(x, states, actions)))

    uniforms = followers.uniforms(numbers)
    start = environment.reset(uniforms.start[0])  # Restarts, for which this uniform is, do not happen here.
    _, (states, actions, costs) = jax.lax.scan(transition, start, uniforms)
    weights = environment.discount ** jnp.arange(num_steps)
    mean_cost = jnp.sum(weights * costs) / jnp.sum(weights)
    return Watched(states, actions, mean_cost + problem.upper.regularizer(x))
