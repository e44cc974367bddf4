"""Metric rows: exact where they are measured, complete, documented, and never silently NaN."""

import functools
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, Followers, OccupancyCost, SingleLoopActorCritic, StepSizes, TabularMDP, exact
from bilevel_rl.algorithms import ExactDescent, ExactDescentInfo
from bilevel_rl.algorithms.sampled import SampledInfo
from bilevel_rl.algorithms.single_loop import SingleLoopInfo, SingleLoopState
from bilevel_rl.algorithms.upper_steps import Memory
from bilevel_rl.runs import metrics as diagnostics
from bilevel_rl.runs.metrics import Measurement, are_exact, metric_columns, metric_rows
from dense_reference import entropies, occupancy_series
from garnets import random_problem
from small_runs import NUM_CHAINS, NUM_SEEDS, small_algorithm, small_run

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
TAU = 0.02
"""Entropy weight of the evaluation."""


@functools.cache
def states():
    """NumPy arrays, as `run` hands them over."""
    return jax.tree.map(np.asarray, small_run(num_iterations=75).states)


def info():
    """Every entry another number."""
    values = 1.0 + np.arange(8 * NUM_SEEDS, dtype=np.float32).reshape(4, NUM_SEEDS, 2)
    return SampledInfo(*values)


ROLE_COLUMNS = "mean_reward", "mean_cost", "mean_entropy", "mean_squared_td_error"


def rows(algorithm=None, states_=None, is_running=(True,) * NUM_SEEDS, tau=TAU, info_=None, how="auto"):
    algorithm = small_algorithm() if algorithm is None else algorithm
    states_ = states() if states_ is None else states_
    columns = metric_columns(algorithm, states_, info() if info_ is None else info_, tau, how)
    assert {(type(column), column.shape) for column in columns.values()} == {(np.ndarray, (NUM_SEEDS,))}
    return metric_rows(columns, np.array(is_running))


def doubles(array):
    return np.asarray(array, np.float64)


def policies_of(algorithm, state):
    """Both policies in double precision, normalized there."""
    logits = doubles(algorithm.log_policies(state))
    policies = np.exp(logits - logits.max(-1, keepdims=True))
    return policies / policies.sum(-1, keepdims=True)


def expected_measurement(algorithm, state, tau):
    problem, sizes = algorithm.problem, algorithm.step_sizes(state.num_iterations)
    x = jax.tree.map(doubles, state.x)
    weight, penalty = doubles(sizes.entropy), doubles(sizes.penalty)
    lower, penalized = policies_of(algorithm, state)
    gradient = exact.hyper_gradient(problem, x, entropy_weight=weight)
    return {
        "upper_objective": exact.hyper_objective(problem, x, entropy_weight=tau),
        "regularized_objective": exact.hyper_objective(problem, x, entropy_weight=weight),
        "hyper_gradient_norm": np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient))),
        "upper_value": exact.upper_value(problem, x, lower),
        "lower_residual": exact.lower_residual(problem, x, lower, entropy_weight=weight),
        "penalized_residual": exact.lower_residual(problem, x, penalized, entropy_weight=weight, penalty=penalty),
        **expected_comparisons(problem, x, lower, weight),
        "hyper_gradient_norm_at_first_entropy": norm(
            exact.hyper_gradient(problem, x, entropy_weight=doubles(algorithm.step_sizes(0).entropy))
        ),
        "upper_noise": expected_noise(problem, x, lower, penalized, penalty),
        "x_distance": norm(jax.tree.map(lambda a, b: a - b, x, problem.initial_x)),
    }


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def visits(problem, policy):
    return occupancy_series(problem.environment, policy, num_terms=3_000)


def expected_comparisons(problem, x, lower, weight):
    best = np.asarray(exact.lower_policy(problem, x, entropy_weight=weight))
    own, others = visits(problem, lower).sum(1), visits(problem, best).sum(1)
    return {
        "optimal_entropy": own @ entropies(problem.environment, best),
        "missed_occupancy": others[own < 0.01 * others].sum(),
    }


