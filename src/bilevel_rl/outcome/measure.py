"""Measures a run's outcome on the known model, in double precision."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.environments import TabularMDP
from bilevel_rl.exact.evaluation import DENSE_LIMIT, occupancy
from bilevel_rl.exact.objectives import best_response, implicit_gradient
from bilevel_rl.exact.oracle import as_upper_variable, check_finite, in_double_precision
from bilevel_rl.exact.tables import cost_table
from bilevel_rl.formulation import BilevelProblem, GridLayout, Names, OccupancyCost
from bilevel_rl.outcome.outcome import Answer, Costs, Exact, Optimum, Outcome, Slopes
from bilevel_rl.outcome.walks import Kernel

MOST_CURVED = 64
"""Curvature is worked out where x has at most this many entries."""

DIFFERENCE = 1e-5
"""Step of central differences, relative to the largest entry of x."""


def measure_outcome(
    problem: BilevelProblem, xs: PyTree, *, entropy_weight: float, optimum: Optimum | None = None
) -> Outcome:
    """What became of a run: Φ and its parts, the follower's answers before and after, how Φ changes around the end.

    Exact where the environment is a `TabularMDP` of at most 1,500 states and the upper objective can be worked out;
    otherwise names and x alone.

    Args:
        problem: what was solved.
        xs: the seeds' last x, as in `RunResult.x`: every leaf with a leading axis of seeds.
        entropy_weight: τ > 0 at which the follower answers, such as the run's `evaluation_entropy_weight`.
        optimum: the best that is known.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `xs` or `optimum.x` have other shapes than x, or `entropy_weight` is not positive.
        OracleError: an exact computation does not converge.

    Example:
        >>> import numpy as np, bilevel_rl as brl
        >>> from bilevel_rl.outcome import measure_outcome
        >>> problem = brl.problems.goal_position(size=4, target=(3, 1), initial_x=(0, 2), width=2.0)
        >>> outcome = measure_outcome(problem, np.array([[3.0, 1.0], [2.5, 1.0]]), entropy_weight=0.1)
        >>> outcome.x_names, outcome.exact.costs.objective.round(3).tolist()
        (("goal's row", "goal's column"), [0.581, 0.049, 0.063])
    """
    checks.instance("problem", problem, BilevelProblem)
    weight = np.float64(checks.number("entropy_weight", entropy_weight, above=0))
    seeds = _seeds_of(problem, xs)
    initial, final = _flat(problem.initial_x), np.stack([_flat(x) for x in seeds])
    if optimum is not None:
        checks.instance("optimum", optimum, Optimum)
        x = None if optimum.x is None else _flat(as_upper_variable(problem, optimum.x, "optimum.x"))
        optimum = Optimum(checks.number("optimum.objective", optimum.objective), x, optimum.how)
    known = Outcome(problem.names, float(weight), initial, final, optimum)
    if not can_be_exact(problem):
        return known
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), problem.initial_x, *seeds)
    costs, policies, visits, payments = in_double_precision(_answers, problem, stacked, weight)
    check_finite("hyper_objective", (costs, policies, visits, payments))
    seed = int(np.argsort(costs[0][1:], kind="stable")[(len(seeds) - 1) // 2])
    kernels = [Kernel.of(problem, x) for x in (problem.initial_x, seeds[seed])]
    edges = np.unique(np.concatenate([kernel.edges() for kernel in kernels]), axis=0)
    before, after = (
        _answer(
            problem.names,
            kernel,
            edges,
            policies[point],
            visits[point],
            None if payments is None else payments[point],
        )
        for point, kernel in zip((0, 1 + seed), kernels, strict=True)
    )
    exact = Exact(
        shown_seed=seed,
        costs=Costs(*costs),
        edges=edges,
        terminal=np.asarray(problem.mdp.terminal),
        before=before,
        after=after,
        slopes=_slopes(problem, seeds[seed], weight, np.stack([initial, *final])),
    )
    return dataclasses.replace(known, exact=exact)


def can_be_exact(problem: BilevelProblem) -> bool:
    """Whether Φ can be worked out in little time."""
    environment = problem.environment
    is_small = isinstance(environment, TabularMDP) and environment.num_states <= DENSE_LIMIT
    return is_small and problem.upper.has_exact_value


def _seeds_of(problem: BilevelProblem, xs: PyTree) -> list[PyTree]:
    """The x of every seed, one by one."""
    if jax.tree.structure(xs) != jax.tree.structure(problem.initial_x):
        raise ValueError(f"xs must have the structure of problem.initial_x, got {checks.shown(xs)}")
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(xs)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        raise ValueError(f"xs must hold an x for each seed, with a leading axis of seeds, got {checks.shown(xs)}")
    ((count,),) = counts
    picked = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], xs) for i in range(count)]
    return [as_upper_variable(problem, x, f"xs[{i}]") for i, x in enumerate(picked)]


def _flat(x: PyTree) -> Float[np.ndarray, " n"]:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]).astype(np.float64)


@eqx.filter_jit
def _answers(problem: BilevelProblem, xs: PyTree, entropy_weight: Array) -> tuple:
    """Φ, its parts, and the tables of the follower's answer, for every x."""

    def of(x: PyTree) -> tuple[tuple[Array, Array, Array], Array, Array, Array | None]:
        log_policy = best_response(problem, x, entropy_weight).log_policy
        d = occupancy(problem.environment_at(x), jnp.exp(log_policy))
        objective = problem.upper.value(problem.mdp, x, d, log_policy)
        regularizer = jnp.asarray(problem.upper.regularizer(x), objective.dtype)
        payments = d * cost_table(problem, x) if isinstance(problem.upper, OccupancyCost) else None
        return (objective, objective - regularizer, regularizer), jnp.exp(log_policy), d, payments

    return jax.lax.map(of, xs)


