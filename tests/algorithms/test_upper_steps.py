"""Recursive estimates, optimizers and averages of x, on estimates that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_rl import PowerDecay
from bilevel_rl.algorithms.upper_steps import UpperSteps

x0 = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def moves(steps, noises, ζ=0.1):
    """x of gradient descent on ‖x‖²/2 with additive noise, and the memory in the end."""
    x, memory, path = x0, steps.init(x0), [x0]
    for k, noise in enumerate(noises):
        direction, _, memory = steps.direction(
            lambda x, noise=noise: jax.tree.map(lambda leaf: leaf + noise, x), x, memory, jnp.int32(k)
        )
        x = jax.tree.map(lambda x, d: x - ζ * d, x, direction)
        memory = steps.averaged(memory, x, jnp.int32(k))
        path.append(x)
    return path, memory


def assert_close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


NOISES = [0.3, -0.7, 0.2, 0.9]


def test_plain_steps_are_gradient_descent():
    path, _ = moves(UpperSteps(), NOISES)
    x = x0
    for k, noise in enumerate(NOISES):
        x = jax.tree.map(lambda leaf, noise=noise: leaf - 0.1 * (leaf + noise), x)
        assert_close(path[k + 1], x)


def test_a_recursion_by_hand():
    path, _ = moves(UpperSteps(recursion=PowerDecay(0.25, 0.0)), NOISES)
    x = previous = 0.5
    d = 0.0
    for k, noise in enumerate(NOISES):
        g, g_before = x + noise, previous + noise
        d = g if k == 0 else g + 0.75 * (d - g_before)
        previous, x = x, x - 0.1 * d
        assert float(path[k + 1]["b"]) == pytest.approx(x, rel=1e-5)
    assert abs(float(path[-1]["b"]) - float(moves(UpperSteps(), NOISES)[0][-1]["b"])) > 0.01


def test_a_recursion_of_one_is_no_recursion():
    assert_close(moves(UpperSteps(recursion=PowerDecay(1.0, 0.0)), NOISES)[0], moves(UpperSteps(), NOISES)[0])


def test_a_recursion_follows_xs_own_move_where_momentum_lags_behind():
    # Without noise the recursive estimate is the gradient itself, whatever a is.
    path, _ = moves(UpperSteps(recursion=PowerDecay(0.01, 0.0)), [0.0] * 20)
    assert_close(path, moves(UpperSteps(), [0.0] * 20)[0])


@pytest.mark.slow
def test_a_recursion_averages_noise_away():
    noises = np.random.default_rng(0).normal(size=4_000)

    def spread(steps):
        return np.std([float(x["b"]) for x in moves(steps, noises, ζ=0.02)[0][2_000:]])

    plain, recursive = spread(UpperSteps()), spread(UpperSteps(recursion=PowerDecay(0.02, 0.0)))
    assert recursive < 0.8 * plain


@pytest.mark.parametrize("optimizer", [optax.adam(1.0), optax.sgd(1.0, momentum=0.9)])
def test_optimizers_take_the_steps_that_they_take_elsewhere(optimizer):
    path, _ = moves(UpperSteps(optimizer=optimizer), NOISES)
    x, memory = x0, optimizer.init(x0)
    for k, noise in enumerate(NOISES):
        updates, memory = optimizer.update(jax.tree.map(lambda leaf, noise=noise: leaf + noise, x), memory, x)
        x = optax.apply_updates(x, jax.tree.map(lambda leaf: 0.1 * leaf, updates))
        assert_close(path[k + 1], x)


@pytest.mark.parametrize("p", [0.0, 3.0])
def test_an_average_weighs_iterates_as_it_says(p):
    noises = np.random.default_rng(1).normal(size=500)
    path, memory = moves(UpperSteps(averaging=p), noises)
    weights = (1.0 + np.arange(len(path))) ** p
    expected = np.sum(weights * [float(x["b"]) for x in path]) / weights.sum()
    assert float(memory.average["b"]) == pytest.approx(expected, abs=0.01)
    if p == 0:
        assert float(memory.average["b"]) == pytest.approx(np.mean([float(x["b"]) for x in path]), rel=1e-4)


@pytest.mark.parametrize("initial", [0.0, 1.5])
def test_a_recursion_outside_of_its_range_is_refused(initial):
    with pytest.raises(ValueError, match=r"recursion must lie in \(0, 1\]"):
        UpperSteps(recursion=PowerDecay(initial, 0.0))


@pytest.mark.parametrize("averaging", [-1.0, float("inf"), float("nan")])
def test_an_averaging_outside_of_its_range_is_refused(averaging):
    with pytest.raises(ValueError, match="averaging must be finite and not negative"):
        UpperSteps(averaging=averaging)
