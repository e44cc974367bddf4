"""Runs that were made to fail are named rightly, and healthy ones are called healthy: from their files alone."""

import dataclasses
import functools
import tempfile
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import (
    BilevelProblem,
    Followers,
    OccupancyCost,
    PowerDecay,
    SingleLoopActorCritic,
    StepSizes,
    TabularMDP,
    problems,
    projections,
    run,
    untuned,
)
from bilevel_rl.environments import gymnasium_reward
from bilevel_rl.formulation import measure_scales
from bilevel_rl.problems.grid import Grid
from bilevel_rl.runs.diagnosis import (
    FEWEST_LOG_POINTS,
    HEALTHY,
    NOT_JUDGED,
    SIGNATURES,
    UNFINISHED,
    diagnose,
    find_runs,
)
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from garnets import random_problem

pytestmark = pytest.mark.filterwarnings("ignore:step sizes violate", "ignore:critic=.* exceeds")

NUM_SEEDS = 4
COLLAPSED, NOISY, UNEXPLORED, OUTRUN, FROZEN, BLURRED, SHORT = (signature.name for signature in SIGNATURES)


# Runs.


@functools.cache
def position_problem():
    return problems.goal_position(size=5, target=(4, 1), initial_x=(1, 3), width=2.0)


@functools.cache
def corner_problem():
    """The follower starts in one cell, so it has to find the others."""
    corner = Grid(5, slip=0.1).mdp(start=[(0, 0)], discount=0.95)
    return dataclasses.replace(position_problem(), environment=corner)


@functools.cache
def placement_problem():
    return problems.goal_placement(size=4, delivery=(3, 1), home=(0, 3), walls=(), hazards=())


def findings(problem, key, num_iterations=10_000, **changed):
    """Finding to number of seeds. Problems of one shape share their program, whatever the step sizes."""
    step_sizes = StepSizes.decaying(**{"actor": 1.0, "critic": 4.0, "offset": 5_000.0} | changed)
    return findings_of(SingleLoopActorCritic(problem, step_sizes, Followers(coupled=False)), key, num_iterations)


def findings_of(algorithm, key, num_iterations=10_000):
    metrics = run(
        algorithm, jax.random.key(key), NUM_SEEDS, num_iterations, num_iterations // 20, progress=False
    ).metrics
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        values = zip(*(column.tolist() for column in metrics.values()), strict=True)
        folder.append_rows("metrics", [dict(zip(metrics, row, strict=True)) for row in values])
        return Counter({finding.name: len(finding.seeds) for finding in diagnose(folder)})


KEYS = (0, pytest.param(1, marks=pytest.mark.long))


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("expected", "changed"),
    [
        (COLLAPSED, {"actor": 100.0}),
        (COLLAPSED, {"actor": 300.0}),
        (NOISY, {"penalty": 0.01}),
        (NOISY, {"penalty": 0.003}),
        (OUTRUN, {"upper": 3.0}),
        (OUTRUN, {"upper": 10.0}),
        (OUTRUN, {"actor": 0.001, "critic": 0.004, "upper": 0.1}),
        (OUTRUN, {"actor": 0.0005, "critic": 0.002, "upper": 0.1}),
    ],
)
def test_goal_position_made_to_fail(expected, changed, key):
    got = findings(position_problem(), key, **changed)
    assert got[expected] >= 3, got


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("entropy", [0.01, 0.003])
def test_states_that_are_never_explored(entropy, key):
    got = findings(corner_problem(), key, entropy=entropy, actor=0.25, critic=1.0)
    assert got[UNEXPLORED] >= 3, got


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("exponent", "offset"), [(3.0, 200.0), (4.0, 200.0)])
def test_x_freezes_where_the_entropy_weight_decays_too_fast(exponent, offset, key):
    got = findings(position_problem(), key, offset=offset, exponents=(0.9, 0.5, 0.5, 0.15, exponent))
    assert got[FROZEN] >= 3, got


