import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl.exact.solver as solver
from bilevel_rl import BilevelProblem, OccupancyCost, TabularMDP
from bilevel_rl.exact import OracleError, hyper_gradient, hyper_objective, solve
from bilevel_rl.problems import goal_position


class Valley(eqx.Module):
    """Σ_i curvature_i (x_i − center_i)² + depth (x_0² − 1)²; x is {"a": (), "b": (1,)}."""

    curvature: np.ndarray
    center: np.ndarray
    depth: np.ndarray

    def __call__(self, x):
        y = jnp.stack([x["a"], x["b"][0]])
        return jnp.sum(self.curvature * (y - self.center) ** 2) + self.depth * (y[0] ** 2 - 1) ** 2


class Box(eqx.Module):
    low: np.ndarray
    high: np.ndarray

    def __call__(self, x):
        return {"a": jnp.clip(x["a"], self.low, self.high), "b": jnp.clip(x["b"], self.low, self.high)}


def zero(x, s, a):
    return 0.0


def valley(curvature=(1.0, 25.0), center=(0.5, -2.0), depth=0.0, low=-np.inf, high=np.inf, unit=1.0) -> BilevelProblem:
    """Nothing to do for the follower: Φ is the valley itself."""
    return BilevelProblem(
        environment=TabularMDP.from_dense([[[1.0]]], initial=[1.0], discount=0.5),
        reward=zero,
        upper=OccupancyCost(
            cost=zero,
            regularizer=Valley(unit * np.array(curvature), np.array(center, float), unit * np.array(depth)),
        ),
        initial_x={"a": np.clip(-1.5, low, high), "b": np.clip([1.0], low, high)},
        project=Box(np.array(low, float), np.array(high, float)),
    )


def as_pair(x) -> list[float]:
    return [float(x["a"]), *x["b"].tolist()]


@functools.cache
def small_goal() -> BilevelProblem:
    return goal_position(size=4, target=(2, 1), initial_x=(0, 3), width=2.0, walls=((0, 0), (1, 2)))


def test_the_optimum_of_a_small_goal_position_is_that_of_a_scan():
    problem = small_goal()

    solution = solve(problem, entropy_weight=0.1)

    ticks = np.linspace(0, 3, 25)
    scan = np.array([[hyper_objective(problem, (row, col), entropy_weight=0.1) for col in ticks] for row in ticks])
    best = np.unravel_index(np.argmin(scan), scan.shape)
    np.testing.assert_allclose(solution.x, ticks[list(best)], atol=0.125)
    assert scan.min() - 1e-3 < solution.objective <= scan.min()
    # Sought from other values, so equal up to rounding.
    assert solution.objective == pytest.approx(
        float(hyper_objective(problem, solution.x, entropy_weight=0.1)), rel=1e-12
    )
    gradient = hyper_gradient(problem, solution.x, entropy_weight=0.1)
    assert np.linalg.norm(problem.project(solution.x - gradient) - solution.x) < 2e-7  # the projection is in single
    assert solution.residual <= 1e-7
    assert np.linalg.norm(gradient) < 1e-7  # inside the grid
    assert solution.num_iterations > 0


def test_a_sequence_of_entropy_weights_ends_at_the_last():
    problem = small_goal()

    solution = solve(problem, entropy_weight=(0.1, 0.05))

    assert solution.objective == pytest.approx(
        float(hyper_objective(problem, solution.x, entropy_weight=0.05)), rel=1e-12
    )
    assert solution.residual <= 1e-7
    first = solve(problem, entropy_weight=0.1)
    second = solve(problem, entropy_weight=0.05, starts=[first.x])
    np.testing.assert_array_equal(solution.x, second.x)
    assert solution.num_iterations == first.num_iterations + second.num_iterations


def test_starts_of_tuples_are_accepted_and_projected():
    solution = solve(small_goal(), entropy_weight=0.1, starts=[(-1, 9)], max_iterations=0)

    np.testing.assert_array_equal(solution.x, [0, 3])
    assert solution.num_iterations == 0
    assert solution.residual > 1e-3


