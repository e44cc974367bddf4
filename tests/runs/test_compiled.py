"""The compiled loop: which seeds run together, which random numbers they use, and that nothing else decides a bit."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, Followers, SingleLoopActorCritic, StepSizes
from bilevel_rl.algorithms.sampled import SampledState
from bilevel_rl.problems import goal_placement, goal_position
from bilevel_rl.runs.compiled import Layout, Loop, choose
from garnets import random_problem
from small_runs import noise_of, noises_of, small_run, start_of

SIZES = StepSizes.decaying(upper=0.3, actor=0.5, critic=1.0, offset=400.0)
PROBLEMS = {
    "garnet": lambda: random_problem(seed=15, num_terminal=1, as_dict=True),
    "goal_position": lambda: goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0, walls=((1, 1),)),
    "goal_placement": lambda: goal_placement(
        size=3, delivery=(2, 0), home=(0, 2), walls=((1, 1),), hazards=((2, 2),), splitting_fee=0.1
    ),
}
GENERATORS = "threefry2x32", "rbg"
BLOCK = 64
"""Iterations in a block of these algorithms."""
LENGTH = 150
"""Two blocks and a part of the third."""


@functools.cache
def algorithm_of(name, num_chains=4):
    return SingleLoopActorCritic(PROBLEMS[name](), SIZES, Followers(num_chains, coupled=False))


def key_of(generator="threefry2x32"):
    return jax.random.key(3, impl=generator)


def loop_of(name, num_seeds, seeds_per_group=None, generator="threefry2x32"):
    algorithm = algorithm_of(name)
    return Loop(algorithm, key_of(generator), Layout.plan(algorithm, num_seeds, seeds_per_group))


def to_numpy(tree):
    return jax.tree.map(np.array, tree)


@functools.cache
def whole(name, num_seeds, seeds_per_group=None, generator="threefry2x32"):
    """Start, states after `LENGTH` iterations, and sums of the Infos."""
    loop = loop_of(name, num_seeds, seeds_per_group, generator)
    states = loop.start()
    start = to_numpy(states)
    states, totals, _ = loop.advance(states, 0, LENGTH)
    return start, to_numpy(states), to_numpy(totals)


def seeds_of(tree, seeds):
    return jax.tree.map(lambda leaf: leaf[seeds], tree)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_close(left, right, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


# The layout.


@pytest.mark.parametrize(
    ("num_chains", "num_seeds", "seeds_per_group", "iterations_per_block"),
    [
        (4, 1, 1, 64),
        (4, 3, 3, 64),
        (4, 8, 8, 64),
        (4, 10, 5, 64),
        (4, 11, 1, 64),
        (4, 12, 6, 64),
        (4, 16, 8, 64),
        (16, 8, 2, 16),
        (16, 7, 1, 16),
        (1, 96, 32, 256),
        (3, 30, 10, 64),  # 2048 / 24 is rounded down to a power of two
        (100, 6, 1, 2),
        (300, 4, 1, 1),
    ],
)
def test_a_group_is_the_largest_that_fits_and_a_block_has_at_most_so_many_numbers(
    num_chains, num_seeds, seeds_per_group, iterations_per_block
):
    algorithm = algorithm_of("garnet", num_chains)
    layout = Layout.plan(algorithm, num_seeds)
    assert (layout.num_seeds, layout.seeds_per_group) == (num_seeds, seeds_per_group)
    assert layout.iterations_per_block == iterations_per_block
    for size in (size for size in range(1, num_seeds + 1) if num_seeds % size == 0):
        chosen = Layout.plan(algorithm, num_seeds, size)
        assert chosen.seeds_per_group == size
        assert chosen.iterations_per_block == iterations_per_block  # random numbers do not depend on the groups


@pytest.mark.parametrize(("num_seeds", "seeds_per_group"), [(3, 2), (6, 4), (2, 4), (3, 0), (3, -3)])
def test_groups_must_divide_the_seeds(num_seeds, seeds_per_group):
    message = rf"^seeds_per_group must divide num_seeds, {num_seeds}, got {seeds_per_group}$"
    with pytest.raises(ValueError, match=message):
        Layout.plan(algorithm_of("garnet"), num_seeds, seeds_per_group)


@pytest.mark.parametrize(
    ("num_devices", "num_seeds", "seeds_per_group"), [(3, 2, 1), (16, 2, 1), (6, 8, 4), (2, 1, 1), (4, 6, 1)]
)
def test_devices_must_be_able_to_share_the_groups(num_devices, num_seeds, seeds_per_group, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: num_devices)
    with pytest.raises(ValueError, match=f"^{num_seeds} seeds in groups of {seeds_per_group} ") as caught:
        Layout.plan(algorithm_of("garnet"), num_seeds, seeds_per_group)
    message = str(caught.value)
    assert f"cannot be shared evenly by {num_devices} devices" in message
    assert f"run a multiple of {seeds_per_group * num_devices} seeds" in message


# Random numbers and bits.


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize(
    ("name", "generator"),
    [
        *(("garnet", generator) for generator in GENERATORS),
        ("goal_position", "threefry2x32"),
        ("goal_placement", "rbg"),
        pytest.param("goal_position", "rbg", marks=pytest.mark.slow),
        pytest.param("goal_placement", "threefry2x32", marks=pytest.mark.slow),
    ],
)
def test_the_loop_takes_the_steps_of_the_algorithm_with_the_noise_of_its_keys(name, generator):
    algorithm = algorithm_of(name)
    step = eqx.filter_jit(algorithm.step)
    start, states, totals = whole(name, 3, generator=generator)
    assert Layout.plan(algorithm, 3).iterations_per_block == BLOCK
    key = key_of(generator)
    for seed in range(3):
        state = start_of(algorithm, seed, key)
        assert_same_bits(seeds_of(start, seed), to_numpy(state))
        infos = []
        for noise in noises_of(algorithm, seed, 0, LENGTH, key):
            state, info = step(noise, state)
            infos.append(info)
        # Not the same program, so not the same bits.
        np.testing.assert_array_equal(states.chain_states[seed], state.chain_states)
        assert_close(seeds_of(states, seed), to_numpy(state))
        sums = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0, dtype=np.float64), *infos)
        assert_close(seeds_of(totals, seed), sums, rtol=1e-4, atol=1e-4)


class Record(NamedTuple):
    num_iterations: jax.Array
    x: jax.Array


class Recorder(eqx.Module):
    """An algorithm whose x is the noise that its steps were given, of iterations 0, 1, …."""

    problem: BilevelProblem
    step_sizes: StepSizes
    num_transitions_per_iteration: int = 8

    def init(self, key):
        return Record(jnp.int32(0), jnp.zeros((LENGTH, 32)))

    def draw(self, key, num_iterations):
        return jax.random.uniform(key, (num_iterations, 32))

    def step(self, noise, state):
        x = state.x.at[state.num_iterations].set(noise)
        return Record(state.num_iterations + 1, x), Record(jnp.float32(state.num_iterations), noise[0])

    def recommend(self, state):
        return state.x

    def log_policies(self, state):
        return jnp.zeros((2, 5, 3))


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
def test_no_two_iterations_of_any_seeds_share_random_numbers(generator):
    recorder = Recorder(random_problem(seed=0), SIZES)
    layout = Layout.plan(recorder, 4, 2)
    assert layout.iterations_per_block == BLOCK
    loop = Loop(recorder, key_of(generator), layout)
    states, totals, _ = loop.advance(loop.start(), 0, 70)
    states, more_totals, _ = loop.advance(states, 70, LENGTH)
    noise = np.array(states.x)
    assert len(np.unique(noise.reshape(-1, 32), axis=0)) == 4 * LENGTH
    for seed in range(4):
        expected = [noise_of(recorder, seed, k, key_of(generator)) for k in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5)]
        np.testing.assert_array_equal(noise[seed, [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5]], expected)
    # Sums of what each iteration was told and given, once each.
    np.testing.assert_array_equal(totals.num_iterations, [sum(range(70))] * 4)
    np.testing.assert_array_equal(more_totals.num_iterations, [sum(range(70, LENGTH))] * 4)
    np.testing.assert_allclose(totals.x + more_totals.x, noise[..., 0].sum(1), rtol=1e-5)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seeds_per_group"),
    [
        ("garnet", 1),
        ("garnet", 2),
        ("goal_position", 2),
        ("goal_placement", 1),
        pytest.param("goal_position", 1, marks=pytest.mark.slow),
        pytest.param("goal_placement", 2, marks=pytest.mark.slow),
    ],
)
def test_bits_of_a_seed_do_not_depend_on_the_number_of_seeds(name, seeds_per_group):
    few, many = whole(name, seeds_per_group, seeds_per_group), whole(name, 3 * seeds_per_group, seeds_per_group)
    seeds = np.arange(seeds_per_group)
    assert_same_bits(seeds_of(many, seeds), few)
    assert np.ptp(many[1].parameters, axis=0).max() > 0.01  # while the seeds differ


@pytest.mark.long
@pytest.mark.parametrize(("generator", "seeds_per_group"), [("rbg", 2), pytest.param("rbg", 1, marks=pytest.mark.slow)])
def test_bits_of_a_seed_do_not_depend_on_the_number_of_seeds_with_any_generator(generator, seeds_per_group):
    counts = seeds_per_group, 3 * seeds_per_group
    few, many = (whole("garnet", count, seeds_per_group, generator) for count in counts)
    assert_same_bits(seeds_of(many, np.arange(seeds_per_group)), few)
    assert np.ptp(many[1].parameters, axis=0).max() > 0.01
    others = whole("garnet", counts[1], seeds_per_group)
    assert np.abs(others[1].parameters - many[1].parameters).max() > 0.01


@pytest.mark.variants(rest="long")
@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
def test_groups_of_another_size_round_differently_at_most(name):
    ours, theirs = whole(name, 6, 2), whole(name, 6, 3)
    np.testing.assert_array_equal(ours[1].chain_states, theirs[1].chain_states)
    assert_close(ours[:2], theirs[:2])


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("seeds_per_group", [3, 1])
def test_pieces_that_start_within_a_block_end_with_the_same_bits(name, seeds_per_group):
    loop = loop_of(name, 3, seeds_per_group)
    start, expected, expected_totals = whole(name, 3, seeds_per_group)
    states, totals = loop.start(), 0
    ends = [37, BLOCK, 100, 101, 101, LENGTH]
    assert any(end % BLOCK for end in ends)
    for first, last in zip([0, *ends], ends, strict=False):
        states, piece, _ = loop.advance(states, first, last)
        np.testing.assert_array_equal(states.num_iterations, [last] * 3)
        totals = jax.tree.map(np.add, to_numpy(piece), totals) if totals else to_numpy(piece)
    assert_same_bits(to_numpy(states), expected)
    assert_close(totals, expected_totals, rtol=1e-4, atol=1e-4)
    assert np.abs(expected.parameters - start.parameters).max() > 0.01


def test_no_iteration_changes_nothing_and_sums_nothing():
    loop = loop_of("garnet", 3)
    states = loop.advance(loop.start(), 0, 70)[0]
    before = to_numpy(states)
    states, totals, _ = loop.advance(states, 70, 70)
    assert_same_bits(to_numpy(states), before)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(totals))


def test_the_states_given_are_taken():
    loop = loop_of("garnet", 3)
    states = loop.start()
    kept = jax.tree.map(jnp.copy, states)
    places = {name: getattr(states, name).unsafe_buffer_pointer() for name in ("parameters", "chain_states")}
    after, _, _ = loop.advance(states, 0, 10)
    jax.block_until_ready(after)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((states.x, states.parameters, states.chain_states)))
    assert {name: getattr(after, name).unsafe_buffer_pointer() for name in places} == places
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
    assert_same_bits(to_numpy(loop.advance(kept, 0, 10)[0]), to_numpy(after))


def test_advance_says_which_leaves_of_which_seeds_are_finite():
    loop = loop_of("garnet", 4, 2)
    states = loop.advance(loop.start(), 0, 5)[0]
    _, _, is_finite = loop.advance(jax.tree.map(jnp.copy, states), 5, 6)
    assert jax.tree.structure(is_finite) == jax.tree.structure(states)
    assert {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(is_finite)} == {((4,), np.dtype(bool))}
    assert all(np.all(leaf) for leaf in jax.tree.leaves(is_finite))

    # In a state where the chains are not and no step leads to.
    idle = next(s for s in range(5) if s not in np.asarray(states.chain_states))
    spoiled = states._replace(
        x=states.x | {"tilt": states.x["tilt"].at[0, 1].set(jnp.inf)},
        parameters=states.parameters.at[2, 1, idle, 0].set(jnp.nan),
    )
    _, _, is_finite = loop.advance(spoiled, 5, 5)
    expected = {"num_iterations": [], "shift": [], "tilt": [0], "parameters": [2], "chain_states": []}
    found = is_finite._asdict() | is_finite.x
    for name, seeds in expected.items():
        np.testing.assert_array_equal(found[name], ~np.isin(np.arange(4), seeds), err_msg=name)


def test_choose_takes_the_seeds_of_either():
    ours, theirs = (
        SampledState(
            jnp.arange(3, dtype=jnp.int32) + 10 * i,
            {"a": jnp.arange(3.0) + 10 * i, "b": jnp.arange(6.0).reshape(3, 2) + 10 * i},
            jnp.arange(24.0).reshape(3, 2, 2, 2) + 100 * i,
            jnp.arange(6, dtype=jnp.int32).reshape(3, 2, 1) + 100 * i,
        )
        for i in range(2)
    )
    theirs = theirs._replace(parameters=theirs.parameters.at[1].set(jnp.nan))  # What is not chosen may be spoiled.
    chosen = choose(np.array([False, True, False]), ours, theirs)
    assert_same_bits(seeds_of(to_numpy(chosen), 1), seeds_of(to_numpy(ours), 1))
    for seed in (0, 2):
        assert_same_bits(seeds_of(to_numpy(chosen), seed), seeds_of(to_numpy(theirs), seed))
    assert [leaf.dtype for leaf in jax.tree.leaves(chosen)] == [leaf.dtype for leaf in jax.tree.leaves(ours)]


# Several devices.

CASES = [
    (name, 4 * seeds_per_group, seeds_per_group, "threefry2x32") for name in PROBLEMS for seeds_per_group in (1, 2)
]
CASES += [("garnet", 4, 1, "rbg")]

ON_FOUR_DEVICES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
import test_compiled
meshes = [test_compiled.loop_of("garnet", *counts).layout.mesh.devices.shape for counts in ((4, 1), (12, 3), (8, 1))]
assert meshes == [(4,), (4,), (4,)], meshes
leaves = {}
for case in test_compiled.CASES:
    leaves |= {f"{case} {i}": leaf for i, leaf in enumerate(jax.tree.leaves(test_compiled.whole(*case)))}
np.savez(sys.argv[1], **leaves)
"""


@pytest.fixture(scope="module")
def on_four_devices(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "leaves.npz"
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {places}\n{ON_FOUR_DEVICES}"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=300)
    with np.load(path) as leaves:
        return dict(leaves)


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_four_devices_end_with_the_bits_of_one(case, on_four_devices):
    expected = jax.tree.leaves(whole(*case))
    assert_same_bits([on_four_devices[f"{case} {i}"] for i in range(len(expected))], expected)


@pytest.mark.slow
def test_a_generator_whose_seeds_would_share_numbers_is_refused():
    with pytest.raises(ValueError, match=r"unsafe_rbg.* use rbg"):
        small_run(key=jax.random.key(0, impl="unsafe_rbg"))
