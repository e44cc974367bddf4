"""Outcomes: hand-solved numbers, the oracles', and the same after a file."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.outcome import Optimum, find_outcome, measure_outcome, read_outcome, write_outcome
from bilevel_rl.outcome.measure import scales_of
from bilevel_rl.outcome.walks import Kernel
from bilevel_rl.runs.folder import DamagedFileError, RunFolder, RunFolderError

HOME, PARK, OFFICE, END = range(4)
TAU = 0.5


def deterministic(*successors):
    """A kernel from the state that each action of each state leads to."""
    return np.eye(len(successors))[np.array(successors)]


PLACES = brl.TabularMDP.from_dense(
    deterministic((PARK, OFFICE), (HOME, OFFICE), (END, HOME), (END, END)),
    initial=[0.75, 0.25, 0, 0],
    discount=0.8,
    terminal=[False, False, False, True],
)


@pytest.fixture(scope="module")
def problem():
    return brl.BilevelProblem(
        environment=PLACES,
        reward=lambda x, s, a: x["pay"][0] * (s == OFFICE) + x["pay"][1] ** 2 * (s == PARK) - 0.1 * a,
        upper=brl.OccupancyCost(
            cost=lambda x, s, a: 1.0 * (s == HOME) + x["pay"][0] * (s == OFFICE),
            regularizer=lambda x: 0.3 * jnp.sum(x["pay"] ** 2),
        ),
        initial_x={"pay": [0.2, 0.5]},
        names=brl.Names(
            states=("home", "park", "office", "end"), layout=brl.GraphLayout([(0, 0), (3, 0), (0, 2), None])
        ),
    )


@pytest.fixture(scope="module")
def outcome(problem):
    xs = {"pay": np.array([[1.0, 0.0], [0.3, -0.4], [0.6, 0.1]])}
    best = Optimum(0.1, {"pay": np.array([0.5, 0.0])}, "a guess")
    return measure_outcome(problem, xs, entropy_weight=TAU, optimum=best)


def test_costs_and_answers_are_the_oracles(problem, outcome):
    xs = [{"pay": x} for x in ([0.2, 0.5], [1.0, 0.0], [0.3, -0.4], [0.6, 0.1])]
    expected = [brl.exact.hyper_objective(problem, x, entropy_weight=TAU) for x in xs]
    np.testing.assert_allclose(outcome.exact.costs.objective, expected, rtol=1e-12)
    np.testing.assert_allclose(outcome.exact.costs.regularizer, [0.3 * np.sum(np.square(x["pay"])) for x in xs])
    np.testing.assert_allclose(
        outcome.exact.costs.expected + outcome.exact.costs.regularizer, outcome.exact.costs.objective
    )
    assert outcome.exact.shown_seed == np.argsort(expected[1:])[1]
    shown = xs[1 + outcome.exact.shown_seed]
    for answer, x in ((outcome.exact.before, xs[0]), (outcome.exact.after, shown)):
        policy = brl.exact.lower_policy(problem, x, entropy_weight=TAU)
        np.testing.assert_allclose(answer.policy, policy, rtol=1e-9)
        np.testing.assert_allclose(answer.occupancy.sum(), 1.0)
    np.testing.assert_allclose(outcome.exact.before.payments.sum(), outcome.exact.costs.expected[0])
    np.testing.assert_allclose(
        outcome.exact.after.payments.sum(), outcome.exact.costs.expected[1 + outcome.exact.shown_seed]
    )
    assert outcome.exact.before.payments[PARK].tolist() == [0.0, 0.0]


def test_slopes_are_differences_of_phi(problem, outcome):
    """A central difference of Φ, and one of the oracle's gradient."""
    x = outcome.final_x[outcome.exact.shown_seed]
    for i in range(2):
        step = 1e-5 * np.eye(2)[i]
        up, down = (brl.exact.hyper_objective(problem, {"pay": x + h}, entropy_weight=TAU) for h in (step, -step))
        assert outcome.exact.slopes.gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-6)
        ups, downs = (
            brl.exact.hyper_gradient(problem, {"pay": x + h}, entropy_weight=TAU)["pay"][i] for h in (step, -step)
        )
        assert outcome.exact.slopes.curvature[i] == pytest.approx((ups - downs) / 2e-5, rel=1e-5)