@functools.cache
def cliff_problem():
    """Bonuses of at most a tenth, to lure the follower from the edge: a step costs 0.01, and a fall 1."""
    falls = gymnasium_reward("CliffWalking-v1", is_slippery=True) / 100
    environment = TabularMDP.from_gymnasium("CliffWalking-v1", is_slippery=True, discount=0.95)
    return BilevelProblem(
        environment,
        lambda x, s, a: jnp.asarray(falls, float)[s, a] + x[s],
        OccupancyCost(lambda x, s, a: x[s] + 1.0 * (s // 12 == 2), cost_bound=1.1),
        initial_x=np.zeros(environment.num_states),
        project=projections.Box(0.0, 0.1),
        reward_bound=1.1,
    )


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("expected", [BLURRED, HEALTHY])
def test_an_entropy_weight_that_hides_small_bonuses(expected, key):
    problem = cliff_problem()
    algorithm = untuned(problem)
    if expected == BLURRED:  # A tenth of what a fall costs, which hardly decays.
        offset = algorithm.step_sizes.entropy.offset
        slow = dataclasses.replace(
            untuned(problem, scales=measure_scales(problem)._replace(reward=1.1)).step_sizes,
            entropy=PowerDecay(0.11, 1 / 20, offset),
        )
        algorithm = dataclasses.replace(algorithm, step_sizes=slow)
    assert findings_of(algorithm, key, 80_000)[expected] >= 3


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_x_stops_short_where_its_steps_shrink_too_fast(key):
    got = findings(position_problem(), key, upper=0.03, offset=200.0, exponents=(2.0, 0.5, 0.5, 0.15, 0.05))
    # The other seeds stop where a step would gain less than a fifth of what the run did.
    assert got[SHORT] >= 1, got
    assert set(got) <= {SHORT, HEALTHY}, got


@pytest.mark.long
@pytest.mark.parametrize("offset", [500.0, 200.0])
def test_with_the_papers_exponents_the_same_runs_are_healthy(offset):
    assert findings(position_problem(), 0, offset=offset) == {HEALTHY: NUM_SEEDS}


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("expected", "changed", "seed"),
    [
        *((HEALTHY, {}, seed) for seed in (1, 2, 5)),
        *((NOISY, {"penalty": 0.01}, seed) for seed in (1, 2, 5)),
        *((OUTRUN, {"upper": 10.0}, seed) for seed in (1, 5)),  # It harms only half of the seeds of problem 2.
    ],
)
def test_random_problems(expected, changed, seed, key):
    got = findings(random_problem(seed), key, **{"actor": 0.5, "critic": 1.0, "offset": 1_000.0} | changed)
    assert got[expected] >= (NUM_SEEDS if expected == HEALTHY else 3), got


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("key", [*KEYS, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("problem", [position_problem, placement_problem], ids=["position", "placement"])
def test_healthy_runs(problem, key):
    assert findings(problem(), key) == {HEALTHY: NUM_SEEDS}


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_a_run_that_starts_at_the_optimum_is_healthy(key):
    assert findings(dataclasses.replace(position_problem(), initial_x=(4.0, 1.0)), key) == {HEALTHY: NUM_SEEDS}


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("num_iterations", [40, 200])
def test_a_run_that_has_not_finished_learning_shows_no_failure(num_iterations, key):
    got = findings(position_problem(), key, num_iterations)
    assert set(got) <= {HEALTHY, UNFINISHED}, got


@pytest.mark.slow
def test_a_run_that_has_not_finished_learning_says_so():
    assert findings(position_problem(), 0, 40)[UNFINISHED] == NUM_SEEDS


@pytest.mark.long
def test_a_leader_that_never_moves_is_healthy():
    assert findings(position_problem(), 0, upper=0.0) == {HEALTHY: NUM_SEEDS}


# Rules, on rows that are written by hand.

POINTS = 16


def course(**changed):
    """A healthy course of one seed; a changed column is a number, or a list of one number for each quarter."""
    columns = {
        "seed": 3,
        "is_sampled": 0,
        "entropy_weight": [0.1, 0.09, 0.08, 0.07],
        "evaluation_entropy_weight": 0.01,
        "upper_objective": [1.0, 0.5, 0.3, 0.2],
        "hyper_gradient_norm": [1.0, 0.4, 0.2, 0.1],
        "hyper_gradient_norm_at_first_entropy": [1.0, 0.4, 0.2, 0.11],
        "lower_residual": [0.4, 0.2, 0.1, 0.02],
        "lower_mean_reward": 0.6,
        "lower_mean_entropy": [1.6, 1.2, 1.1, 1.0],
        "optimal_entropy": 1.0,
        "missed_occupancy": [0.3, 0.1, 0.0, 0.0],
        "upper_noise": 2.0,
        "descent_left": [0.5, 0.3, 0.1, 0.02],
        "descent_seen": [0.5, 0.3, 0.1, 0.02],
        "x_distance": [0.0, 2.0, 3.0, 4.0],
        "x_movement": [1.0, 0.5, 0.2, 0.1],
    } | changed
    table = {name: np.repeat(value, POINTS // np.size(value)) for name, value in columns.items()}
    # 32 transitions an iteration: pairs of 16 chains, whose mean has a quarter of the noise.
    counts = [{"num_iterations": 10 * i, "num_transitions": 320 * i} for i in range(POINTS)]
    return [count | {name: column[i].item() for name, column in table.items()} for i, count in enumerate(counts)]


def finding_of(tmp_path, rows, divergences=()):
    folder = RunFolder(tmp_path)
    folder.append_rows("metrics", rows)
    folder.write_divergences(divergences)
    (finding,) = diagnose(folder)
    return finding


BROKEN = [
    (
        "policy collapsed",
        {"lower_mean_entropy": [1.6, 1.0, 0.4, 0.4], "lower_residual": [0.4, 0.3, 0.3, 0.3]},
        ("40%", "33%"),
    ),
    ("w too small", {"upper_noise": 10.0, "x_movement": 1.0}, ("2.5 times", "2.0 times")),
    ("w too small", {"upper_noise": 10.0, "upper_objective": [0.5, 0.2, 0.7, 0.7]}, ("2.5 times", "by 40%")),
    ("too little entropy", {"missed_occupancy": 0.5, "lower_residual": 0.3}, ("50%", "33%")),
    ("x outruns", {"x_movement": 1.0}, ("2.0 times", "0.50 times")),
    ("x outruns", {"upper_objective": [0.5, 0.2, 0.7, 0.7]}, ("by 40%", "0.50 times")),
    ("x outruns", {"lower_mean_entropy": [1.6, 1.6, 1.5, 1.5], "lower_residual": 0.3}, ("31%", "33%", "moved by 4")),
    (
        "x frozen",
        {
            "entropy_weight": [0.1, 0.02, 0.004, 0.001],
            "hyper_gradient_norm": [1.0, 0.1, 0.01, 0.002],
            "hyper_gradient_norm_at_first_entropy": [1.0, 0.8, 0.5, 0.4],
        },
        ("100 times", "0.5%", "40%"),
    ),
    ("τ too large", {"descent_left": 0.4, "descent_seen": 0.08}, ("50% of its range", "0.07", "sees 20%")),
    ("τ too large", {"descent_left": 0.4, "descent_seen": -0.1}, ("sees 0%",)),
    (
        "τ too large",
        {"upper_objective": [1.0, 0.2, 0.3, 0.36], "descent_seen": -0.05},
        ("by 20% of its range", "τ = 0.01", "raises Φ at τ = 0.07"),
    ),
    ("x stopped short", {"descent_left": 0.4, "descent_seen": 0.3}, ("at rest", "50% of its range")),
    ("unfinished", {"descent_left": 0.4, "descent_seen": 0.3, "x_movement": 0.3}, ("still moves", "50%")),
    ("unfinished", {"lower_residual": [0.9, 0.6, 0.4, 0.2]}, ("22.2%",)),
    ("healthy", {}, ("from 1 to 0.2", "3.2%")),
    # One condition short of a failure.
    (
        "unfinished",
        {"lower_mean_entropy": [1.6, 1.0, 0.4, 0.4], "lower_residual": [0.4, 0.3, 0.3, 0.2]},
        (),
    ),  # still learning
    ("healthy", {"lower_mean_entropy": [1.6, 1.0, 0.4, 0.4], "lower_residual": 0.05}, ()),  # misses little
    (
        "unfinished",
        {"lower_mean_entropy": [1.6, 0.1, 0.1, 0.04], "optimal_entropy": 0.1, "lower_residual": 0.3},
        (),
    ),  # both certain
    ("healthy", {"descent_left": 0.07, "descent_seen": 0.0}, ()),  # little beside the range of Φ
    ("healthy", {"upper_objective": [1.0, 0.2, 0.3, 0.36]}, ()),  # Φ has risen, though not because of τ
    ("healthy", {"upper_objective": [1.0, 0.2, 0.22, 0.23], "descent_seen": -0.05}, ()),  # and hardly risen
    (
        "healthy",
        {"upper_objective": [1.0, 0.2, 0.3, 0.36], "descent_seen": -0.05, "evaluation_entropy_weight": 0.08},
        (),
    ),
    (
        "healthy",  # little beside the size of Φ, which has hardly moved
        {"upper_objective": [1.0, 0.98, 0.97, 0.98], "descent_left": 0.04, "descent_seen": 0.0},
        (),
    ),
    # The leader sees nothing of it since the run's τ is smaller than the one that counts.
    ("x stopped short", {"descent_left": 0.4, "descent_seen": 0.0, "evaluation_entropy_weight": 0.08}, ()),
    ("healthy", {"upper_noise": 10.0}, ()),  # noisy, but x settles
    ("healthy", {"missed_occupancy": 0.5}, ()),  # though without loss
    ("healthy", {"x_movement": 1.0, "upper_objective": [1.0, 0.9, 0.95, 0.9]}, ()),  # Φ hardly depends on x
    ("healthy", {"hyper_gradient_norm": 0.002, "hyper_gradient_norm_at_first_entropy": [1.0, 0.4, 0.2, 0.1]}, ()),
    ("healthy", {"hyper_gradient_norm": 0.1, "hyper_gradient_norm_at_first_entropy": 0.4}, ()),
    (
        "healthy",  # flat and steep at the first τ, but x still moves
        {"hyper_gradient_norm": 0.002, "hyper_gradient_norm_at_first_entropy": 0.4, "x_movement": [1, 0.5, 0.3, 0.3]},
        (),
    ),
]


@pytest.mark.parametrize(("name", "changed", "numbers"), BROKEN)
def test_each_rule_and_its_numbers(name, changed, numbers, tmp_path):
    finding = finding_of(tmp_path, course(**changed))
    assert finding.name.startswith(name), finding
    assert finding.seeds == (3,)
    assert [number for number in numbers if number not in finding.evidence] == [], finding.evidence
    assert bool(finding.remedy) == (name != "healthy")


@pytest.mark.parametrize("unit", ["reward", "cost", "x"])
@pytest.mark.parametrize(("name", "changed", "_"), BROKEN)
def test_rules_do_not_depend_on_units(unit, name, changed, _, tmp_path):
    powers = {
        "reward": dict.fromkeys(
            ("lower_residual", "lower_mean_reward", "entropy_weight", "evaluation_entropy_weight"), 1
        ),
        "cost": dict.fromkeys(("upper_objective", "hyper_gradient_norm", "upper_noise"), 1)
        | dict.fromkeys(("descent_left", "descent_seen"), 1)
        | {"hyper_gradient_norm_at_first_entropy": 1},
        "x": {"x_distance": 1, "x_movement": 1, "hyper_gradient_norm": -1, "upper_noise": -1}
        | {"hyper_gradient_norm_at_first_entropy": -1},
    }[unit]
    rows = [{k: v * 1000.0 ** powers.get(k, 0) for k, v in row.items()} for row in course(**changed)]
    assert finding_of(tmp_path, rows).name.startswith(name)


def test_what_cannot_be_judged_is_not(tmp_path):
    sampled = finding_of(tmp_path / "sampled", [row | {"is_sampled": 1} for row in course()])
    assert sampled.name == NOT_JUDGED
    assert "only divergence" in sampled.evidence
    old = [{name: value for name, value in row.items() if name != "descent_left"} for row in course()]
    assert finding_of(tmp_path / "old", old).name == NOT_JUDGED
    short = finding_of(tmp_path / "short", course()[: FEWEST_LOG_POINTS - 1])
    assert short.name == NOT_JUDGED
    assert short.evidence.startswith("11 log points are too few")
    assert finding_of(tmp_path / "enough", course()[:FEWEST_LOG_POINTS]).name != NOT_JUDGED


def test_methods_without_a_penalized_policy_are_judged_without_the_noise_of_its_estimate(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "upper_noise"} for row in course(x_movement=1.0)]
    assert finding_of(tmp_path, rows).name.startswith("x outruns")


def test_a_measurement_that_is_nan_does_not_hide_the_rest(tmp_path):
    rows = course(upper_noise=10.0, x_movement=1.0)
    rows[-1] |= {"upper_objective": float("nan"), "hyper_gradient_norm": float("nan")}
    assert finding_of(tmp_path, rows).name == NOISY


def test_seeds_are_gathered_by_finding_and_stopped_seeds_say_why(tmp_path):
    healthy = course()
    rows = [row | {"seed": seed} for seed in (0, 4) for row in healthy] + course(x_movement=1.0)
    rows += [row | {"seed": 5} for row in healthy[:3]]
    folder = RunFolder(tmp_path)
    folder.append_rows("metrics", sorted(rows, key=lambda row: row["num_iterations"]))
    folder.write_divergences([{"seed": 5, "num_iterations": 27, "quantity": "x", "likely_cause": "lower it"}])
    got = [(finding.name, finding.seeds) for finding in diagnose(folder)]
    assert got == [(HEALTHY, (0, 4)), (OUTRUN, (3,)), ("diverged", (5,))]
    diverged = diagnose(folder)[-1]
    assert diverged.evidence == "x left the finite numbers after iteration 27"
    assert diverged.remedy == "lower it"


# Folders.


def test_runs_of_an_experiment_are_found_in_its_subfolders(tmp_path):
    RunFolder(tmp_path).write_config({})
    with pytest.raises(RunFolderError, match="has no metrics yet"):
        find_runs(tmp_path)
    for name in ("b", "a"):
        RunFolder(tmp_path / name).append_rows("metrics", course())
    assert [folder.path.name for folder in find_runs(tmp_path)] == ["a", "b"]
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no config\.json"):
        find_runs(tmp_path / "a" / "figures")
    assert not (tmp_path / "a" / "figures").exists()


def test_every_remedy_and_rule_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "reports" / "ablations.md").read_text()
    assert [signature.name for signature in SIGNATURES if signature.name not in text] == []
