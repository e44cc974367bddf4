"""PBRL: penalty-based bi-level reinforcement learning, with a fixed penalty, in both of its forms.

Source: Shen, Yang, Chen, "Principled Penalty-based Methods for Bilevel Reinforcement Learning and RLHF", ICML 2024, as
summarized in docs/explanation/method.md, section 8. Both forms minimize f(x, y) + p(x, y) / w over x and a policy y,
where the penalty p ≥ 0 is zero only for y = π_τ*(x). T actor-critic steps on θ approximate π_τ*(x); one joint step on
(x, y) follows. With everything normalized by 1 − γ as in docs/explanation/method.md:

    value penalty      p = J_τ(x, π_τ*) − J_τ(x, y)
    Bellman penalty    p = (1−γ) E_{s∼ρ}[ V*(s) − Σ_a y(a|s) Q*(s, a) − τ H(y(·|s)) ]

The Bellman penalty is what is lost by one action of y, followed by π_τ*. So ∇_x p is a difference of two occupancies:
that of π_τ*, and that of the follower who takes its first action from y and all others from π_τ*. Both are sampled by
chains that restart from ρ with probability 1 − γ. It sees y in start states only, so ρ must reach wherever y matters.

`parameters` holds (θ, V) and (y, and the critic of y: of the reward r_x − w c_x with the value penalty, of the cost c_x
with the Bellman penalty).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from bilevel_rl.algorithms.sampled import SampledInfo, SampledState, TwoLoopAlgorithm, learn_for
from bilevel_rl.algorithms.transitions import Transitions, Uniforms, draw_uniforms
from bilevel_rl.policies.categorical import direction

ANSWER, JOINT = slice(0, 1), slice(1, 2)
"""Followers: the one that tracks π_τ*(x), and y."""


class PBRL(TwoLoopAlgorithm):
    """The value penalty: (U) and (AL), (CL) with fixed w and τ, and T steps (A), (C) before each.

    An iteration costs (T + 1) B environment transitions.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β, w and τ.
        num_chains: B, chains per policy.
        num_inner_steps: T, steps of θ between two of x and y.
    """

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: T per chain of θ, one per chain of y."""
        return (self.num_inner_steps + 1) * self.num_chains

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations steps 4 1 B"]:
        """Uniforms for T inner steps and the joint one."""
        return draw_uniforms(key, num_iterations, self.num_inner_steps + 1, 4, 1, self.num_chains)

    def step(self, uniforms: Float[Array, "steps 4 1 B"], state: SampledState) -> tuple[SampledState, SampledInfo]:
        """One iteration: T steps of θ at fixed x, then one step of x and y."""
        problem, followers, environment, x = self.problem, self.followers, self.problem.mdp, state.x
        step_size = self.step_sizes(state.num_iterations)
        w = step_size.penalty

        inner = followers, environment, state.parameters[ANSWER], state.chain_states[ANSWER]
        answer, answer_chains, visits = learn_for(
            *inner, uniforms[:-1], lambda s, a: problem.rewards(x, s, a), step_size, problem.reward_bound
        )
        visits = visits.later_half()
        joint, of_joint = state.parameters[JOINT], followers.uniforms(uniforms[-1])
        transitions, joint_chains = followers.act(environment, joint, state.chain_states[JOINT], of_joint)
        s, a = transitions.states, transitions.actions

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array, Array]]:
            best = jnp.mean(problem.rewards(x, visits.states, visits.actions))
            r, c = problem.rewards(x, s, a), problem.costs(x, s, a)
            return jnp.mean(c) + problem.upper.regularizer(x) + (best - jnp.mean(r)) / w, (best, r, c)

        upper_gradient, (best, r, c) = jax.grad(upper_estimate, has_aux=True)(x)
        bound = problem.reward_bound + w * problem.upper.step_cost_bound
        joint, δ = followers.learn(environment, joint, transitions, r - w * c, step_size, bound)  # (AL), (CL)

        answer_cost = jnp.mean(problem.costs(x, visits.states, visits.actions))
        info = SampledInfo(
            jnp.stack([best, r.mean()]),
            jnp.stack([answer_cost, c.mean()]),
            jnp.stack([visits.entropy.mean(), transitions.entropy.mean()]),
            jnp.stack([jnp.mean(visits.td_errors**2), jnp.mean(δ**2)]),
        )
        return SampledState(
            state.num_iterations + 1,
            self._moved(x, upper_gradient, step_size.upper),  # (U), of the penalty above
            jnp.concatenate([answer, joint]),
            jnp.concatenate([answer_chains, joint_chains]),
        ), info


class BellmanPBRLState(NamedTuple):
    """What the next iteration needs. Chains: of θ, of y, and of y for one action and θ from then on."""

    num_iterations: Int[Array, ""]
    x: PyTree
    parameters: Float[Array, "2 S columns"]
    chain_states: Int[Array, "3 B"]
    is_first_action: Bool[Array, " B"]


