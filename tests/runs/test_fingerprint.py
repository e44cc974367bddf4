"""Digests are those of what is computed: the same for the same program anywhere, another one for any other number."""

import functools
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.formulation.holdings import holdings
from bilevel_rl.runs.fingerprint import of_arrays, of_object, of_program

X = jax.ShapeDtypeStruct((3,), jnp.float32)


def of(function, *args):
    return of_program(function, *(args or (X,)))[0]


def polynomial(a=1.0, b=2.0):
    return lambda x: a * x**2 + b * x


def in_a_loop(step, start=0.0):
    return lambda x: jax.lax.scan(lambda total, entry: (total + step * entry, None), start, x)[0]


def by_case(number):
    return lambda x: jax.lax.cond(x[0] > 0, lambda x: x * number, lambda x: -x, x)


def compiled(number):
    return lambda x: jax.jit(lambda y: y * number)(x)


def with_table(entry):
    return lambda x: x + jnp.array([entry, 0.0, 1.0])


def on_the_host(number):
    def multiply(x):
        return np.asarray(x) * number

    return lambda x: jax.pure_callback(multiply, X, x)


def ruled(number):
    @jax.custom_jvp
    def function(x):
        return x * number

    function.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    return function


KINDS = [polynomial, in_a_loop, by_case, compiled, with_table, on_the_host, ruled]


@pytest.mark.parametrize("make", KINDS)
def test_a_program_made_twice_has_one_digest_and_another_number_another(make):
    assert of(make(3.0)) == of(make(3.0))
    assert of(make(3.0)) != of(make(3.0 + 1e-6))


def test_other_operations_shapes_and_types_have_other_digests():
    programs = [
        (polynomial(), X),
        (lambda x: 1.0 * x**2 - 2.0 * x, X),
        (polynomial(), jax.ShapeDtypeStruct((4,), jnp.float32)),
        (polynomial(), jax.ShapeDtypeStruct((3,), jnp.int32)),
        (lambda x: x[::-1] ** 2 + 2.0 * x, X),
    ]
    assert len({of(*program) for program in programs}) == len(programs)


def test_names_do_not_count_nor_do_the_numbers_of_arguments():
    def named(x):
        square = x**2
        return square + 2.0 * x

    plain = of(jax.jit(lambda y: y**2 + 2.0 * y))
    assert of(jax.jit(named)) == plain
    assert of(named, np.zeros(3, np.float32)) == of(named, jnp.ones(3)) == of(named, np.ones(3)) == of(named)


def test_another_rule_for_the_derivative_shows_where_the_derivative_is_taken():
    def made(slope):
        @jax.custom_jvp
        def function(x):
            return 2.0 * x

        function.defjvp(lambda primals, tangents: (function(*primals), slope * tangents[0]))
        return jax.grad(lambda x: function(x).sum())

    assert of(made(2.0)) == of(made(2.0)) != of(made(3.0))


def test_arrays_have_the_digest_of_their_bytes_types_and_places():
    trees = [
        {"a": np.ones(2)},
        {"b": np.ones(2)},
        {"a": np.ones(2, np.float32)},
        {"a": np.array([1.0, 2.0])},
        {"a": 1.0},
    ]
    digests = [of_arrays(tree) for tree in trees]
    assert len(set(digests)) == len(trees)
    assert digests == [of_arrays(tree) for tree in trees]


class Scale:
    def __init__(self, number):
        self.number, self.itself = number, self

    def __call__(self, x):
        return self.times(x)

    def times(self, x):
        return self.number * x


@pytest.mark.parametrize(
    "make",
    [
        Scale,
        lambda number: Scale(number).times,
        lambda number: functools.partial(lambda number, x: number * x, number),
        lambda number: lambda x, factor=number: factor * x,
        lambda number: {"tables": [np.array([number])]},
        lambda number: (lambda x: Scale(number)(x), {"a", "b", "c"}),
    ],
    ids=["object", "method", "partial", "default", "container", "nested"],
)
def test_what_is_not_traced_is_known_by_its_code_and_what_it_holds(make):
    assert of_object(make(3.0)) == of_object(make(3.0)) != of_object(make(3.1))


def test_other_code_is_another_object():
    assert of_object(lambda x: x + 1) != of_object(lambda x: x - 1)


@pytest.mark.slow
def test_what_pytest_puts_into_asserts_is_not_held_by_a_function():
    def scores(texts):
        assert texts == sorted(texts)
        return [float(len(text)) for text in texts]

    assert any(name.startswith("@") for name in scores.__code__.co_names)
    assert [place for place in holdings(scores) if "@" in str(place)] == []


def test_another_process_has_the_same_digests():
    code = """
        import jax, numpy as np
        import test_fingerprint as here
        print([here.of(make(3.0)) for make in here.KINDS], here.of_object(here.Scale(2.0)), here.of_object({"b", "a"}))
        import bilevel_rl as brl
        from bilevel_rl.runs.identity import identity_of
        from bilevel_rl.runs.log_points import LogPoints
        algorithm = brl.SingleLoopActorCritic(brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2)))
        print(identity_of(algorithm, jax.random.key(0), LogPoints(10)))
    """
    answers = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"},
            cwd="tests/runs",
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1] != ""