def expected_noise(problem, x, lower, penalized, w):
    """Variance of one pair's direction, over all pairs of pairs of state and action."""
    states, actions = np.divmod(np.arange(lower.size), lower.shape[1])
    pairs = list(zip(states, actions, strict=True))

    def gradients(function):
        with jax.enable_x64(True):
            trees = [jax.grad(function)(x, jnp.asarray([s]), jnp.asarray([a])) for s, a in pairs]
        return np.array([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in trees])

    r = gradients(lambda x, s, a: problem.rewards(x, s, a)[0])
    c = gradients(lambda x, s, a: problem.costs(x, s, a)[0])
    directions = r[:, None] / w + (c - r / w)[None]
    chances = visits(problem, lower).ravel()[:, None] * visits(problem, penalized).ravel()
    mean = np.einsum("ij,ijd->d", chances, directions)
    return np.sqrt(np.einsum("ij,ijd->", chances, (directions - mean) ** 2))


@pytest.mark.slow
def test_measurements_are_those_of_the_oracles():
    algorithm = small_algorithm()
    for seed, row in enumerate(rows()):
        state = jax.tree.map(lambda leaf, i=seed: leaf[i], states())
        for name, value in expected_measurement(algorithm, state, TAU).items():
            assert row[name] == pytest.approx(float(value), rel=1e-12, abs=1e-12), name


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("options", [{"num_terminal": 1}, {"num_terminal": 2, "as_dict": True}, {"discount": 0.99}])
def test_measurements_far_from_the_optimum_are_those_of_the_oracles(options):
    problem, rng = random_problem(seed=15, **options), np.random.default_rng(1)
    algorithm = SingleLoopActorCritic(problem, StepSizes.decaying(entropy=0.02, penalty=0.7), Followers(4))
    states_ = SingleLoopState(
        num_iterations=np.array([0, 400, 10**6], np.int32),
        x=jax.tree.map(lambda leaf: (leaf + 2 * rng.normal(size=(3, *leaf.shape))).astype("f"), problem.initial_x),
        parameters=4 * rng.normal(size=(3, 2, 5, 4)).astype("f"),
        chain_states=np.zeros((3, 2, 4), np.int32),
        upper_memory=Memory(None, None, None),
        visitation=None,
    )
    for seed, row in enumerate(rows(algorithm, states_)):
        state = jax.tree.map(lambda leaf, i=seed: leaf[i], states_)
        expected = expected_measurement(algorithm, state, TAU)
        assert expected["lower_residual"] > 0.01
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=1e-11, abs=1e-12), name


@pytest.mark.slow
def test_states_that_the_lower_policy_does_not_reach_are_missed():
    """Two states, the start leads to itself by action 0 and to the other, which pays, by action 1."""
    chain = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    problem = BilevelProblem(
        environment=TabularMDP.from_dense(chain, initial=[1.0, 0.0], discount=0.9),
        reward=lambda x, s, a: x * (s == 1),
        upper=OccupancyCost(cost=lambda x, s, a: 1.0 * s),
        initial_x=1.0,
    )
    τ, rare = 0.01, 1e-4
    go = np.log([[[1 - rare, rare], [0.5, 0.5]]] * 2)[None]
    fixed = {
        "penalty": np.ones(1),
        "entropy_weight": np.full(1, τ),
        "first_entropy_weight": τ,
        "evaluation_entropy_weight": τ,
    }
    got = diagnostics.measure(problem, np.array([1.0]), go, **fixed)
    # The best answer goes at once, and is in the second state for a share γ of its time.
    assert got.missed_occupancy == pytest.approx([0.9], rel=1e-6)
    # Its entropy is log 2 in the second state, where the policy is for a share γp / (1 − γ + γp), and 0 in the first.
    assert got.optimal_entropy == pytest.approx([0.9 * rare / (0.1 + 0.9 * rare) * np.log(2)], rel=1e-6)


def test_the_distance_between_upper_variables_is_over_all_their_numbers():
    left = {"a": np.array([1.0, 0.0]), "b": np.array([[2.0, 0.0], [0.0, 4.0]])}
    right = {"a": np.array([4.0, 0.0]), "b": np.array([[2.0, 4.0], [0.0, 0.0]])}
    assert diagnostics.distances(left, right).tolist() == [5.0, 4.0]