def test_an_ill_conditioned_quadratic_is_solved_exactly():
    solution = solve(valley(curvature=(1.0, 400.0)), entropy_weight=0.1)

    np.testing.assert_allclose(as_pair(solution.x), [0.5, -2.0], atol=1e-7)
    assert solution.objective == pytest.approx(0, abs=1e-12)
    assert solution.x["b"].dtype == np.float64


def test_the_constraint_holds_where_it_binds():
    solution = solve(valley(low=-1.25, high=0.25), entropy_weight=0.1)

    assert as_pair(solution.x) == [0.25, -1.25]
    assert solution.objective == pytest.approx(0.25**2 + 25 * 0.75**2, rel=1e-14)
    assert solution.residual <= 1e-7


def test_the_best_of_several_starts_wins():
    problem = valley(curvature=(0.1, 1.0), center=(1.0, 0.0), depth=1.0)  # a better minimum at x_0 = 1
    starts = [{"a": np.array(sign * 0.9), "b": np.array([0.5])} for sign in (-1, 1)]

    local = solve(problem, entropy_weight=0.1, starts=starts[:1])
    best = solve(problem, entropy_weight=0.1, starts=starts)

    assert as_pair(local.x)[0] < -0.8
    assert local.objective > 0.3
    assert local.residual <= 1e-7
    np.testing.assert_allclose(as_pair(best.x), [1, 0], atol=1e-7)
    assert solve(problem, entropy_weight=0.1, starts=starts[::-1]).objective == best.objective


def test_the_number_of_iterations_is_bounded_per_entropy_weight():
    problem = valley(curvature=(1.0, 400.0))

    assert solve(problem, entropy_weight=0.1, max_iterations=2).num_iterations == 2
    assert solve(problem, entropy_weight=(0.2, 0.1), max_iterations=2).num_iterations == 4


def test_every_step_descends():
    problem = valley(curvature=(1.0, 400.0), depth=1.0)

    objectives = [solve(problem, entropy_weight=0.1, max_iterations=n).objective for n in range(8)]

    assert np.all(np.diff(objectives) < 0)


def test_a_loose_tolerance_stops_early():
    problem = valley(curvature=(1.0, 400.0))

    loose, tight = (solve(problem, entropy_weight=0.1, tolerance=tolerance) for tolerance in (1.0, 1e-7))

    assert 1e-7 < loose.residual <= 1
    assert loose.num_iterations < tight.num_iterations


def kink() -> BilevelProblem:
    """Nothing to do for the follower: Φ is x right of 0 and −10 x left of it."""
    return BilevelProblem(
        environment=TabularMDP.from_dense([[[1.0]]], initial=[1.0], discount=0.5),
        reward=zero,
        upper=OccupancyCost(cost=zero, regularizer=lambda x: jnp.maximum(x, -10 * x)),
        initial_x=1.0,
    )


def test_a_solution_says_whether_it_has_converged():
    problem = valley(curvature=(1.0, 400.0))

    converged, limited = (solve(problem, entropy_weight=0.1, max_iterations=limit) for limit in (500, 1))

    assert converged.status == "converged"
    assert converged.residual <= 1e-7
    assert limited.status == "iteration limit"
    assert limited.num_iterations == 1
    assert limited.residual > 1
    # The last iteration that is allowed may be the one that arrives.
    assert solve(problem, entropy_weight=0.1, max_iterations=converged.num_iterations).status == "converged"


def test_a_solution_says_where_no_step_descends():
    failed = solve(kink(), entropy_weight=0.1)

    assert failed.status == "line search failed"
    assert (failed.x, failed.objective, failed.num_iterations) == (0.0, 0.0, 1)
    assert failed.residual > 1


def test_the_status_is_that_of_the_last_entropy_weight_and_of_the_best_start():
    problem = valley(curvature=(1.0, 400.0))
    needed = solve(problem, entropy_weight=0.1).num_iterations

    # The first weight is left unfinished; the second goes on from there.
    annealed = solve(problem, entropy_weight=(0.2, 0.1), max_iterations=needed - 1)

    assert annealed.status == "converged"
    assert annealed.num_iterations >= needed
    near, far = ({"a": np.array(a), "b": np.array([-2.0])} for a in (0.5, 9.0))
    for starts in ([near, far], [far, near]):
        assert solve(problem, entropy_weight=0.1, starts=starts, max_iterations=0).status == "converged"
    assert solve(problem, entropy_weight=0.1, starts=[far], max_iterations=0).status == "iteration limit"