def test_changes_are_those_of_one_percent_of_the_scale(outcome):
    assert outcome.exact.slopes.scale.tolist() == [1.0, 0.5]
    g, h = outcome.exact.slopes.gradient, outcome.exact.slopes.curvature
    up, down = outcome.exact.slopes.changes()
    np.testing.assert_allclose(up, [0.01 * g[0] + 5e-5 * h[0], 0.005 * g[1] + 1.25e-5 * h[1]])
    np.testing.assert_allclose(down, [-0.01 * g[0] + 5e-5 * h[0], -0.005 * g[1] + 1.25e-5 * h[1]])


def test_an_entry_that_stays_at_zero_has_the_scale_of_the_others():
    assert scales_of(np.array([[0.0, 0.0], [0.0, -4.0]])).tolist() == [4.0, 4.0]
    assert scales_of(np.zeros((2, 2))).tolist() == [1.0, 1.0]


def test_edges_flows_and_drift_by_hand(outcome):
    """From home to the park or the office, and so on; an edge carries the time that ends with it."""
    wanted = [(HOME, PARK), (HOME, OFFICE), (PARK, HOME), (PARK, OFFICE), (OFFICE, HOME), (OFFICE, END)]
    assert outcome.exact.edges.tolist() == [list(edge) for edge in wanted]
    d, policy = outcome.exact.before.occupancy, outcome.exact.before.policy
    flows = [d[HOME, 0], d[HOME, 1], d[PARK, 0], d[PARK, 1], d[OFFICE, 1], d[OFFICE, 0]]
    np.testing.assert_allclose(outcome.exact.before.flows, flows)
    # y downwards; the end lies nowhere, so the way to it counts as no step.
    steps = [
        (3 * policy[HOME, 0], -2 * policy[HOME, 1]),
        (-3, -2 * policy[PARK, 1]),
        (0, 2 * policy[OFFICE, 1]),
        (0, 0),
    ]
    np.testing.assert_allclose(outcome.exact.before.drift, steps, atol=1e-12)


def test_walks_take_possible_steps_and_stop_at_the_end(outcome):
    possible = {tuple(edge) for edge in outcome.exact.edges.tolist()} | {(END, END)}
    for walk in outcome.exact.before.walks.tolist():
        assert set(itertools.pairwise(walk)) <= possible
    starts = np.bincount(outcome.exact.before.walks[:, 0], minlength=4) / len(outcome.exact.before.walks)
    assert starts.tolist() == [0.75, 0.25, 0, 0]


