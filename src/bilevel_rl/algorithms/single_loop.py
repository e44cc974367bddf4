"""Algorithm 1: the single-loop, first-order, regularized actor-critic for bi-level reinforcement learning.

Source: Zeng, Bhatt, Ganesh, Koppel, "A Regularized Actor-Critic Algorithm for Bi-Level Reinforcement Learning", arXiv
2601.16399 (2026). Equation names are those of docs/method.md, section 4.

| symbol | name             | meaning                                                             |
|--------|------------------|---------------------------------------------------------------------|
| x      | `x`              | upper variable                                                      |
| θ, V   | `followers[0]`   | lower policy and critic: track π_τ*(x), the follower's answer       |
| θᴸ, Vᴸ | `followers[1]`   | penalized policy and critic: track π^L, optimal for r_x − w c_x     |
| s, sᴸ  | `chain_states`   | current states of the two batches of Markov chains                  |
| ζ, α, β| `upper`, `actor`, `critic` | step sizes of x, the policies, the critics                |
| w, τ   | `penalty`, `entropy` | penalty parameter (smaller is harder) and entropy weight        |

Both followers take the same step (`actor_critic.py`) and differ only in the reward that they learn from, so everything
of theirs carries a leading axis of length two: (lower, penalized).

Deviations from the paper:

1. B parallel chains per policy instead of one; every expectation is estimated by their mean. B = 1 is the paper's.
2. Step sizes have an offset (`schedules.PowerDecay`); offset = 1 is the paper's form.
3. With B chains the critic's step is the mean of the B single-sample steps of (C), each clipped on its own. The mean of
   steps into an interval is a step into the interval, so |V| keeps the paper's bound.
4. Terminal states accrue neither reward, cost nor entropy, as in the environment.
5. Both followers' chains are coupled unless told otherwise: the same laws, so the same means, with less noise in (U).
6. With `num_steps` = T > 1 an iteration takes T transitions of every chain with its policies, critics and x, and then
   one step, the mean over the T B samples. With `gae_lambda` = λ > 0, (A), (C), (AL) and (CL) have advantages that look
   ahead, Â_t = δ_t + λ c_t Â_{t+1}, in the place of δ_t (`windows.py`). The paper's are 1 and 0.
7. The dynamics may depend on x; each ∇_x r then has γ ∇_x log P_x(s'|s,a) V(s') beside it (docs/method.md, section 5).

Options that go past the paper (docs/method.md, section 5): `coupled`, `expects_actions`, `natural`, `upper_steps`,
`num_steps`, `gae_lambda`. The paper's algorithm is `coupled=False, num_chains=1` with step sizes of offset 1.
"""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from bilevel_rl.algorithms.actor_critic import ActorCritic, Decision, Info, Sample, States, coincide
from bilevel_rl.algorithms.sampled import SampledAlgorithm, State, draw_uniforms
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.algorithms.upper_estimates import (
    LOWER,
    PENALIZED,
    Samples,
    estimate_upper,
    first_visitation,
    num_extra_transitions,
    num_extra_uniforms,
    of_samples,
)
from bilevel_rl.algorithms.upper_steps import UpperSteps
from bilevel_rl.algorithms.windows import advantages, check_windows, in_a_row, live
from bilevel_rl.environments import DrivenMDP, TabularMDP
from bilevel_rl.formulation import PolicyLoss, TrajectoryLoss, UpperObjective
from bilevel_rl.policies import NeuralActorCritic
from bilevel_rl.policies.categorical import fisher_preconditioned


