"""Model-based SoBiRL: the implicit gradient (IG) with V and ∂_x V tracked by sweeps of their own fixed points.

Source: Yang et al., model-based SoBiRL, as summarized in docs/method.md, section 8; equations of section 7. At fixed τ,
N times per step of x, over all states at once:

    π = softmax(Q/τ),   Q = r_x + γ P V,   V ← τ logsumexp(Q/τ),   ∂V ← E_π[∂_x r] + γ P^π ∂V.

Then ∂Q = ∂_x r + γ P ∂V gives (IG). Nothing is sampled, and no transition is counted.

Deviation from the paper, which we know from its summary: the occupancy and the cost-advantage of (IG), about which the
summary says nothing, are those of the present policy by linear solves.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.exact.evaluation import PolicySystem, expected_next
from bilevel_rl.exact.objectives import direct_gradient
from bilevel_rl.exact.tables import cost_table, reward_table
from bilevel_rl.formulation import BilevelProblem


class ModelBasedState(NamedTuple):
    """What the next iteration needs."""

    num_iterations: Int[Array, ""]
    x: PyTree
    values: Float[Array, " S"]
    value_gradients: Float[Array, "S d"]


class ModelBasedInfo(NamedTuple):
    """E_{d^π} under the present policy, given twice: there is one policy."""

    mean_reward: Float[Array, "2"]
    mean_cost: Float[Array, "2"]


class SoBiRLModelBased(eqx.Module):
    """N sweeps of V and ∂V, then x ← Π_X[x − ζ_k ∇̂Φ_τ(x)] by (IG) with them.

    An iteration costs no environment transitions, and O(S A d) memory.

    Attributes:
        problem: what is solved.
        step_sizes: ζ and τ; the others are not used.
        num_inner_steps: N.

    Raises:
        ValueError: `num_inner_steps` < 1.
    """

    problem: BilevelProblem
    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.fixed_target)
    num_inner_steps: int = eqx.field(static=True, default=20, kw_only=True)

    def __check_init__(self):
        if self.num_inner_steps < 1:
            raise ValueError(f"num_inner_steps must be at least 1, got {self.num_inner_steps}")
        if self.problem.outcome_probabilities is not None:
            raise ValueError(
                "problem has outcome_probabilities, which SoBiRLModelBased does not follow; use ExactDescent"
            )

    @property
    def num_transitions_per_iteration(self) -> int:
        """None: the model is known."""
        return 0

    def shared_by(self, axis: str, num_devices: int) -> "SoBiRLModelBased":
        """The algorithm itself, for one device.

        Raises:
            ValueError: a seed shall be shared by several devices.
        """
        if num_devices > 1:
            raise ValueError(f"a seed of SoBiRLModelBased cannot be shared by devices, got {num_devices} on {axis}")
        return self

    def init(self, key: Array) -> ModelBasedState:
        """V and ∂V at 0, and x at the problem's start."""
        x, num_states = self.problem.start(key), self.problem.mdp.num_states
        gradients = jnp.zeros((num_states, ravel_pytree(x)[0].size))
        return ModelBasedState(jnp.int32(0), x, jnp.zeros(num_states), gradients)

    def draw(self, key: Array, num_iterations: int) -> tuple[()]:
        """No randomness."""
        return ()

    def step(self, noise: tuple[()], state: ModelBasedState) -> tuple[ModelBasedState, ModelBasedInfo]:
        """One iteration."""
        problem, mdp = self.problem, self.problem.mdp
        step_size = self.step_sizes(state.num_iterations)
        τ = step_size.entropy
        flat_x, unravel = ravel_pytree(state.x)
        reward = reward_table(problem, state.x)
        reward_gradients = jax.jacobian(lambda x: reward_table(problem, unravel(x)))(flat_x)

        def action_value_gradients(value_gradients: Array) -> Array:
            next_gradients = jax.vmap(lambda values: expected_next(mdp, values), in_axes=1, out_axes=2)
            return reward_gradients + mdp.discount * next_gradients(value_gradients)

        def sweep(_: Array, tables: tuple[Array, Array]) -> tuple[Array, Array]:
            values, value_gradients = tables
            scaled = (reward + mdp.discount * expected_next(mdp, values)) / τ
            policy = jax.nn.softmax(scaled)
            new_values = jnp.where(mdp.terminal, 0.0, τ * jax.nn.logsumexp(scaled, axis=1))
            return new_values, jnp.sum(policy[..., None] * action_value_gradients(value_gradients), axis=1)

        tables = jax.lax.fori_loop(0, self.num_inner_steps, sweep, (state.values, state.value_gradients))
        values, value_gradients = tables

        policy = jax.nn.softmax((reward + mdp.discount * expected_next(mdp, values)) / τ)
        cost = cost_table(problem, state.x)
        system = PolicySystem(mdp, policy)
        cost_values, visits = system.values(jnp.sum(policy * cost, axis=1)), system.occupancy()
        cost_advantage = cost + mdp.discount * expected_next(mdp, cost_values) - cost_values[:, None]
        differences = action_value_gradients(value_gradients) - value_gradients[:, None]

        through_policy = unravel(jnp.einsum("sa,sai->i", visits * cost_advantage / τ, differences))
        gradient = jax.tree.map(
            jnp.add, direct_gradient(problem, state.x, visits, jnp.log(policy)), through_policy
        )  # (IG)
        x = problem.project(jax.tree.map(lambda x, g: x - step_size.upper * g, state.x, gradient))
        info = ModelBasedInfo(jnp.full(2, jnp.sum(visits * reward)), jnp.full(2, jnp.sum(visits * cost)))
        return ModelBasedState(state.num_iterations + 1, x, values, value_gradients), info

    def recommend(self, state: ModelBasedState) -> PyTree:
        """The last x."""
        return state.x

    def log_policies(self, state: ModelBasedState) -> Float[Array, "2 S A"]:
        """log softmax(Q/τ) with the present x and V, twice."""
        mdp, τ = self.problem.mdp, self.step_sizes(state.num_iterations).entropy
        action_values = reward_table(self.problem, state.x) + mdp.discount * expected_next(mdp, state.values)
        return jnp.stack([jax.nn.log_softmax(action_values / τ)] * 2)
