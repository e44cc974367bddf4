"""Better penalties for Four Rooms by transfers: half of a cell's penalty moves to another, and exact descent goes on.

F has many local optima, most of which differ in a few cells: one door is closed instead of the next. No small step
leads from one to the other, but a transfer does. All transfers from the `NUM_SOURCES` largest shares are measured,
which needs no gradients. The `NUM_TRIALS` best are then tried, the best first: descent begins there, and its end is
kept where it is better than what was found so far. Both are repeated until they gain little. The unused budget counts
as a cell.

Plain JAX functions in the ambient precision.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from bilevel_rl.exact.evaluation import PolicySystem, start_mean
from bilevel_rl.exact.objectives import implicit_gradient
from bilevel_rl.exact.soft_mdp import SoftSolution, soft_optimal
from bilevel_rl.exact.tables import cost_table, reward_table
from bilevel_rl.formulation import BilevelProblem

NUM_SOURCES, NUM_TRIALS = 3, 8
NUM_STEPS, FIRST_STEP, LAST_STEP = 50, 0.05, 0.01
"""Of a descent: Adam, with steps that fall geometrically."""

TRANSFERRED = 0.5
"""Share of a cell's penalty that moves."""

SMALLEST_SHARE = 1e-7
"""Of the budget in any cell when a transfer is made: a softmax comes back from there."""

LEAST_GAIN = 5e-6
"""In Φ, of a round that another one follows; 0.0005 in F."""


class _Place(eqx.Module):
    """A point of the search: x, Φ_λ(x) and the follower's values, from which the next answer is sought."""

    x: Float[Array, " 105"]
    objective: Float[Array, ""]
    values: Float[Array, " S"]


def improved_by_transfers(
    problem: BilevelProblem, x: Float[ArrayLike, " 105"], *, max_rounds: int
) -> Float[np.ndarray, " 105"]:
    """The x that transfers and descents lead to; never a worse one.

    Args:
        problem: from `four_rooms`.
        x: where to begin.
        max_rounds: how often all transfers are measured, at most.
    """
    start = jnp.asarray(x, float)
    place = _Place(start, *_measured(problem, start, jnp.zeros(problem.mdp.num_states)))
    for _ in range(max_rounds):
        shares = np.asarray(jax.nn.softmax(place.x))
        pairs = np.array([(i, j) for i in np.argsort(-shares)[:NUM_SOURCES] for j in range(len(shares)) if i != j])
        objectives = _objectives(problem, place, jnp.asarray(pairs))
        last = place
        for pair in pairs[np.argsort(objectives)[:NUM_TRIALS]]:
            trial = _descended(problem, place, jnp.asarray(pair))
            if trial.objective < place.objective:
                place = trial
        if last.objective - place.objective < LEAST_GAIN:
            break
    return np.asarray(place.x)


def _answer(problem: BilevelProblem, x: Array, values: Array) -> SoftSolution:
    assert problem.entropy_weight is not None
    return soft_optimal(problem.mdp, reward_table(problem, x), problem.entropy_weight, start_values=values)


@eqx.filter_jit
def _measured(problem: BilevelProblem, x: Array, values: Array) -> tuple[Float[Array, ""], Float[Array, " S"]]:
    """Φ_λ(x), and the follower's values."""
    answer = _answer(problem, x, values)
    costs = jnp.sum(answer.policy * cost_table(problem, x), axis=-1)
    return start_mean(problem.mdp, PolicySystem(problem.mdp, answer.policy).values(costs)), answer.values


def _transferred(x: Array, pair: Int[Array, "2"]) -> Array:
    """Half of the first one's penalty moves to the second one."""
    shares = jax.nn.softmax(x) + SMALLEST_SHARE
    moved = TRANSFERRED * shares[pair[0]]
    return jnp.log(shares.at[pair[0]].add(-moved).at[pair[1]].add(moved))


@eqx.filter_jit
def _objectives(problem: BilevelProblem, place: _Place, pairs: Int[Array, "pairs 2"]) -> Float[Array, " pairs"]:
    """Φ_λ after each transfer; NaN, which is sorted last, where the follower's answer does not converge."""
    return jax.lax.map(lambda pair: _measured(problem, _transferred(place.x, pair), place.values)[0], pairs)


@eqx.filter_jit
def _descended(problem: BilevelProblem, place: _Place, pair: Int[Array, "2"]) -> _Place:
    """Exact descent from where a transfer leads."""
    adam = optax.scale_by_adam()

    def step(carry: tuple[Array, Array, optax.OptState], k: Array) -> tuple[tuple[Array, Array, optax.OptState], None]:
        x, values, memory = carry
        answer = _answer(problem, x, values)
        _, gradient = implicit_gradient(problem, x, answer.log_policy, jnp.asarray(problem.entropy_weight, x.dtype))
        direction, memory = adam.update(gradient, memory)
        length = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (k / NUM_STEPS)
        return (x - length * jnp.asarray(direction), answer.values, memory), None

    x = _transferred(place.x, pair)
    (x, values, _), _ = jax.lax.scan(step, (x, place.values, adam.init(x)), jnp.arange(NUM_STEPS))
    return _Place(x, *_measured(problem, x, values))
