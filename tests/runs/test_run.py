"""What `run` promises: rows, seeds that do not see each other, paths that do not see the log points, divergence."""

import dataclasses
import importlib
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import small_runs
from bilevel_rl import BilevelProblem, OccupancyCost, SingleLoopActorCritic, StepSizes
from bilevel_rl.runs.compiled import Layout
from bilevel_rl.runs.divergence import LARGEST, LIKELY_CAUSES, OVERFLOW, Divergence, Health, locate
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.run import check_run_arguments, run
from garnets import random_problem
from small_runs import (
    COST_EDGE,
    KEY,
    LONE_SEED,
    NUM_CHAINS,
    NUM_ITERATIONS,
    NUM_SEEDS,
    SLOPE_EDGE,
    first_beyond,
    noise_of,
    noises_of,
    small_algorithm,
    small_run,
    start_of,
)

COLUMNS = [
    "seed",
    "num_iterations",
    "num_transitions",
    "upper_step",
    "actor_step",
    "critic_step",
    "penalty",
    "entropy_weight",
    "is_sampled",
    "upper_objective",
    "regularized_objective",
    "hyper_gradient_norm",
    "upper_value",
    "lower_residual",
    "penalized_residual",
    "optimal_entropy",
    "missed_occupancy",
    "hyper_gradient_norm_at_first_entropy",
    "upper_noise",
    "descent_left",
    "descent_seen",
    "evaluation_entropy_weight",
    "x_distance",
    "x0",
    "x1",
    "x2",
    *(
        f"{role}_{name}"
        for name in ("mean_reward", "mean_cost", "mean_entropy", "mean_squared_td_error")
        for role in ("lower", "penalized")
    ),
    "coupling_rate",
    "upper_variance",
    "x_movement",
]
INFO_COLUMNS = COLUMNS[-11:-2]
EXACT_COLUMNS = COLUMNS[9:22]


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def differ(left, right):
    return any(np.any(a != b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def seed_of(tree, seed):
    return jax.tree.map(lambda leaf: leaf[seed], tree)


def rows_of(result, seed):
    return {name: column[result.metrics["seed"] == seed] for name, column in result.metrics.items()}


@pytest.fixture(scope="module")
def whole():
    return small_run()


# Rows.


@pytest.mark.slow
def test_rows_are_ordered_by_iteration_and_then_seed_and_end_with_the_remainder():
    result = small_run(num_iterations=130)

    assert list(result.metrics) == COLUMNS
    assert result.metrics["num_iterations"].tolist() == [0, 0, 0, 50, 50, 50, 100, 100, 100, 130, 130, 130]
    assert result.metrics["seed"].tolist() == [0, 1, 2] * 4
    assert {len(column) for column in result.metrics.values()} == {12}
    np.testing.assert_array_equal(result.states.num_iterations, [130] * NUM_SEEDS)


def test_the_movement_of_x_is_that_since_the_previous_row(whole):
    for seed in range(NUM_SEEDS):
        rows = rows_of(whole, seed)
        path = np.stack([rows[f"x{i}"] for i in range(3)], axis=1)
        moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
        assert moved.min() > 0
        np.testing.assert_allclose(rows["x_movement"], [0.0, *moved], rtol=1e-12)


def test_transitions_are_iterations_times_two_batches_of_chains(whole):
    np.testing.assert_array_equal(whole.metrics["num_transitions"], whole.metrics["num_iterations"] * 2 * NUM_CHAINS)


def test_fewer_iterations_than_a_log_interval_give_two_log_points():
    assert small_run(num_iterations=7).metrics["num_iterations"].tolist() == [0, 0, 0, 7, 7, 7]


def test_first_row_is_the_start_and_last_row_the_result(whole):
    start = small_algorithm().problem.initial_x.astype(np.float32)
    components = np.stack([whole.metrics[f"x{i}"] for i in range(3)], axis=-1)
    np.testing.assert_array_equal(components[:NUM_SEEDS], np.tile(start, (NUM_SEEDS, 1)))
    np.testing.assert_array_equal(components[-NUM_SEEDS:], whole.x)
    assert whole.x.shape == (NUM_SEEDS, 3)
    assert_same_bits(whole.x, whole.states.x)
    assert np.ptp(whole.x, axis=0).min() > 0


def test_step_sizes_of_a_row_are_those_of_its_iteration(whole):
    sizes = small_algorithm().step_sizes(whole.metrics["num_iterations"])
    for column, name in zip(COLUMNS[3:8], ("upper", "actor", "critic", "penalty", "entropy"), strict=True):
        np.testing.assert_allclose(whole.metrics[column], getattr(sizes, name), rtol=1e-6)


def test_diagnostics_of_a_row_are_means_since_the_last_log_point(whole):
    single = small_runs.every_iteration()
    for name in INFO_COLUMNS:
        steps = single[name].reshape(NUM_ITERATIONS + 1, NUM_SEEDS)[1:]
        means = steps.reshape(-1, 50, NUM_SEEDS).mean(1)
        rows = whole.metrics[name].reshape(-1, NUM_SEEDS)
        np.testing.assert_allclose(rows[1:], means, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(rows[0], steps[0], err_msg=name)  # iteration 1 stands for those before it
    assert np.ptp(whole.metrics["lower_mean_reward"]) > 0


def test_sampled_diagnostics_measure_nothing_exactly_and_change_no_other_number(whole):
    sampled = small_run(diagnostics="sampled")
    assert_same_bits(sampled.states, whole.states)
    assert list(sampled.metrics) == [name for name in COLUMNS if name not in EXACT_COLUMNS or name == "upper_value"]
    assert set(whole.metrics["is_sampled"]) == {0}
    assert set(sampled.metrics["is_sampled"]) == {1}
    for name in {*sampled.metrics} - {"is_sampled", "upper_value"}:
        np.testing.assert_array_equal(sampled.metrics[name], whole.metrics[name], err_msg=name)
    x = np.stack([sampled.metrics[f"x{i}"] for i in range(3)], axis=-1)
    prices = [float(small_algorithm().problem.upper.regularizer(jnp.asarray(row))) for row in x]
    expected = sampled.metrics["lower_mean_cost"] + np.array(prices)
    np.testing.assert_allclose(sampled.metrics["upper_value"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_an_upper_variable_that_is_a_tree_keeps_its_structure():
    algorithm = eqx.tree_at(lambda a: a.problem, small_algorithm(), random_problem(3, 4, 2, 2, as_dict=True))
    result = small_run(algorithm, num_seeds=2, num_iterations=3)
    assert jax.tree.map(np.shape, result.x) == {"shift": (2,), "tilt": (2, 2)}
    np.testing.assert_array_equal(result.metrics["x0"][-2:], result.x["shift"])
    np.testing.assert_array_equal(result.metrics["x2"][-2:], result.x["tilt"][:, 1])


# Seeds and keys.


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize(("seeds_per_group", "counts"), [(2, (2, 4)), pytest.param(1, (1, 3), marks=pytest.mark.slow)])
def test_a_seed_does_not_depend_on_how_many_groups_run_after_its_own(seeds_per_group, counts):
    fewer, more = (small_run(num_seeds=count, seeds_per_group=seeds_per_group) for count in counts)
    for seed in range(counts[0]):
        assert_same_bits(seed_of(more.states, seed), seed_of(fewer.states, seed))
        for name, column in rows_of(more, seed).items():
            # The exact measurements of all seeds are one batch, whose rounding may differ in the last bit.
            np.testing.assert_allclose(rows_of(fewer, seed)[name], column, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.long
def test_groups_of_another_size_give_the_same_path_up_to_rounding(whole):
    assert Layout.plan(small_algorithm(), NUM_SEEDS).seeds_per_group == NUM_SEEDS
    one_by_one = small_run(seeds_per_group=1)
    np.testing.assert_array_equal(one_by_one.states.chain_states, whole.states.chain_states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one_by_one.states, whole.states)


@pytest.mark.slow
def test_the_path_does_not_depend_on_the_log_points(whole):
    for log_every in (1, 70, 1_000):
        assert_same_bits(small_run(log_every=log_every).states, whole.states)


def test_the_same_key_gives_the_same_bits_and_another_key_others(whole):
    again = small_run()
    assert_same_bits(again.states, whole.states)
    assert_same_bits(again.metrics, whole.metrics)
    assert differ(small_run(key=jax.random.key(1)).states.x, whole.states.x)


def test_seeds_differ_from_each_other(whole):
    for seed in range(1, NUM_SEEDS):
        assert differ(seed_of(whole.states.parameters, 0), seed_of(whole.states.parameters, seed))


def test_step_k_of_seed_i_uses_its_entry_of_the_block_drawn_from_the_key_folded_with_i_and_the_block():
    algorithm, step = small_algorithm(), eqx.filter_jit(small_algorithm().step)
    assert Layout.plan(algorithm, 1).iterations_per_block == 64
    result = small_run(num_iterations=150)
    for seed in range(NUM_SEEDS):
        state = start_of(algorithm, seed)
        for noise in noises_of(algorithm, seed, 0, 150):
            state, _ = step(noise, state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), seed_of(result.states, seed), state
        )


# Arguments, output.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_seeds": 0}, "^num_seeds must be at least 1, got 0$"),
        ({"num_iterations": -5}, "^num_iterations must be at least 1, got -5$"),
        ({"log_every": 0}, "^log_every must be at least 1, got 0$"),
        ({"evaluation_entropy_weight": 0.0}, r"^evaluation_entropy_weight must be finite and positive, got 0\.0"),
        ({"evaluation_entropy_weight": -1.0}, r"^evaluation_entropy_weight must be finite and positive, got -1\.0"),
        ({"evaluation_entropy_weight": float("nan")}, "^evaluation_entropy_weight must be .*got nan"),
        ({"evaluation_entropy_weight": float("inf")}, "^evaluation_entropy_weight must be .*got inf"),
    ],
)
def test_numbers_that_cannot_be_run_with_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        small_run(folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
    usual = {"num_seeds": 1, "num_iterations": 1, "log_every": 1, "evaluation_entropy_weight": 0.01}
    with pytest.raises(ValueError, match=message):
        check_run_arguments(**(usual | arguments))
    check_run_arguments(**usual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_every": -1.0}, r"^checkpoint_every must be at least 0 .*, got -1\.0; it is in seconds"),
        ({"checkpoint_every": float("nan")}, "^checkpoint_every must be at least 0 .*, got nan; it is in seconds"),
        ({"seeds_per_group": 2}, f"^seeds_per_group must divide num_seeds, {NUM_SEEDS}, got 2$"),
        ({"seeds_per_group": 0}, f"^seeds_per_group must divide num_seeds, {NUM_SEEDS}, got 0$"),
    ],
)
def test_options_that_cannot_be_run_with_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        small_run(folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_without_a_folder_and_nothing_shown_without_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_run(num_iterations=10)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")

    run(small_algorithm(), KEY, NUM_SEEDS, 10, progress=True)
    shown = capsys.readouterr()
    assert "10 of 10 iterations" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("kind", [str, lambda path: path, RunFolder])
def test_a_folder_is_a_path_a_string_or_a_run_folder(kind, tmp_path):
    result = small_run(num_iterations=60, folder=kind(tmp_path / "run"))

    folder = RunFolder(tmp_path / "run")
    rows = folder.read_rows("metrics")
    assert {name: [row[name] for row in rows] for name in rows[0]} == {
        name: column.tolist() for name, column in result.metrics.items()
    }
    timing = folder.read_rows("timing")
    assert [row["num_iterations"] for row in timing] == [0, 50, 60]
    assert np.all(np.diff([row["seconds"] for row in timing]) > 0)
    assert folder.latest_checkpoint() == 60
    saved = folder.restore_checkpoint(60, {"states": result.states, "is_stopped": np.ones(NUM_SEEDS, bool)})
    assert_same_bits(saved["states"], result.states)
    assert not np.any(saved["is_stopped"])


# Divergence.


def test_the_edges_of_these_tests_lie_where_they_should():
    stops = first_beyond("x1", SLOPE_EDGE)
    assert 50 < stops.pop(LONE_SEED) < 150
    assert stops == [None, None]
    late = first_beyond("x0", COST_EDGE)
    assert late[0] is None
    assert min(late[1:]) > 150
    assert late[1] != late[2]


@pytest.fixture(scope="module")
def one_stopped():
    with pytest.warns(RuntimeWarning, match=f"seed {LONE_SEED} diverged: x is not finite after iteration") as caught:
        result = small_run(small_algorithm(slope_edge=SLOPE_EDGE))
    return result, [str(warning.message) for warning in caught if warning.category is RuntimeWarning]


def test_a_divergence_names_seed_iteration_quantity_and_cause(one_stopped):
    result, messages = one_stopped
    expected = Divergence(LONE_SEED, first_beyond("x1", SLOPE_EDGE)[LONE_SEED], "x", LIKELY_CAUSES["x"])
    assert list(result.divergences) == [expected]
    assert messages == [str(expected)]
    for part in (
        f"seed {LONE_SEED}",
        f"after iteration {expected.num_iterations};",
        "lower `upper`",
        "last finite state is kept",
    ):
        assert part in messages[0]


def test_the_iteration_of_a_divergence_is_the_one_that_single_steps_find():
    algorithm = small_algorithm(slope_edge=SLOPE_EDGE)
    step = eqx.filter_jit(algorithm.step)
    state = start_of(algorithm, LONE_SEED)
    for noise in noises_of(algorithm, LONE_SEED, 0, NUM_ITERATIONS):
        after, _ = step(noise, state)
        if not np.all(np.isfinite(after.x)):
            break
        state = after
    assert int(state.num_iterations) == first_beyond("x1", SLOPE_EDGE)[LONE_SEED]
    assert np.all(np.isfinite(after.parameters))


def test_the_state_kept_is_the_last_finite_one_bit_by_bit(one_stopped):
    result, _ = one_stopped
    kept = seed_of(result.states, LONE_SEED)
    stop = result.divergences[0].num_iterations
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(kept))
    assert int(kept.num_iterations) == stop
    assert_same_bits(kept, seed_of(small_run(num_iterations=stop).states, LONE_SEED))

    algorithm = small_algorithm(slope_edge=SLOPE_EDGE)
    step = eqx.filter_jit(algorithm.step)
    next_state, _ = step(noise_of(algorithm, LONE_SEED, stop), jax.tree.map(jnp.asarray, kept))
    assert not np.any(np.isfinite(next_state.x))


def test_the_other_seeds_go_on_as_if_nothing_had_happened(one_stopped, whole):
    result, _ = one_stopped
    for seed in {*range(NUM_SEEDS)} - {LONE_SEED}:
        assert_same_bits(seed_of(result.states, seed), seed_of(whole.states, seed))
        assert_same_bits(rows_of(result, seed), rows_of(whole, seed))
        assert result.states.num_iterations[seed] == NUM_ITERATIONS


def test_a_stopped_seed_has_no_rows_from_its_last_finite_state_on(one_stopped, whole):
    result, _ = one_stopped
    rows = rows_of(result, LONE_SEED)
    assert rows["num_iterations"].tolist() == [k for k in range(0, 201, 50) if k < result.divergences[0].num_iterations]
    for name, column in rows.items():
        np.testing.assert_array_equal(column, rows_of(whole, LONE_SEED)[name][: len(column)], err_msg=name)


@pytest.mark.parametrize("log_every", [50, 70])
def test_states_too_large_to_be_copied_at_every_log_point_end_with_the_same_bits(
    one_stopped, whole, log_every, tmp_path, monkeypatch
):
    # Nothing to go back to but the start or the checkpoint, from which the last finite states are computed again.
    monkeypatch.setattr(importlib.import_module("bilevel_rl.runs.run"), "SNAPSHOT_BYTES", 0)
    undisturbed = small_run(log_every=log_every)
    small_run(small_algorithm(slope_edge=SLOPE_EDGE), num_iterations=50, log_every=log_every, folder=tmp_path)
    for folder in (None, tmp_path):
        with pytest.warns(RuntimeWarning, match=f"seed {LONE_SEED} diverged"):
            result = small_run(small_algorithm(slope_edge=SLOPE_EDGE), log_every=log_every, folder=folder)
        assert result.divergences == one_stopped[0].divergences
        assert_same_bits(result.states, one_stopped[0].states)
        assert_same_bits(undisturbed.states, whole.states)
        if log_every == 50:
            assert_same_bits(undisturbed.metrics, whole.metrics)
            assert_same_bits(result.metrics, one_stopped[0].metrics)


def test_two_seeds_that_stop_in_one_chunk_are_told_apart():
    with pytest.warns(RuntimeWarning, match="parameters is not finite"):
        result = small_run(small_algorithm(cost_edge=COST_EDGE))

    stops = first_beyond("x0", COST_EDGE)
    cause = LIKELY_CAUSES["parameters"]
    assert list(result.divergences) == [Divergence(seed, stops[seed], "parameters", cause) for seed in (1, 2)]
    np.testing.assert_array_equal(result.states.num_iterations, [NUM_ITERATIONS, *stops[1:]])
    for seed in (1, 2):
        assert_same_bits(seed_of(result.states, seed), seed_of(small_run(num_iterations=stops[seed]).states, seed))


def test_the_place_of_a_divergence_does_not_depend_on_the_log_points(one_stopped):
    for log_every in (7, 1_000):
        with pytest.warns(RuntimeWarning, match=f"seed {LONE_SEED} diverged"):
            result = small_run(small_algorithm(slope_edge=SLOPE_EDGE), log_every=log_every)
        assert result.divergences == one_stopped[0].divergences
        assert_same_bits(result.states, one_stopped[0].states)


@pytest.mark.long
def test_the_state_kept_is_on_the_path_also_where_a_seed_alone_rounds_differently():
    # A batch of matrix products is summed in another order than a single one.
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(64, 64)) / 8
    slope = small_runs.SteepBeyond(lambda x: jnp.sum((jnp.asarray(mixing) @ x) ** 2), np.asarray(np.inf))
    problem = BilevelProblem(
        small_algorithm().problem.environment,
        reward=lambda x, s, a: jnp.tanh(jnp.asarray(mixing)[s + a] @ x),
        upper=OccupancyCost(lambda x, s, a: -jnp.sin(x[s]), regularizer=slope, cost_bound=1.0),
        initial_x=0.1 * rng.normal(size=64),
        reward_bound=1.0,
    )
    free = eqx.tree_at(lambda a: a.problem, small_algorithm(upper=0.1), problem)
    broken = eqx.tree_at(lambda a: a.problem.upper.regularizer.edge, free, np.asarray(0.5))

    with pytest.warns(RuntimeWarning, match="diverged"):
        result = small_run(broken, log_every=NUM_ITERATIONS)

    assert len(result.divergences) == NUM_SEEDS
    for seed, stop in [(divergence.seed, divergence.num_iterations) for divergence in result.divergences]:
        assert stop > 50
        assert result.x[seed, 1] > 0.5
        unbroken = small_run(free, num_iterations=stop, log_every=NUM_ITERATIONS)
        assert_same_bits(seed_of(result.states, seed), seed_of(unbroken.states, seed))


def test_a_run_ends_when_all_seeds_have_stopped(tmp_path):
    edge = 0.1
    stops = first_beyond("x1", edge)
    assert all(0 < stop < 150 for stop in stops)
    with pytest.warns(RuntimeWarning, match="diverged"):
        result = small_run(small_algorithm(slope_edge=edge), num_iterations=10**9, folder=tmp_path)

    assert sorted((d.seed, d.num_iterations) for d in result.divergences) == list(enumerate(stops))
    np.testing.assert_array_equal(result.states.num_iterations, stops)
    assert np.all(np.isfinite(result.x))
    for seed, stop in enumerate(stops):
        assert rows_of(result, seed)["num_iterations"].tolist() == list(range(0, stop, 50))
    again = small_run(small_algorithm(slope_edge=edge), num_iterations=10**9, folder=tmp_path)
    assert again.divergences == result.divergences
    assert_same_bits(again.states, result.states)


def test_too_large_upper_steps_stop_every_seed_at_once():
    algorithm = small_algorithm(upper=1e25)
    with pytest.warns(RuntimeWarning, match=r"x .*is not finite after iteration \d;"):
        result = small_run(algorithm)

    assert len(result.divergences) == NUM_SEEDS
    for divergence in result.divergences:
        kept = seed_of(result.states, divergence.seed)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(kept))
        assert int(kept.num_iterations) == divergence.num_iterations
        noise = noise_of(algorithm, divergence.seed, divergence.num_iterations)
        next_state, _ = eqx.filter_jit(algorithm.step)(noise, jax.tree.map(jnp.asarray, kept))
        spoiled = [
            name
            for name, field in next_state._asdict().items()
            if not all(np.all(np.abs(leaf) <= LARGEST) for leaf in jax.tree.leaves(field))
        ]
        assert divergence.quantity == " and ".join(spoiled)
        assert divergence.likely_cause == LIKELY_CAUSES["x"]
    assert set(result.metrics["num_iterations"]) == {0}


def test_a_problem_that_is_broken_at_its_start_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"upper\.cost must be finite at initial_x, got nan in state 0, action 0"):
        small_run(small_algorithm(cost_edge=-1.0), folder=tmp_path / "run")
    problem = small_algorithm().problem
    steep = dataclasses.replace(problem, reward=lambda x, s, a: jnp.where(a == 1, jnp.inf, 0.0) * (s == 2))
    with pytest.raises(ValueError, match=r"reward must be finite at initial_x, got nan in state 0, action 1"):
        small_run(SingleLoopActorCritic(steep))
    priced = dataclasses.replace(problem, upper=OccupancyCost(problem.upper.cost, regularizer=lambda x: x[0] * jnp.inf))
    with pytest.raises(ValueError, match=r"upper\.regularizer must be finite at initial_x, got -?inf"):
        small_run(SingleLoopActorCritic(priced))