def test_edges_of_driven_dynamics_are_those_of_both_x():
    """At x = 0 the follower stays; at x = 1 it moves on."""
    stay_or_go = brl.TabularMDP.from_successors([[[0, 1]], [[1, 0]]], [[[0.5, 0.5]]], initial=[1, 0], discount=0.5)
    problem = brl.BilevelProblem(
        stay_or_go,
        lambda x, s, a: 1.0 * s,
        brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 0)),
        0.0,
        # The second action is a little slower.
        outcome_probabilities=lambda x, s, a: jnp.stack([1 - x + 0.5 * a * x * (1 - x), x - 0.5 * a * x * (1 - x)]),
    )
    outcome = measure_outcome(problem, np.array([1.0]), entropy_weight=TAU)
    assert outcome.exact.edges.tolist() == [[0, 1], [1, 0]]
    assert outcome.exact.before.flows.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(outcome.exact.after.flows, [2 / 3, 1 / 3])
    # Φ falls from always at 0 to 2/3 of the time.
    np.testing.assert_allclose(outcome.exact.costs.objective, [1, 2 / 3])
    ahead, behind = (brl.exact.hyper_gradient(problem, 1 + h, entropy_weight=TAU) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(outcome.exact.slopes.curvature, [(ahead - behind) / 2e-5], rtol=1e-4)


def test_large_models_keep_names_and_x_alone():
    S = 1_501
    ring = brl.TabularMDP.from_successors(
        (np.arange(S)[:, None, None] + 1) % S, [[[1.0]]], initial=np.eye(S)[0], discount=0.5
    )
    upper = brl.OccupancyCost(lambda x, s, a: 1.0 * s)
    problem = brl.BilevelProblem(ring, lambda x, s, a: x * s, upper, 0.5, names=brl.Names(x=("toll",)))
    outcome = measure_outcome(problem, np.array([0.7, 0.8]), entropy_weight=TAU)
    assert outcome.exact is None
    assert (outcome.x_names, outcome.initial_x.tolist(), outcome.final_x.tolist()) == (("toll",), [0.5], [[0.7], [0.8]])


def test_an_objective_without_costs_per_step_has_no_payments():
    upper = brl.OccupancyFunctional(lambda x, d: jnp.sum(d**2))
    problem = brl.BilevelProblem(PLACES, lambda x, s, a: x * s, upper, 0.5)
    outcome = measure_outcome(problem, np.array([0.7]), entropy_weight=TAU)
    assert outcome.exact.before.payments is None
    np.testing.assert_allclose(outcome.exact.costs.expected[0], np.sum(outcome.exact.before.occupancy**2))


def test_a_file_keeps_all_of_it(tmp_path, outcome):
    folder = RunFolder(tmp_path)
    assert find_outcome(folder) is None
    with pytest.raises(RunFolderError, match=r"has no outcome\.json"):
        read_outcome(folder)
    write_outcome(folder, outcome)
    read = read_outcome(folder)
    jax.tree.map(np.testing.assert_array_equal, *(dataclasses.asdict(o) for o in (read, outcome)))
    assert read.names == outcome.names


def result_of(problem, ends):
    metrics = {"seed": np.array([0]), "num_iterations": np.array([9])}
    return brl.RunResult({"pay": np.array(ends)}, None, metrics, (), initial_x=problem.initial_x, names=problem.names)


def test_where_nothing_was_measured_the_result_tells_names_and_x(tmp_path, problem, outcome):
    folder, ends = RunFolder(tmp_path), outcome.final_x
    result_of(problem, ends).save(tmp_path / "result.npz")
    told = find_outcome(folder)
    assert (told.names, told.exact, told.optimum) == (problem.names, None, None)
    np.testing.assert_array_equal(told.initial_x, [0.2, 0.5])
    np.testing.assert_array_equal(told.final_x, ends)
    write_outcome(folder, outcome)
    assert find_outcome(folder).exact is not None
    # A run that went on has another x, of which what was measured says nothing.
    result_of(problem, ends + np.array([0.0, 0.01])).save(tmp_path / "result.npz")
    assert find_outcome(folder).exact is None
    np.testing.assert_array_equal(find_outcome(folder).final_x, ends + np.array([0.0, 0.01]))
    (tmp_path / "outcome.json").unlink()
    with pytest.warns(UserWarning, match=r"outcome\.json is missing.*`bilevel-rl resume` measures it again"):
        assert find_outcome(folder).exact is None


@pytest.mark.parametrize("layout", [brl.GridLayout([(0, 1), None]), None])
def test_a_file_keeps_layouts(tmp_path, outcome, layout):
    written = dataclasses.replace(outcome, names=brl.Names("Why?", layout=layout), exact=None, optimum=None)
    write_outcome(RunFolder(tmp_path), written)
    read = read_outcome(RunFolder(tmp_path))
    assert (read.names, read.exact, read.optimum) == (written.names, None, None)


def test_a_damaged_file_is_named(tmp_path, outcome):
    write_outcome(RunFolder(tmp_path), outcome)
    (tmp_path / "outcome.json").write_text('{"names": {}}')
    with pytest.raises(DamagedFileError, match=r"outcome\.json"):
        read_outcome(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xs": np.zeros((1, 2))}, "xs must have the structure"),
        ({"xs": {"pay": np.zeros((0, 2))}}, "xs must hold an x for each seed"),
        ({"xs": {"pay": np.zeros((2, 3))}}, r"xs\[0\] must have the structure"),
        ({"entropy_weight": 0.0}, "entropy_weight must be"),
        ({"optimum": Optimum(np.nan)}, r"optimum\.objective"),
        ({"optimum": Optimum(0.0, {"pay": np.zeros(3)})}, r"optimum\.x must have"),
    ],
)
def test_what_cannot_be_measured_is_refused(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_outcome(problem, **{"xs": {"pay": np.zeros((1, 2))}, "entropy_weight": TAU} | arguments)


def test_a_walk_follows_the_law():
    """From one state to two others, with chances 1/4 and 3/4: of 8 walks about 2."""
    kernel = Kernel(
        np.array([[[1, 2]], [[1, 1]], [[2, 2]]]),
        np.array([[[0.25, 0.75]], [[1.0, 0.0]], [[1.0, 0.0]]]),
        np.array([1.0, 0, 0]),
        np.zeros(3, bool),
        0.99,
    )
    ends = kernel.walks(np.ones((3, 1)))[:, -1]
    assert set(ends.tolist()) == {1, 2}
    assert (ends == 1).sum() < (ends == 2).sum()
