"""Congestion games against Braess' network solved by hand, the library's own oracle, and finite differences."""

import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import bilevel_rl as brl
from bilevel_rl.congestion import (
    CongestionGame,
    CongestionLoop,
    Latency,
    NoEquilibriumError,
    RoadNetwork,
    equilibrium,
    hyper_gradient,
    hyper_objective,
    penalty_gradient,
    penalty_objective,
    solve,
)
from bilevel_rl.exact.oracle import in_double_precision

START, UPPER, LOWER, END = range(4)
ROADS = [(START, UPPER), (UPPER, END), (START, LOWER), (LOWER, END), (UPPER, LOWER)]
ONE_TRIP = np.zeros((4, 4))
ONE_TRIP[START, END] = 1.0
CALM = 0.002
"""τ at which the equilibrium is Wardrop's to three digits."""


def braess(first=1.0, last=1.0, upper=1.0, lower=1.0, bridge=0.0):
    """Minutes: first · flow, upper, lower, last · flow, and those of the bridge."""
    return RoadNetwork(ROADS, Latency([0, upper, lower, 0, bridge], [first, 0, 0, last, 0]), ONE_TRIP)


@pytest.fixture(scope="module")
def uneven():
    """All numbers differ. In equilibrium all three ways are used, and take 1 + 1.1 − 0.1 = 2 minutes."""
    return braess(first=1.2, upper=1.0, lower=1.1, bridge=0.1)


@pytest.fixture(scope="module")
def uneven_game(uneven):
    return uneven.game(largest_toll=2.0, burden=0.3)


@pytest.fixture(scope="module")
def random_game():
    """Chances, shared roads, a road unused in state 4, a missing action, rewards and costs that bend in x."""
    rng = np.random.default_rng(3)
    mdp = brl.TabularMDP.from_dense(
        rng.dirichlet(np.ones(6), (6, 3)), initial=rng.dirichlet(np.ones(6)), discount=0.8, terminal=[0] * 5 + [1]
    )
    roads = rng.integers(0, 4, (6, 3))
    roads[2, 1] = -1
    bonus = rng.normal(size=(6, 3, 2))
    return CongestionGame(
        mdp,
        roads,
        Latency([0.1, 0.0, 0.4, 0.2], [0.3, 1.0, 0.0, 0.7], [1.0, 2.0, 1.0, 3.0]),
        demand=0.7,
        reward=lambda x, s, a: jnp.sin(jnp.asarray(bonus)[s, a] @ x),
        upper=lambda x, flow: (flow[1] - 0.3) ** 2 + flow[3] * (1 + x[0] ** 2) + 0.1 * (x @ x),
        initial_x=[0.3, -0.2],
        feasible=brl.projections.Box(-1.0, 1.0),
    )


def rewards_of(game, x, latency):
    return in_double(lambda game, x, latency: game.rewards(x, latency), game, x, latency)


def occupancy_of(game, policy):
    return in_double(lambda game, policy: game.policy_occupancy(policy), game, policy)


def in_double(function, game, *arrays):
    """As JAX arrays in double precision."""
    return in_double_precision(lambda game, *arrays: function(game, *map(jnp.asarray, arrays)), game, *arrays)


