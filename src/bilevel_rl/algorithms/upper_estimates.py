"""How the single loop estimates (U): each kind of upper objective, and what the followers gain at another x.

Source: docs/explanation/method.md, sections 5 and 6. f enters twice: its direct gradient ∇_x f̂ moves x in (U), and its
slope in θᴸ moves the penalized policy in (AL), either as a cost per step inside of δᴸ or as a gradient of the logits
beside it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.followers import PENALIZED
from bilevel_rl.algorithms.step_sizes import PowerDecay
from bilevel_rl.algorithms.transitions import States, Transitions
from bilevel_rl.environments import DrivenMDP, FunctionalEnvironment, ScoreTransition, TabularMDP
from bilevel_rl.formulation import (
    BilevelProblem,
    OccupancyCost,
    OccupancyFunctional,
    PolicyLoss,
    TrajectoryLoss,
    UpperObjective,
)
from bilevel_rl.policies.categorical import draw_actions

ReadLogits = Callable[[Int[Array, " N"]], Float[Array, "N A"]]
"""From states to θᴸ(s, ·)."""

ReadValues = Callable[[States], Float[Array, "2 N"]]
"""From states of both followers to V(s) of each."""


class UpperEstimate(NamedTuple):
    """f as one iteration sees it.

    Attributes:
        objective: from x to f̂(x); its gradient is ∇_x f̂. The samples are fixed.
        mean_cost: f̂ − g at the present x, of (lower, penalized); twice the latter where only that is sampled.
        step_costs: what the penalized follower pays for its chains' samples.
        explicit: states and the gradients of f̂ in the logits of these states, to be descended by θᴸ; None for none.
        visitation: the running estimate of d^{π^L}, for the next iteration; None where there is none.
    """

    objective: Callable[[PyTree], Array]
    mean_cost: Float[Array, "2"]
    step_costs: Float[Array, " N"]
    explicit: tuple[Int[Array, " N"], Float[Array, "N A"]] | None = None
    visitation: Float[Array, "S A"] | None = None


class Samples(NamedTuple):
    """What an estimate is made of.

    Attributes:
        x: the present upper variable.
        transitions: this iteration's, of both followers.
        outcomes: the uniforms from which s' was drawn.
        logits: reads θᴸ.
        values: reads both critics, of states of both followers.
        uniforms: as many rows as `num_extra_uniforms` says.
        visitation: the running estimate of d^{π^L} so far.
        num_iterations: k.
        expects_actions: ∇_x c is the mean over the policies' actions, not that of one action.
    """

    x: PyTree
    transitions: Transitions
    outcomes: Float[Array, "2 N"]
    logits: ReadLogits
    values: ReadValues
    uniforms: Float[Array, "U B"]
    visitation: Float[Array, "S A"] | None
    num_iterations: Int[Array, ""]
    expects_actions: bool = False


def of_samples(function: Callable, x: PyTree, samples: Samples) -> Float[Array, "2 N"]:
    """`function(x, states, actions)` of both followers' transitions: of the actions taken, or of the mean action."""
    s, a = samples.transitions.states, samples.transitions.actions
    if not samples.expects_actions:
        return function(x, s, a)
    policy, _ = samples.transitions.law
    return jnp.sum(policy * function(x, s[..., None], jnp.arange(policy.shape[-1])), axis=-1)


def estimate_gains(problem: BilevelProblem, x: PyTree, samples: Samples) -> Float[Array, "2 N"]:
    """What both followers' transitions are worth to them at x, as far as its gradient goes.

    r_x, and where the dynamics depend on x what has the gradient γ ∇_x log P_x(s'|s,a) (V(s') − V(s)), each with its
    own critic. V(s) changes nothing in the mean and lowers the variance. Along paths it is γ ∇_x V(s'_x) instead.
    """
    rewards, environment, γ = of_samples(problem.rewards, x, samples), problem.environment, problem.environment.discount
    s, a, s_next = samples.transitions.states, samples.transitions.actions, samples.transitions.next_states
    advantages = samples.transitions.next_values - samples.transitions.values
    now, moved = problem.driven_environment(samples.x), problem.driven_environment(x)
    if isinstance(now, DrivenMDP) and isinstance(moved, DrivenMDP):
        gains = γ * moved.log_probability(s, a, now.outcome(s, a, samples.outcomes)) * advantages
    elif isinstance(environment, FunctionalEnvironment) and isinstance(environment.transition, ScoreTransition):
        gains = γ * environment.log_density(x, s, a, s_next) * advantages
    elif isinstance(environment, FunctionalEnvironment) and environment.is_driven:
        gains = γ * samples.values(moved.step(s, a, samples.outcomes))
    else:
        return rewards
    return rewards + gains


def num_extra_uniforms(upper: UpperObjective) -> int:
    """Uniforms per chain and iteration that an objective's estimate takes beside those of the chains."""
    match upper:
        case PolicyLoss():
            return 1
        case TrajectoryLoss():
            return upper.num_trajectories * 2 * upper.num_steps
        case _:
            return 0


def num_extra_transitions(upper: UpperObjective) -> int:
    """Environment transitions per chain and iteration that an objective's estimate takes beside those of the chains."""
    return upper.num_trajectories * upper.num_steps if isinstance(upper, TrajectoryLoss) else 0


