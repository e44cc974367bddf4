"""What all methods have in common that learn from samples only."""

import abc
import dataclasses
import math
import warnings
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.actor_critic import ActorCritic, Followers, States
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, OccupancyCost, UpperObjective
from bilevel_rl.policies import TabularActorCritic


class State(NamedTuple):
    """What the next iteration needs; `visitation` is the estimate of d^{π^L} that an `OccupancyFunctional` asks for."""

    num_iterations: Int[Array, ""]
    x: PyTree
    followers: Followers
    chain_states: States
    upper_memory: PyTree = None
    visitation: Float[Array, "S A"] | None = None


class SampledAlgorithm(eqx.Module):
    """A method whose followers learn by the regularized actor-critic, from B parallel chains each.

    Attributes:
        problem: what is solved.
        step_sizes: the five sequences (ζ, α, β, w, τ); a method without a penalty ignores w.
        num_chains: B, parallel Markov chains per follower.
        chain_axis: mesh axis whose devices share the chains; none by default (`shared_by`).

    Raises:
        ValueError: `num_chains` < 1, the problem has dynamics that depend on x, an upper objective or an environment of
            a kind, and the method does not follow, sample or enter them.
    """

    follows_dynamics: ClassVar[bool] = False
    """whether the method knows how x acts through `BilevelProblem.outcome_probabilities`"""

    upper_objectives: ClassVar[tuple[type[UpperObjective], ...]] = (OccupancyCost,)
    """kinds of upper objective that the method can sample"""

    enters_any_environment: ClassVar[bool] = False
    """whether the followers may live in a `FunctionalEnvironment` or a `HostEnvironment`"""

    problem: BilevelProblem
    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.decaying)
    num_chains: int = eqx.field(static=True, default=16)
    chain_axis: str | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self):
        if self.num_chains < 1:
            raise ValueError(f"num_chains must be at least 1, got {self.num_chains}")
        if not isinstance(self.problem.upper, self.upper_objectives):
            raise ValueError(
                f"problem.upper is a {type(self.problem.upper).__name__}, which {type(self).__name__} does not sample; "
                "use SingleLoopActorCritic or ExactDescent"
            )
        if not (self.enters_any_environment or isinstance(self.problem.environment, TabularMDP)):
            raise ValueError(
                f"problem.environment is a {type(self.problem.environment).__name__}, and the followers of "
                f"{type(self).__name__} are tables; use SingleLoopActorCritic with neural policies"
            )
        if self.problem.outcome_probabilities is not None and not self.follows_dynamics:
            raise ValueError(
                f"problem has outcome_probabilities, which {type(self).__name__} does not follow; use "
                "SingleLoopActorCritic or ExactDescent"
            )
        if not self._is_traced():
            self._warn_of_overshoot()

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

    def shared_by(self, axis: str, num_devices: int) -> "SampledAlgorithm":
        """The same algorithm, each of whose chains runs on one of the devices of a mesh axis.

        Raises:
            ValueError: the devices cannot share the chains evenly.
        """
        if self.num_chains % num_devices:
            raise ValueError(
                f"num_chains, {self.num_chains}, must be a multiple of {num_devices}, the devices that share a seed"
            )
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):  # They were shown for this one.
            return dataclasses.replace(self, chain_axis=axis)

    @property
    def num_samples(self) -> int:
        """Of one follower that a step is the mean over: one a chain, unless a method says otherwise."""
        return self.num_chains

    @property
    def num_followers(self) -> int:
        """F, policies that learn side by side: two, the lower and the penalized one, unless a method says otherwise."""
        return 2

    def init(self, key: Array) -> Any:
        """Policies that have learned nothing, x at the problem's start, chains drawn from ρ."""
        return self._start(key, self._start_chains(key))

    def _start_chains(self, key: Array) -> States:
        """Chains drawn from ρ."""
        return self.actor_critic.start(jax.random.uniform(key, (self.num_followers, self.num_chains)))

    def _start(self, key: Array, chain_states: States) -> State:
        """Policies that have learned nothing, x at the problem's start, and the chains."""
        return State(
            num_iterations=jnp.int32(0),
            x=self.problem.start(jax.random.fold_in(key, 1)),
            followers=self.actor_critic.init(self.num_followers, jax.random.fold_in(key, 2)),
            chain_states=chain_states,
        )

    @property
    def actor_critic(self) -> ActorCritic:
        """How the followers act and learn."""
        return ActorCritic(self.problem.environment, self.num_chains, self.chain_axis)

    def recommend(self, state: Any) -> PyTree:
        """The last x."""
        return state.x

    def log_policies(self, state: Any) -> Float[Array, "2 S A"]:
        """log π_θ and log π_θᴸ in every state; the same twice where there is one policy.

        Raises:
            ValueError: the environment is no `TabularMDP`, so that states cannot be listed.
        """
        states = jnp.arange(self.problem.mdp.num_states)
        followers = jax.tree.map(jnp.asarray, state.followers)
        logits, _ = jax.vmap(lambda follower: self.actor_critic.policy.read(follower, states))(followers)
        log_policies = jax.nn.log_softmax(logits)
        return jnp.stack([log_policies[0], log_policies[-1]])

    def _moved(self, x: PyTree, gradient: PyTree, step: Array) -> PyTree:
        """Π_X[x − step · gradient]."""
        return self.problem.project(jax.tree.map(lambda x, g: x - step * g, x, gradient))

    def _is_traced(self) -> bool:
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.step_sizes))

    def _warn_of_overshoot(self):
        environment = self.problem.environment
        if not (isinstance(environment, TabularMDP) and isinstance(self.actor_critic.policy, TabularActorCritic)):
            return
        critic_step = float(np.max(np.asarray(self.step_sizes.critic.initial)))
        num_states = environment.num_states
        of_samples = "num_chains" if self.num_samples == self.num_chains else "num_chains times num_steps"
        for limit, count in ((of_samples, self.num_samples), ("the number of states", num_states)):
            if critic_step > count:
                warnings.warn(
                    f"critic={critic_step:g} exceeds {limit}, {count}: the steps of an iteration on one state add up "
                    "to more than a whole one, and critics overshoot; lower critic and actor",
                    ScheduleWarning,
                    stacklevel=4,
                )


class TwoLoopAlgorithm(SampledAlgorithm):
    """A method that lets its followers learn for T steps at a fixed x before x moves.

    Attributes:
        step_sizes: by default with fixed w and τ (`StepSizes.fixed_target`).
        num_inner_steps: T, steps of the followers between two steps of x.

    The other attributes are those of `SampledAlgorithm`.

    Raises:
        ValueError: `num_chains` or `num_inner_steps` < 1.
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.fixed_target)
    num_inner_steps: int = eqx.field(static=True, default=20, kw_only=True)

    def __check_init__(self):
        if self.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps must be at least 1, got {self.num_inner_steps}")


def draw_uniforms(key: Array, *shape: int) -> Float[Array, "..."]:
    """Uniforms in [0, 1) of any shape; drawn as one long axis, which is the fastest to fill."""
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)
