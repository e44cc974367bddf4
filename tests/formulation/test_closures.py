"""Arrays that plain functions close over become leaves: right in both precisions, in either order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.formulation.closures import OpenFunction, open_function

MODULE_TABLE = np.array([[0.1, 0.7], [0.4, 0.2], [0.9, 0.3]])
KERNEL = np.array(
    [
        [[0.2, 0.8, 0.0], [0.5, 0.0, 0.5]],
        [[0.0, 0.3, 0.7], [0.6, 0.4, 0.0]],
        [[0.9, 0.0, 0.1], [0.0, 0.25, 0.75]],
    ]
)


def problem_with_captured_arrays() -> brl.BilevelProblem:
    low, high = np.array([0.1, 0.2]), np.array([3.0, 2.7])
    costs = np.array([0.3, 0.1, 0.6])

    def bounded(x):
        return jnp.clip(x, low, high)

    return brl.BilevelProblem(
        environment=brl.TabularMDP.from_dense(KERNEL, initial=[0.6, 0.3, 0.1], discount=0.8),
        reward=lambda x, s, a: bounded(x)[0] * jnp.take(MODULE_TABLE, 2 * s + a) - 0.3 * bounded(x)[1] * (s == 0),
        upper=brl.OccupancyCost(cost=lambda x, s, a: jnp.asarray(costs)[s], regularizer=lambda x: 0.1 * jnp.sum(x**2)),
        initial_x=[1.5, 1.0],
        project=bounded,
    )


def problem_with_arithmetic_only() -> brl.BilevelProblem:
    """The same problem with no array captured anywhere."""

    def bounded(x):
        return jnp.stack([jnp.clip(x[0], 0.1, 3.0), jnp.clip(x[1], 0.2, 2.7)])

    def table(values, index):
        return sum(value * (index == i) for i, value in enumerate(values))

    return brl.BilevelProblem(
        environment=brl.TabularMDP.from_dense(KERNEL, initial=[0.6, 0.3, 0.1], discount=0.8),
        reward=lambda x, s, a: (
            bounded(x)[0] * table((0.1, 0.7, 0.4, 0.2, 0.9, 0.3), 2 * s + a) - 0.3 * bounded(x)[1] * (s == 0)
        ),
        upper=brl.OccupancyCost(
            cost=lambda x, s, a: table((0.3, 0.1, 0.6), s), regularizer=lambda x: 0.1 * jnp.sum(x**2)
        ),
        initial_x=[1.5, 1.0],
        project=bounded,
    )


@pytest.mark.slow
@pytest.mark.parametrize("oracle_first", [True, False])
def test_oracles_are_exact_before_and_after_a_compiled_run(oracle_first):
    problem, expected = problem_with_captured_arrays(), problem_with_arithmetic_only()

    def measure(problem):
        objective = brl.exact.hyper_objective(problem, (1.3, 0.7), entropy_weight=0.2)
        return [objective, *brl.exact.hyper_gradient(problem, (1.3, 0.7), entropy_weight=0.2)]

    if oracle_first:
        measure(problem)
    algorithm = brl.SingleLoopActorCritic(problem, brl.StepSizes.decaying(critic=1.0))
    result = brl.run(algorithm, jax.random.key(0), 1, 20, 20, progress=False)
    assert np.all(np.isfinite(result.metrics["upper_objective"]))
    np.testing.assert_allclose(measure(problem), measure(expected), rtol=1e-12)
    np.testing.assert_allclose(
        brl.exact.solve(problem, entropy_weight=0.2).x, brl.exact.solve(expected, entropy_weight=0.2).x, atol=1e-6
    )


def test_captured_arrays_are_leaves_and_functions_without_any_stay_themselves():
    weights = np.array([1.0, -2.0])

    def inner(x):
        return weights @ x

    def outer(x, offset=0.5, *, scale=3.0):
        return scale * inner(x) + offset

    def plain(x):
        return 2 * x

    opened = open_function(outer)
    assert isinstance(opened, OpenFunction)
    assert [leaf.tolist() for leaf in jax.tree.leaves(opened)] == [[1.0, -2.0]]
    assert opened(np.array([4.0, 1.0])) == 3.0 * (4.0 - 2.0) + 0.5
    doubled = jax.tree.map(lambda leaf: 2 * leaf, opened)
    assert doubled(np.array([4.0, 1.0])) == 3.0 * 2 * (4.0 - 2.0) + 0.5
    assert outer(np.array([4.0, 1.0])) == 3.0 * (4.0 - 2.0) + 0.5
    assert open_function(plain) is plain
    assert open_function(jnp.sum) is jnp.sum


def test_a_function_that_names_itself_is_left_alone():
    def countdown(x):
        return x if x <= 0 else countdown(x - 1)

    assert open_function(countdown) is countdown


def test_functions_that_name_each_other_are_left_alone():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert open_function(even) is even
    assert open_function(even)(4)
