"""Every check accepts what is right and says, of what is not, which argument it is, what it was, and what to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import checks
from bilevel_rl.checks.functions import answer, scalar


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.integer("n", 1.0), "n must be an integer, got 1.0"),
        (lambda: checks.integer("n", True), "n must be an integer, got True"),
        (lambda: checks.integer("n", None), "n must be an integer, got None"),
        (lambda: checks.integer("n", np.array([1])), "n must be an integer, got [1]"),
        (lambda: checks.number("t", "1"), "t must be a number, got '1'"),
        (lambda: checks.number("t", True), "t must be a number, got True"),
        (lambda: checks.number("t", 1j), "t must be a number, got 1j"),
        (lambda: checks.number("t", [1.0]), "t must be a number, got [1.0]"),
        (lambda: checks.number("t", jnp.ones(2)), "t must be a number, got [1. 1.]"),
        (lambda: checks.number("t", np.array(True)), "t must be a number, got True"),
        (lambda: checks.flag("coupled", "no"), "coupled must be True or False, got 'no'"),
        (lambda: checks.flag("coupled", 1), "coupled must be True or False, got 1"),
        (lambda: checks.function("f", 3), "f must be a function, got 3"),
        (lambda: checks.function("f", dict), "f must be a function, got the class dict"),
        (lambda: checks.instance("p", 3, dict, list), "p must be a dict or list, got 3"),
        (lambda: checks.instance("p", dict, dict), "p must be a dict, got the class dict; make one: dict(…)"),
        (lambda: checks.instance("p", len, int, remedy="count"), "p must be an int, got the function len; count"),
        (lambda: checks.one_of("m", ["a"], ("a", "b")), "m must be one of a, b, got ['a']"),
        (lambda: checks.finite("x", ["1"]), "x must hold real numbers, got ['1']"),
        (lambda: checks.finite("x", [True]), "x must hold real numbers, got [True]"),
        (lambda: checks.finite("x", np.array([1 + 2j])), "x must hold real numbers, got [1.+2.j]"),
        (lambda: checks.finite("x", None), "x must hold real numbers, got None"),
        (lambda: checks.key(3), "key must come from jax.random.key(0), got 3"),
        (lambda: checks.key(jnp.zeros(2, jnp.uint32)), "key must come from jax.random.key(0), got [0 0]"),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.integer("n", 0, at_least=1), "n must be at least 1, got 0"),
        (lambda: checks.integer("n", 10**23, at_least=1), f"n must be at most 2147483647, got {10**23}"),
        (lambda: checks.integer("n", 8, at_least=0, at_most=7), "n must be at most 7, got 8"),
        (lambda: checks.number("t", np.nan), "t must be finite, got nan"),
        (lambda: checks.number("t", np.nan, allow_infinite=True), "t must be a number, got nan"),
        (lambda: checks.number("t", np.float32(0), above=0), "t must be finite and positive, got 0.0"),
        (lambda: checks.number("t", -1, at_least=0), "t must be finite and not negative, got -1"),
        (lambda: checks.number("t", np.inf, above=0), "t must be finite and positive, got inf"),
        (lambda: checks.number("t", 0, above=0, allow_infinite=True), "t must be positive (may be infinite), got 0"),
        (lambda: checks.number("t", 1, at_least=0, below=1, remedy="use 0.9"), "t must lie in [0, 1), got 1; use 0.9"),
        (lambda: checks.number("t", 0, above=0, at_most=1), "t must lie in (0, 1], got 0"),
        (lambda: checks.number("t", 3, at_most=2), "t must be finite and at most 2, got 3"),
        (
            lambda: checks.number("t", 10**10),
            "t must be a float where it is that large, as in 1e10, got 10000000000",
        ),
        (
            lambda: checks.number("t", 10**400, allow_infinite=True),
            f"t must be a float where it is that large, as in 1e10, got 1{98 * '0'}…",
        ),
        (lambda: checks.one_of("m", "c", ("a", "b")), "m must be one of a, b, got 'c'"),
        (lambda: checks.finite("x", [1.0, np.inf]), "x must be finite, got [1.0, inf]"),
        (lambda: checks.finite("x", [[1.0], [1.0, 2.0]]), "x must hold rows of equal length, got [[1.0], [1.0, 2.0]]"),
        (lambda: checks.shape("x", np.ones(3), (2,)), "x must have shape (2,), got shape (3,)"),
        (
            lambda: checks.key(jax.random.split(jax.random.key(0))),
            "key must come from jax.random.key(0), got an array of keys, of shape (2,)",
        ),
    ],
)
def test_wrong_values(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_what_is_right_comes_back_as_a_plain_value():
    for value in (3, np.int64(3), np.uint8(3)):
        assert type(checks.integer("n", value, at_least=3, at_most=3)) is int
    for value in (2, 2.0, np.float32(2), np.array(2.0), jnp.float32(2), jnp.int32(2)):
        found = checks.number("t", value, at_least=2, at_most=2)
        assert (type(found), found) == (float, 2.0)
    assert checks.number("t", np.inf, above=0, allow_infinite=True) == np.inf
    assert checks.flag("b", np.bool_(True)) is True
    assert checks.finite("x", [1, 2]).dtype == np.float64
    assert checks.finite("x", []).shape == (0,)


def test_what_is_traced_passes():
    def f(x):
        checks.integer("x", x), checks.number("x", x, above=1), checks.finite("x", x)
        return x

    assert jax.jit(f)(0.0) == 0


TABLE = np.arange(4.0)
ARGUMENTS = {"x": jnp.float32(1), "state": jnp.int32(0), "action": jnp.int32(0)}


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (lambda x, s, a: TABLE[s], ValueError, r"^reward indexes a NumPy array .*jnp\.asarray\(table\)\[s\]"),
        (lambda x, s, a: [1.0, 2.0][s], ValueError, r"^reward indexes a list.*jnp\.asarray\(table\)\[s\]"),
        (lambda x, s, a: np.exp(x), ValueError, "^reward .*hands a traced value to NumPy.* write jnp"),
        (lambda x, s, a: 1.0 if s == 3 else x, ValueError, r"^reward decides by `if`.*jnp\.where\(s == 3"),
        (lambda x, s, a: x if x > 0 else 0.0, ValueError, "^reward decides by `if`"),
        (lambda x, s, a: float(s), ValueError, r"^reward makes a Python number, by int\(\) or float\(\)"),
        (lambda x, s, a: x["a"], ValueError, "^reward failed when it was first called, .*: TypeError"),
        (
            lambda x, s, a: {}["b"],
            ValueError,
            r"^reward failed when it was first called, x of shape \(\), state .*: KeyError: 'b'",
        ),
        (lambda x, s, a: x * jnp.ones(2), ValueError, r"^reward must return a scalar for a pair, got shape \(2,\)"),
        (lambda x, s, a: (x, x), ValueError, "^reward must return a scalar for a pair, got a tuple"),
        (lambda x, s, a: x * 1j, ValueError, "^reward must return real numbers, got complex64"),
        (lambda x, s, a: None, TypeError, "^reward must return numbers, got None"),
        (lambda x, s, a: "much", TypeError, "^reward must return numbers, got 'much'"),
        (lambda x, s: x, TypeError, r"^reward must take the arguments \(x, state, action\), got \(x, s\)"),
        (lambda: 1.0, TypeError, r"^reward must take the arguments \(x, state, action\), got \(\)"),
        (3.0, TypeError, "^reward must be a function, got 3.0"),
        (float, TypeError, "^reward must be a function, got the class float"),
    ],
)
def test_slips_in_functions_get_a_sentence(function, kind, message):
    with pytest.raises(kind, match=message):
        scalar("reward", function, ARGUMENTS, of="a pair")


def test_functions_that_return_a_number_pass():
    for function in (
        lambda x, s, a: x * s,
        lambda x, *pair: s_is_3(*pair),
        lambda x, s, a: 1,
        lambda x, s, a: TABLE[1],
    ):
        scalar("reward", function, ARGUMENTS)
    assert answer("f", lambda x, state, action: {"a": x, "b": jnp.ones(2)}, ARGUMENTS)["b"].shape == (2,)


def s_is_3(s, a):
    return s == 3