class SingleLoopActorCritic(SampledAlgorithm):
    """Algorithm 1 on a bi-level problem; the followers are tables, or what `policies` makes of them.

    Attributes:
        step_sizes: a schedule that violates a validity condition is used, with a `ScheduleWarning` that names the
            condition.
        num_chains: B, parallel Markov chains per policy; an iteration costs 2 B T transitions. 1 is the paper's.
        coupled: both followers' chains live on the same random numbers (start, transition, restart) and choose the same
            action as often as they can. Each has its own law as before; while they coincide, their parts of (U) cancel.
            False: independent chains, the paper's.
        expects_actions: ∇_x r and ∇_x c in (U) are means over the policies' actions, not those of one action.
        natural: the actors take natural gradients, which do not fade where a policy is nearly certain. A step is about
            |A| times as long as a plain one, so `actor` is better smaller by that factor.
        upper_steps: how the estimates of (U) become steps of x; the paper's by default.
        policies: how the followers' parameters become policies and values, and how they are moved: neural networks in
            any environment. None: tables.
        num_steps: T, transitions of every chain in an iteration, whose step is the mean over all of them. 1 is the
            paper's.
        gae_lambda: λ in [0, 1], how much of what was learned about later transitions of a window counts for earlier
            ones: 0, the paper's, believes the critic, and 1 sums rewards until a restart or the window's end.

    The other attributes are those of `SampledAlgorithm`.

    Raises:
        ValueError: as `SampledAlgorithm` and `windows.check_windows`, the environment is no `TabularMDP` and `policies`
            are missing or `expects_actions` is set, or `policies` do not fit the environment or are beside `natural`, a
            `PolicyLoss` or a `TrajectoryLoss`.

    Example:
        >>> import equinox as eqx, jax, bilevel_rl as brl
        >>> algorithm = brl.SingleLoopActorCritic(brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3)))
        >>> state = algorithm.init(jax.random.key(0))
        >>> uniforms = algorithm.draw(jax.random.key(1), num_iterations=10)
        >>> state, info = eqx.filter_jit(algorithm.step)(uniforms[0], state)
        >>> int(state.num_iterations), algorithm.num_transitions_per_iteration
        (1, 32)
    """

    follows_dynamics = True
    enters_any_environment = True
    upper_objectives = (UpperObjective,)

    coupled: bool = eqx.field(static=True, default=True, kw_only=True)
    expects_actions: bool = eqx.field(static=True, default=False, kw_only=True)
    natural: bool = eqx.field(static=True, default=False, kw_only=True)
    upper_steps: UpperSteps = eqx.field(default_factory=UpperSteps, kw_only=True)
    policies: NeuralActorCritic | None = eqx.field(default=None, kw_only=True)
    num_steps: int = eqx.field(static=True, default=1, kw_only=True)
    gae_lambda: float = eqx.field(static=True, default=0.0, kw_only=True)

    def __check_init__(self):
        self._check_policies()
        check_windows(self.num_steps, self.gae_lambda, self.problem.environment)
        if not self._is_traced():
            for violation in self.step_sizes.violations():
                warnings.warn(f"step sizes violate {violation}", ScheduleWarning, stacklevel=4)

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: T per chain, 2 B chains, and what a `TrajectoryLoss` takes."""
        return (2 * self.num_steps + num_extra_transitions(self.problem.upper)) * self.num_chains

    @property
    def num_samples(self) -> int:
        """T B."""
        return self.num_steps * self.num_chains

    @property
    def actor_critic(self) -> ActorCritic:
        """How the followers act and learn."""
        return dataclasses.replace(
            super().actor_critic, coupled=self.coupled, natural=self.natural, policies=self.policies
        )

    def init(self, key: Array, chain_states: States | None = None) -> State:
        """As `SampledAlgorithm.init`, or with the chains given; coupled ones start in the first follower's states."""
        state = self._start(key, self._start_chains(key) if chain_states is None else chain_states)
        chain_states = state.chain_states
        if self.coupled:
            chain_states = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 2, axis=0), chain_states)
        return state._replace(
            chain_states=chain_states,
            upper_memory=self.upper_steps.init(state.x),
            visitation=first_visitation(self.problem),
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations U D B"]:
        """All randomness of a block of iterations: uniforms for every chain's action, transition, restart and start.

        A window takes T times as many, one transition's after the other's. Coupled followers share them (D = 1), and
        there is one more, for whether both choose the same action. The upper objective's own come last; of theirs both
        rows of an uncoupled pair are drawn and one is used.
        """
        num_uniforms = self._num_uniforms_of_chains + num_extra_uniforms(self.problem.upper)
        return draw_uniforms(key, num_iterations, num_uniforms, 1 if self.coupled else 2, self.num_chains)

    def step(self, uniforms: Float[Array, "U D B"], state: State) -> tuple[State, Info]:
        """One iteration: T transitions per chain, then (U), (A), (C), (AL), (CL), all from iteration k's values."""
        actor_critic, of_chains = self._actor_critic_at(state), self._of_chains(uniforms)
        window = live(actor_critic, state.followers, state.chain_states, of_chains)  # a ~ π_θ(·|s), s' ~ P(·|s,a)
        state, info = self.learn(uniforms, state, window.sample, window.goes_on)
        return state._replace(chain_states=window.states), info

    def decide(self, uniforms: Float[Array, "U D B"], state: State) -> Decision:
        """The first part of `step`, for an environment that is stepped elsewhere: the actions of iteration k."""
        return self._actor_critic_at(state).decide(state.followers, state.chain_states, self._of_chains(uniforms)[0])

    def sample(self, state: State, decision: Decision, next_states: States) -> Sample:
        """The second part: what iteration k learns from, once it is known where its actions led."""
        return self._actor_critic_at(state).sample(state.followers, state.chain_states, decision, next_states)

    def learn(
        self, uniforms: Float[Array, "U D B"], state: State, sample: Sample, goes_on: Bool[Array, "T 2 B"] | None = None
    ) -> tuple[State, Info]:
        """The last part: (U), (A), (C), (AL), (CL) from all transitions of iteration k.

        Args:
            uniforms: all randomness of the iteration.
            state: what it began with, but for the chains' states.
            sample: the transitions, N of every follower.
            goes_on: which of them the chains went on from; needed where `gae_lambda` > 0.

        Returns:
            The next state, its chains not restarted after the last transition, and diagnostics.
        """
        problem, k = self.problem, state.num_iterations
        actor_critic = self._actor_critic_at(state)
        step_size = self.step_sizes(k)
        w, τ = step_size.penalty, step_size.entropy
        extra = uniforms[self._num_uniforms_of_chains :, 0]
        s, a = sample.states, sample.actions

        def read_penalized(states: Array) -> Array:
            return actor_critic.policy.read(state.followers[PENALIZED], states)[0]

        samples = Samples(state.x, sample, read_penalized, extra, state.visitation, k, self.expects_actions)
        f = estimate_upper(problem.upper, problem, samples)

        def upper_estimate(x: PyTree) -> Array:
            gains = self._rewards(x, sample) + self._following_values(x, state.x, sample, uniforms)
            return f.objective(x) + (jnp.mean(gains[LOWER]) - jnp.mean(gains[PENALIZED])) / w

        direction, upper_gradient, upper_memory = self.upper_steps.direction(
            jax.grad(upper_estimate), state.x, state.upper_memory, k
        )
        x = self._moved(state.x, direction, step_size.upper)  # (U): Π_X[x − ζ ∇]
        upper_memory = self.upper_steps.averaged(upper_memory, x, k)

        r = problem.rewards(state.x, s, a)
        learned_rewards = jnp.stack([r[LOWER], r[PENALIZED] - w * f.step_costs])
        reward_bound = problem.reward_bound + w * problem.upper.step_cost_bound
        value_bound = actor_critic.value_bound(reward_bound, τ)
        δ = actor_critic.td_errors(sample, learned_rewards, τ)
        Â = δ if goes_on is None or self.gae_lambda == 0 else advantages(δ, goes_on, self.gae_lambda)
        followers = actor_critic.move(state.followers, sample, Â, step_size, value_bound)  # (A), (C), (AL), (CL)
        if f.explicit is not None:  # the part of (AL) that is no cost per step (docs/method.md, section 6)
            followers = self._descend(followers, *f.explicit, step_size.actor * w)

        info = Info(
            r.mean(1),
            f.mean_cost,
            actor_critic.accrued_entropy(sample).mean(1),
            (δ**2).mean(1),
            jnp.mean(coincide(sample), dtype=float),
            upper_gradient,
            optax.tree.norm(upper_gradient, squared=True),
        )
        return State(k + 1, x, followers, sample.next_states, upper_memory, f.visitation), info

    def _actor_critic_at(self, state: State) -> ActorCritic:
        """How the followers act and learn at the present x."""
        return dataclasses.replace(self.actor_critic, environment=self.problem.driven_environment(state.x))

    @property
    def _num_uniforms_of_chains(self) -> int:
        """Of one chain in one iteration."""
        return self.num_steps * self.actor_critic.num_uniforms

    def _of_chains(self, uniforms: Float[Array, "U D B"]) -> Float[Array, "T C 2 B"]:
        """The uniforms of both followers' chains, transition by transition; coupled ones have the same."""
        uniforms = uniforms[: self._num_uniforms_of_chains]
        uniforms = uniforms.reshape(self.num_steps, -1, *uniforms.shape[1:])
        return jnp.broadcast_to(uniforms, (*uniforms.shape[:2], 2, self.num_chains))

    def _check_policies(self):
        is_tabular = isinstance(self.problem.environment, TabularMDP)
        if not is_tabular and self.expects_actions:
            raise ValueError("expects_actions needs a TabularMDP, whose actions can be listed beside states")
        if self.policies is None:
            if not is_tabular:
                raise ValueError(
                    "policies must be given where the environment is no TabularMDP, for instance "
                    "NeuralActorCritic.mlp(problem.environment)"
                )
            return
        if self.natural:
            raise ValueError("natural must be False with policies: the preconditioner is that of a table's softmax")
        if isinstance(self.problem.upper, PolicyLoss | TrajectoryLoss):
            raise ValueError(
                f"policies must be None where problem.upper is a {type(self.problem.upper).__name__}, whose slope is "
                "applied to tables only"
            )
        self.policies.check(self.problem.environment)

    def _following_values(self, x: PyTree, state_x: PyTree, sample: Sample, uniforms: Array) -> Float[Array, "2 N"]:
        """What has the gradient γ ∇_x log P_x(s'|s,a) (V(s') − V(s)), each with its own critic; 0 where P has no x.

        V(s) changes nothing in the mean and lowers the variance.
        """
        now, moved = self.problem.driven_environment(state_x), self.problem.driven_environment(x)
        if not (isinstance(now, DrivenMDP) and isinstance(moved, DrivenMDP)):
            return jnp.zeros_like(sample.values)
        s, a = sample.states, sample.actions
        of_transitions = in_a_row(self._of_chains(uniforms)[:, 1])
        log_probability = moved.log_probability(s, a, now.outcome(s, a, of_transitions))
        return now.discount * log_probability * (sample.next_values - sample.values)

    def recommend(self, state: State) -> PyTree:
        """x, or the average of its iterates where `upper_steps` says so."""
        return state.x if self.upper_steps.averaging is None else state.upper_memory.average

    def _rewards(self, x: PyTree, sample: Sample) -> Float[Array, "2 N"]:
        """r_x of the samples that (U) averages."""
        return of_samples(self.problem.rewards, x, sample, self.expects_actions)

    def _descend(
        self, followers: Float[Array, "2 S columns"], states: Int[Array, " N"], slopes: Float[Array, "N A"], step: Array
    ) -> Float[Array, "2 S columns"]:
        """θᴸ less `step` times the slopes of f̂ in its logits, preconditioned as its other gradients are."""
        if self.natural:
            logits, _ = self.actor_critic.table.read(followers[PENALIZED], states)
            slopes = fisher_preconditioned(slopes, jax.nn.softmax(logits))
        nothing = jnp.zeros(len(states), slopes.dtype)
        moved = self.actor_critic.table.ascend(followers[PENALIZED], states, -step * slopes, nothing)
        return followers.at[PENALIZED].set(moved)