@pytest.mark.slow
def test_critics_that_grow_without_an_end_count_as_diverged(tmp_path):
    problem = small_algorithm().problem
    problem = dataclasses.replace(problem, reward=lambda x, s, a: 1e17 * (1.0 + s), reward_bound=np.inf)
    algorithm = SingleLoopActorCritic(problem, StepSizes.decaying(upper=0.0, actor=0.5, critic=1.0))
    with pytest.warns(RuntimeWarning, match=r"parameters is not finite .*beyond 1e\+15 counts as infinite"):
        result = small_run(algorithm, folder=tmp_path)
    assert len(result.divergences) == NUM_SEEDS
    assert "inf" not in (tmp_path / "metrics.csv").read_text()


def test_an_iteration_whose_diagnostics_overflow_counts_as_diverged():
    health = Health({"x": np.array([True, True])}, {"mean_cost": np.array([True, False])})
    divergence = locate(lambda k: health if k > 7 else Health(health.state, {"mean_cost": np.ones(2, bool)}), 1, 2, 20)
    assert (divergence.num_iterations, divergence.likely_cause) == (7, OVERFLOW)
    assert "mean_cost" in divergence.quantity


@pytest.mark.parametrize(
    ("option", "number"), [("num_iterations", 2**31), ("num_iterations", 10**23), ("num_seeds", 10**23)]
)
def test_numbers_that_no_machine_holds_are_refused(option, number):
    with pytest.raises(ValueError, match=f"{option} must be at most [0-9]+, got {number}"):
        small_run(**{option: number})


def test_a_measurement_that_is_nan_warns():
    edge = COST_EDGE
    stop = min(k for k in first_beyond("x0", edge) if k is not None)
    with pytest.warns(UserWarning, match="upper_objective is NaN: its exact computation does not converge"):
        result = small_run(small_algorithm(cost_edge=edge), num_iterations=stop)
    assert np.isnan(result.metrics["upper_objective"][-NUM_SEEDS:]).sum() == 1
    assert not result.divergences  # the state itself is still finite

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_run(small_algorithm(cost_edge=edge), num_iterations=stop - 1)