def central_differences(function, x, step=1e-5):
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def test_latency_by_hand():
    latency = Latency.bpr(free_flow=[6.0, 4.0], capacity=[100.0, 50.0], b=0.15, power=4)
    np.testing.assert_allclose(latency([100.0, 100.0]), [6.9, 4 * (1 + 0.15 * 16)])
    for road, end in ((0, 130.0), (1, 70.0)):
        area = scipy.integrate.quad(lambda f, road=road: latency(np.full(2, f))[road], 0, end)[0]
        np.testing.assert_allclose(latency.integral(np.full(2, end))[road], area)
    flow, step = np.array([90.0, 60.0]), 1e-4
    total = [(flow + sign * step) * latency(flow + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(latency.marginal()(flow), (total[0] - total[1]) / (2 * step), rtol=1e-7)


def test_braess_paradox_by_hand():
    closed = braess(bridge=50.0)
    without = equilibrium(closed.game(), np.zeros(5), entropy_weight=CALM)
    np.testing.assert_allclose(without.flow, [0.5, 0.5, 0.5, 0.5, 0.0], atol=1e-5)
    np.testing.assert_allclose(without.flow @ without.latency, 1.5, atol=1e-5)
    found = equilibrium(braess().game(), np.zeros(5), entropy_weight=(0.05, CALM))
    # Everybody takes the bridge, and everybody takes longer.
    np.testing.assert_allclose(found.flow, [1.0, 0.0, 0.0, 1.0, 1.0], atol=0.02)
    np.testing.assert_allclose(found.flow @ found.latency, 2.0, atol=0.02)


def test_an_uneven_network_by_hand(uneven, uneven_game):
    found = equilibrium(uneven_game, np.zeros(5), entropy_weight=(0.05, CALM))
    # 0.9 = (1.0 − 0.1) / 1 on the last road, 1 / 1.2 on the first.
    np.testing.assert_allclose(found.flow[[0, 3]], [1 / 1.2, 0.9], atol=0.005)
    np.testing.assert_allclose(found.flow @ found.latency, 2.0, atol=0.01)
    assert abs(found.gap) < 1e-9
    assert 0 < uneven.wardrop_gap(found.flow) < 0.002
    # The optimum leaves the bridge empty: 2.4 h + 1 = 2 (1 − h) + 1.1 for the share h of the upper way.
    best = equilibrium(uneven.game(latency=uneven.latency.marginal()), np.zeros(5), entropy_weight=(0.05, CALM))
    h = 2.1 / 4.4
    np.testing.assert_allclose(best.flow, [h, h, 1 - h, 1 - h, 0.0], atol=1e-4)
    assert uneven.wardrop_gap(best.flow) > 0.1
    # Tolls at marginal cost, on the two roads that slow down, make it the equilibrium: the optimum by hand.
    toll = np.array([1.2 * h, 0, 0, 1 - h, 0.0])
    priced = equilibrium(uneven_game, toll, entropy_weight=(0.05, CALM))
    np.testing.assert_allclose(priced.flow, best.flow, atol=1e-4)
    assert abs(uneven.wardrop_gap(best.flow, toll)) < 1e-4


def test_the_best_tolls_have_the_optimums_travel_time(uneven):
    found = solve(uneven.game(largest_toll=2.0), entropy_weight=0.02)
    h = 2.1 / 4.4
    optimum = h * (1.2 * h + 1) + (1 - h) * (1 - h + 1.1)
    assert found.is_converged
    np.testing.assert_allclose(found.objective, optimum, rtol=1e-5)
    np.testing.assert_allclose(found.equilibrium.flow, [h, h, 1 - h, 1 - h, 0.0], atol=1e-3)


def test_followers_in_equilibrium_are_the_best_response_to_its_congestion(random_game):
    x = np.array([0.4, -0.6])
    found = equilibrium(random_game, x, entropy_weight=0.2)
    rewards = rewards_of(random_game, x, found.latency).copy()
    rewards[2, 1] = -1e3  # No such action.
    alone = brl.BilevelProblem(
        random_game.environment,
        reward=lambda x, s, a: jnp.asarray(rewards)[s, a],
        upper=brl.OccupancyCost(lambda x, s, a: 0.0),
        initial_x=0.0,
    )
    policy = brl.exact.lower_policy(alone, 0.0, entropy_weight=0.2)
    np.testing.assert_allclose(found.policy, policy, atol=1e-8)
    np.testing.assert_allclose(found.occupancy, occupancy_of(random_game, policy), atol=1e-8)
    # Flows by hand: followers on a road are those of the pairs that use it, over their whole life.
    lived = np.where(random_game.environment.terminal[:, None], 0, found.occupancy) * 0.7 / (1 - 0.8)
    by_hand = [lived[random_game.roads == road].sum() for road in range(4)]
    np.testing.assert_allclose(found.flow, by_hand, rtol=1e-10)
    assert abs(found.gap) < 1e-10


def test_the_potential_slopes_by_what_a_follower_gains(random_game):
    game, x, τ = random_game, np.array([0.4, -0.6]), 0.2
    rng = np.random.default_rng(0)
    found = equilibrium(game, x, entropy_weight=τ)

    def potential(occupancy):
        return float(in_double(lambda game, x, d: game.potential(x, d, τ), game, x, occupancy))

    def drawn():
        policy = rng.dirichlet(np.ones(3), 6) * np.asarray(game.is_available)
        return policy / policy.sum(1, keepdims=True)

    for _ in range(3):
        policies = drawn(), drawn()
        here, there = (occupancy_of(game, policy) for policy in policies)
        flow = in_double(lambda game, d: game.flow(d), game, here)
        with np.errstate(divide="ignore"):
            log_policy = np.where(game.is_available, np.log(np.where(policies[0] > 0, policies[0], 1.0)), 0.0)
        rewards = rewards_of(game, x, game.latency(flow))
        gains = np.where(game.environment.terminal[:, None], 0.0, rewards - τ * log_policy)
        slope = -0.7 / (1 - 0.8) * np.sum((there - here) * gains)
        step = 1e-5
        ahead, behind = (potential(here + sign * step * (there - here)) for sign in (1, -1))
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-5)
        assert potential(here) > potential(found.occupancy)


@pytest.mark.parametrize("x", [[0.3, -0.2], [-0.7, 0.9]])
def test_hyper_gradient_is_the_slope_of_the_objective(random_game, x):
    x = np.array(x)
    gradient = hyper_gradient(random_game, x, entropy_weight=0.1)
    slope = central_differences(lambda x: hyper_objective(random_game, x, entropy_weight=0.1), x)
    assert np.linalg.norm(gradient - slope) <= 1e-6 * np.linalg.norm(slope)


def test_hyper_gradient_of_tolls_is_the_slope_of_the_objective(uneven_game):
    x = np.array([0.1, 0.05, 0.2, 0.3, 0.15])
    gradient = hyper_gradient(uneven_game, x, entropy_weight=0.05)
    slope = central_differences(lambda x: hyper_objective(uneven_game, x, entropy_weight=0.05), x)
    assert np.linalg.norm(gradient - slope) <= 1e-6 * np.linalg.norm(slope)


def test_penalty_gradient_is_its_own_slope_and_tends_to_the_implicit_one(random_game):
    x, τ = np.array([0.3, -0.2]), 0.1
    implicit = hyper_gradient(random_game, x, entropy_weight=τ)
    slope = central_differences(lambda x: penalty_objective(random_game, x, entropy_weight=τ, penalty=0.1), x)
    gradient = penalty_gradient(random_game, x, entropy_weight=τ, penalty=0.1)
    assert np.linalg.norm(gradient - slope) <= 1e-6 * np.linalg.norm(slope)
    weights = np.array([0.01, 0.001, 0.0001])
    bias = [np.linalg.norm(penalty_gradient(random_game, x, entropy_weight=τ, penalty=w) - implicit) for w in weights]
    # Of first order in w.
    np.testing.assert_allclose(np.diff(np.log(bias)) / np.diff(np.log(weights)), 1.0, atol=0.1)
    assert bias[-1] < 1e-3 * np.linalg.norm(implicit)
    # A penalized equilibrium is at most as dear as the equilibrium.
    objective = hyper_objective(random_game, x, entropy_weight=τ)
    assert penalty_objective(random_game, x, entropy_weight=τ, penalty=0.1) < objective


def test_the_single_loop_ends_at_the_exact_tolls(uneven_game):
    τ = 0.1
    exact = solve(uneven_game, entropy_weight=τ)
    path = CongestionLoop(entropy_weight=τ, penalty=0.03, damping=0.1, upper_step=0.1).run(uneven_game, 4_000)
    start, end = (hyper_objective(uneven_game, x, entropy_weight=τ) for x in (uneven_game.initial_x, path[-1]))
    assert np.all((path >= 0) & (path <= 2))
    assert end - exact.objective < 0.01 * (start - exact.objective)


def test_what_is_wrong_is_told(uneven_game, monkeypatch):
    with pytest.raises(ValueError, match="slope must be at least 0"):
        Latency(1.0, [-1.0])
    with pytest.raises(ValueError, match="no road leads there"):
        RoadNetwork([(0, 1)], Latency(1.0, 1.0), np.array([[0, 0], [1, 0]]))
    with pytest.raises(ValueError, match="end where it begins"):
        RoadNetwork([(0, 1)], Latency(1.0, 1.0), np.eye(2))
    with pytest.raises(ValueError, match="tolled must be roads"):
        braess().game(tolled=[5])
    with pytest.raises(ValueError, match=r"x must have shape \(5,\)"):
        equilibrium(uneven_game, [1.0], entropy_weight=0.1)
    with pytest.raises(ValueError, match="entropy_weight must be"):
        equilibrium(uneven_game, np.zeros(5), entropy_weight=0.0)
    with pytest.raises(ValueError, match="damping"):
        CongestionLoop(0.1, 0.1, 2.0, 0.1)
    monkeypatch.setattr(sys.modules["bilevel_rl.congestion.equilibrium"], "MAX_STEPS", 1)
    with pytest.raises(NoEquilibriumError, match="anneal from a larger weight"):
        equilibrium(uneven_game, np.zeros(5), entropy_weight=0.05)


def test_a_network_in_the_tntp_format_is_read(tmp_path):
    (tmp_path / "Two_net.tntp").write_text(
        "<NUMBER OF LINKS> 3\n<FIRST THRU NODE> 1\n<END OF METADATA>\n\n"
        "~ init term cap len fft b power speed toll type ;\n"
        "\t1\t2\t100\t9\t6\t0.15\t4\t0\t0\t1\t;\n\t2\t3\t50\t9\t4\t0.15\t4\t0\t0\t1\t;\n\t1\t3\t80\t9\t12\t0.3\t2\t0\t0\t1\t;\n"
    )
    (tmp_path / "Two_trips.tntp").write_text(
        "<TOTAL OD FLOW> 180\n<END OF METADATA>\n\n"
        "Origin \t1 \n 1 : 5.0; 2 : 30.0;\n 3 : 100.0; \n\nOrigin \t2 \n 3 : 50.0;\n"
    )
    network = RoadNetwork.from_tntp(tmp_path, "Two")
    assert network.roads.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert network.trips.tolist() == [[0, 30, 100], [0, 0, 50], [0, 0, 0]]
    np.testing.assert_allclose(network.latency([100, 50, 80]), [6.9, 4.6, 15.6])
    found = equilibrium(network.game(), np.zeros(3), entropy_weight=(0.3, 0.03, 0.01))
    np.testing.assert_allclose(found.flow[0] - found.flow[1], 30 - 50, atol=0.01)
    np.testing.assert_allclose(found.flow[0] + found.flow[2], 130, atol=0.01)
    # Both ways to crossing 2 are used, so they take as long.
    np.testing.assert_allclose(found.latency[0] + found.latency[1], found.latency[2], rtol=0.01)
    (tmp_path / "Two_net.tntp").write_text("1 2 3")
    with pytest.raises(ValueError, match="TNTP format"):
        RoadNetwork.from_tntp(tmp_path, "Two")


@pytest.mark.slow
@pytest.mark.skipif("SIOUX_FALLS" not in os.environ, reason="SIOUX_FALLS names no folder with the data (research use)")
def test_sioux_falls_to_the_best_known_flows():
    folder = Path(os.environ["SIOUX_FALLS"])
    network = RoadNetwork.from_tntp(folder, "SiouxFalls")
    best = np.loadtxt(folder / "SiouxFalls_flow.tntp", skiprows=1)[:, 2]
    np.testing.assert_allclose(network.latency.integral(best).sum(), 4_231_335.287107440, rtol=1e-9)
    assert network.wardrop_gap(best) < 1e-9
    found = equilibrium(network.game(), np.zeros(76), entropy_weight=(0.3, 0.1, 0.03, 0.01))
    np.testing.assert_allclose(found.flow, best, rtol=0.01)
    assert network.wardrop_gap(found.flow) < 1e-4
