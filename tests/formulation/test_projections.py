"""Projections against closed forms, root finding, finite differences, and what makes a point the nearest one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from bilevel_rl import BilevelProblem
from bilevel_rl.exact.oracle import in_double_precision
from bilevel_rl.formulation import projections
from bilevel_rl.formulation.projections import Ball, Box, Simplex
from garnets import random_problem

LOWER, UPPER = np.array([-1.0, 0.0, -np.inf, 2.0]), np.array([0.5, 0.0, 3.0, np.inf])
CENTER = np.array([0.3, -2.0, 1.0, 0.5])
SETS = {"box": Box(LOWER, UPPER), "simplex": Simplex(1.7), "ball": Ball(1.3, CENTER)}


def points(seed, scale=3.0, count=12, size=4):
    return scale * np.random.default_rng(seed).normal(size=(count, size))


def feasible(name, count=200):
    """Random points of a set, and for the simplex its corners, of which every other point is a mean."""
    rng = np.random.default_rng(7)
    if name == "box":
        return np.clip(points(8, 6.0, count), LOWER, UPPER)
    if name == "simplex":
        return 1.7 * np.concatenate([np.eye(4), rng.dirichlet(np.ones(4), count)])
    directions = rng.normal(size=(count, 4))
    radii = 1.3 * rng.uniform(size=(count, 1)) ** 0.25
    return CENTER + radii * directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=SETS)
def projected(request):
    """Name, points and their projections, in double precision."""
    with jax.enable_x64(True):
        x = np.concatenate([points(1), points(2, 0.1), CENTER[None]])
        return request.param, x, np.asarray(jax.jit(jax.vmap(SETS[request.param]))(x))


def test_no_feasible_point_is_nearer(projected):
    # y is the projection of x on a convex set if and only if ⟨x − y, z − y⟩ ≤ 0 for all z of the set.
    name, x, y = projected
    others = feasible(name)
    products = np.einsum("nd,nmd->nm", x - y, others[None] - y[:, None])
    assert products.max() < 1e-12
    distances = np.linalg.norm(x[:, None] - others[None], axis=-1).min(1)
    assert (np.linalg.norm(x - y, axis=1) <= distances + 1e-12).all()


def test_what_is_projected_is_feasible_and_stays(projected):
    name, x, y = projected
    if name == "box":
        assert ((y >= LOWER) & (y <= UPPER)).all()
    elif name == "simplex":
        assert y.min() >= 0
        np.testing.assert_allclose(y.sum(1), 1.7, rtol=1e-14)
        assert (y == 0).any()
    else:
        assert np.linalg.norm(y - CENTER, axis=1).max() <= 1.3 * (1 + 1e-15)
    with jax.enable_x64(True):
        again = np.asarray(jax.vmap(SETS[name])(y))
    np.testing.assert_allclose(again, y, atol=1e-15)
    assert not np.allclose(x, y)


def test_closed_forms(projected):
    name, x, y = projected
    if name == "box":
        expected = np.minimum(np.maximum(x, LOWER), UPPER)
    elif name == "simplex":
        shifts = [
            brentq(lambda shift, row=row: np.maximum(row - shift, 0).sum() - 1.7, -20, 20, xtol=1e-14) for row in x
        ]
        expected = np.maximum(x - np.array(shifts)[:, None], 0)
    else:
        distances = np.linalg.norm(x - CENTER, axis=1, keepdims=True)
        shares = np.minimum(1.0, 1.3 / np.where(distances > 0, distances, 1.0))
        expected = CENTER + shares * (x - CENTER)
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_derivatives_are_those_of_finite_differences_and_always_finite(name):
    with jax.enable_x64(True):
        jacobian, project = jax.jit(jax.jacobian(SETS[name])), jax.jit(jax.vmap(SETS[name]))
        for x in points(3, count=4):
            steps = 1e-6 * np.eye(4)
            slopes = (project(x + steps) - project(x - steps)) / 2e-6
            np.testing.assert_allclose(jacobian(x), slopes.T, atol=1e-8)
        for x in (CENTER, np.zeros(4), np.full(4, 1.7 / 4)):  # the center, a corner of the box, ties of the simplex
            assert np.isfinite(jacobian(x)).all()


def test_a_nan_is_not_hidden():
    for name, project in SETS.items():
        assert np.isnan(project(jnp.array([0.0, 0.0, jnp.nan, 0.0]))).any(), name


def test_a_simplex_far_from_the_origin_keeps_its_digits():
    offsets = np.arange(40) / 16  # which single precision holds beside a million
    x = jnp.asarray(1e6 + offsets, jnp.float32)
    with jax.enable_x64(True):
        expected = Simplex()(offsets)
    np.testing.assert_allclose(Simplex()(x), expected, atol=1e-6)


def test_the_axis_of_a_simplex():
    x = points(4, count=3)
    expected = np.stack([Simplex()(row) for row in x])
    np.testing.assert_array_equal(Simplex(axis=1)(x), expected)
    np.testing.assert_array_equal(Simplex(axis=0)(x.T), expected.T)
    together = Simplex(total=2.0, axis=None)({"a": x[0], "b": x[1:]})
    np.testing.assert_array_equal(together["a"], Simplex(2.0)(x.ravel())[:4])
    np.testing.assert_array_equal(together["b"].ravel(), Simplex(2.0)(x.ravel())[4:])


def test_bounds_and_centers_of_a_pytree():
    x = {"shift": np.float64(3.0), "tilt": np.array([-2.0, 5.0])}
    boxed = Box({"shift": -1.0, "tilt": np.array([-1.0, 0.0])}, 4.0)(x)
    assert (float(boxed["shift"]), boxed["tilt"].tolist()) == (3.0, [-1.0, 4.0])
    center = {"shift": 1.0, "tilt": np.array([0.0, 5.0])}
    inside = Ball(2.0, center)(x)  # at the distance √8
    np.testing.assert_allclose(inside["shift"], 1 + 2 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(inside["tilt"], [-2 / np.sqrt(2), 5.0], rtol=1e-6)


def test_the_arrays_of_a_projection_keep_double_precision_in_oracles():
    problem = random_problem(3)
    bounds = problem.initial_x + np.array([0.1, 0.2, 0.3]) / 3
    problem = BilevelProblem(problem.environment, problem.reward, problem.upper, bounds, Box(bounds, bounds + 1e-3))
    project = eqx.filter_jit(lambda problem, x: problem.project(x))
    assert not (np.asarray(project(problem, jnp.full(3, -10.0))) == bounds).any(), "single precision does not hold them"
    np.testing.assert_array_equal(in_double_precision(project, problem, np.full(3, -10.0)), bounds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(np.nan, 1.0), "lower must not be NaN"),
        (lambda: Box(1.0, 0.0)(np.zeros(2)), "lower must not exceed upper, got 1.0 and 0.0"),
        (lambda: Box({"a": 0.0}, 1.0)(np.zeros(2)), "lower must have the structure of x or begin like it"),
        (lambda: Box(0.0, [1.0, 2.0])({"a": np.zeros(3)}), r"upper must broadcast to x\['a'\], of shape \(3,\)"),
        (lambda: Box(0.0, np.ones((1, 2)))(np.zeros(2)), r"upper must broadcast to x, of shape \(2,\), got"),
        (lambda: Simplex(0.0), "total must be finite and positive, got 0.0"),
        (lambda: Simplex(axis=1)(np.zeros(2)), r"axis must be one of x, which has shape \(2,\), got 1"),
        (lambda: Ball(-1.0), "radius must be finite and positive, got -1.0"),
        (lambda: Ball(float("inf")), "radius must be finite and positive, got inf"),
        (lambda: Ball(1.0, [0.0, np.nan]), "center must not be NaN"),
        (lambda: Ball(1.0, [0.0, 1.0, 2.0])(np.zeros(2)), "center must broadcast to x"),
    ],
)
def test_bad_sets_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_problem_refuses_a_set_that_does_not_fit_x():
    problem = random_problem(3)
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        BilevelProblem(problem.environment, problem.reward, problem.upper, problem.initial_x, Box(2.0, 1.0))
    assert projections.Box is Box
