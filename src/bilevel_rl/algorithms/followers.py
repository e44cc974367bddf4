"""What followers are, and how they act and learn: the regularized actor-critic on chains whose stationary law is d^π.

Every sampled method of this library learns its policies so. Equation names are those of docs/explanation/method.md,
section 4. All arrays carry a leading axis of F followers, each with parameters of its own and B chains.

Advantages that look ahead within T transitions: Schulman et al., "High-dimensional continuous control using generalized
advantage estimation", ICLR 2016. There the sum Σ_l (γλ)^l δ_{t+l} runs along one episode. Chains of this library
restart with probability 1 − γ after every transition, so the sum stops there and has no γ of its own:

    Â_t = δ_t + λ c_t Â_{t+1},      c_t = 1 where the chain went on from s', 0 where it started afresh or T is over.

E[c_t] = γ, and a restart depends on nothing else, so the mean of Â_t is that of Σ_l (γλ)^l δ_{t+l} within the window.
Where a time limit restarts a chain c_t is 0 too, and V(s') in δ_t stands for what would have come.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Shaped

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import StepSizeValues
from bilevel_rl.algorithms.transitions import Decision, States, Transitions, Uniforms, in_a_row
from bilevel_rl.environments import DrivenMDP, Environment, HostEnvironment, ObservedEnvironment, TabularMDP
from bilevel_rl.policies import NeuralActorCritic, Policy, TabularActorCritic

LOWER, PENALIZED = 0, 1
"""The two followers of a method with a penalty: π_τ*(x) is tracked by one, and π^L by the other."""

Parameters = PyTree[Shaped[Array, "F ..."]]
"""Of all followers: tables (F, S, A + 1), or whatever a policy keeps, with F in front."""


class Followers(eqx.Module):
    """Followers of one kind, any number of them; each method says in which environment.

    Attributes:
        num_chains: B, parallel Markov chains of every follower. 1 is the paper's.
        coupled: there are two followers. Their chains use the same random numbers and choose the same action as often
            as they can. Each has its own law as before; while they coincide, their parts of (U) cancel. False:
            independent chains, the paper's.
        natural: the actors take natural gradients, which do not fade where a policy is nearly certain. A step is about
            |A| times as long as a plain one, so `actor` is better smaller by that factor.
        policies: how parameters become policies and values, and how they are moved: neural networks in any environment.
            None: tables.
        num_steps: T, transitions of every chain in an iteration, whose step is the mean over all of them. 1 is the
            paper's.
        gae_lambda: λ in [0, 1], how much of what was learned about later transitions counts for earlier ones: 0, the
            paper's, believes the critic, and 1 sums rewards until a restart or the last transition.

    Raises:
        TypeError: a field is of another type.
        ValueError: `num_chains` or `num_steps` < 1, `gae_lambda` lies outside of [0, 1] or is positive although
            `num_steps` is 1, or `policies` are beside `natural`.

    Example:
        >>> import bilevel_rl as brl
        >>> paper = brl.Followers(num_chains=1, coupled=False)
        >>> steps = brl.StepSizes.decaying(actor=0.05, critic=0.5, offset=1.0)
        >>> brl.SingleLoopActorCritic(brl.problems.goal_position(), steps, paper).num_transitions_per_iteration
        2
    """

    num_chains: int = eqx.field(static=True, default=16)
    coupled: bool = eqx.field(static=True, default=True, kw_only=True)
    natural: bool = eqx.field(static=True, default=False, kw_only=True)
    policies: NeuralActorCritic | None = eqx.field(default=None, kw_only=True)
    num_steps: int = eqx.field(static=True, default=1, kw_only=True)
    gae_lambda: float = eqx.field(
        static=True, default=0.0, kw_only=True, converter=partial(checks.number, "gae_lambda", at_least=0, at_most=1)
    )

    def __check_init__(self):
        for name in ("num_chains", "num_steps"):
            checks.integer(name, getattr(self, name), at_least=1)
        for name in ("coupled", "natural"):
            checks.flag(name, getattr(self, name))
        if self.policies is not None:
            remedy = "for instance NeuralActorCritic.mlp(problem.environment), or None for tables"
            checks.instance("policies", self.policies, NeuralActorCritic, remedy=remedy)
        if self.gae_lambda > 0 and self.num_steps == 1:
            raise ValueError(
                "gae_lambda must be 0 where num_steps is 1, which leaves nothing to look ahead to, got "
                f"{self.gae_lambda}"
            )
        if self.natural and self.policies is not None:
            raise ValueError("natural must be False with policies: the preconditioner is that of a table's softmax")

    def check(self, environment: TabularMDP | ObservedEnvironment):
        """Whether they can live there.

        Raises:
            ValueError: the environment is not a `TabularMDP` and `policies` are missing, `policies` do not fit it, or
                it is a `HostEnvironment` and `num_steps` > 1.
        """
        if self.policies is not None:
            self.policies.check(environment)
        elif not isinstance(environment, TabularMDP):
            raise ValueError(
                "policies must be given where the environment is not a TabularMDP, for instance "
                "NeuralActorCritic.mlp(problem.environment)"
            )
        if self.num_steps > 1 and isinstance(environment, HostEnvironment):
            raise ValueError(
                f"num_steps must be 1 in a HostEnvironment, whose loop takes one at a time, got {self.num_steps}"
            )

    @property
    def num_samples(self) -> int:
        """T B, the transitions of a follower that a step is the mean over."""
        return self.num_steps * self.num_chains

    def policy(self, environment: Environment) -> Policy:
        """How a follower's parameters are read and moved."""
        return self.table(environment) if self.policies is None else self.policies

    def table(self, environment: Environment) -> TabularActorCritic:
        """The policy of followers that are tables."""
        assert isinstance(environment, TabularMDP | DrivenMDP)
        return TabularActorCritic(environment.num_states, environment.num_actions)

    def init(self, environment: Environment, num_followers: int, key: Array | None = None) -> Parameters:
        """All followers alike. Tables: uniform policies, and critics at 0; networks draw their weights with the key."""
        start = self.policy(environment).init(key)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_followers), start)

    def log_policies(
        self, environment: TabularMDP, parameters: PyTree[Shaped[ArrayLike, "F ..."]]
    ) -> Float[Array, "F S A"]:
        """log π of every follower in every state."""
        states = jnp.arange(environment.num_states)
        parameters = jax.tree.map(jnp.asarray, parameters)
        logits, _ = jax.vmap(lambda follower: self.policy(environment).read(follower, states))(parameters)
        return jax.nn.log_softmax(logits)

    def num_uniforms(self, environment: Environment) -> int:
        """Uniforms that a chain takes for all T transitions."""
        return self.num_steps * (4 + self.policy(environment).law.num_extra_uniforms(self.coupled))

    def uniforms(self, numbers: Float[Array, "numbers D B"]) -> Uniforms:
        """What each number is for. One transition's come after the other's; coupled followers share theirs (D = 1)."""
        numbers = numbers.reshape(self.num_steps, -1, *numbers.shape[1:])
        if self.coupled:
            numbers = jnp.broadcast_to(numbers, (*numbers.shape[:2], 2, self.num_chains))
        action, transition, restart, start = (numbers[:, i] for i in range(4))
        return Uniforms(action, transition, restart, start, numbers[:, 4:])

    def act(
        self, environment: Environment, parameters: Parameters, states: States, uniforms: Uniforms
    ) -> tuple[Transitions, States]:
        """T transitions of every chain, a ~ π_θ(·|s) and s' ~ P(·|s,a), and where the chains go on afterwards."""

        def transition(states: States, uniforms: Uniforms) -> tuple[States, Transitions]:
            decision = self.decide(environment, parameters, states, uniforms)
            next_states = environment.step(states, decision.actions, uniforms.transition)
            transitions = self.complete(environment, parameters, states, decision, next_states, uniforms)
            return self.restart(environment, next_states, uniforms), transitions

        if self.num_steps == 1:  # No loop around a single transition.
            states, transitions = transition(states, jax.tree.map(lambda leaf: leaf[0], uniforms))
            return transitions, states
        states, transitions = jax.lax.scan(transition, states, uniforms)
        return in_a_row(transitions), states

    def decide(self, environment: Environment, parameters: Parameters, states: States, uniforms: Uniforms) -> Decision:
        """The first part of a transition, a ~ π_θ(·|s)."""
        policy = self.policy(environment)
        law_parameters, values = jax.vmap(policy.read)(parameters, states)
        actions, law, entropy = policy.law.draw(law_parameters, uniforms.action, uniforms.extra, self.coupled)
        return Decision(actions, law, entropy, self._none_in_the_end(environment, values, states))

    def complete(
        self,
        environment: Environment,
        parameters: Parameters,
        states: States,
        decision: Decision,
        next_states: States,
        uniforms: Uniforms,
    ) -> Transitions:
        """The rest of a transition: what is learned from, once it is known where the actions led."""
        actions, law, entropy, values = decision
        next_values = jax.vmap(self.policy(environment).values)(parameters, next_states)
        next_values = self._none_in_the_end(environment, next_values, next_states)
        is_terminal, goes_on = environment.is_terminal(states), ~self.restarts(environment, next_states, uniforms)
        entropy = entropy * ~is_terminal
        return Transitions(states, actions, next_states, law, entropy, values, next_values, is_terminal, goes_on)

    def restart(self, environment: Environment, next_states: States, uniforms: Uniforms) -> States:
        """Where the chains go on: with probability 1 − γ afresh from ρ, so that their stationary law is d^π.

        Truncated episodes start afresh too. What was learned from their last transition was right all the same: it
        counts the value of the state that they would have gone on from.
        """
        restarts = self.restarts(environment, next_states, uniforms)

        def pick(fresh: Array, following: Array) -> Array:
            return jnp.where(restarts.reshape(restarts.shape + (1,) * (fresh.ndim - restarts.ndim)), fresh, following)

        return jax.tree.map(pick, environment.reset(uniforms.start), next_states)

    def restarts(self, environment: Environment, next_states: States, uniforms: Uniforms) -> Bool[Array, "F B"]:
        """Which chains start afresh."""
        restarts = uniforms.restart >= environment.discount
        if isinstance(environment, ObservedEnvironment):
            restarts |= environment.is_truncated(next_states)
        return restarts

    def learn(
        self,
        environment: Environment,
        parameters: Parameters,
        transitions: Transitions,
        rewards: Float[Array, "F N"],
        step_size: StepSizeValues,
        reward_bound: Float[ArrayLike, ""],
    ) -> tuple[Parameters, Float[Array, "F N"]]:
        """One step (A), (C) of all policies and critics, for the rewards that they learn from; also their δ.

        The critic's step is the mean of the single-sample steps, each clipped on its own: the mean of steps into an
        interval is a step into the interval.
        """
        policy, τ = self.policy(environment), step_size.entropy
        δ = rewards + τ * transitions.entropy + environment.discount * transitions.next_values - transitions.values
        Â = self.advantages(δ, transitions.goes_on)
        ascent = policy.law.natural_direction if self.natural else policy.law.direction
        bound = self.value_bound(environment, reward_bound, τ)
        clipped_values = jnp.clip(transitions.values + step_size.critic * Â, -bound, bound)
        parameters = jax.vmap(policy.update, in_axes=(0, 0, 0, 0, None, None))(
            parameters,
            transitions.states,
            jax.vmap(ascent)(Â, transitions.actions, transitions.law, τ * ~transitions.is_terminal),
            clipped_values - transitions.values,
            step_size.actor,
            step_size.critic,
        )  # (A), (C)
        return parameters, δ

    def advantages(self, δ: Float[Array, "F N"], goes_on: Bool[Array, "F N"]) -> Float[Array, "F N"]:
        """Â of every transition from its temporal differences; δ itself where λ = 0."""
        if self.gae_lambda == 0:
            return δ

        def accumulate(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            δ, goes_on = now
            advantage = δ + self.gae_lambda * goes_on * following
            return advantage, advantage

        def in_time(leaf: Array) -> Array:
            return jnp.moveaxis(leaf.reshape(len(leaf), self.num_steps, -1), 1, 0)

        windows = in_time(δ), in_time(goes_on)
        return in_a_row(jax.lax.scan(accumulate, jnp.zeros_like(windows[0][0]), windows, reverse=True)[1])

    def value_bound(
        self, environment: Environment, reward_bound: Float[ArrayLike, ""], entropy_weight: Float[ArrayLike, ""]
    ) -> Float[Array, ""]:
        """A-priori bound of the critics, (max|r| + τ max H) / (1−γ); infinite where rewards or entropies have none."""
        entropy_bound = self.policy(environment).law.entropy_bound
        if entropy_bound == math.inf:
            return jnp.asarray(jnp.inf)
        return jnp.asarray(reward_bound + entropy_weight * entropy_bound) / (1 - environment.discount)

    def _none_in_the_end(self, environment: Environment, values: Array, states: States) -> Float[Array, "F B"]:
        """A network does not know what a table keeps: in terminal states V is 0."""
        return values if self.policies is None else jnp.where(environment.is_terminal(states), 0.0, values)
