"""What the runner may rely on, whatever the algorithm. A new algorithm is tested by adding it to `ALGORITHMS`."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel_rl import ExactDescent, Followers, PowerDecay, SingleLoopActorCritic, StepSizes, run
from bilevel_rl.algorithms import (
    BCHG,
    HPGD,
    PBRL,
    BellmanPBRL,
    CertaintyEquivalence,
    FiniteDifference,
    ModelBased,
    NestedLoop,
    PartialSGD,
    PlannedHPGD,
    SoBiRL,
    UpperSteps,
)
from garnets import random_problem

ALGORITHMS = {
    "single_loop": lambda problem: SingleLoopActorCritic(problem, StepSizes.decaying(upper=0.5), Followers(4)),
    "single_loop_past_the_paper": lambda problem: SingleLoopActorCritic(
        problem,
        StepSizes.decaying(upper=0.5),
        Followers(4, coupled=True),
        expects_actions=True,
        upper_steps=UpperSteps(optax.adam(1.0), recursion=PowerDecay(0.5, 0.0), averaging=3.0),
    ),
    "partial_sgd": lambda problem: PartialSGD(problem, StepSizes.decaying(upper=0.5), num_chains=4),
    "finite_difference": lambda problem: FiniteDifference(problem, num_chains=4, num_inner_steps=3),
    "nested_loop": lambda problem: NestedLoop(problem, num_chains=4, num_inner_steps=3),
    "pbrl": lambda problem: PBRL(problem, num_chains=4, num_inner_steps=3),
    "bellman_pbrl": lambda problem: BellmanPBRL(problem, num_chains=4, num_inner_steps=3),
    "exact": lambda problem: ExactDescent(problem, StepSizes.constant_entropy(upper=0.1)),
    "hpgd": lambda problem: HPGD(problem, num_chains=4, num_inner_steps=3, num_rollout_steps=5),
    "planned_hpgd": lambda problem: PlannedHPGD(problem, num_chains=4, num_rollout_steps=5),
    "hpgd_tables": lambda problem: HPGD(
        problem, num_chains=4, num_inner_steps=3, num_rollout_steps=5, estimator="tables"
    ),
    "model_based": lambda problem: ModelBased(
        problem, StepSizes.constant_entropy(upper=0.3), num_chains=4, num_steps=2, max_sweeps=4
    ),
    "certainty_equivalence": lambda problem: CertaintyEquivalence(
        problem, StepSizes.constant_entropy(upper=0.3), num_chains=4, num_steps=2, num_planning_steps=3
    ),
    "sobirl": lambda problem: SoBiRL(problem, StepSizes.constant_entropy(upper=0.5), num_chains=4),
    "bchg": lambda problem: BCHG(problem, StepSizes.constant_entropy(upper=0.5), num_chains=4, num_steps=2),
    "bchg_planned": lambda problem: BCHG(
        problem, StepSizes.constant_entropy(upper=2.0), num_chains=4, num_steps=2, is_planned=True
    ),
}
WITH_ONE_POLICY = (
    *("partial_sgd", "finite_difference", "exact", "hpgd", "planned_hpgd", "hpgd_tables", "sobirl"),
    "certainty_equivalence",
    "bchg",
    "bchg_planned",
)
BOUND = 0.5


def clip(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -BOUND, BOUND), x)


def bounded_problem():
    problem = random_problem(seed=7, num_states=6, as_dict=True)
    start = jax.tree.map(lambda leaf: 0.1 * leaf, problem.initial_x)
    return dataclasses.replace(problem, initial_x=start, project=clip)


@pytest.fixture(scope="module")
def problem():
    return bounded_problem()


@pytest.fixture(scope="module", params=ALGORITHMS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def algorithm(name, problem):
    return ALGORITHMS[name](problem)


@pytest.fixture(scope="module")
def step(algorithm):
    return eqx.filter_jit(algorithm.step)


@pytest.fixture(scope="module")
def noise(algorithm):
    """One iteration's randomness, of a key."""
    draw = eqx.filter_jit(algorithm.draw)
    return lambda key: jax.tree.map(lambda leaf: leaf[0], draw(key, 1))