class BellmanPBRL(TwoLoopAlgorithm):
    """The Bellman penalty.

    An iteration costs (T + 3) B environment transitions: T per chain of θ, one per chain of y and per chain that mixes
    both, and one from each of B start states.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β, w and τ.
        num_chains: B, chains of each of the four kinds.
        num_inner_steps: T, steps of θ between two of x and y.
    """

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration."""
        return (self.num_inner_steps + 3) * self.num_chains

    def init(self, key: Array) -> BellmanPBRLState:
        """Uniform policies, critics at 0, x at the problem's start, chains drawn from ρ."""
        x_key, chain_key = jax.random.split(key)
        return BellmanPBRLState(
            num_iterations=jnp.int32(0),
            x=self.problem.start(x_key),
            parameters=self.followers.init(self.problem.mdp, 2),
            chain_states=self.problem.mdp.reset(jax.random.uniform(chain_key, (3, self.num_chains))),
            is_first_action=jnp.ones(self.num_chains, bool),
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations steps 4 1 B"]:
        """Uniforms for T inner steps and for the three samples of the joint one."""
        return draw_uniforms(key, num_iterations, self.num_inner_steps + 3, 4, 1, self.num_chains)

    def step(
        self, uniforms: Float[Array, "steps 4 1 B"], state: BellmanPBRLState
    ) -> tuple[BellmanPBRLState, SampledInfo]:
        """One iteration: T steps of θ at fixed x, then one step of x and y."""
        problem, followers, environment, x = self.problem, self.followers, self.problem.mdp, state.x
        step_size = self.step_sizes(state.num_iterations)
        w, τ = step_size.penalty, step_size.entropy
        of_joint, of_mixture, of_start = (followers.uniforms(numbers) for numbers in uniforms[-3:])

        inner = followers, environment, state.parameters[ANSWER], state.chain_states[:1]
        answer, answer_chains, visits = learn_for(
            *inner, uniforms[:-3], lambda s, a: problem.rewards(x, s, a), step_size, problem.reward_bound
        )
        visits = visits.later_half()
        joint = state.parameters[JOINT]
        transitions, joint_chains = followers.act(environment, joint, state.chain_states[1:2], of_joint)
        mixed_s = state.chain_states[2:]
        mixed_a, mixed_chains = self._mixed_transition(answer, joint, mixed_s, state.is_first_action, of_mixture)

        def upper_estimate(x: PyTree) -> tuple[Array, tuple[Array, Array, Array]]:
            best = jnp.mean(problem.rewards(x, visits.states, visits.actions))
            mixed = jnp.mean(problem.rewards(x, mixed_s, mixed_a))
            c = problem.costs(x, transitions.states, transitions.actions)
            return jnp.mean(c) + problem.upper.regularizer(x) + (best - mixed) / w, (best, mixed, c)

        upper_gradient, (best, mixed, c) = jax.grad(upper_estimate, has_aux=True)(x)
        without_entropy, cost_bound = step_size._replace(entropy=jnp.zeros(())), w * problem.upper.step_cost_bound
        learned, δ = followers.learn(environment, joint, transitions, -w * c, without_entropy, cost_bound)
        start, _ = followers.act(environment, joint, environment.reset(of_start.start[0]), of_start)
        learned = self._descend_penalty(learned, answer, start, x, step_size.actor, τ)

        answer_cost = jnp.mean(problem.costs(x, visits.states, visits.actions))
        info = SampledInfo(
            jnp.stack([best, mixed]),
            jnp.stack([answer_cost, c.mean()]),
            jnp.stack([visits.entropy.mean(), transitions.entropy.mean()]),
            jnp.stack([jnp.mean(visits.td_errors**2), jnp.mean(δ**2)]),
        )
        return BellmanPBRLState(
            state.num_iterations + 1,
            self._moved(x, upper_gradient, step_size.upper),  # (U), of the penalty above
            jnp.concatenate([answer, learned]),
            jnp.concatenate([answer_chains, joint_chains, mixed_chains]),
            of_mixture.restart[0, 0] >= environment.discount,
        ), info

    def _mixed_transition(
        self, answer: Array, joint: Array, states: Array, is_first_action: Array, uniforms: Uniforms
    ) -> tuple[Array, Array]:
        """Actions, of y where they are the first since the start and of θ otherwise, and where the chains go on."""
        environment, of_one = self.problem.mdp, jax.tree.map(lambda leaf: leaf[0], uniforms)
        by_answer, by_joint = (
            self.followers.decide(environment, policy, states, of_one).actions for policy in (answer, joint)
        )
        actions = jnp.where(is_first_action, by_joint, by_answer)
        next_states = environment.step(states, actions, of_one.transition)
        return actions, self.followers.restart(environment, next_states, of_one)

    def _descend_penalty(
        self, joint: Array, answer: Array, start: Transitions, x: PyTree, actor_step: Array, entropy_weight: Array
    ) -> Array:
        """y's step against the Bellman penalty: (1−γ) E_{s∼ρ, a∼y}[(Q*(s, a) − V*(s)) ∇log y(a|s) + τ ∇H(y(·|s))]."""
        γ, table = self.problem.environment.discount, self.followers.table(self.problem.mdp)
        s, a = start.states, start.actions
        r = self.problem.rewards(x, s, a)
        advantages = r[0] + γ * table.values(answer[0], start.next_states[0]) - table.values(answer[0], s[0])
        τ = entropy_weight * ~start.is_terminal[0]
        ascent = direction(advantages, a[0], *(array[0] for array in start.law), τ)
        step = (1 - γ) * actor_step / self.num_chains * ascent
        return table.ascend(joint[0], s[0], step, jnp.zeros_like(advantages))[None]
