"""Algorithm 1: the single-loop, first-order, regularized actor-critic for bi-level reinforcement learning.

Source: Zeng, Bhatt, Ganesh, Koppel, "A Regularized Actor-Critic Algorithm for Bi-Level Reinforcement Learning", arXiv
2601.16399 (2026). Equation names are those of docs/explanation/method.md, section 4.

| symbol | name             | meaning                                                             |
|--------|------------------|---------------------------------------------------------------------|
| x      | `x`              | upper variable                                                      |
| θ, V   | `parameters[0]`  | lower policy and critic: track π_τ*(x), the follower's answer       |
| θᴸ, Vᴸ | `parameters[1]`  | penalized policy and critic: track π^L, optimal for r_x − w c_x     |
| s, sᴸ  | `chain_states`   | current states of the two batches of Markov chains                  |
| ζ, α, β| `upper`, `actor`, `critic` | step sizes of x, the policies, the critics                |
| w, τ   | `penalty`, `entropy` | penalty parameter (smaller is harder) and entropy weight        |

Both followers take the same step (`followers.py`) and differ only in the reward that they learn from, so everything of
theirs carries a leading axis of length two: (lower, penalized). How f is estimated is in `upper_estimates.py`, and how
x steps in `upper_steps.py`.

Deviations from the paper:

1. B parallel chains per policy instead of one; every expectation is estimated by their mean. B = 1 is the paper's.
2. Step sizes have an offset (`step_sizes.PowerDecay`); offset = 1 is the paper's form.
3. With B chains the critic's step is the mean of the B single-sample steps of (C), each clipped on its own. The mean of
   steps into an interval is a step into the interval, so |V| keeps the paper's bound.
4. Terminal states accrue neither reward, cost nor entropy, as in the environment.
5. Both followers' chains are coupled unless told otherwise: the same laws, so the same means, with less noise in (U).
6. With `num_steps` = T > 1 an iteration takes T transitions of every chain with its policies, critics and x, and then
   one step, the mean over the T B samples. With `gae_lambda` = λ > 0, (A), (C), (AL) and (CL) have advantages that look
   ahead, Â_t = δ_t + λ c_t Â_{t+1}, instead of δ_t (`followers.py`). The paper's are 1 and 0.
7. The dynamics may depend on x; each ∇_x r then has γ ∇_x log P_x(s'|s,a) V(s') beside it, or γ ∇_x V(s'_x) where s'
is a smooth function of x (docs/explanation/method.md, section 5).

Options that go past the paper (docs/explanation/method.md, section 5) are `expects_actions` and those of `Followers`
and `UpperSteps`. The paper's algorithm is `Followers(num_chains=1, coupled=False)` with step sizes of offset 1.
"""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.algorithm import check_parts
from bilevel_rl.algorithms.followers import LOWER, PENALIZED, Followers, Parameters
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.algorithms.transitions import States, Transitions, Uniforms, coincide, draw_uniforms, in_a_row
from bilevel_rl.algorithms.upper_estimates import (
    Samples,
    estimate_gains,
    estimate_upper,
    first_visitation,
    num_extra_transitions,
    num_extra_uniforms,
)
from bilevel_rl.algorithms.upper_steps import Memory, UpperSteps
from bilevel_rl.environments import TabularMDP
from bilevel_rl.formulation import BilevelProblem, PolicyLoss, TrajectoryLoss
from bilevel_rl.policies.categorical import fisher_preconditioned


class SingleLoopState(NamedTuple):
    """What the next iteration needs.

    Attributes:
        num_iterations: k.
        x: the upper variable.
        parameters: of both followers.
        chain_states: where their chains are.
        upper_memory: what `upper_steps` remembers.
        visitation: the estimate of d^{π^L} that an `OccupancyFunctional` asks for; None otherwise.
    """

    num_iterations: Int[Array, ""]
    x: PyTree
    parameters: Parameters
    chain_states: States
    upper_memory: Memory
    visitation: Float[Array, "S A"] | None


class SingleLoopInfo(NamedTuple):
    """Diagnostics of one iteration, means over its transitions; pairs are (lower, penalized).

    Attributes:
        mean_reward: r.
        mean_cost: f̂ without the price of x.
        mean_entropy: H(π(·|s)).
        mean_squared_td_error: δ².
        coupling_rate: share in which both followers were in the same state and chose the same action.
        upper_gradient: the estimate of (U), like x.
        squared_upper_gradient: its squared length. With the mean of the estimates it tells their variance.
    """

    mean_reward: Float[Array, "2"]
    mean_cost: Float[Array, "2"]
    mean_entropy: Float[Array, "2"]
    mean_squared_td_error: Float[Array, "2"]
    coupling_rate: Float[Array, ""]
    upper_gradient: PyTree
    squared_upper_gradient: Float[Array, ""]


