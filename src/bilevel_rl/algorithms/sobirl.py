"""SoBiRL: the implicit gradient (IG) with a table of ∂_x V that is learned like a critic.

Source: Yang et al., SoBiRL, as summarized in docs/explanation/method.md, section 8; equations of section 7. At fixed τ

    ∇Φ_τ(x) = ∇_x f + (1/τ) E_{d^π}[ A_c(s,a) (∂Q(s,a) − ∂V(s)) ],   ∂V(s) = E_{a,s'}[ ∂_x r(s,a) + γ ∂V(s') ]      (IG)

so ∂V is the value of d rewards ∂_x r at once, and TD(0) steps along the follower's chain learn it.

| symbol | name                  | meaning                                                                    |
|--------|-----------------------|----------------------------------------------------------------------------|
| θ, V   | `parameters`          | policy and critic of the follower, by (A) and (C)                          |
| Q_c    | `cost_action_values`  | action values of the leader's cost; A_c(s, a) = Q_c(s, a) − E_π[Q_c(s, ·)] |
| ∂V     | `value_gradients`     | derivatives of the follower's optimal values, a column a number of x       |

∂Q(s, a) − ∂V(s) is estimated by one transition, ∂_x r(s,a) + γ ∂V(s') − ∂V(s). A_c must not be estimated by the same
transition, (c + γ U(s') − U(s)): the mean of the product would be too large by γ² Cov(U(s'), ∂V(s') | s, a). A_c is
therefore read from a table of action values, which does not depend on s'. With exact tables the step of x then
has the mean ∇Φ_τ(x).

Deviations from the paper, which we know from its summary:

1. One transition of B parallel chains, and one step of all tables, for each step of x, where the paper has inner loops.
2. The table of action values above.
3. The follower learns by the actor-critic of this library.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.sampled import SampledAlgorithm, SampledInfo
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.algorithms.transitions import draw_uniforms


class SoBiRLState(NamedTuple):
    """What the next iteration needs; the table above says what is what."""

    num_iterations: Int[Array, ""]
    x: PyTree
    parameters: Float[Array, "1 S columns"]
    chain_states: Int[Array, "1 B"]
    cost_action_values: Float[Array, "S A"]
    value_gradients: Float[Array, "S d"]


class SoBiRL(SampledAlgorithm):
    """x ← Π_X[x − ζ_k (∇_x f̂ + (1/τ) Â_c (∂_x r + γ ∂V(s') − ∂V(s)))], while θ, Q_c and ∂V learn with every step.

    An iteration costs B environment transitions; its tables take S (A + d) numbers.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β and τ, by default of constant τ (`StepSizes.constant_entropy`). β is the step of all
            critics, ∂V included; w is not used.
        num_chains: B, parallel Markov chains.
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.constant_entropy)

    @property
    def num_followers(self) -> int:
        """One, which tracks π_τ*(x)."""
        return 1

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: one per chain."""
        return self.num_chains

    def init(self, key: Array) -> SoBiRLState:
        """A uniform policy, all other tables at 0, x at the problem's start, chains drawn from ρ."""
        start, environment = super().init(key), self.problem.mdp
        cost_action_values = jnp.zeros((environment.num_states, environment.num_actions))
        num_numbers = ravel_pytree(start.x)[0].size
        value_gradients = jnp.zeros((environment.num_states, num_numbers))
        return SoBiRLState(
            start.num_iterations, start.x, start.parameters, start.chain_states, cost_action_values, value_gradients
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations 4 1 B"]:
        """Uniforms for every chain's action, transition, restart and start."""
        return draw_uniforms(key, num_iterations, 4, 1, self.num_chains)

    def step(self, uniforms: Float[Array, "4 1 B"], state: SoBiRLState) -> tuple[SoBiRLState, SampledInfo]:
        """One iteration, all from iteration k's values."""
        problem, followers, environment, x = self.problem, self.followers, self.problem.mdp, state.x
        step_size, γ = self.step_sizes(state.num_iterations), environment.discount
        transitions, chain_states = followers.act(
            environment, state.parameters, state.chain_states, followers.uniforms(uniforms)
        )
        s, a, next_s = transitions.states[0], transitions.actions[0], transitions.next_states[0]
        flat_x, unravel = ravel_pytree(x)

        reward_gradients = jax.vmap(jax.grad(lambda x, s, a: problem.rewards(unravel(x), s, a)), (None, 0, 0))
        td_gradients = (  # ∂Q(s, a) − ∂V(s), from one transition
            reward_gradients(flat_x, s, a) + γ * state.value_gradients[next_s] - state.value_gradients[s]
        )
        cost_action_values = state.cost_action_values[s]
        of_action = jnp.take_along_axis(cost_action_values, a[:, None], axis=1)[:, 0]
        cost_advantages = of_action - jnp.sum(transitions.law[0][0] * cost_action_values, axis=1)

        def direct_estimate(x: PyTree) -> tuple[Array, Array]:
            c = problem.costs(x, s, a)
            return jnp.mean(c) + problem.upper.regularizer(x), c

        direct, c = jax.grad(direct_estimate, has_aux=True)(x)
        through_policy = unravel(cost_advantages @ td_gradients / (self.num_chains * step_size.entropy))
        gradient = jax.tree.map(jnp.add, direct, through_policy)  # (IG)

        next_policy = jax.nn.softmax(state.parameters[0, next_s, :-1])
        next_cost_values = jnp.sum(next_policy * state.cost_action_values[next_s], axis=1)
        table_step = step_size.critic / self.num_chains
        r = problem.rewards(x, transitions.states, transitions.actions)
        parameters, δ = followers.learn(
            environment, state.parameters, transitions, r, step_size, problem.reward_bound
        )  # (A), (C)
        return SoBiRLState(
            state.num_iterations + 1,
            self._moved(x, gradient, step_size.upper),
            parameters,
            chain_states,
            state.cost_action_values.at[s, a].add(table_step * (c + γ * next_cost_values - of_action)),
            state.value_gradients.at[s].add(table_step * td_gradients),
        ), SampledInfo(r.mean(1), c.mean(keepdims=True), transitions.entropy.mean(1), (δ**2).mean(1))