def _answer(
    names: Names,
    kernel: Kernel,
    edges: Int[np.ndarray, "E 2"],
    policy: Float[np.ndarray, "S A"],
    visits: Float[np.ndarray, "S A"],
    payments: Float[np.ndarray, "S A"] | None,
) -> Answer:
    layout = names.layout
    longest = 1.0 if isinstance(layout, GridLayout) else np.inf
    return Answer(
        policy,
        visits,
        payments,
        flows=kernel.flows(visits, edges),
        drift=np.zeros((len(policy), 2)) if layout is None else kernel.drift(policy, layout.places(), longest),
        walks=kernel.walks(policy),
    )


def _slopes(problem: BilevelProblem, x: PyTree, entropy_weight: np.float64, known: Float[np.ndarray, "k n"]) -> Slopes:
    is_curved = known.shape[1] <= MOST_CURVED
    gradient, curvature = in_double_precision(_derivatives, problem, x, entropy_weight, is_curved)
    check_finite("hyper_gradient", (gradient, curvature))
    return Slopes(gradient, curvature if is_curved else None, scales_of(known))


def scales_of(known: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    """The scale of each entry of x (`Slopes.scale`), from all values of x that are known."""
    largest = np.abs(known).max(axis=0)
    return np.where(largest > 0, largest, largest.max() or 1.0)


@eqx.filter_jit
def _derivatives(
    problem: BilevelProblem, x: PyTree, entropy_weight: Array, is_curved: bool
) -> tuple[Float[Array, " n"], Float[Array, " n"] | None]:
    """∇Φ, and the diagonal of its Jacobian: by Hessian-vector products, which share one factorization.

    Where x acts through the dynamics, by central differences of ∇Φ instead.
    """
    flat, unravel = ravel_pytree(x)

    def gradient(flat: Array) -> Array:
        x = unravel(flat)
        log_policy = best_response(problem, x, entropy_weight).log_policy
        return ravel_pytree(implicit_gradient(problem, x, log_policy, entropy_weight)[1])[0]

    def difference(direction: Array) -> Array:
        step = DIFFERENCE * jnp.maximum(1.0, jnp.max(jnp.abs(flat))) * direction
        return (gradient(flat + step) - gradient(flat - step)) / (2 * jnp.sum(step))

    if not is_curved:
        return gradient(flat), None
    if problem.outcome_probabilities is None:
        slope, product = jax.linearize(gradient, flat)
    else:
        slope, product = gradient(flat), difference

    def second(i: Array) -> Array:
        return product(jax.nn.one_hot(i, flat.size, dtype=flat.dtype))[i]

    return slope, jax.lax.map(second, jnp.arange(flat.size))