class SingleLoopActorCritic(eqx.Module):
    """Algorithm 1 on a bi-level problem.

    Attributes:
        problem: what is solved.
        step_sizes: the five sequences (ζ, α, β, w, τ). One that violates a validity condition is used, with a
            `ScheduleWarning` that names the condition.
        followers: how both followers act and learn: chains, coupling, windows, tables or networks.
        upper_steps: how the estimates of (U) become steps of x; the paper's by default.
        expects_actions: ∇_x r and ∇_x c in (U) are means over the policies' actions, not those of one action.

    Raises:
        TypeError: an argument is of another type.
        ValueError: as `Followers.check`, the environment is not a `TabularMDP` and `expects_actions` is set, or the
            followers are networks and `problem.upper` is a `PolicyLoss` or a `TrajectoryLoss`.

    Example:
        >>> import equinox as eqx, jax, bilevel_rl as brl
        >>> algorithm = brl.SingleLoopActorCritic(brl.problems.goal_position(size=5, target=(3, 1), initial_x=(1, 3)))
        >>> state = algorithm.init(jax.random.key(0))
        >>> uniforms = algorithm.draw(jax.random.key(1), num_iterations=10)
        >>> state, info = eqx.filter_jit(algorithm.step)(uniforms[0], state)
        >>> int(state.num_iterations), algorithm.num_transitions_per_iteration
        (1, 32)
    """

    problem: BilevelProblem
    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.decaying)
    followers: Followers = eqx.field(default_factory=Followers)
    upper_steps: UpperSteps = eqx.field(default_factory=UpperSteps, kw_only=True)
    expects_actions: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        check_parts(self.problem, self.step_sizes)
        checks.instance("followers", self.followers, Followers)
        checks.instance("upper_steps", self.upper_steps, UpperSteps)
        checks.flag("expects_actions", self.expects_actions)
        environment, upper = self.problem.environment, self.problem.upper
        if self.expects_actions and not isinstance(environment, TabularMDP):
            raise ValueError("expects_actions needs a TabularMDP, whose actions can be listed beside states")
        if self.followers.policies is not None and isinstance(upper, PolicyLoss | TrajectoryLoss):
            raise ValueError(
                f"policies must be None where problem.upper is a {type(upper).__name__}, whose slope is applied to "
                "tables only"
            )
        self.followers.check(environment)
        if self.step_sizes.is_traced:
            return
        found = [f"step sizes violate {violation}" for violation in self.step_sizes.violations()]
        if isinstance(environment, TabularMDP) and self.followers.policies is None:
            chains = self.followers.num_chains, self.followers.num_steps
            found += self.step_sizes.overshoots(*chains, environment.num_states)
        for text in found:
            warnings.warn(text, ScheduleWarning, stacklevel=4)

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: T per chain, 2 B chains, and what a `TrajectoryLoss` takes."""
        return 2 * self.followers.num_samples + num_extra_transitions(self.problem.upper) * self.followers.num_chains

    def init(self, key: Array, chain_states: States | None = None) -> SingleLoopState:
        """Policies that have learned nothing, x at the problem's start, chains drawn from ρ or given.

        Coupled chains start in the first follower's states.
        """
        environment, followers = self.problem.environment, self.followers
        if chain_states is None:
            chain_states = environment.reset(jax.random.uniform(key, (2, followers.num_chains)))
        if followers.coupled:
            chain_states = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 2, axis=0), chain_states)
        x = self.problem.start(jax.random.fold_in(key, 1))
        return SingleLoopState(
            num_iterations=jnp.int32(0),
            x=x,
            parameters=followers.init(environment, 2, jax.random.fold_in(key, 2)),
            chain_states=chain_states,
            upper_memory=self.upper_steps.init(x),
            visitation=first_visitation(self.problem),
        )

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations U D B"]:
        """All randomness of a block of iterations: what `Followers.uniforms` takes apart.

        Coupled followers share it (D = 1). The upper objective's own come last; of theirs both rows of an uncoupled
        pair are drawn and one is used.
        """
        num_uniforms = self._num_uniforms_of_followers + num_extra_uniforms(self.problem.upper)
        num_rows = 1 if self.followers.coupled else 2
        return draw_uniforms(key, num_iterations, num_uniforms, num_rows, self.followers.num_chains)

    def step(self, uniforms: Float[Array, "U D B"], state: SingleLoopState) -> tuple[SingleLoopState, SingleLoopInfo]:
        """One iteration: T transitions per chain, then (U), (A), (C), (AL), (CL), all from iteration k's values."""
        environment, of_followers = self.problem.driven_environment(state.x), self._of_followers(uniforms)
        transitions, states = self.followers.act(environment, state.parameters, state.chain_states, of_followers)
        return self.step_from(transitions, states, uniforms, state)

    def step_from(
        self, transitions: Transitions, chain_states: States, uniforms: Float[Array, "U D B"], state: SingleLoopState
    ) -> tuple[SingleLoopState, SingleLoopInfo]:
        """The rest of `step`, once it is known where the followers' actions led.

        Args:
            transitions: N of every follower.
            chain_states: where the chains go on.
            uniforms: all randomness of the iteration.
            state: what it began with.
        """
        problem, k, x = self.problem, state.num_iterations, state.x
        environment, step_size = problem.driven_environment(x), self.step_sizes(k)
        w, reward = step_size.penalty, problem.rewards(x, transitions.states, transitions.actions)
        samples = self._samples(transitions, uniforms, state)
        f = estimate_upper(problem.upper, problem, samples)

        def upper_estimate(x: PyTree) -> Array:
            gains = estimate_gains(problem, x, samples)
            return f.objective(x) + (jnp.mean(gains[LOWER]) - jnp.mean(gains[PENALIZED])) / w

        x, upper_gradient, upper_memory = self.upper_steps.step(
            jax.grad(upper_estimate), x, state.upper_memory, k, step_size.upper, problem.project
        )  # (U): Π_X[x − ζ ∇]

        learned_rewards = jnp.stack([reward[LOWER], reward[PENALIZED] - w * f.step_costs])
        reward_bound = problem.reward_bound + w * problem.upper.step_cost_bound
        parameters, δ = self.followers.learn(
            environment, state.parameters, transitions, learned_rewards, step_size, reward_bound
        )  # (A), (C), (AL), (CL)
        if f.explicit is not None:  # the part of (AL) that is not a cost per step
            parameters = self._descend(parameters, *f.explicit, step_size.actor * w)

        info = SingleLoopInfo(
            reward.mean(1),
            f.mean_cost,
            transitions.entropy.mean(1),
            (δ**2).mean(1),
            jnp.mean(coincide(transitions), dtype=float),
            upper_gradient,
            optax.tree.norm(upper_gradient, squared=True),
        )
        return SingleLoopState(k + 1, x, parameters, chain_states, upper_memory, f.visitation), info

    def recommend(self, state: SingleLoopState) -> PyTree:
        """x, or the average of its iterates where `upper_steps` says so."""
        return state.x if self.upper_steps.averaging is None else state.upper_memory.average

    def log_policies(self, state: SingleLoopState) -> Float[Array, "2 S A"]:
        """log π_θ and log π_θᴸ in every state.

        Raises:
            ValueError: the environment is not a `TabularMDP`, so that states cannot be listed.
        """
        return self.followers.log_policies(self.problem.mdp, state.parameters)

    @property
    def _num_uniforms_of_followers(self) -> int:
        return self.followers.num_uniforms(self.problem.environment)

    def _of_followers(self, uniforms: Float[Array, "U D B"]) -> Uniforms:
        return self.followers.uniforms(uniforms[: self._num_uniforms_of_followers])

    def _samples(self, transitions: Transitions, uniforms: Float[Array, "U D B"], state: SingleLoopState) -> Samples:
        """What iteration k's estimates of (U) are made of."""
        policy = self.followers.policy(self.problem.environment)
        return Samples(
            x=state.x,
            transitions=transitions,
            outcomes=in_a_row(self._of_followers(uniforms).transition),
            logits=lambda states: policy.read(state.parameters[PENALIZED], states)[0],
            values=lambda states: jax.vmap(policy.values)(state.parameters, states),
            uniforms=uniforms[self._num_uniforms_of_followers :, 0],
            visitation=state.visitation,
            num_iterations=state.num_iterations,
            expects_actions=self.expects_actions,
        )

    def _descend(
        self,
        parameters: Float[Array, "2 S columns"],
        states: Int[Array, " N"],
        slopes: Float[Array, "N A"],
        step: Array,
    ) -> Float[Array, "2 S columns"]:
        """θᴸ less `step` times the slopes of f̂ in its logits, preconditioned as its other gradients are."""
        table = self.followers.table(self.problem.mdp)
        if self.followers.natural:
            logits, _ = table.read(parameters[PENALIZED], states)
            slopes = fisher_preconditioned(slopes, jax.nn.softmax(logits))
        nothing = jnp.zeros(len(states), slopes.dtype)
        moved = table.ascend(parameters[PENALIZED], states, -step * slopes, nothing)
        return parameters.at[PENALIZED].set(moved)
