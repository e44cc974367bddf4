"""ModelBased: a single loop that learns the kernel from its own transitions and keeps its followers on the estimate.

Source: ours; the penalty gradient is that of Algorithm 1 (docs/explanation/method.md, sections 3 and 8). The rewards
r_x and the costs c_x are known functions of every pair; only P and ρ are not, and they are counted. So the followers
need no step sizes: they are kept up to date by soft value iteration on the estimate, and the two averages of (U) are
sums over all pairs, weighted by occupancies that follow the estimate too. What is left of a model-free method's noise
is that of the counts.

| symbol | name           | meaning                                                                       |
|--------|----------------|-------------------------------------------------------------------------------|
| x      | `x`            | upper variable                                                                |
| N, n   | `counts`       | transitions seen, from (s, a) to s' and from (s, a); P̂ = N / n                |
| V, Vᴸ  | `values[:2]`   | soft values of the lower and the penalized follower, on P̂                     |
| Vᴱ     | `values[2]`    | of the explorer, whom the chains follow                                       |
| μ, μᴸ  | `occupancies`  | of states, of both followers, on P̂                                            |
| ζ, w, τ| `upper`, `penalty`, `entropy` | step size of x, penalty parameter, entropy weight              |

An iteration takes T transitions of B chains, counts them, and then sweeps until V and μ hardly change:

    Q = r + γ P̂ V,   V = τ logsumexp(Q / τ),   π = softmax(Q / τ),   μ ← (1−γ) ρ̂ + γ P̂ᵀ(μ π)                      (M)

with r = r_x for the lower follower, and r_x − w c_x for the penalized one. Then

    x ← Π_X[x − ζ (∇_x g + Σ (μ π − μᴸ πᴸ) ∇_x r_x / w + Σ μᴸ πᴸ ∇_x c_x)].                                        (U)

The explorer has the lower follower's reward, and believes of every pair that was tried less than m times that it leads
to the best of all rewards for ever (optimism in the face of uncertainty: Brafman and Tennenholtz, "R-max", JMLR 3,
2002). Once all pairs that it comes to are known it is the lower follower.

What it needs and model-free methods do not: all pairs can be listed, and r_x and c_x can be evaluated at any of them. A
reward that is an expectation over s' tells it something of P.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.counting import CountingAlgorithm
from bilevel_rl.algorithms.followers import LOWER, PENALIZED
from bilevel_rl.algorithms.learned_model import Counts
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.algorithms.upper_steps import ADAM, Memory, UpperSteps
from bilevel_rl.exact.soft_mdp import entropy
from bilevel_rl.exact.tables import cost_table, reward_table
from bilevel_rl.formulation import BilevelProblem, ProblemScales, measure_scales
from bilevel_rl.formulation.scales import ENTROPY_SHARE

EXPLORER = 2

UNCHANGED = 1e-2
"""Sweeps go on until they change differences of V by less than this share of τ, and occupancies by this share of all
mass. No policy depends on more than differences."""

UPPER_DISTANCE = 45.0
PENALTY_OVER_ENTROPY = 10.0
EXPONENTS = (9 / 10, 0.0, 0.0, 1 / 2, 1 / 2)
"""Of the steps that `ModelBased.untuned` works out, in the order (ζ, α, β, w, τ)."""


class ModelBasedState(NamedTuple):
    """What the next iteration needs; the symbols are those of the module.

    Attributes:
        num_iterations: k.
        x: the upper variable.
        values: V, Vᴸ and Vᴱ.
        occupancies: μ and μᴸ.
        counts: N, and where chains started.
        chain_states: where the explorer's chains are.
        upper_memory: what `upper_steps` remembers.
    """

    num_iterations: Int[Array, ""]
    x: PyTree
    values: Float[Array, "3 S"]
    occupancies: Float[Array, "2 S"]
    counts: Counts
    chain_states: Int[Array, "1 B"]
    upper_memory: Memory


class ModelBasedInfo(NamedTuple):
    """Diagnostics of one iteration, means over the occupancies on the estimate; pairs are (lower, penalized).

    Attributes:
        mean_reward: r.
        mean_cost: c.
        mean_entropy: H(π(·|s)).
        unknown_occupancy: share of the lower follower's time in pairs that were tried less than m times.
        num_sweeps: (M), how often.
        upper_gradient: the estimate of (U), like x.
        squared_upper_gradient: its squared length. With the mean of the estimates it tells their variance.
    """

    mean_reward: Float[Array, "2"]
    mean_cost: Float[Array, "2"]
    mean_entropy: Float[Array, "2"]
    unknown_occupancy: Float[Array, ""]
    num_sweeps: Float[Array, ""]
    upper_gradient: PyTree
    squared_upper_gradient: Float[Array, ""]


class ModelBased(CountingAlgorithm):
    """(M) and (U) on the estimated kernel.

    An iteration costs T B environment transitions.

    Attributes:
        problem: what is solved; its upper objective is an `OccupancyCost`, and x leaves the dynamics alone.
        step_sizes: ζ, w and τ; α and β are not used. `ModelBased.untuned` works them out.
        num_chains: B, parallel Markov chains.
        num_steps: T, transitions of every chain in an iteration.
        max_sweeps: of an iteration, where they do not come to rest before.
        num_tries: m, after how many tries a pair is known. More where the outcome that matters is rare.
        upper_steps: how (U) becomes a step of x; Adam by default, and the answer is an average of all x_k.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a number is not positive, or as `CountingAlgorithm`.

    Example:
        >>> import jax, bilevel_rl as brl
        >>> problem = brl.problems.goal_position(size=4, target=(3, 1), initial_x=(0, 2), width=2.0)
        >>> algorithm = brl.ModelBased.untuned(problem)
        >>> result = brl.run(algorithm, jax.random.key(0), 1, 100, log_every=100, progress=False)
        >>> result.x.round().tolist(), 100 * algorithm.num_transitions_per_iteration
        ([[3.0, 1.0]], 3200)
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.fixed_target)
    num_steps: int = eqx.field(static=True, default=2, kw_only=True)
    max_sweeps: int = eqx.field(static=True, default=32, kw_only=True)
    num_tries: float = eqx.field(static=True, default=5.0, kw_only=True)
    upper_steps: UpperSteps = eqx.field(default_factory=lambda: UpperSteps(ADAM, averaging=3.0), kw_only=True)

    def __check_init__(self):
        checks.integer("max_sweeps", self.max_sweeps, at_least=1)
        checks.number("num_tries", self.num_tries, at_least=0)
        checks.instance("upper_steps", self.upper_steps, UpperSteps)

    @classmethod
    def untuned(
        cls, problem: BilevelProblem, num_chains: int = 16, *, scales: ProblemScales | None = None
    ) -> "ModelBased":
        """With steps that are worked out from the problem's scales R, C and X, so that nothing is left to tune.

        They hold for k_0 = S A / ((1−γ) T B) iterations and then fade: τ_0 = R / 10 and w_0 = 10 τ_0 / C as k^{−1/2},
        ζ_0 = 45 X / k_0 as k^{−0.9}. A follower with an entropy weight λ of its own keeps τ = λ.

        Args:
            problem: what is solved.
            num_chains: B.
            scales: the problem's units, where `measure_scales` cannot know them.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a scale cannot be measured, or as `ModelBased`.
        """
        checks.instance("problem", problem, BilevelProblem)
        checks.integer("num_chains", num_chains, at_least=1)
        scales = measure_scales(problem) if scales is None else scales
        checks.instance("scales", scales, ProblemScales)
        mdp, num_steps = problem.mdp, 2
        held = mdp.num_states * mdp.num_actions / ((1 - mdp.discount) * num_steps * num_chains)
        τ = ENTROPY_SHARE * scales.reward if problem.entropy_weight is None else problem.entropy_weight
        step_sizes = StepSizes.decaying(
            upper=UPPER_DISTANCE * scales.x / held,
            actor=1.0,
            critic=1.0,
            penalty=PENALTY_OVER_ENTROPY * τ / scales.cost,
            entropy=τ,
            offset=held,
            exponents=EXPONENTS if problem.entropy_weight is None else (*EXPONENTS[:-1], 0.0),
        )
        return cls(problem, step_sizes, num_chains, num_steps=num_steps)

    def init(self, key: Array) -> ModelBasedState:
        """Nothing counted but the chains' starts, V = 0, x at the problem's start."""
        mdp, x = self.problem.mdp, self.problem.start(jax.random.fold_in(key, 1))
        chain_states = mdp.reset(jax.random.uniform(key, (1, self.num_chains)))
        counts = self.possible.none_counted(mdp, chain_states)
        return ModelBasedState(
            num_iterations=jnp.int32(0),
            x=x,
            values=jnp.zeros((3, mdp.num_states)),
            occupancies=jnp.tile(counts.starts / self.num_chains, (2, 1)),
            counts=counts,
            chain_states=chain_states,
            upper_memory=self.upper_steps.init(x),
        )

    def step(self, uniforms: Float[Array, "U 1 B"], state: ModelBasedState) -> tuple[ModelBasedState, ModelBasedInfo]:
        """One iteration: T transitions of every chain, the counts, the sweeps (M), and one step (U)."""
        problem, mdp, followers = self.problem, self.problem.mdp, self.followers
        step_size = self.step_sizes(state.num_iterations)
        τ, w = step_size.entropy, step_size.penalty

        logits = self._backup(state)(state.values)[EXPLORER:] / τ
        explorer = jnp.concatenate([logits, jnp.zeros_like(logits[..., :1])], axis=-1)
        transitions, chain_states = followers.act(mdp, explorer, state.chain_states, followers.uniforms(uniforms))
        state = state._replace(
            counts=self.possible.counted(state.counts, mdp, transitions, chain_states), chain_states=chain_states
        )

        values, occupancies, num_sweeps = self._swept(state, τ)  # (M)
        log_policies = jax.nn.log_softmax(self._backup(state)(values)[:EXPLORER] / τ)
        d = occupancies[..., None] * jnp.exp(log_policies)

        def upper(x: PyTree) -> Array:
            gains = jnp.sum((d[LOWER] - d[PENALIZED]) * reward_table(problem, x))
            costs = jnp.sum(d[PENALIZED] * cost_table(problem, x))
            return jnp.asarray(problem.upper.regularizer(x)) + gains / w + costs

        x, gradient, memory = self.upper_steps.step(
            jax.grad(upper), state.x, state.upper_memory, state.num_iterations, step_size.upper, problem.project
        )  # (U)
        info = ModelBasedInfo(
            jnp.sum(d * reward_table(problem, state.x), axis=(1, 2)),
            jnp.sum(d * cost_table(problem, state.x), axis=(1, 2)),
            jnp.sum(jnp.where(mdp.terminal, 0.0, occupancies * entropy(log_policies)), axis=1),
            jnp.sum(d[LOWER] * self._is_unknown(state.counts)),
            jnp.asarray(num_sweeps, float),
            gradient,
            optax.tree.norm(gradient, squared=True),
        )
        k = state.num_iterations + 1
        return state._replace(num_iterations=k, x=x, values=values, occupancies=occupancies, upper_memory=memory), info

    def recommend(self, state: ModelBasedState) -> PyTree:
        """x, or the average of its iterates where `upper_steps` says so."""
        return state.x if self.upper_steps.averaging is None else state.upper_memory.average

    def log_policies(self, state: ModelBasedState) -> Float[Array, "2 S A"]:
        """log π and log πᴸ in every state."""
        τ = self.step_sizes(state.num_iterations).entropy
        return jax.nn.log_softmax(self._backup(state)(state.values)[:EXPLORER] / τ)

    def _is_unknown(self, counts: Counts) -> Array:
        """Which pairs were tried less than m times, and matter: in terminal states nothing does."""
        return (self.possible.tries(counts) < self.num_tries) & ~jnp.asarray(self.problem.mdp.terminal)[:, None]

    def _backup(self, state: ModelBasedState) -> Callable[[Float[Array, "3 S"]], Float[Array, "3 S A"]]:
        """From the values of what follows to Q of all three, on what is known now."""
        mdp, step_size = self.problem.mdp, self.step_sizes(state.num_iterations)
        reward = reward_table(self.problem, state.x)
        rewards = jnp.stack([reward, reward - step_size.penalty * cost_table(self.problem, state.x), reward])
        model, is_unknown = self.possible.likeliest(state.counts), self._is_unknown(state.counts)
        best = (jnp.max(reward) + step_size.entropy * math.log(mdp.num_actions)) / (1 - mdp.discount)

        def action_values(values: Float[Array, "3 S"]) -> Float[Array, "3 S A"]:
            following = model.expected_next(values)
            following = following.at[EXPLORER].set(jnp.where(is_unknown, best, following[EXPLORER]))
            return rewards + mdp.discount * following

        return action_values

    def _swept(self, state: ModelBasedState, τ: Array) -> tuple[Array, Array, Array]:
        """V and μ after as many sweeps (M) as they need, and how many these were."""
        mdp, action_values = self.problem.mdp, self._backup(state)
        model = self.possible.likeliest(state.counts)

        def sweep(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            values, occupancies, num_sweeps, _ = carry
            logits = action_values(values) / τ
            largest = jnp.max(logits, axis=-1, keepdims=True)
            weights = jnp.exp(logits - largest)  # Once, for both the values and the policies.
            sums = jnp.sum(weights, axis=-1, keepdims=True)
            new_values = jnp.where(mdp.terminal, 0.0, τ * (largest + jnp.log(sums))[..., 0])
            policies = weights[:EXPLORER] / sums[:EXPLORER]
            flow = model.inflow(occupancies[..., None] * policies)
            new_occupancies = (1 - mdp.discount) * state.counts.start_shares + mdp.discount * flow
            mass = jnp.sum(jnp.abs(new_occupancies - occupancies), axis=-1)
            change = jnp.maximum(jnp.max(jnp.ptp(new_values - values, axis=-1)) / τ, jnp.max(mass))
            return new_values, new_occupancies, num_sweeps + 1, change

        def goes_on(carry: tuple[Array, Array, Array, Array]) -> Array:
            return (carry[2] < self.max_sweeps) & (carry[3] > UNCHANGED)

        begin = state.values, state.occupancies, jnp.int32(0), jnp.asarray(jnp.inf)
        return jax.lax.while_loop(goes_on, sweep, begin)[:3]
