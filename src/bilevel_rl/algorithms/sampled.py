"""What the methods have in common that Algorithm 1 is compared with, where they learn from samples only."""

import abc
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.algorithms.algorithm import check_parts
from bilevel_rl.algorithms.followers import Followers, Parameters
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes, StepSizeValues
from bilevel_rl.algorithms.transitions import Actions, States
from bilevel_rl.environments import Environment, TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost


class SampledState(NamedTuple):
    """What the next iteration needs.

    Attributes:
        num_iterations: k.
        x: the upper variable.
        parameters: of all followers, tables.
        chain_states: where their chains are.
    """

    num_iterations: Int[Array, ""]
    x: PyTree
    parameters: Parameters
    chain_states: States


class SampledInfo(NamedTuple):
    """Diagnostics of one iteration, means over its samples, of each of P policies: the lower one, or it and another.

    Attributes:
        mean_reward: r.
        mean_cost: c.
        mean_entropy: H(π(·|s)).
        mean_squared_td_error: δ².
    """

    mean_reward: Float[Array, " P"]
    mean_cost: Float[Array, " P"]
    mean_entropy: Float[Array, " P"]
    mean_squared_td_error: Float[Array, " P"]


class SampledAlgorithm(eqx.Module):
    """A method for an `OccupancyCost` in a `TabularMDP`, whose followers are tables with B independent chains each.

    Attributes:
        problem: what is solved.
        step_sizes: the five sequences (ζ, α, β, w, τ); a method without a penalty ignores w.
        num_chains: B, parallel Markov chains per follower.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `num_chains` < 1, or the problem has dynamics that depend on x, another upper objective or another
            environment.
    """

    problem: BilevelProblem
    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.decaying)
    num_chains: int = eqx.field(static=True, default=16)
    has_critics: ClassVar[bool] = True
    """whether followers learn by steps (A) and (C), and not on tables"""

    def __check_init__(self):
        check_parts(self.problem, self.step_sizes)
        followers, environment, name = self.followers, self.problem.environment, type(self).__name__
        if not isinstance(self.problem.upper, OccupancyCost):
            raise ValueError(
                f"problem.upper is a {type(self.problem.upper).__name__}, which {name} does not sample; use "
                "SingleLoopActorCritic or ExactDescent"
            )
        if not isinstance(environment, TabularMDP):
            raise ValueError(
                f"problem.environment is a {type(environment).__name__}, and the followers of {name} are tables; use "
                "SingleLoopActorCritic with neural policies"
            )
        if self.problem.outcome_probabilities is not None:
            raise ValueError(
                f"problem has outcome_probabilities, which {name} does not follow; use SingleLoopActorCritic or "
                "ExactDescent"
            )
        if self.has_critics and not self.step_sizes.is_traced:
            for text in self.step_sizes.overshoots(followers.num_chains, followers.num_steps, environment.num_states):
                warnings.warn(text, ScheduleWarning, stacklevel=4)

    @property
    @abc.abstractmethod
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration, all chains and inner loops included."""

    @abc.abstractmethod
    def draw(self, key: Array, num_iterations: int) -> PyTree[Array]:
        """All randomness of a block of iterations: arrays whose leading axis is the iteration."""

    @abc.abstractmethod
    def step(self, noise: Any, state: Any, /) -> tuple[Any, Any]:
        """The next state, and diagnostics of this iteration. Deterministic."""

    @property
    def followers(self) -> Followers:
        """How the followers act and learn."""
        return Followers(self.num_chains, coupled=False)

    @property
    def num_followers(self) -> int:
        """F, policies that learn side by side: two, the lower and the penalized one, unless a method says otherwise."""
        return 2

    def init(self, key: Array) -> Any:
        """Policies that have learned nothing, x at the problem's start, chains drawn from ρ."""
        environment = self.problem.mdp
        return SampledState(
            num_iterations=jnp.int32(0),
            x=self.problem.start(jax.random.fold_in(key, 1)),
            parameters=self.followers.init(environment, self.num_followers),
            chain_states=environment.reset(jax.random.uniform(key, (self.num_followers, self.num_chains))),
        )

    def recommend(self, state: Any) -> PyTree:
        """The last x."""
        return state.x

    def log_policies(self, state: Any) -> Float[Array, "F S A"]:
        """log π of every follower in every state."""
        return self.followers.log_policies(self.problem.mdp, state.parameters)

    def _moved(self, x: PyTree, gradient: PyTree, step: Array) -> PyTree:
        """Π_X[x − step · gradient]."""
        return self.problem.project(jax.tree.map(lambda x, g: x - step * g, x, gradient))


class TwoLoopAlgorithm(SampledAlgorithm):
    """A method that lets its followers learn for T steps at a fixed x before x moves.

    Attributes:
        problem: what is solved.
        step_sizes: by default with fixed w and τ (`StepSizes.fixed_target`).
        num_chains: B, parallel Markov chains per follower.
        num_inner_steps: T, steps of the followers between two steps of x.

    Raises:
        ValueError: `num_inner_steps` < 1, or as `SampledAlgorithm`.
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.fixed_target)
    num_inner_steps: int = eqx.field(static=True, default=20, kw_only=True)

    def __check_init__(self):
        checks.integer("num_inner_steps", self.num_inner_steps, at_least=1)


class Visits(NamedTuple):
    """What followers did over T steps of learning, and how well their critics foresaw it.

    Attributes:
        states: s.
        actions: a.
        entropy: H(π(·|s)); 0 in terminal states.
        td_errors: δ.
    """

    states: PyTree[Shaped[Array, "T F B ..."]]
    actions: Int[Array, "T F B"] | Float[Array, "T F B d"]
    entropy: Float[Array, "T F B"]
    td_errors: Float[Array, "T F B"]

    def later_half(self) -> "Visits":
        """The visits since the followers have had half of the time to adapt; of a single step, that step."""
        return Visits(*(array[len(array) // 2 :] for array in self))


def learn_for(
    followers: Followers,
    environment: Environment,
    parameters: Parameters,
    states: States,
    uniforms: Float[Array, "T U F B"],
    rewards: Callable[[States, Actions], Array],
    step_size: StepSizeValues,
    reward_bound: Float[ArrayLike, ""],
) -> tuple[Parameters, States, Visits]:
    """T steps of all followers, the inner loop of two-loop methods.

    Args:
        followers: how they act and learn.
        environment: where.
        parameters: of the followers.
        states: of their chains.
        uniforms: all randomness.
        rewards: what they learn from, a function of states and actions, both (F, B).
        step_size: α, β and τ of every step.
        reward_bound: of these rewards.

    Returns:
        Parameters and chains after the last step, and what happened on the way.
    """

    def iterate(carry: tuple[Parameters, States], numbers: Array) -> tuple[tuple[Parameters, States], Visits]:
        parameters, states = carry
        transitions, next_states = followers.act(environment, parameters, states, followers.uniforms(numbers))
        learned = rewards(states, transitions.actions)
        parameters, δ = followers.learn(environment, parameters, transitions, learned, step_size, reward_bound)
        return (parameters, next_states), Visits(states, transitions.actions, transitions.entropy, δ)

    (parameters, states), visits = jax.lax.scan(iterate, (parameters, states), uniforms)
    return parameters, states, visits
