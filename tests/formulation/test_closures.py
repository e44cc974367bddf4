"""Arrays that plain functions close over become leaves: right in both precisions, in either order."""

import dataclasses
import functools
import types
from collections.abc import Callable

import equinox as eqx
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


@pytest.mark.variants(rest="long")
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


# Wherever a table hides.


def by_helper(x):
    return MODULE_TABLE[:, 0] * x


class Holder:
    def __init__(self, table):
        self.tables, self.itself = {"low": [(table, "a name")]}, self

    def __call__(self, x):
        return self.scaled(x)

    def scaled(self, x):
        return self.tables["low"][0][0] * x

    def by_helper(self, x):
        return by_helper(x)


class Slotted:
    __slots__ = ("table",)

    def __init__(self, table):
        self.table = table

    def __call__(self, x):
        return self.table * x


@dataclasses.dataclass
class Unhashable:
    table: np.ndarray

    def __call__(self, x):
        return self.table * x


class Module(eqx.Module):
    function: Callable
    table: np.ndarray

    def __call__(self, x):
        return self.function(x) + 0 * self.table


class ModuleWithHelper(eqx.Module):
    zero: np.ndarray

    def __call__(self, x):
        return by_helper(x) + self.zero


def in_circles(table):
    def even(x, n=2):
        return table * x if n == 0 else odd(x, n - 1)

    def odd(x, n):
        return even(x, n - 1)

    return even


def ruled(table):
    @jax.custom_jvp
    def function(x):
        return table * x

    function.defjvp(lambda primals, tangents: (function(*primals), 7 * table * tangents[0]))
    return lambda x: function(x)


def in_user_module(table):
    module = types.ModuleType("tables_of_a_user")
    module.table = table
    names = {"tables_of_a_user": module}
    exec("def reward(x):\n    return (lambda: tables_of_a_user.table * x)()", names)
    return names["reward"]


def with_keyword(table):
    def function(x, *, table=table):
        return table * x

    return function


def compiled(make):
    def hidden(table):
        helper = make(lambda x: table * x)
        return lambda x: helper(x)

    return hidden


TABLE = np.array([0.1, 0.4, 0.9])
PLACES = {
    "helper": lambda table: by_helper,
    "partial": lambda table: functools.partial(lambda table, x: table * x, table),
    "partial by keyword": lambda table: functools.partial(lambda x, table: table * x, table=table),
    "method": lambda table: Holder(table).scaled,
    "object": Holder,
    "object's helper": lambda table: Holder(np.zeros(0)).by_helper,
    "slots": Slotted,
    "unhashable object": Unhashable,
    "default": lambda table: lambda x, table=table: table * x,
    "keyword default": with_keyword,
    "circle": in_circles,
    "user's module": in_user_module,
    "function in a module": lambda table: Module(lambda x: table * x, np.zeros(3)),
    "helper of a module": lambda table: ModuleWithHelper(np.zeros(3)),
    "rule": ruled,
    "jit": compiled(jax.jit),
    "filter_jit": compiled(eqx.filter_jit),
    "vmap": lambda table: lambda x: jax.vmap(lambda entry: table * entry)(x[None])[0],
}


@pytest.mark.parametrize("place", PLACES)
def test_a_table_is_a_leaf_wherever_it_hides(place):
    written = PLACES[place](TABLE)
    opened = open_function(written)
    arrays, rest = eqx.partition(opened, lambda leaf: isinstance(leaf, np.ndarray))
    x = jnp.float32(2.0) if place != "vmap" else jnp.full((), 2.0)

    program = jax.make_jaxpr(lambda arrays, x: eqx.combine(arrays, rest)(x))(arrays, x)
    tables = [const for const in program.consts if np.shape(const) == np.shape(TABLE)]
    assert not tables, "it is a constant of the program"
    np.testing.assert_allclose(opened(x), 2 * TABLE, rtol=1e-6)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, arrays)
    np.testing.assert_allclose(eqx.combine(doubled, rest)(x), 4 * TABLE, rtol=1e-6)
    np.testing.assert_allclose(written(x), 2 * TABLE, rtol=1e-6)  # which is as it was


def test_a_rule_for_the_derivative_outlives_the_opening():
    opened = open_function(ruled(TABLE))
    np.testing.assert_allclose(jax.jacobian(opened)(2.0), 7 * TABLE, rtol=1e-6)


def test_an_opened_function_is_one_key_of_compiled_programs():
    holder = Holder(TABLE)
    assert jax.tree.structure(open_function(holder.scaled)) == jax.tree.structure(open_function(holder.scaled))
    assert jax.tree.structure(open_function(holder)) != jax.tree.structure(open_function(Holder(TABLE)))


def test_other_tables_than_when_it_was_opened_are_an_error():
    holder = Holder(TABLE)
    opened = open_function(holder)
    holder.tables["high"] = np.ones(3)
    with pytest.raises(ValueError, match="make it anew"):
        opened(1.0)


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("place", ["helper", pytest.param("method", marks=pytest.mark.slow)])
@pytest.mark.parametrize("run_first", [True, False])
def test_an_oracle_keeps_its_digits_beside_runs_that_use_the_same_table(place, run_first):
    table = np.array([0.1, 1 / 3, 0.9])
    rewards = {
        "helper": lambda x, s, a: jnp.asarray(functools.partial(lambda table: table, table)())[s] * x,
        "method": Holder(table[:, None]).scaled,
    }
    environment = brl.TabularMDP.from_dense(KERNEL, initial=[0.6, 0.3, 0.1], discount=0.8)
    cost = brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0))

    def made(reward):
        return brl.BilevelProblem(environment, reward, cost, initial_x=0.5)

    def hidden(x, s, a):
        return jnp.asarray(rewards[place](x, s, a) if place == "helper" else rewards[place](x)[s, 0])

    def run():
        algorithm = brl.SingleLoopActorCritic(made(hidden), brl.StepSizes.decaying(critic=1.0))
        brl.run(algorithm, jax.random.key(0), 1, 2, 2, diagnostics="sampled", progress=False)

    def value(reward):
        return float(brl.exact.hyper_objective(made(reward), 0.5, entropy_weight=0.1))

    if run_first:
        run()
    found = value(hidden)
    run()
    plain = value(lambda x, s, a: x * (0.1 * (s == 0) + (s == 1) / 3 + 0.9 * (s == 2)))
    assert found == pytest.approx(plain, abs=1e-14)
    assert value(hidden) == found
