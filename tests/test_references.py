"""The hand-written loops that throughput is measured against make the same updates as the library's."""

import jax
import numpy as np
import pytest

from benchmarks import numba_loop, numpy_loop
from benchmarks.workload import INITIAL_X, Workload
from bilevel_rl import Followers, SingleLoopActorCritic, problems

NUM_ITERATIONS, NUM_CHAINS = 400, 3


@pytest.fixture(scope="module")
def uniforms() -> np.ndarray:
    return Workload(8, np.float64).uniforms(np.random.default_rng(3), NUM_ITERATIONS, NUM_CHAINS)


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    return np.array([[0, 11, 48], [5, 5, 30]], np.int32)


@pytest.fixture(scope="module")
def ours(uniforms, start):
    with jax.enable_x64(True):
        problem = problems.goal_position(size=8)
        algorithm = SingleLoopActorCritic(problem, followers=Followers(NUM_CHAINS, coupled=False))
        state = algorithm.init(jax.random.key(0))._replace(chain_states=jax.numpy.asarray(start))
        advance = jax.jit(lambda state: jax.lax.scan(lambda s, u: (algorithm.step(u, s)[0], None), state, uniforms)[0])
        return jax.tree.map(np.asarray, advance(state))


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:critic=.* exceeds")
@pytest.mark.parametrize("reference", [numba_loop, numpy_loop])
def test_the_same_uniforms_make_the_same_updates(reference, ours, uniforms, start):
    workload = Workload(8, np.float64)
    x, logits, values, chains = state = workload.initial_state(start)
    reference.advance(workload, state, uniforms[:150], 0)
    reference.advance(workload, state, uniforms[150:], 150)
    assert ours.parameters.dtype == np.float64
    assert np.abs(x - INITIAL_X).min() > 1e-3, "x has not moved, so nothing was compared"
    np.testing.assert_array_equal(chains, ours.chain_states)
    np.testing.assert_allclose(x, ours.x, rtol=1e-11)
    np.testing.assert_allclose(logits, ours.parameters[..., :-1], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(values, ours.parameters[..., -1], rtol=1e-9, atol=1e-11)


@pytest.mark.long
@pytest.mark.parametrize("reference", [numba_loop, numpy_loop])
def test_references_keep_to_their_precision(reference, uniforms, start):
    workload = Workload(8, np.float32)
    state = workload.initial_state(start)
    reference.advance(workload, state, uniforms.astype(np.float32), 0)
    assert {array.dtype for array in state[:3]} == {np.dtype(np.float32)}
