"""CertaintyEquivalence: try everything evenly, and descend on the exact hyper-gradient of the kernel that was counted.

Source: certainty equivalence is how adaptive control calls it to take an estimate for the truth; here it is the plain
line that model-based methods are compared with. docs/explanation/method.md, section 7, equation (IG).

The chains take the action that was tried least where they are. Whenever there are 1.5 times as many transitions as at
the last time, x is planned anew: N steps of Adam from x_0 on the exact gradient of Φ_τ, as if P̂ were P. So the answer
depends on the counts alone, and half a run's answer is that of a run half as long.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.counting import CountingAlgorithm
from bilevel_rl.algorithms.learned_model import Counts
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.exact.objectives import implicit_gradient
from bilevel_rl.exact.soft_mdp import soft_optimal
from bilevel_rl.exact.tables import reward_table

GROWTH = 1.5
"""How many times as many transitions there are at a plan as at the one before."""

OUT_OF_THE_QUESTION = 1e9
"""Logits below the largest at which an action is never taken; infinite ones have no entropy in floating point."""

ADAM = optax.adam(1.0)


class CertaintyEquivalenceState(NamedTuple):
    """What the next iteration needs.

    Attributes:
        num_iterations: k.
        x: of the last plan.
        start: x_0, where every plan begins.
        log_policy: log π of the follower's answer on the estimate, in the last plan.
        cost: f less g(x), on the estimate, in the last plan.
        counts: what was seen.
        chain_states: where the chains are.
    """

    num_iterations: Int[Array, ""]
    x: PyTree
    start: PyTree
    log_policy: Float[Array, "S A"]
    cost: Float[Array, ""]
    counts: Counts
    chain_states: Int[Array, "1 B"]


class CertaintyEquivalenceInfo(NamedTuple):
    """Diagnostics of one iteration, those of the last plan."""

    mean_cost: Float[Array, "1"]


class CertaintyEquivalence(CountingAlgorithm):
    """Exact descent on the counted kernel, planned anew at times that grow geometrically.

    An iteration costs T B environment transitions.

    Attributes:
        problem: what is solved; its upper objective is an `OccupancyCost`, and x leaves the dynamics alone.
        step_sizes: ζ_i and τ_i of the i-th step of a plan; α, β and w are not used.
        num_chains: B, parallel Markov chains.
        num_steps: T, transitions of every chain in an iteration.
        num_planning_steps: N, steps of x in a plan.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a number is not positive, or as `CountingAlgorithm`.
    """

    step_sizes: StepSizes = eqx.field(default_factory=lambda: StepSizes.constant_entropy(upper=0.1, offset=50.0))
    num_planning_steps: int = eqx.field(static=True, default=150, kw_only=True)

    def __check_init__(self):
        checks.integer("num_planning_steps", self.num_planning_steps, at_least=1)

    def init(self, key: Array) -> CertaintyEquivalenceState:
        """Nothing counted but the chains' starts, a uniform policy, x at the problem's start."""
        mdp, x = self.problem.mdp, self.problem.start(jax.random.fold_in(key, 1))
        chain_states = mdp.reset(jax.random.uniform(key, (1, self.num_chains)))
        return CertaintyEquivalenceState(
            num_iterations=jnp.int32(0),
            x=x,
            start=x,
            log_policy=jnp.full((mdp.num_states, mdp.num_actions), -math.log(mdp.num_actions)),
            cost=jnp.zeros(()),
            counts=self.possible.none_counted(mdp, chain_states),
            chain_states=chain_states,
        )

    def step(
        self, uniforms: Float[Array, "U 1 B"], state: CertaintyEquivalenceState
    ) -> tuple[CertaintyEquivalenceState, CertaintyEquivalenceInfo]:
        """One iteration: T transitions of every chain, the counts, and a plan where its time has come."""
        mdp, followers = self.problem.mdp, self.followers
        tries = self.possible.tries(state.counts)
        is_least = tries == jnp.min(tries, axis=-1, keepdims=True)
        table = jnp.pad(jnp.where(is_least, 0.0, -OUT_OF_THE_QUESTION), ((0, 0), (0, 1)))[None]
        transitions, chain_states = followers.act(mdp, table, state.chain_states, followers.uniforms(uniforms))
        counts = self.possible.counted(state.counts, mdp, transitions, chain_states)
        k = state.num_iterations + 1
        state = state._replace(num_iterations=k, counts=counts, chain_states=chain_states)
        state = jax.lax.cond(_is_time(k), lambda state: self._planned(state), lambda state: state, state)
        return state, CertaintyEquivalenceInfo(state.cost[None])

    def log_policies(self, state: CertaintyEquivalenceState) -> Float[Array, "1 S A"]:
        """log π of the follower's answer on the estimate, in the last plan."""
        return state.log_policy[None]

    def _planned(self, state: CertaintyEquivalenceState) -> CertaintyEquivalenceState:
        """N steps of Adam from x_0 on (IG), as if the estimate were the truth."""
        mdp, counts = self.problem.mdp, state.counts
        model = self.possible.likeliest(counts).as_mdp(mdp, counts)
        problem = eqx.tree_at(lambda problem: problem.environment, self.problem, model)

        def descend(i: Array, carry: tuple) -> tuple:
            x, memory, values, _, _ = carry
            step_size = self.step_sizes(i)
            answer = soft_optimal(model, reward_table(problem, x), step_size.entropy, start_values=values)
            objective, gradient = implicit_gradient(problem, x, answer.log_policy, step_size.entropy)
            updates, memory = ADAM.update(gradient, memory, x)
            cost = objective - problem.upper.regularizer(x)
            return self._moved(x, updates, -step_size.upper), memory, answer.values, answer.log_policy, cost

        start = state.start, ADAM.init(state.start), jnp.zeros(mdp.num_states), state.log_policy, state.cost
        x, _, _, log_policy, cost = jax.lax.fori_loop(0, self.num_planning_steps, descend, start)
        return state._replace(x=x, log_policy=log_policy, cost=cost)


def _is_time(k: Array) -> Array:
    """Whether a power of `GROWTH` lies between k and k + 1."""

    def power(k: Array) -> Array:
        return jnp.floor(jnp.log(k.astype(float)) / math.log(GROWTH))

    return power(k + 1) > power(k)