def first_visitation(problem: BilevelProblem) -> Float[Array, "S A"] | None:
    """The estimate of d^{π^L} to begin with: everything equally often."""
    if not isinstance(problem.upper, OccupancyFunctional):
        return None
    S, A = problem.mdp.num_states, problem.mdp.num_actions
    return jnp.full((S, A), 1 / (S * A))


@functools.singledispatch
def estimate_upper(upper: UpperObjective, problem: BilevelProblem, samples: Samples) -> UpperEstimate:
    """f̂ of one iteration.

    Raises:
        ValueError: the objective is of a kind that has no estimate.
    """
    raise ValueError(f"upper is a {type(upper).__name__}, which SingleLoopActorCritic cannot sample; use ExactDescent")


@estimate_upper.register
def _(upper: OccupancyCost, problem: BilevelProblem, samples: Samples) -> UpperEstimate:
    c = problem.costs(samples.x, samples.transitions.states, samples.transitions.actions)

    def objective(x: PyTree) -> Array:
        costs = of_samples(problem.costs, x, samples)
        return jnp.mean(costs[PENALIZED]) + upper.regularizer(x)

    return UpperEstimate(objective, c.mean(1), c[PENALIZED])


@estimate_upper.register
def _(upper: OccupancyFunctional, problem: BilevelProblem, samples: Samples) -> UpperEstimate:
    s, a = samples.transitions.states[PENALIZED], samples.transitions.actions[PENALIZED]
    share = PowerDecay(upper.tracking_step, 0.5, 20_000.0)(samples.num_iterations)
    visitation = ((1 - share) * jnp.asarray(samples.visitation)).at[s, a].add(share / len(s))
    value, slope = jax.value_and_grad(lambda d: jnp.asarray(upper.functional(samples.x, d), float))(visitation)

    def objective(x: PyTree) -> Array:
        return jnp.asarray(upper.functional(x, visitation) + upper.regularizer(x))

    return UpperEstimate(objective, jnp.stack([value, value]), slope[s, a], visitation=visitation)


@estimate_upper.register
def _(upper: PolicyLoss, problem: BilevelProblem, samples: Samples) -> UpperEstimate:
    num_demonstrations = len(upper.states)
    # A uniform in single precision may round up to the number itself.
    chosen = jnp.minimum((samples.uniforms[0] * num_demonstrations).astype(jnp.int32), num_demonstrations - 1)
    s, a = jnp.asarray(upper.states)[chosen], jnp.asarray(upper.actions)[chosen]
    logits = samples.logits(s)

    def mean_loss(x: PyTree, logits: Array) -> Array:
        losses = jax.vmap(lambda row, s, a: jnp.asarray(upper.loss(x, jax.nn.log_softmax(row), s, a), float))
        return jnp.mean(losses(logits, s, a))

    value, slope = jax.value_and_grad(lambda logits: mean_loss(samples.x, logits))(logits)

    def objective(x: PyTree) -> Array:
        return mean_loss(x, logits) + upper.regularizer(x)

    nothing = jnp.zeros_like(samples.transitions.values[PENALIZED])
    return UpperEstimate(objective, jnp.stack([value, value]), nothing, (s, slope))


@estimate_upper.register
def _(upper: TrajectoryLoss, problem: BilevelProblem, samples: Samples) -> UpperEstimate:
    """The slope in θᴸ is (ℓ − b) Σ_t ∇ log π(a_t|s_t), with b the mean loss of the other B − 1 tuples (0 for B = 1)."""
    n, H, B = upper.num_trajectories, upper.num_steps, samples.uniforms.shape[1]
    uniforms = samples.uniforms.reshape(2 * H, n * B)
    s, a, policy = _trajectories(problem.mdp, samples.logits, uniforms)
    states, actions = (jnp.moveaxis(array.reshape(H, n, B), -1, 0).swapaxes(1, 2) for array in (s, a))  # (B, n, H)

    def losses(x: PyTree) -> Array:
        return jax.vmap(lambda s, a: jnp.asarray(upper.loss(x, s, a), float))(states, actions)

    loss = losses(samples.x)
    baseline = (jnp.sum(loss) - loss) / max(B - 1, 1)
    weights = jnp.broadcast_to(((loss - baseline) / B)[None, None], (H, n, B)).reshape(H * n * B)
    score = jax.nn.one_hot(a.reshape(-1), policy.shape[-1]) - policy.reshape(len(weights), -1)

    def objective(x: PyTree) -> Array:
        return jnp.mean(losses(x)) + upper.regularizer(x)

    value = jnp.mean(loss)
    nothing = jnp.zeros_like(samples.transitions.values[PENALIZED])
    return UpperEstimate(objective, jnp.stack([value, value]), nothing, (s.reshape(-1), weights[:, None] * score))


def _trajectories(
    environment: TabularMDP, logits: ReadLogits, uniforms: Float[Array, "U N"]
) -> tuple[Int[Array, "H N"], Int[Array, "H N"], Float[Array, "H N A"]]:
    """States, actions and π(·|s) of N trajectories from ρ of as many steps as there are pairs of uniforms."""
    states = environment.reset(uniforms[0])
    of_steps = jnp.concatenate([uniforms[1:], jnp.zeros_like(uniforms[:1])]).reshape(-1, 2, uniforms.shape[1])

    def transition(states: Array, uniforms: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        actions, policy, _, _ = draw_actions(logits(states), uniforms[0])
        return environment.step(states, actions, uniforms[1]), (states, actions, policy)

    return jax.lax.scan(transition, states, of_steps)[1]
