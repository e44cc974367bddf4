import jax
import numpy as np
import pytest

from bilevel_rl import TabularMDP
from bilevel_rl.environments.environment import check_discount
from dense_reference import kernel
from garnets import SHARED, garnet, shared_garnet

JUST_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def chain(probabilities, successors=None, initial=None, **arguments) -> TabularMDP:
    """One action whose outcomes are the same from every state: 0, 1, 2, … unless given."""
    num_states = len(probabilities)
    successors = np.arange(num_states) if successors is None else successors
    shape = num_states, 1, num_states
    return TabularMDP.from_successors(
        np.broadcast_to(successors, shape),
        np.broadcast_to(probabilities, shape),
        initial=np.eye(num_states)[0] if initial is None else initial,
        discount=0.9,
        **arguments,
    )


def test_from_dense_equals_from_successors():
    mdp = garnet(3, num_states=6, num_actions=2, num_successors=4)
    dense = kernel(mdp)

    rebuilt = TabularMDP.from_dense(dense, initial=mdp.initial, discount=0.9)

    assert rebuilt.successors.shape == (6, 2, 4)
    np.testing.assert_allclose(kernel(rebuilt), dense, rtol=1e-15)
    np.testing.assert_array_equal(rebuilt.initial, mdp.initial)


def test_from_dense_keeps_states_in_order_and_only_as_many_as_needed():
    rows = [[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.25, 0.0, 0.75], [0.0, 0.0, 0.0, 1.0]]

    mdp = TabularMDP.from_dense(np.array(rows)[:, None, :], initial=[0, 1, 0, 0], discount=0.5)

    assert mdp.successors.shape == (4, 1, 2)
    np.testing.assert_array_equal(mdp.successors[[0, 2], 0], [[1, 2], [1, 3]])
    np.testing.assert_array_equal(mdp.probabilities[[0, 1, 2], 0], [[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    assert mdp.discount == 0.5
    assert not mdp.terminal.any()


def test_from_dense_keeps_the_order_of_many_states():
    dense = np.zeros((40, 1, 40))
    dense[:, 0, 1::2] = 1 / 20

    mdp = TabularMDP.from_dense(dense, initial=np.eye(40)[0], discount=0.5)

    np.testing.assert_array_equal(mdp.successors, np.broadcast_to(np.arange(1, 40, 2), (40, 1, 20)))


def test_a_step_changes_successor_exactly_at_the_cumulative_probabilities():
    mdp = chain([0.25, 0.5, 0.25], successors=[2, 0, 1])
    uniforms = np.array([0, np.nextafter(0.25, 0, dtype=np.float32), 0.25, 0.5, 0.75, JUST_BELOW_ONE], np.float32)
    below = np.nextafter(np.float32(0.75), np.float32(0))

    assert mdp.step(0, 0, uniforms).tolist() == [2, 2, 0, 0, 1, 1]
    assert int(mdp.step(0, 0, below)) == 0


def test_a_reset_changes_state_exactly_at_the_cumulative_probabilities():
    mdp = chain([1.0, 0, 0], initial=[0.125, 0.375, 0.5])
    below = [np.nextafter(np.float32(u), np.float32(0)) for u in (0.125, 0.5, 1.0)]

    assert mdp.reset(np.array([0, 0.125, 0.5], np.float32)).tolist() == [0, 1, 2]
    assert mdp.reset(np.array(below, np.float32)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("probabilities", "first", "last"),
    [
        ([0.0, 0.5, 0.0, 0.5, 0.0], 1, 3),
        ([1 / 3, 1 / 3, 1 / 3, 0.0, 0.0], 0, 2),
        ([0.1] * 10 + [0.0], 0, 9),
        ([0.0, 0.0, 1.0], 2, 2),
    ],
)
def test_impossible_outcomes_are_never_selected(probabilities, first, last):
    uniforms = np.append(np.linspace(0, 1, 257, dtype=np.float32)[:-1], JUST_BELOW_ONE)

    mdp = chain(probabilities, initial=probabilities)

    for states in (mdp.step(0, 0, uniforms), mdp.reset(uniforms)):
        assert (int(states[0]), int(states[-1])) == (first, last)
        assert set(np.unique(states)) == set(np.flatnonzero(probabilities))


def test_rounded_down_cumulative_sums_do_not_open_a_gap_below_one():
    uneven = np.array([0.3, *np.full(7, 0.1)])
    assert np.cumsum(uneven)[-1] < 1  # otherwise this test shows nothing

    mdp = chain([*uneven, 0.0], initial=[*uneven, 0.0])

    assert mdp.cumulative_probabilities[0, 0, -2:].tolist() == [1.0, 1.0]
    assert mdp.cumulative_start[-1] == 1.0
    assert mdp.start_states.tolist() == list(range(8))


def test_frequencies_over_evenly_spaced_uniforms_are_the_probabilities():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(64, np.ones(4) / 4, size=(4, 3))
    mdp = TabularMDP.from_dense(counts / 64, initial=counts[1, 2] / 64, discount=0.9)
    uniforms = np.arange(64, dtype=np.float32) / 64

    for s in range(4):
        for a in range(3):
            np.testing.assert_array_equal(np.bincount(mdp.step(s, a, uniforms), minlength=4), counts[s, a])
    np.testing.assert_array_equal(np.bincount(mdp.reset(uniforms), minlength=4), counts[1, 2])


def test_a_uniform_start_needs_no_thresholds_and_is_the_inverse_cdf_all_the_same():
    for starts in ([1], [0, 3], [1, 2, 4], [0, 2, 3, 5], range(7), range(1, 40)):
        num_starts = len(starts)
        initial = np.zeros(41)
        initial[list(starts)] = 1 / num_starts
        mdp = chain(np.eye(41)[0], initial=initial)
        assert mdp.cumulative_start is None

        middles = (np.arange(8 * num_starts) + 0.5) / (8 * num_starts)
        drawn = np.asarray(mdp.reset(middles.astype(np.float32)))
        np.testing.assert_array_equal(drawn, np.searchsorted(np.cumsum(initial), middles, side="right"))
        np.testing.assert_array_equal(np.unique(drawn, return_counts=True), [list(starts), [8] * num_starts])
        assert [int(mdp.reset(np.float32(u))) for u in (0, JUST_BELOW_ONE)] == [starts[0], starts[-1]]

    quarters = chain(np.eye(6)[0], initial=np.array([1, 0, 1, 1, 0, 1]) / 4)
    below = np.nextafter(np.array([0.25, 0.5, 0.75, 1], np.float32), np.float32(0))
    assert quarters.reset(np.array([0, 0.25, 0.5, 0.75], np.float32)).tolist() == [0, 2, 3, 5]
    assert quarters.reset(below).tolist() == [0, 2, 3, 5]


def test_a_start_that_is_nearly_uniform_is_not_taken_for_a_uniform_one():
    initial = np.array([0.5 + 1e-6, 0.0, 0.5 - 1e-6])
    mdp = chain(np.eye(3)[0], initial=initial)
    assert mdp.reset(np.array([0.5, 0.5 + 0.9e-6, 0.5 + 1.1e-6], np.float32)).tolist() == [0, 0, 2]
    # One that differs in its rounding alone is.
    assert chain(np.eye(3)[0], initial=[1 / 3 + 1e-16, 1 / 3, 1 / 3]).cumulative_start is None


@pytest.mark.variants(rest="long")
@pytest.mark.slow
@pytest.mark.parametrize("num_terminal", [0, 2])
@pytest.mark.parametrize("sharing", SHARED)
def test_shared_tables_are_the_same_mdp_as_tables_written_out(sharing, num_terminal):
    mdp, twin = shared_garnet(sharing, num_terminal)
    assert (mdp.successors.shape, mdp.probabilities.shape) == SHARED[sharing]  # shared in memory
    assert mdp.cumulative_probabilities.shape == mdp.probabilities.shape
    assert twin.successors.shape == twin.probabilities.shape == (5, 3, 3)
    assert (mdp.num_states, mdp.num_actions) == (twin.num_states, twin.num_actions) == (5, 3)
    np.testing.assert_allclose(kernel(mdp), kernel(twin), rtol=1e-15)
    np.testing.assert_array_equal(mdp.terminal, twin.terminal)
    # The twin's states and actions differ where they may.
    assert len(np.unique(kernel(twin)[: 5 - num_terminal].reshape(-1, 5), axis=0)) > (5 - num_terminal)

    below = np.nextafter(np.unique(mdp.cumulative_probabilities).astype(np.float32), np.float32(0))
    at = np.float32(mdp.cumulative_probabilities[mdp.cumulative_probabilities < 1])
    uniforms = np.concatenate([np.arange(200, dtype=np.float32) / 200, below, at])
    states, actions = np.arange(5)[:, None, None], np.arange(3)[:, None]
    reached = np.asarray(mdp.step(states, actions, uniforms))
    assert reached.shape == (5, 3, len(uniforms))
    np.testing.assert_array_equal(reached, twin.step(states, actions, uniforms))
    np.testing.assert_array_equal(reached, jax.jit(lambda mdp, *of: mdp.step(*of))(mdp, states, actions, uniforms))
    np.testing.assert_array_equal(
        reached[..., :200],
        jax.jit(jax.vmap(lambda u: mdp.step(states[..., 0], actions.T, u), out_axes=-1))(uniforms[:200]),
    )
    np.testing.assert_array_equal(mdp.reset(uniforms), twin.reset(uniforms))


def test_steps_batch_broadcast_and_compile():
    mdp = garnet(5)
    states, actions = np.arange(5)[:, None], np.arange(3)
    uniforms = np.random.default_rng(0).random((5, 3), dtype=np.float32)

    batch = mdp.step(states, actions, uniforms)

    step = jax.jit(lambda *of: mdp.step(*of))
    one_by_one = [[int(step(s, a, uniforms[s, a])) for a in range(3)] for s in range(5)]
    assert batch.dtype == np.int32
    assert batch.tolist() == one_by_one
    compiled = jax.jit(jax.vmap(lambda s, u: mdp.step(s, actions, u)))(np.arange(5), uniforms)
    assert compiled.tolist() == one_by_one


def test_terminal_states_absorb_whatever_their_rows_say():
    nonsense = np.full((3, 2, 3), np.nan)
    nonsense[0] = [[0.0, 0.75, 0.25], [0.5, 0.0, 0.5]]
    nonsense[1] = [[0.0, 0.0, 0.0], [3.0, -1.0, 7.0]]

    mdp = TabularMDP.from_dense(nonsense, initial=[1, 0, 0], discount=0.9, terminal=[False, True, True])

    expected = np.zeros((3, 2, 3))
    expected[0], expected[1, :, 1], expected[2, :, 2] = nonsense[0], 1, 1
    np.testing.assert_array_equal(kernel(mdp), expected)
    assert mdp.is_terminal(np.arange(3)).tolist() == [False, True, True]
    for state in (1, 2):
        assert set(mdp.step(state, 1, np.array([0.0, 0.4, 0.8, JUST_BELOW_ONE], np.float32)).tolist()) == {state}


def test_the_tables_given_are_not_changed():
    successors, probabilities = np.array([[[1, 0]], [[0, 1]]]), np.array([[[0.5, 0.5]], [[0.25, 0.75]]])

    TabularMDP.from_successors(successors, probabilities, initial=[1, 0], discount=0.9, terminal=[False, True])

    assert successors.tolist() == [[[1, 0]], [[0, 1]]]
    assert probabilities.tolist() == [[[0.5, 0.5]], [[0.25, 0.75]]]


def test_rounding_in_the_given_sums_is_normalized_away():
    mdp = chain([0.3 + 5e-7, 0.7], initial=[0.6, 0.4 - 5e-7])

    np.testing.assert_allclose(mdp.probabilities.sum(-1), 1, rtol=1e-15)
    np.testing.assert_allclose(mdp.initial.sum(), 1, rtol=1e-15)


def test_a_discount_of_zero_is_allowed():
    assert TabularMDP.from_dense([[[1.0]]], initial=[1.0], discount=0.0).discount == 0.0


VALID = {
    "successors": [[[0, 1], [1, 0]], [[1, 0], [0, 1]]],
    "probabilities": [[[0.5, 0.5], [1.0, 0.0]], [[0.3, 0.7], [0.2, 0.8]]],
    "initial": [0.4, 0.6],
    "discount": 0.9,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"successors": [[0, 1], [1, 0]]},
            r"^successors and probabilities .*\(S, A, K\), .* got \(2, 2\) and \(2, 2, 2\)$",
        ),
        ({"successors": [[[0], [1]], [[1], [0]]]}, r"^successors and probabilities .*\(2, 2, 1\) and \(2, 2, 2\)"),
        ({"successors": [[[0, 2], [1, 0]], [[1, 0], [0, 1]]]}, r"^successors must lie in 0\.\.1, got 0\.\.2"),
        ({"successors": [[[0, -1], [1, 0]], [[1, 0], [0, 1]]]}, r"^successors must lie in 0\.\.1, got -1\.\.1"),
        (
            {"successors": [[[0, 1], [1, 0]]]},
            r"^successors and probabilities .*successors may have 1 instead of A and probabilities 1 instead "
            r"of S or A, got \(1, 2, 2\) and \(2, 2, 2\)$",
        ),
        (
            {"probabilities": [[[0.5, 0.5]] * 3] * 2},
            r"^successors and probabilities .*got \(2, 2, 2\) and \(2, 3, 2\)$",
        ),
        (
            {"probabilities": [[[0.5, 0.5]] * 2] * 3},
            r"^successors and probabilities .*got \(2, 2, 2\) and \(3, 2, 2\)$",
        ),
        ({"probabilities": [[[1.0]] * 2] * 2}, r"^successors and probabilities .*got \(2, 2, 2\) and \(2, 2, 1\)$"),
        ({"probabilities": [[0.5, 0.5], [1.0, 0.0]]}, r"^successors and probabilities .*got \(2, 2, 2\) and \(2, 2\)$"),
        ({"probabilities": [[[0.5, 0.5], [0.2, 0.7]]]}, r"^probabilities must sum to 1 .* got 0\.8\d* at \(0, 1\)"),
        ({"initial": [1.0]}, r"^initial must have shape \(2,\), got \(1,\)"),
        ({"initial": [0.4, 0.5]}, r"^initial must sum to 1 along the last axis, got 0\.9"),
        ({"initial": [1.2, -0.2]}, r"^initial must be finite and non-negative, got a lowest entry of -0\.2"),
        ({"initial": [np.nan, 1.0]}, r"^initial must be finite and non-negative, got a lowest entry of nan"),
        (
            {"probabilities": [[[0.5, 0.5], [1.0, 0.0]], [[0.3, 0.7], [0.2, 0.9]]]},
            r"^probabilities must sum to 1 .* got 1\.1\d* at \(1, 1\)",
        ),
        (
            {"probabilities": [[[0.5, 0.5], [1.5, -0.5]], [[0.3, 0.7], [0.2, 0.8]]]},
            r"^probabilities must be finite and non-negative, got a lowest entry of -0\.5",
        ),
        (
            {"probabilities": [[[0.5, 0.5], [np.inf, 0.0]], [[0.3, 0.7], [0.2, 0.8]]]},
            r"^probabilities must be finite and non-negative",
        ),
        ({"terminal": [True]}, r"^terminal must have shape \(2,\), got \(1,\)"),
        ({"discount": 1.0}, r"^discount must lie in \[0, 1\), got 1\.0"),
        ({"discount": -0.1}, r"^discount must lie in \[0, 1\), got -0\.1"),
        ({"discount": float("nan")}, r"^discount must lie in \[0, 1\), got nan"),
    ],
)
def test_tables_that_are_no_mdp_are_refused(changes, message):
    arguments = VALID | changes
    successors, probabilities = arguments.pop("successors"), arguments.pop("probabilities")

    with pytest.raises(ValueError, match=message):
        TabularMDP.from_successors(successors, probabilities, **arguments)


