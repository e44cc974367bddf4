"""Finite difference: the leader tries x ± h u, lets a follower adapt to either, and compares what it pays.

Source: docs/explanation/method.md, section 8. Each tried x has a follower of its own, which is kept from one iteration
to the next, so its T steps start from the answer to a near x. Where x has at most `MAX_COORDINATES` numbers, all its
coordinates are tried; otherwise one random unit direction. Both followers of a pair see the same random numbers, which
makes their difference less noisy and leaves its mean as it is. Costs are measured in the later half of the T steps.

The tried x may lie up to h outside the feasible set, so rewards and costs must be defined there.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.algorithms.sampled import SampledInfo, SampledState, TwoLoopAlgorithm, learn_for
from bilevel_rl.algorithms.step_sizes import as_leaf, check_leaf
from bilevel_rl.algorithms.transitions import draw_uniforms

MAX_COORDINATES = 4


class FiniteDifference(TwoLoopAlgorithm):
    """x ← Π_X[x − ζ_k Σ_u (f̂(x + h u, π⁺) − f̂(x − h u, π⁻)) / 2h · u] over N directions u.

    An iteration costs 2 N T B environment transitions.

    Attributes:
        problem: what is solved.
        step_sizes: ζ, α, β and τ; w is not used.
        num_chains: B, chains per tried x.
        num_inner_steps: T, steps of the followers between two steps of x.
        radius: h, in units of x.

    Raises:
        ValueError: `radius` is not positive, or as `TwoLoopAlgorithm`.
    """

    radius: Float[ArrayLike, ""] = eqx.field(converter=as_leaf("radius"), default=0.5, kw_only=True)

    def __check_init__(self):
        check_leaf("radius", self.radius)

    @property
    def num_directions(self) -> int:
        """N."""
        return self._num_numbers if self._num_numbers <= MAX_COORDINATES else 1

    @property
    def num_followers(self) -> int:
        """One at every tried x: N at x + h u, then N at x − h u."""
        return 2 * self.num_directions

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration, of all followers' inner loops."""
        return self.num_followers * self.num_inner_steps * self.num_chains

    def draw(self, key: Array, num_iterations: int) -> dict[str, Array]:
        """Normal numbers for the direction, and uniforms (T, 4, N, B) that both followers of a pair share."""
        direction_key, key = jax.random.split(key)
        return {
            "direction": jax.random.normal(direction_key, (num_iterations, self._num_numbers)),
            "uniforms": draw_uniforms(
                key, num_iterations, self.num_inner_steps, 4, self.num_directions, self.num_chains
            ),
        }

    def step(self, noise: dict[str, Array], state: SampledState) -> tuple[SampledState, SampledInfo]:
        """One iteration: T steps of every follower at its own x, then one step of x."""
        problem, step_size = self.problem, self.step_sizes(state.num_iterations)
        flat_x, unravel = ravel_pytree(state.x)
        directions = self._directions(noise["direction"])
        tried = jax.vmap(unravel)(flat_x + self.radius * jnp.concatenate([directions, -directions]))

        def rewards(s: Array, a: Array) -> Array:
            return jax.vmap(problem.rewards)(tried, s, a)

        uniforms = jnp.concatenate([noise["uniforms"]] * 2, axis=2)
        inner = self.followers, problem.mdp, state.parameters, state.chain_states
        parameters, chain_states, visits = learn_for(*inner, uniforms, rewards, step_size, problem.reward_bound)
        visits = visits.later_half()

        def of_follower(x: PyTree, s: Array, a: Array) -> tuple[Array, Array]:
            return jnp.mean(problem.rewards(x, s, a)), jnp.mean(problem.costs(x, s, a))

        r, c = jax.vmap(of_follower, in_axes=(0, 1, 1))(tried, visits.states, visits.actions)
        f = c + jax.vmap(lambda x: jnp.asarray(problem.upper.regularizer(x), float))(tried)
        slopes = (f[: self.num_directions] - f[self.num_directions :]) / (2 * self.radius)
        x = self._moved(state.x, unravel(slopes @ directions), step_size.upper)  # docs/explanation/method.md, section 8

        entropy, squared_error = visits.entropy, visits.td_errors**2
        info = SampledInfo(*(jnp.mean(values)[None] for values in (r, c, entropy, squared_error)))
        return SampledState(state.num_iterations + 1, x, parameters, chain_states), info

    def log_policies(self, state: SampledState) -> Float[Array, "1 S A"]:
        """log π of the first follower, the one at x + h u."""
        return super().log_policies(state)[:1]

    @property
    def _num_numbers(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.problem.initial_x))

    def _directions(self, normal: Float[Array, " d"]) -> Float[Array, "N d"]:
        """Unit vectors: the coordinates, or one that is uniform on the sphere."""
        if self.num_directions == self._num_numbers:
            return jnp.eye(self._num_numbers)
        return (normal / jnp.linalg.norm(normal))[None]