def layout(tree):
    """Structure, shapes and dtypes."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def is_sampled(algorithm):
    """A method that takes no transitions draws nothing."""
    return algorithm.num_transitions_per_iteration > 0


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_init_starts_at_iteration_zero_and_at_the_problems_x(algorithm, problem):
    state = algorithm.init(jax.random.key(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert state.num_iterations.shape == ()
    assert jnp.issubdtype(state.num_iterations.dtype, jnp.integer)
    assert int(state.num_iterations) == 0
    assert jax.tree.structure(state.x) == jax.tree.structure(problem.initial_x)
    jax.tree.map(lambda got, x: np.testing.assert_allclose(got, x, rtol=1e-6), state.x, problem.initial_x)
    assert_same(state, algorithm.init(jax.random.key(0)))


def test_a_step_keeps_structure_shapes_and_dtypes_and_counts(algorithm, step, noise):
    state, info = step(noise(jax.random.key(0)), algorithm.init(jax.random.key(0)))
    assert layout(state) == layout(algorithm.init(jax.random.key(0)))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(info))
    for k in range(1, 4):
        new_state, new_info = step(noise(jax.random.key(k)), state)
        assert layout((new_state, new_info)) == layout((state, info))
        assert int(state.num_iterations) == k
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((new_state, new_info)))
        state, info = new_state, new_info


def test_a_draw_is_a_function_of_its_key_with_another_entry_for_every_iteration(algorithm, noise):
    drawn = algorithm.draw(jax.random.key(1), 5)
    assert_same(drawn, algorithm.draw(jax.random.key(1), 5))
    one = noise(jax.random.key(1))
    assert layout(drawn) == (jax.tree.structure(one), [((5, *leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(one)])
    assert bool(jax.tree.leaves(drawn)) == is_sampled(algorithm)
    for leaf, other in zip(*map(jax.tree.leaves, (drawn, algorithm.draw(jax.random.key(2), 5))), strict=True):
        entries = [*np.asarray(leaf), np.asarray(other)[0]]
        assert not any(np.any(a == b) for i, a in enumerate(entries) for b in entries[:i])


def test_a_step_is_a_function_of_its_noise_and_state(algorithm, step, noise):
    state = algorithm.init(jax.random.key(0))
    copy = jax.tree.map(jnp.copy, state)
    first, first_info = step(noise(jax.random.key(1)), state)
    again, again_info = step(noise(jax.random.key(1)), state)
    assert_same((first, first_info), (again, again_info))
    assert_same(state, copy)
    other, _ = step(noise(jax.random.key(2)), state)
    differs = any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True))
    assert differs == is_sampled(algorithm)


def test_an_algorithm_is_a_pytree(algorithm, step, noise):
    leaves, structure = jax.tree.flatten(algorithm)
    rebuilt = jax.tree.unflatten(structure, leaves)
    state = algorithm.init(jax.random.key(0))
    one = noise(jax.random.key(1))
    assert_same(eqx.filter_jit(rebuilt.step)(one, state), step(one, state))
    assert_same(rebuilt.draw(jax.random.key(1), 3), algorithm.draw(jax.random.key(1), 3))


@pytest.mark.slow
@pytest.mark.variants(rest="long")
@pytest.mark.parametrize(
    "is_one_counter",
    [pytest.param(True, id="one counter"), pytest.param(False, marks=pytest.mark.long, id="a counter each")],
)
def test_seeds_run_side_by_side_in_a_compiled_loop(algorithm, step, is_one_counter):
    keys = jax.random.split(jax.random.key(3), 2)

    @jax.jit
    def run(states):
        # The loop shares the counter between seeds, which spares it their step sizes.
        axes = jax.tree.map(lambda _: 0, states)
        axes = axes._replace(num_iterations=None) if is_one_counter else axes
        drawn = jax.vmap(lambda key: algorithm.draw(key, 5))(keys)
        steps = jax.vmap(algorithm.step, in_axes=(0, axes), out_axes=(axes, 0))

        def body(k, states):
            return steps(jax.tree.map(lambda leaf: leaf[:, k], drawn), states)[0]

        states = states._replace(num_iterations=jnp.int32(0)) if is_one_counter else states
        return jax.lax.fori_loop(0, 5, body, states)

    together = run(jax.vmap(algorithm.init)(keys))
    assert together.num_iterations.shape == (() if is_one_counter else (2,))
    for i, key in enumerate(keys):
        state, drawn = algorithm.init(key), algorithm.draw(key, 5)
        for k in range(5):
            state, _ = step(jax.tree.map(lambda leaf, k=k: leaf[k], drawn), state)
        alone = {name: value for name, value in together._asdict().items() if name != "num_iterations"}
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], alone)
        expected = {name: getattr(state, name) for name in alone}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), alone, expected)
        np.testing.assert_array_equal(together.num_iterations, int(state.num_iterations))


def test_x_moves_and_stays_feasible(algorithm, problem, step, noise):
    state = algorithm.init(jax.random.key(0))
    visited = []
    for k in range(10):
        state, _ = step(noise(jax.random.key(k)), state)
        assert_same(problem.project(state.x), state.x)
        visited.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.x)]))
    assert np.any(np.abs(visited) == BOUND)  # the steps are large enough to meet the bound
    assert np.ptp(visited, axis=0).max() > 0


@pytest.mark.variants(rest="long")
def test_log_policies_are_normalized_and_as_many_as_an_info_tells_of(name, algorithm, problem, step, noise):
    state = algorithm.init(jax.random.key(0))
    num_policies = 1 if name in WITH_ONE_POLICY else 2
    shape = num_policies, problem.environment.num_states, problem.environment.num_actions
    for k in range(5):
        log_policies = algorithm.log_policies(state)
        assert log_policies.shape == shape
        np.testing.assert_allclose(np.exp(log_policies).sum(-1), 1.0, rtol=1e-5)
        state, info = step(noise(jax.random.key(k)), state)
        assert info.mean_cost.shape == (num_policies,)
    assert np.any(np.abs(np.exp(log_policies) - 1 / shape[-1]) > 1e-3)  # they learn


def test_an_iteration_costs_a_whole_number_of_transitions(algorithm):
    cost = algorithm.num_transitions_per_iteration
    assert isinstance(cost, int)
    assert cost >= 0


def test_an_algorithm_says_what_it_solves_and_how(algorithm, problem):
    assert algorithm.problem is problem
    assert isinstance(algorithm.step_sizes, StepSizes)


@pytest.mark.long
def test_an_interrupted_run_ends_with_the_same_bits(algorithm, tmp_path):
    key, options = jax.random.key(5), {"log_every": 5, "progress": False, "checkpoint_every": 0.0}
    whole = run(algorithm, key, 2, 15, folder=tmp_path / "whole", **options)
    assert np.all(np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(whole.states)])))
    run(algorithm, key, 2, 5, folder=tmp_path / "parts", **options)
    resumed = run(algorithm, key, 2, 15, folder=tmp_path / "parts", **options)
    assert_same(resumed.states, whole.states)
    assert_same(resumed.metrics, whole.metrics)
    metrics = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "parts")]
    assert metrics[0] == metrics[1]
    num_transitions = whole.metrics["num_iterations"] * algorithm.num_transitions_per_iteration
    np.testing.assert_array_equal(whole.metrics["num_transitions"], num_transitions)
