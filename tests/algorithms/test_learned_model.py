"""Counts and the model that they make, by hand and against dense tables."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import TabularMDP
from bilevel_rl.algorithms.learned_model import Counts, PossibleTransitions
from bilevel_rl.algorithms.transitions import Transitions
from dense_reference import kernel
from garnets import garnet, shared_garnet


def transitions(states, actions, next_states, goes_on):
    """Of one follower; what is not counted is empty."""
    row = {"states": states, "actions": actions, "next_states": next_states, "goes_on": goes_on}
    arrays = {name: jnp.asarray(values)[None] for name, values in row.items()}
    nothing = jnp.zeros((1, len(states)))
    return Transitions(law=None, entropy=nothing, values=nothing, next_values=nothing, is_terminal=nothing, **arrays)  # pyright: ignore


@pytest.fixture(scope="module")
def two_states():
    """Action 0 stays or leaves, action 1 of state 0 is repeated in two outcomes, as where two moves meet a wall."""
    return TabularMDP.from_successors(
        [[[0, 1], [1, 1]], [[1, 0], [0, 1]]],
        [[[0.5, 0.5], [0.25, 0.75]], [[0.9, 0.1], [1.0, 0.0]]],
        initial=[0.5, 0.5],
        discount=0.9,
    )


def test_counts_by_hand(two_states):
    possible = PossibleTransitions.of(two_states)
    chains = jnp.array([[0, 1]])
    counts = possible.none_counted(two_states, chains)
    np.testing.assert_array_equal(counts.starts, [1, 1])
    # Two chains for three steps. The first starts afresh in 1 after its first step, the second at the end, in 0.
    seen = transitions(
        [0, 1, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 1],
        [0, 1, 0, 0, 1, 1],
        [False, True, True, True, True, False],
    )
    counts = possible.counted(counts, two_states, seen, jnp.array([[1, 0]]))
    np.testing.assert_array_equal(counts.starts, [2, 2])
    np.testing.assert_array_equal(possible.tries(counts), [[1, 1], [3, 1]])
    model = possible.likeliest(counts)
    values = jnp.array([[10.0, -6.0], [1.0, 0.0]])
    expected = [[[10.0, -6.0], [(2 * -6 + 10) / 3, 10.0]], [[1.0, 0.0], [1 / 3, 1.0]]]
    np.testing.assert_allclose(model.expected_next(values), expected, rtol=1e-6)
    np.testing.assert_allclose(counts.start_shares, [0.5, 0.5])


def test_a_pair_that_nobody_tried_stays(two_states):
    possible = PossibleTransitions.of(two_states)
    model = possible.likeliest(possible.none_counted(two_states, jnp.array([[0]])))
    np.testing.assert_array_equal(model.expected_next(jnp.array([[3.0, 5.0]])), [[[3.0, 3.0], [5.0, 5.0]]])
    np.testing.assert_array_equal(model.inflow(jnp.array([[[1.0, 2.0], [4.0, 8.0]]])), [[3.0, 12.0]])


MODELS = {
    "garnet": lambda: garnet(3, num_terminal=1),
    "successors over actions": lambda: shared_garnet("successors over actions")[0],
    "probabilities over states": lambda: shared_garnet("probabilities over states")[0],
}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_that_of_the_counts(name):
    mdp, rng = MODELS[name](), np.random.default_rng(0)
    possible = PossibleTransitions.of(mdp)
    outcomes = rng.integers(1, 9, possible.pairs.shape)
    outcomes[possible.pairs == 4] = 0
    counts = Counts(jnp.asarray(outcomes, jnp.int32), jnp.asarray(rng.integers(1, 5, mdp.num_states), jnp.int32))
    dense = np.zeros((mdp.num_states * mdp.num_actions, mdp.num_states))
    np.add.at(dense, (possible.pairs, possible.successors), outcomes)
    dense[4, 4 // mdp.num_actions] = 1
    dense = (dense / dense.sum(1, keepdims=True)).reshape(mdp.num_states, mdp.num_actions, mdp.num_states)
    model = possible.likeliest(counts)
    values = rng.normal(size=(2, mdp.num_states))
    weights = rng.normal(size=(2, mdp.num_states, mdp.num_actions))
    np.testing.assert_allclose(
        model.expected_next(jnp.asarray(values)), np.einsum("sat,ft->fsa", dense, values), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        model.inflow(jnp.asarray(weights)), np.einsum("sat,fsa->ft", dense, weights), rtol=1e-4, atol=1e-6
    )
    as_mdp = model.as_mdp(mdp, counts)
    np.testing.assert_allclose(kernel(as_mdp), dense, atol=1e-6)
    np.testing.assert_allclose(as_mdp.initial, counts.starts / counts.starts.sum(), rtol=1e-6)


def test_what_is_possible_is_what_has_a_probability():
    mdp = shared_garnet("successors over actions, probabilities over states")[0]
    possible = PossibleTransitions.of(mdp)
    pairs = set(zip(possible.pairs.tolist(), possible.successors.tolist(), strict=True))
    dense = kernel(mdp).reshape(-1, mdp.num_states)
    assert pairs == set(zip(*map(np.ndarray.tolist, np.nonzero(dense)), strict=True))
    assert np.all(np.diff(possible.pairs) >= 0)