def test_the_valid_tables_of_the_error_cases_are_accepted():
    arguments = dict(VALID)
    mdp = TabularMDP.from_successors(arguments.pop("successors"), arguments.pop("probabilities"), **arguments)
    np.testing.assert_allclose(mdp.initial, VALID["initial"])


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 3)])
def test_a_dense_kernel_must_be_square(shape):
    with pytest.raises(
        ValueError, match=rf"^transition_probabilities .*\(S, A, S\), got \({', '.join(map(str, shape))}\)"
    ):
        TabularMDP.from_dense(np.ones(shape), initial=np.ones(shape[0]) / shape[0], discount=0.9)


def test_dense_rows_are_checked_like_sparse_ones():
    with pytest.raises(ValueError, match=r"^probabilities must sum to 1 .*got 0\.0 at \(0, 0\)"):
        TabularMDP.from_dense(np.zeros((2, 1, 2)), initial=[1, 0], discount=0.9)
    with pytest.raises(ValueError, match=r"^probabilities must be finite"):
        TabularMDP.from_dense(np.full((2, 1, 2), np.nan), initial=[1, 0], discount=0.9)


def test_successors_must_be_integers():
    with pytest.raises(ValueError, match="successors must hold integers, got float64"):
        TabularMDP.from_successors([[[0.7]]], [[[1.0]]], initial=[1.0], discount=0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"successors": np.array([[[0, 2**32]] * 2] * 2)}, r"^successors must lie in 0\.\.1, got 0\.\.4294967296"),
        ({"successors": np.array([[[0, 2**63]] * 2] * 2, np.uint64)}, r"^successors must lie in 0\.\.1"),
        ({"successors": []}, r"^successors must not be empty"),
        ({"successors": [[0, 1], [0]]}, r"^successors must be an array with rows of one length"),
        ({"probabilities": np.full((2, 2, 2), 0.5 + 0j)}, r"^probabilities must hold real numbers, got .*complex"),
        ({"initial": [[0.5, 0.5]]}, r"^initial must have shape \(2,\), got \(1, 2\)"),
        ({"initial": 1.0}, r"^initial must have shape \(2,\), got \(\)"),
        ({"initial": []}, r"^initial must not be empty"),
        ({"terminal": ["no", "no"]}, r"^terminal must hold True or False"),
        ({"terminal": [[False, True]]}, r"^terminal must have shape \(2,\), got \(1, 2\)"),
        ({"terminal": [3, 4]}, r"^terminal must hold True or False"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(changes, message):
    arguments = VALID | changes
    successors, probabilities = arguments.pop("successors"), arguments.pop("probabilities")
    with pytest.raises(ValueError, match=message):
        TabularMDP.from_successors(successors, probabilities, **arguments)


@pytest.mark.parametrize("discount", ["0.9", None, [0.9], 1j])
def test_a_discount_that_is_no_number_is_refused(discount):
    with pytest.raises(ValueError, match=r"^discount must lie in \[0, 1\), got "):
        check_discount(discount)
