"""BCHG, the Boltzmann-covariance hyper-gradient: the implicit gradient (IG) from one trajectory of the follower.

Source: Kudo, Tanabe, Wachi, Akimoto, "Sample-Efficient Hypergradient Estimation for Decentralized Bi-Level
Reinforcement Learning", arXiv 2603.14867 (ICAPS 2026); equations of docs/explanation/method.md, section 7. Under a
Boltzmann policy ∂_x log π = (∂_x Q − ∂_x V)/τ, and A_c has mean 0 under π(·|s), so that
E_a[A_c (∂Q − ∂V)] = Cov_a(A_c, ∂Q) and

    ∇Φ_τ(x) = ∇_x f + (1/τ) E_{(s,a)∼d^π}[ A_c(s,a) ∂_x Q(s,a) ].

∂_x V is not needed, and what follows a visit of (s, a) estimates ∂_x Q(s, a), by the sum of its ∂_x r.

| symbol | name                  | meaning                                                                    |
|--------|-----------------------|----------------------------------------------------------------------------|
| θ, V   | `parameters`          | policy and critic of the follower, by (A) and (C), or its answer           |
| Q_c    | `cost_action_values`  | action values of the leader's cost; A_c(s, a) = Q_c(s, a) − E_π[Q_c(s, ·)] |
| z      | `traces`              | the sum of A_c along a chain since it last started afresh                  |

A chain restarts with probability 1 − γ, so (s, a) ∼ d^π, and the mean of the undiscounted sum until it does is ∂Q. Each
∂_x r belongs to the sums of all visits before it, so the estimate is ∂_x c + z ∂_x r / τ: no sum is cut off, and no
gradient is stored. A_c is read from the table before the table learns from what follows, so that for any fixed policy
and x the mean is that of (IG), with the A_c of the table.

Deviations from the paper, which we know from its summary and from its code:

1. Chains go on from one iteration to the next. The published walks begin anew and are cut at the end of an iteration,
   which hardly leaves a sum where an iteration has 100 steps. Traces are therefore of some earlier x too.
2. Q_c learns by expected SARSA, in the order of time. The published experiments take the action that followed, and
   shuffle. Their tables of averages of ∂Q are left out: all visits of a pair have the same factor anyway.
3. The follower learns by the actor-critic of this library, or, with `is_planned`, answers optimally, as published.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.followers import LOWER, Parameters
from bilevel_rl.algorithms.sampled import SampledAlgorithm, SampledInfo
from bilevel_rl.algorithms.step_sizes import StepSizes, StepSizeValues, as_leaf, check_leaf
from bilevel_rl.algorithms.transitions import draw_uniforms
from bilevel_rl.exact.soft_mdp import soft_optimal
from bilevel_rl.exact.tables import reward_table


class BCHGState(NamedTuple):
    """What the next iteration needs; the table above says what is what."""

    num_iterations: Int[Array, ""]
    x: PyTree
    parameters: Parameters
    chain_states: Int[Array, "1 B"]
    traces: Float[Array, " B"]
    cost_action_values: Float[Array, "S A"]


class Visits(NamedTuple):
    """What happened in T transitions of every chain."""

    states: Int[Array, "T B"]
    actions: Int[Array, "T B"]
    traces: Float[Array, "T B"]
    entropy: Float[Array, "T B"]
    td_errors: Float[Array, "T B"]


class BCHG(SampledAlgorithm):
    """x ← Π_X[x − ζ_k clip(∇_x f̂ + (1/τ) z ∂_x r)], from T transitions of B chains.

    An iteration costs T B environment transitions.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β and τ, by default of constant τ (`StepSizes.constant_entropy`). β is the step of Q_c and of
            the follower's critic; w is not used.
        num_chains: B, parallel Markov chains.
        num_steps: T, transitions of every chain between two steps of x; tables learn at each of them.
        is_planned: the follower answers every x optimally, by soft policy iteration on the known model, instead of
            learning. That takes no transitions, and α is not used.
        max_global_norm: longer estimates of the gradient are shortened to this length; infinite for none.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `num_steps` < 1, `max_global_norm` is not positive, or as `SampledAlgorithm`.
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.constant_entropy)
    num_steps: int = eqx.field(static=True, default=1, kw_only=True)
    is_planned: bool = eqx.field(static=True, default=False, kw_only=True)
    max_global_norm: Float[ArrayLike, ""] = eqx.field(
        converter=as_leaf("max_global_norm"), default=np.inf, kw_only=True
    )

    def __check_init__(self):
        checks.integer("num_steps", self.num_steps, at_least=1)
        checks.flag("is_planned", self.is_planned)
        check_leaf("max_global_norm", self.max_global_norm, allow_infinite=True)

    @property
    def num_followers(self) -> int:
        """One, which tracks π_τ*(x)."""
        return 1

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: T per chain."""
        return self.num_steps * self.num_chains

    def init(self, key: Array) -> BCHGState:
        """A uniform policy, all tables and traces at 0, x at the problem's start, chains drawn from ρ."""
        start, environment = super().init(key), self.problem.mdp
        traces = jnp.zeros(self.num_chains)
        cost_action_values = jnp.zeros((environment.num_states, environment.num_actions))
        return BCHGState(
            start.num_iterations, start.x, start.parameters, start.chain_states, traces, cost_action_values
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations T 4 1 B"]:
        """Uniforms for every transition's action, outcome, restart and start."""
        return draw_uniforms(key, num_iterations, self.num_steps, 4, 1, self.num_chains)

    def step(self, uniforms: Float[Array, "T 4 1 B"], state: BCHGState) -> tuple[BCHGState, SampledInfo]:
        """One iteration: T transitions of every chain, from which all tables learn, then one step of x."""
        problem, x, step_size = self.problem, state.x, self.step_sizes(state.num_iterations)
        if self.is_planned:
            state = state._replace(parameters=self._answer(state, step_size.entropy))

        def transition(state: BCHGState, uniforms: Array) -> tuple[BCHGState, Visits]:
            return self._learned(state, step_size, uniforms)

        state, visits = jax.lax.scan(transition, state, uniforms)

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array]]:
            r = problem.rewards(x, visits.states, visits.actions)
            mean_cost = jnp.mean(problem.costs(x, visits.states, visits.actions))
            through_policy = jnp.mean(visits.traces * r) / step_size.entropy
            return mean_cost + problem.upper.regularizer(x) + through_policy, (jnp.mean(r), mean_cost)

        gradient, means = jax.grad(upper_estimate, has_aux=True)(x)  # (IG)
        scale = jnp.minimum(1.0, self.max_global_norm / optax.tree.norm(gradient))
        x = self._moved(x, jax.tree.map(lambda leaf: leaf * scale, gradient), step_size.upper)
        info = (*means, jnp.mean(visits.entropy), jnp.mean(visits.td_errors**2))
        return state._replace(num_iterations=state.num_iterations + 1, x=x), SampledInfo(*(m[None] for m in info))

    def _learned(
        self, state: BCHGState, step_size: StepSizeValues, uniforms: Float[Array, "4 1 B"]
    ) -> tuple[BCHGState, Visits]:
        """One transition of every chain: its traces, and what the tables learn from it."""
        problem, followers, environment, x = self.problem, self.followers, self.problem.mdp, state.x
        parameters, table, γ = state.parameters, state.cost_action_values, environment.discount
        transitions, chain_states = followers.act(
            environment, parameters, state.chain_states, followers.uniforms(uniforms)
        )
        s, a, next_s = (array[LOWER] for array in (transitions.states, transitions.actions, transitions.next_states))
        policy, next_policy = (jax.nn.softmax(parameters[LOWER, states, :-1]) for states in (s, next_s))
        traces = state.traces + table[s, a] - jnp.sum(policy * table[s], axis=1)

        c, next_values = problem.costs(x, s, a), jnp.sum(next_policy * table[next_s], axis=1)
        table = table.at[s, a].add(step_size.critic / self.num_chains * (c + γ * next_values - table[s, a]))
        r = problem.rewards(x, s, a)[None]
        if self.is_planned:
            δ = r + step_size.entropy * transitions.entropy + γ * transitions.next_values - transitions.values
        else:
            bound = problem.reward_bound
            parameters, δ = followers.learn(environment, parameters, transitions, r, step_size, bound)  # (A), (C)
        visits = Visits(s, a, traces, transitions.entropy[LOWER], δ[LOWER])
        traces = jnp.where(transitions.goes_on[LOWER], traces, 0.0)
        return BCHGState(state.num_iterations, x, parameters, chain_states, traces, table), visits

    def _answer(self, state: BCHGState, entropy_weight: Array) -> Parameters:
        """log π_τ*(x) and its values, as parameters; sought from the last values."""
        reward, last_values = reward_table(self.problem, state.x), state.parameters[LOWER, :, -1]
        answer = soft_optimal(self.problem.mdp, reward, entropy_weight, start_values=last_values)
        return jnp.concatenate([answer.log_policy, answer.values[:, None]], axis=1)[None]