def test_progress_tells_where_descent_is_and_is_silent_unless_asked(capsys, monkeypatch):
    monkeypatch.setattr(solver, "SECONDS_BETWEEN_LINES", 0.0)
    problem = valley(curvature=(1.0, 400.0))
    starts = [{"a": np.array(9.0), "b": np.array([5.0])}] * 2
    solve(problem, entropy_weight=(0.2, 0.1), starts=starts, max_iterations=2)
    assert capsys.readouterr() == ("", "")
    solution = solve(problem, entropy_weight=(0.2, 0.1), starts=starts, max_iterations=2, progress=True)
    out, lines = capsys.readouterr()
    assert out == ""
    first, *_, last = lines.splitlines()
    assert first.startswith("start 1 of 2, entropy weight 0.2: 0 iterations, Φ = 19672.2")
    measured = f"Φ = {solution.objective:.6g}, residual {solution.residual:.2g}"
    assert last == f"start 2 of 2, entropy weight 0.1: 4 iterations, {measured}"


def test_impossible_arguments_are_refused():
    problem = valley()
    with pytest.raises(ValueError, match=r"^entropy_weight and starts must not be empty, got \[\] and 1 starts"):
        solve(problem, entropy_weight=())
    with pytest.raises(ValueError, match=r"^entropy_weight and starts must not be empty, got \[0\.1\] and 0 starts"):
        solve(problem, entropy_weight=0.1, starts=[])
    with pytest.raises(ValueError, match=r"^entropy_weight must be finite and positive, got 0"):
        solve(problem, entropy_weight=0.0)
    with pytest.raises(ValueError, match=r"^starts\[0\] must have the structure and shapes .*; starts is a list"):
        solve(problem, entropy_weight=0.1, starts=[np.zeros(2)])


def test_an_objective_that_is_not_finite_is_an_error():
    with pytest.raises(OracleError):
        solve(valley(center=(np.nan, 0.0)), entropy_weight=0.1)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
def test_the_unit_of_the_cost_does_not_move_the_solution(unit):
    options = {"curvature": (1.0, 400.0), "depth": 0.5, "high": 0.25}
    expected, found = (solve(valley(**options, unit=u), entropy_weight=0.1) for u in (1.0, unit))

    np.testing.assert_allclose(as_pair(found.x), as_pair(expected.x), atol=1e-6)
    assert found.objective == pytest.approx(unit * expected.objective, rel=1e-9)
    assert (found.status, expected.status) == ("converged", "converged")
    assert found.num_iterations <= expected.num_iterations + 5


def test_the_unit_of_a_followers_cost_does_not_either():
    def solution(unit):
        world = TabularMDP.from_dense(
            [[[0.1, 0.9], [0.7, 0.3]], [[0.5, 0.5], [0.2, 0.8]]], initial=[0.3, 0.7], discount=0.8
        )
        cost = OccupancyCost(cost=lambda x, s, a: unit * ((s == 0) + 0.3 * (x - 1) ** 2))
        return solve(BilevelProblem(world, lambda x, s, a: x * (s == 1) - 0.1 * a, cost, 0.5), entropy_weight=0.2)

    expected, small, large = (solution(unit) for unit in (1.0, 1e-7, 1e7))
    assert abs(expected.x - 0.5) > 0.1
    np.testing.assert_allclose([small.x, large.x], expected.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.zeros(6)}, r"^starts\[0\] must have the structure .*starts is a list of values of x, \[x\]"),
        ({"tolerance": float("nan")}, r"^tolerance must be finite and positive, got nan"),
        ({"tolerance": -1.0}, r"^tolerance must be finite and positive, got -1\.0"),
        ({"max_iterations": -1}, r"^max_iterations must be a whole number, at least 0, got -1"),
        ({"entropy_weight": (0.1, -0.1)}, r"^entropy_weight must be finite and positive, got -0\.1"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        solve(valley(), **({"entropy_weight": 0.1} | changes))
