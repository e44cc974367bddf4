"""Steps that need no tuning: they have the problem's units, and the results do not depend on those."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.algorithms.untuned import untuned_step_sizes
from bilevel_rl.formulation import BilevelProblem, OccupancyCost, ProblemScales, measure_scales
from bilevel_rl.problems import goal_position
from examples import cliff_bonuses
from garnets import random_problem
from mean_steps import one_draw

NUM_ITERATIONS = 300


class Rescaled(eqx.Module):
    """unit · function(x / x_unit, …), a function of the pairs or of x alone."""

    function: eqx.Module
    unit: np.float64  # Arrays, so that one compiled program serves all units.
    x_unit: np.float64

    def __call__(self, x, *pair):
        return self.unit * self.function(x / self.x_unit, *pair)


def rescaled(problem, *, reward=1.0, cost=1.0, x=1.0, has_bounds=True):
    """The same problem in other units."""
    reward, cost, x = np.float64(reward), np.float64(cost), np.float64(x)
    bounds = (reward * problem.reward_bound, cost * problem.upper.cost_bound) if has_bounds else (np.inf, np.inf)
    return BilevelProblem(
        environment=problem.environment,
        reward=Rescaled(problem.reward, reward, x),
        upper=OccupancyCost(
            cost=Rescaled(problem.upper.cost, cost, x),
            regularizer=Rescaled(problem.upper.regularizer, cost, x),
            cost_bound=bounds[1],
        ),
        initial_x=x * problem.initial_x,
        reward_bound=bounds[0],
        entropy_weight=None if problem.entropy_weight is None else reward * problem.entropy_weight,
    )


@pytest.fixture(scope="module")
def problem():
    return random_problem(seed=0)


@eqx.filter_jit
def _iterate(algorithm, key):
    def iterate(k, state):
        return algorithm.step(one_draw(algorithm, jax.random.fold_in(key, k)), state)[0]

    return jax.lax.fori_loop(0, NUM_ITERATIONS, iterate, algorithm.init(key))


def end(problem, **options):
    """The state after some iterations."""
    return _iterate(brl.untuned(problem, num_chains=4, **options), jax.random.key(0))


UNITS = {"reward": 2.0**7, "cost": 2.0**-9, "x": 2.0**5}
"""Powers of two commute with rounding, so nothing at all may differ."""


@pytest.mark.long
def test_other_units_give_the_same_policies_and_the_same_x_in_its_own_unit(problem):
    own, others = end(rescaled(problem)), end(rescaled(problem, **UNITS))
    np.testing.assert_array_equal(others.chain_states, own.chain_states)
    np.testing.assert_array_equal(others.parameters[..., :-1], own.parameters[..., :-1])
    np.testing.assert_array_equal(others.parameters[..., -1], UNITS["reward"] * own.parameters[..., -1])
    np.testing.assert_array_equal(others.x, UNITS["x"] * own.x)
    assert np.abs(own.parameters[..., :-1]).max() > 0.01
    assert np.abs(np.asarray(own.x) - problem.initial_x).max() > 0.01


@pytest.mark.parametrize("has_bounds", [True, False])
def test_scales_are_in_the_problems_units(problem, has_bounds):
    own, others = (measure_scales(rescaled(problem, **units, has_bounds=has_bounds)) for units in ({}, UNITS))
    assert others._asdict() == {name: UNITS[name] * scale for name, scale in own._asdict().items()}
    assert (own.reward == 2.0) == has_bounds


@pytest.mark.slow
def test_steps_that_are_not_derived_from_the_problem_depend_on_its_units(problem):
    sizes = untuned_step_sizes(problem, 4, measure_scales(problem))
    for unit in ("reward", "cost", "x"):
        other = rescaled(problem, **{unit: 4.0})
        with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
            wrong = dataclasses.replace(brl.untuned(other, 4), step_sizes=sizes)
        own, others = end(problem), _iterate(wrong, jax.random.key(0))
        assert not np.allclose(others.x / (4.0 if unit == "x" else 1.0), own.x, rtol=1e-3), unit


def test_a_followers_own_entropy_weight_is_kept(problem):
    own = BilevelProblem(
        problem.environment, problem.reward, problem.upper, problem.initial_x, reward_bound=2.0, entropy_weight=0.03
    )
    sizes = brl.untuned(own).step_sizes
    np.testing.assert_allclose([sizes(k).entropy for k in (0, 10**6)], 0.03, rtol=1e-6)
    assert float(sizes.penalty.initial) == pytest.approx(4 * 0.03 / 2.0)


def test_a_transition_is_worth_the_same_with_any_number_of_chains():
    scales = ProblemScales(2.0, 0.3, 5.0)
    few, many = (untuned_step_sizes(goal_position(), num_chains, scales) for num_chains in (4, 64))
    for k in (0, 3_000, 50_000):
        left, right = few(16 * k), many(k)
        np.testing.assert_allclose(left.penalty, right.penalty, rtol=1e-5)
        np.testing.assert_allclose(left.entropy, right.entropy, rtol=1e-5)
        for name in ("upper", "actor", "critic"):  # Per iteration: there are a sixteenth as many.
            np.testing.assert_allclose(16 * getattr(left, name), getattr(right, name), rtol=1e-5)


def test_small_problems_hold_their_steps_for_a_number_of_transitions(problem):
    for num_chains in (4, 32):
        sizes = brl.untuned(problem, num_chains).step_sizes
        assert float(sizes.upper.offset) == pytest.approx(320_000 / num_chains)
    assert float(untuned_step_sizes(goal_position(20), 16, ProblemScales(1.0, 1.0, 1.0)).upper.offset) == 80_000


def test_more_chains_than_states_do_not_overshoot(problem):
    with warnings.catch_warnings(action="error"):
        algorithm = brl.untuned(problem, num_chains=512)
    assert float(algorithm.step_sizes.critic.initial) == pytest.approx(5 / 4)


def test_steps_do_not_depend_on_the_discount():
    # Values grow with the horizon, the normalized objectives and advantages of a step do not.
    left, right = (untuned_step_sizes(goal_position(discount=γ), 16, ProblemScales(2.0, 0.3, 5.0)) for γ in (0.9, 0.99))
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_scale_of_x_is_where_rewards_bend():
    """r = R sin(b + x / L): the slope is cos(b) / L and the bend sin(b) / L² for v = 1, whose moments are 1 and 3."""
    R, L, b, num_states = 5.0, 0.2, 0.7, 5_000  # More pairs than are measured.
    environment = brl.TabularMDP.from_successors(
        np.zeros((num_states, 1, 1), int), np.ones((1, 2, 1)), initial=np.eye(num_states)[0], discount=0.9
    )
    problem = BilevelProblem(
        environment,
        lambda x, s, a: R * jnp.sin(b + x / L),
        OccupancyCost(lambda x, s, a: 1.0 * (s == 0) - 3.0 * (a == 1), cost_bound=np.inf),
        initial_x=0.0,
        reward_bound=R,
    )
    v = np.random.default_rng(0).normal(size=32)
    D, K = np.cos(b) / L * np.mean(v**2) ** 0.5, np.sin(b) / L**2 * np.mean(v**4) ** 0.5
    scales = measure_scales(problem)
    assert scales == pytest.approx((R, 3.0, D / (K + D**2)), rel=1e-4)


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        (brl.projections.Box(-0.01, 0.03), 0.01),
        (
            brl.projections.Box(np.array([-0.01, -0.02]), np.array([0.03, 0.04])),
            0.25 * ((0.04**2 + 0.06**2) / 2) ** 0.5,
        ),
        (brl.projections.Ball(0.02), 0.25 * 0.04 / 2**0.5),
        (brl.projections.Box(-50.0, 50.0), None),
    ],
)
def test_the_scale_of_x_is_at_most_a_quarter_of_its_room(project, expected):
    environment = brl.TabularMDP.from_dense(np.ones((1, 2, 1)), initial=[1.0], discount=0.5)
    upper = OccupancyCost(lambda x, s, a: 1.0 * a, cost_bound=1.0)

    def reward(x, s, a):
        return jnp.where(a == 0, jnp.sin(x[0] - 2 * x[1]), 0.0)

    free, bounded = (
        measure_scales(BilevelProblem(environment, reward, upper, [0.0, 0.01], **options, reward_bound=1.0))
        for options in ({}, {"project": project})
    )
    assert free.x > 0.1
    assert bounded.x == pytest.approx(expected or free.x, rel=1e-5)
    assert bounded.cost == free.cost


@pytest.mark.parametrize(("unit", "width"), [(1.0, 0.02), (8.0, 0.02), (1.0, 9.0)])
def test_where_x_can_change_little_about_rewards_that_counts_and_not_the_largest(unit, width):
    """A bonus of at most `width` beside a fall that costs 6, so D = |v| / 6."""
    problem = BilevelProblem(
        brl.TabularMDP.from_dense(np.ones((1, 2, 1)), initial=[1.0], discount=0.5),
        lambda x, s, a: unit * (x - 6.0 * (a == 1)),
        OccupancyCost(lambda x, s, a: 1.0 * a, cost_bound=1.0),
        initial_x=0.0,
        project=brl.projections.Box(0.0, width),
        reward_bound=6.0 * unit,
    )
    v = np.random.default_rng(0).normal(size=32)
    spread = np.mean(v**2) ** 0.5
    assert measure_scales(problem).reward == pytest.approx(unit * min(2 * spread * width, 6.0), rel=1e-4)


def test_rewards_that_are_0_at_the_start_are_measured_where_x_can_go():
    problem = flat(reward=lambda x, s, a: -3.0 * x * (a == 1), project=brl.projections.Box(-1.0, 2.0))
    # Twice the width at the slope of x_0 is more than that.
    assert measure_scales(problem).reward == pytest.approx(6.0, rel=1e-5)


def with_objective(upper, discount=0.5, **options):
    """Two states and two actions that lead nowhere else; x is the reward of the second action."""
    environment = brl.TabularMDP.from_dense(np.eye(2)[:, None].repeat(2, 1), initial=[0.5, 0.5], discount=discount)
    return BilevelProblem(environment, lambda x, s, a: x * (a == 1), upper, 0.0, reward_bound=4.0, **options)


def chosen_second(x, states, actions):
    return 5.0 * (actions[0, 0] == 1)


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        (brl.OccupancyFunctional(lambda x, d: 3.0 * d[0, 1] - d[1, 0] + 7.0), 3.0 - 0.5),
        (brl.PolicyLoss([0, 0, 1], [1, 1, 0]), 1.0),
        (brl.PolicyLoss([0, 1], [1, 0], lambda x, log_policy, s, a: -(2.0 + s) * log_policy[a]), 3.0),
        (brl.TrajectoryLoss(chosen_second, num_steps=3), 2.5 * 6),
    ],
)
def test_objectives_that_are_no_cost_per_step_have_a_scale_of_cost(upper, expected):
    # Half of the random trajectories choose the second action, up to what 1,024 of them are off.
    rel = 0.1 if isinstance(upper, brl.TrajectoryLoss) else 1e-5
    problem = with_objective(upper)
    assert measure_scales(problem).cost == pytest.approx(expected, rel=rel)
    assert float(brl.untuned(problem).step_sizes.penalty.initial) > 0


def test_an_objective_that_nothing_can_be_read_off_asks_for_its_scale():
    with pytest.raises(ValueError, match="upper must depend on the policy at initial_x, got slopes of at most 0"):
        brl.untuned(with_objective(brl.PolicyLoss([0], [1], lambda x, log_policy, s, a: x)))


@pytest.mark.parametrize(("entropy_weight", "τ"), [(0.2, 0.2), (None, 0.4)])
def test_where_visits_are_compared_x_moves_by_what_changes_decisions(entropy_weight, τ):
    upper = brl.OccupancyFunctional(lambda x, d: d[0, 1] ** 2)
    scales = measure_scales(with_objective(upper, discount=0.9, entropy_weight=entropy_weight))
    v = np.random.default_rng(0).normal(size=32)
    slope = (np.mean(v**2) / 2) ** 0.5  # of the reward, over pairs of which one in two has it
    assert scales.x == pytest.approx(3 * τ * (1 - 0.9) / slope, rel=1e-4)


@pytest.mark.slow
def test_a_run_descends_what_its_answer_is_judged_by():
    # With τ ∝ k^(−1/20), Φ at R / 100 rises again by a tenth of its range, while Φ at the run's τ goes on falling.
    problem = cliff_bonuses.problem()
    judged = measure_scales(problem).reward / 100
    options = {"evaluation_entropy_weight": judged, "progress": False}
    result = brl.run(brl.untuned(problem), jax.random.key(0), 4, 60_000, 3_000, **options)
    objectives = result.metrics["upper_objective"].reshape(-1, 4)
    lowest = objectives.min(axis=0)
    assert np.all(objectives[-1] - lowest < 0.02 * (objectives[0] - lowest))


@pytest.mark.long
def test_reward_learning_is_solved():
    problem = brl.problems.target_visitation(np.arange(16.0) ** 2, size=4)
    optimum = brl.exact.solve(problem, entropy_weight=0.1, tolerance=1e-4).objective
    algorithm = brl.untuned(problem)
    result = brl.run(algorithm, jax.random.key(0), 2, 60_000, 60_000, evaluation_entropy_weight=0.1, progress=False)
    gaps = result.metrics["upper_objective"].reshape(-1, 2) - optimum
    assert np.all(gaps[-1] < 0.05 * gaps[0])


@pytest.mark.slow
def test_dynamics_that_x_drives_have_a_scale_too():
    # Logits of winds: a unit is 1, whatever the reward, which x leaves alone.
    scales = measure_scales(brl.problems.wind_design(size=3, goal=(0, 2), target=(2, 1)))
    assert 0.2 < scales.x < 2


def flat(reward_at=0.0, reward=lambda x, s, a: 0.0 * x, **bounds):
    return BilevelProblem(
        brl.TabularMDP.from_dense(np.ones((1, 2, 1)), initial=[1.0], discount=0.5),
        reward,
        OccupancyCost(lambda x, s, a: 1.0 * a, cost_bound=bounds.pop("cost_bound", 1.0)),
        initial_x=reward_at,
        **bounds,
    )


def test_what_cannot_be_measured_is_asked_for():
    with pytest.raises(ValueError, match="reward_bound must be finite where the largest value"):
        brl.untuned(flat())
    still = flat(reward_bound=1.0)
    with pytest.raises(ValueError, match=r"initial_x must be a point where rewards or dynamics change with x"):
        brl.untuned(still)
    assert float(brl.untuned(still, scales=ProblemScales(1.0, 1.0, 0.5)).step_sizes.entropy.initial) == 0.1


@pytest.mark.parametrize("name", ProblemScales._fields)
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_scales_must_be_finite_and_positive(problem, name, value):
    with pytest.raises(ValueError, match=f"scales, {name}, must be finite and positive"):
        brl.untuned(problem, scales=ProblemScales(1.0, 1.0, 1.0)._replace(**{name: value}))


def test_there_must_be_a_chain(problem):
    with pytest.raises(ValueError, match="num_chains must be at least 1"):
        brl.untuned(problem, num_chains=0)