def test_large_models_are_measured_from_samples_unless_told_otherwise(monkeypatch):
    problem, num_states = small_algorithm().problem, 4
    exactly = rows()
    assert {row["is_sampled"] for row in exactly} == {0}
    assert [are_exact(how, problem) for how in ("auto", "exact", "sampled")] == [True, True, False]
    assert rows(how="exact") == exactly
    forced = rows(how="sampled")

    monkeypatch.setattr(diagnostics, "DENSE_LIMIT", num_states - 1)
    assert [are_exact(how, problem) for how in ("auto", "exact", "sampled")] == [False, True, False]
    assert rows(how="auto") == forced
    assert rows(how="exact") == exactly
    monkeypatch.setattr(diagnostics, "DENSE_LIMIT", num_states)
    assert are_exact("auto", problem)


def test_samples_take_the_place_of_what_is_not_measured():
    sampled, exactly = rows(how="sampled"), rows()
    measured = set(Measurement._fields) | {"evaluation_entropy_weight"}
    assert set(exactly[0]) - set(sampled[0]) == measured - {"upper_value"}
    for seed, (row, other) in enumerate(zip(sampled, exactly, strict=True)):
        price = float(small_algorithm().problem.upper.regularizer(jnp.asarray(states().x[seed])))
        assert row["is_sampled"] == 1
        assert row["upper_value"] == pytest.approx(float(info().mean_cost[seed, 0]) + price, rel=1e-6)
        for name in set(row) - {"upper_value", "is_sampled"}:
            assert row[name] == other[name], name


def test_the_measurements_tell_seeds_and_quantities_apart():
    # Nothing is out of reach here; a test of its own has states that are missed.
    names = [name for name in Measurement._fields if name != "missed_occupancy"]
    values = np.array([[row[name] for name in names] for row in rows()])
    assert np.ptp(values, axis=0).min() > 1e-6
    for row in values:
        assert len(np.unique(row.round(9))) == len(row)
    assert np.all(values[:, names.index("lower_residual")] > 0)
    assert np.all(values[:, names.index("penalized_residual")] > 0)


def test_columns_that_are_not_measured():
    sizes = small_algorithm().step_sizes(75)
    for seed, row in enumerate(rows()):
        assert row["seed"] == seed
        assert row["num_iterations"] == 75
        assert row["num_transitions"] == 75 * 2 * NUM_CHAINS
        for name in ("upper", "actor", "critic"):
            assert row[f"{name}_step"] == float(np.float32(getattr(sizes, name)))
        assert row["penalty"] == float(sizes.penalty)
        assert row["entropy_weight"] == float(sizes.entropy)
        assert [row[f"x{i}"] for i in range(3)] == states().x[seed].tolist()
        assert "x3" not in row
        for name, values in zip(ROLE_COLUMNS, info(), strict=False):
            assert [row[f"lower_{name}"], row[f"penalized_{name}"]] == values[seed].tolist()


def test_the_variance_of_the_upper_gradient_comes_from_its_means():
    draws = np.random.default_rng(0).normal(size=(50, NUM_SEEDS, 3)) * [1.0, 2.0, 0.5] + 1.0
    found = SingleLoopInfo(
        *info(),
        coupling_rate=np.linspace(0.1, 0.3, NUM_SEEDS),
        upper_gradient={"a": draws.mean(0)[:, :1], "b": draws.mean(0)[:, 1:]},
        squared_upper_gradient=(draws**2).sum(-1).mean(0),
    )
    expected = draws.var(axis=0).sum(axis=-1)
    for seed, row in enumerate(rows(info_=found)):
        assert row["upper_variance"] == pytest.approx(expected[seed], rel=1e-9)
        assert row["coupling_rate"] == found.coupling_rate[seed]
        assert "upper_gradient" not in row


def test_a_row_holds_plain_numbers():
    assert {type(value) for row in rows() for value in row.values()} == {int, float}
    assert [name for name, value in rows()[0].items() if type(value) is int] == [
        "seed",
        "num_iterations",
        "num_transitions",
        "is_sampled",
    ]


def test_transitions_do_not_overflow():
    late = states()._replace(num_iterations=np.full(NUM_SEEDS, 2**30, np.int32))
    assert rows(states_=late)[0]["num_transitions"] == 2**30 * 2 * NUM_CHAINS


