"""Neural followers of experiments: in the single loop, and trained from scratch on a reward to see what it is worth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl.algorithms import SingleLoopActorCritic, UpperSteps
from bilevel_rl.algorithms.actor_critic import ActorCritic
from bilevel_rl.algorithms.windows import advantages, live
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
        num_steps: as in `SingleLoopActorCritic`.
        gae_lambda: as in `SingleLoopActorCritic`.

    Raises:
        ValueError: `width` < 1, or as `SingleLoopActorCritic`.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return SingleLoopActorCritic(
        problem,
        schedule.step_sizes(),
        schedule.num_chains,
        upper_steps=UpperSteps(optax.adam(1.0), averaging=averaging),
        policies=NeuralActorCritic.mlp(problem.environment, observe, width=width),
        num_steps=num_steps,
        gae_lambda=gae_lambda,
    )


def lower(states: Any, seed: int) -> PyTree:
    """The lower follower of a seed of a run."""
    return jax.tree.map(lambda leaf: leaf[seed, 0], states.followers)


def _alone(algorithm: SingleLoopActorCritic) -> ActorCritic:
    """How one follower lives outside of the loop, with the networks that it has inside."""
    return ActorCritic(algorithm.problem.environment, algorithm.num_chains, policies=algorithm.policies)


def train(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_transitions: int) -> PyTree:
    """A follower that learns at a fixed x, as the lower one of the algorithm would: the same networks, windows and
    step sizes.

    Args:
        algorithm: whose problem, policies, chains and step sizes are used.
        x: the upper variable.
        key: of all randomness.
        num_transitions: of all chains together, rounded down to whole iterations. One compiled program serves for all.
    """
    num_iterations = num_transitions // (algorithm.num_chains * algorithm.num_steps)
    return _train(algorithm, x, key, jnp.int32(num_iterations))


@eqx.filter_jit
def _train(algorithm: SingleLoopActorCritic, x: PyTree, key: Array, num_iterations: Int[Array, ""]) -> PyTree:
    actor_critic, problem = _alone(algorithm), algorithm.problem
    key_of_weights, key_of_start, key_of_steps = jax.random.split(key, 3)
    shape = (1, algorithm.num_chains)

    def iterate(k: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        followers, states = carry
        step_size = algorithm.step_sizes(k)
        of_steps = algorithm.num_steps, actor_critic.num_uniforms, *shape
        window = live(
            actor_critic, followers, states, jax.random.uniform(jax.random.fold_in(key_of_steps, k), of_steps)
        )
        rewards = problem.rewards(x, window.sample.states, window.sample.actions)
        δ = actor_critic.td_errors(window.sample, rewards, step_size.entropy)
        bound = actor_critic.value_bound(problem.reward_bound, step_size.entropy)
        Â = advantages(δ, window.goes_on, algorithm.gae_lambda)
        return actor_critic.move(followers, window.sample, Â, step_size, bound), window.states

    start = actor_critic.init(1, key_of_weights), actor_critic.start(jax.random.uniform(key_of_start, shape))
    followers, _ = jax.lax.fori_loop(0, num_iterations, iterate, start)
    return jax.tree.map(lambda leaf: leaf[0], followers)


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
    actor_critic, problem = _alone(algorithm), algorithm.problem
    γ = problem.environment.discount
    followers = jax.tree.map(lambda leaf: leaf[None], follower)
    uniforms = jax.random.uniform(key, (num_steps, actor_critic.num_uniforms, 1, num_episodes))

    def transition(states: Any, uniforms: Array) -> tuple[PyTree, tuple[PyTree, Array, Array]]:
        sample = actor_critic.act(followers, states, uniforms)
        seen = jax.tree.map(lambda leaf: leaf[0], (states.state, sample.actions))
        return sample.next_states, (*seen, jnp.mean(problem.costs(x, states, sample.actions)))

    start = actor_critic.start(uniforms[0, 3])  # Restarts, for which this uniform is, do not happen here.
    _, (states, actions, costs) = jax.lax.scan(transition, start, uniforms)
    weights = γ ** jnp.arange(num_steps)
    mean_cost = jnp.sum(weights * costs) / jnp.sum(weights)
    return Watched(states, actions, mean_cost + problem.upper.regularizer(x))