def test_only_running_seeds_are_reported():
    assert rows(is_running=(False, True, False)) == rows()[1:2]
    assert rows(is_running=(False,) * NUM_SEEDS) == []


def test_a_diagnostic_without_roles_keeps_its_name():
    class Diagnostics(SampledInfo):
        def _asdict(self):
            return {"norm": self.mean_reward[:, 0]}

    row = rows(info_=Diagnostics(*info()))[2]
    assert row["norm"] == float(info().mean_reward[2, 0])
    assert "lower_norm" not in row


def test_long_upper_variables_are_left_out(monkeypatch):
    monkeypatch.setattr(diagnostics, "MAX_LOGGED_COMPONENTS", 3)
    assert "x2" in rows()[0]
    monkeypatch.setattr(diagnostics, "MAX_LOGGED_COMPONENTS", 2)
    assert [name for name in rows()[0] if name.startswith("x")] == ["x_distance"]
    assert "upper_objective" in rows()[0]


@pytest.mark.long
def test_an_upper_variable_that_is_a_tree_is_measured_and_logged_leaf_by_leaf():
    problem = random_problem(3, 4, 2, 2, as_dict=True)
    algorithm = eqx.tree_at(lambda a: a.problem, small_algorithm(), problem)
    tree = {"shift": np.array([1.0, 2.0, 3.0]), "tilt": np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]])}

    got = rows(algorithm, states()._replace(x=tree))

    assert [[row[f"x{i}"] for i in range(3)] for row in got] == [[1.0, 0.5, 1.5], [2.0, 2.5, 3.5], [3.0, 4.5, 5.5]]
    for row, shift, tilt in zip(got, tree["shift"], tree["tilt"], strict=True):
        x = {"shift": doubles(shift), "tilt": doubles(tilt)}
        gradient = exact.hyper_gradient(problem, x, entropy_weight=row["entropy_weight"])
        expected = np.hypot(gradient["shift"], np.linalg.norm(gradient["tilt"]))
        assert row["hyper_gradient_norm"] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("is_running", [(True, True, True), (True, True, False)])
def test_a_measurement_that_is_nan_is_never_silent(is_running):
    # Only the last seed's x lies beyond the edge.
    edge = float(np.sort(states().x[:, 0])[-2])
    last = int(np.argmax(states().x[:, 0]))
    order = [seed for seed in range(NUM_SEEDS) if seed != last] + [last]
    turned = jax.tree.map(lambda leaf: leaf[np.array(order)], states())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = rows(small_algorithm(cost_edge=edge), turned, is_running)
    messages = [str(warning.message) for warning in caught]
    if is_running[-1]:
        assert np.isnan(got[-1]["upper_objective"])
        assert "upper_objective is NaN: its exact computation does not converge at this state" in messages
        assert not any(message.startswith("lower_mean_reward") for message in messages)
    else:
        assert messages == []
    assert all(np.isfinite(value) for row in got[:2] for value in row.values())


def test_measuring_leaves_the_precision_as_it_was():
    rows()
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.slow
def test_rows_of_a_method_with_one_policy_say_nothing_of_another():
    algorithm = ExactDescent(random_problem(seed=0), StepSizes.constant_entropy(entropy=TAU))
    states_ = jax.tree.map(lambda leaf: np.stack([leaf] * NUM_SEEDS), algorithm.init(jax.random.key(0)))
    info_ = ExactDescentInfo(np.ones((NUM_SEEDS, 1), np.float32))
    for row in rows(algorithm, states_, info_=info_):
        assert not any("penalized" in name for name in row)
        assert "upper_noise" not in row
        assert row["lower_mean_cost"] == 1.0
        assert row["lower_residual"] == pytest.approx(0.0, abs=1e-5)
        expected = exact.hyper_objective(algorithm.problem, algorithm.problem.initial_x, entropy_weight=TAU)
        assert row["upper_objective"] == pytest.approx(float(expected), rel=1e-6)


def test_every_column_is_documented():
    text = DOCUMENTATION.read_text()
    columns = [name for name in rows()[0] if name not in ("x1", "x2")]
    assert [name for name in columns if f"`{name}`" not in text] == []


def test_every_attribute_of_a_measurement_is_a_column():
    assert set(Measurement._fields) <= set(rows()[0])
