"""Logs of transitions: counts to kernels by hand, what unseen pairs do, priors, labels, files, and bad input."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.environments.counts import TransitionCounts
from garnets import garnet

STATES = [0, 0, 0, 0, 1, 1, 2]
ACTIONS = [0, 0, 0, 1, 0, 0, 1]
NEXT = [1, 1, 2, 0, 2, 2, 0]
"""3 states, 2 actions; pairs (1, 1) and (2, 0) were never tried."""
SIZES = {"num_states": 3, "num_actions": 2}


def dense(mdp: brl.TabularMDP) -> np.ndarray:
    kernel = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    rows = np.arange(mdp.num_states)[:, None, None], np.arange(mdp.num_actions)[None, :, None]
    np.add.at(kernel, (*rows, np.broadcast_to(mdp.successors, mdp.probabilities.shape)), mdp.probabilities)
    return kernel


def small_log(**options) -> brl.TransitionLog:
    return brl.TransitionLog.from_arrays(STATES, ACTIONS, NEXT, **options)


@pytest.mark.parametrize(
    ("unseen", "of_1_1", "of_2_0"),
    [("stay", [0, 1, 0], [0, 0, 1]), ("prior", [0, 0, 1], [1, 0, 0])],
)
def test_counts_become_shares_and_unseen_pairs_do_what_is_asked(unseen, of_1_1, of_2_0):
    mdp = small_log().mdp(discount=0.9, unseen=unseen)
    expected = [[[0, 2 / 3, 1 / 3], [1, 0, 0]], [[0, 0, 1], of_1_1], [of_2_0, [1, 0, 0]]]
    np.testing.assert_allclose(dense(mdp), expected, atol=1e-15)
    assert mdp.initial.tolist() == [1 / 3, 1 / 3, 1 / 3]


def test_a_prior_spreads_its_transitions_over_what_was_seen_to_follow_the_state():
    # Candidates: of 0 all three, of 1 only 2, of 2 only 0.
    kernel = dense(small_log().mdp(discount=0.9, prior=1.5))
    np.testing.assert_allclose(kernel[0, 0], [0.5 / 4.5, 2.5 / 4.5, 1.5 / 4.5])
    np.testing.assert_allclose(kernel[0, 1], [1.5 / 2.5, 0.5 / 2.5, 0.5 / 2.5])
    np.testing.assert_allclose(kernel[1, 0], [0, 0, 1])
    np.testing.assert_allclose(kernel[2, 0], [0, 0, 1])  # Stays, whatever the prior.


def test_an_unseen_pair_under_a_prior_may_lead_to_each_candidate():
    log = brl.TransitionLog.from_arrays([0, 0, 0], [0, 0, 0], [0, 1, 1], all_states=3, all_actions=2)
    kernel = dense(log.mdp(discount=0.9, prior=7.0, unseen="prior"))
    np.testing.assert_allclose(kernel[0, 1], [0.5, 0.5, 0])
    np.testing.assert_allclose(kernel[2], [[0, 0, 1], [0, 0, 1]])  # A state that was never left stays.


def test_the_short_way_is_the_same_and_warns_of_unseen_pairs():
    with pytest.warns(UserWarning, match="2 of 6 pairs were never tried, the first is state 1 with action 1"):
        mdp = brl.TabularMDP.from_transitions(STATES, ACTIONS, NEXT, **SIZES, discount=0.9, initial=[1, 0, 0])
    np.testing.assert_array_equal(dense(mdp), dense(small_log().mdp(discount=0.9)))
    assert mdp.initial.tolist() == [1, 0, 0]


def test_a_log_of_a_known_model_estimates_it():
    truth, rng = garnet(3), np.random.default_rng(0)
    states, actions = rng.integers(5, size=40_000), rng.integers(3, size=40_000)
    reached = np.asarray(truth.step(states, actions, rng.random(40_000)))
    log = brl.TransitionLog.from_arrays(states, actions, reached)
    visits = log.visits()
    error = dense(log.mdp(discount=0.9)) - dense(truth)
    # 75 entries, each within five standard deviations of a share.
    assert np.all(np.abs(error) <= 5 * np.sqrt(dense(truth) * (1 - dense(truth)) / visits[..., None]) + 1e-12)
    assert visits.sum() == 40_000
    assert len(log.unseen) == 0
    assert "Every pair was tried." in str(log)


def test_large_logs_stay_sparse():
    num_states = 50_000
    states = np.arange(num_states)
    log = brl.TransitionLog.from_arrays(states, states % 2, (states + 1) % num_states)
    mdp = log.mdp(discount=0.9)
    assert mdp.successors.size + mdp.probabilities.size <= 6 * num_states
    assert len(log.unseen) == num_states


def test_ends_are_terminal_and_starts_come_from_the_log():
    terminated = [0, 0, 1, 0, 1, 1]
    log = brl.TransitionLog.from_arrays(
        [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 2, 0, 2, 2], terminated=terminated, starts=[0, 0, 0, 1]
    )
    mdp = log.mdp(discount=0.9)
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.initial.tolist() == [0.75, 0.25, 0]
    np.testing.assert_allclose(dense(mdp)[2], [[0, 0, 1], [0, 0, 1]])
    assert log.unseen.tolist() == [[1, 1]]  # Nothing is unseen where the episode has ended.
    assert "1 of 4 pairs was never tried: (1, 1)." in str(log)
    assert small_log().mdp(discount=0.9).initial.tolist() == [1 / 3] * 3
    no_starts = brl.TransitionLog.from_arrays([0, 1], [0, 0], [1, 2], terminated=[False, True])
    assert no_starts.mdp(discount=0.9).initial.tolist() == [0.5, 0.5, 0]


def test_the_trap_is_worth_the_least_that_any_kernel_offers():
    log = brl.TransitionLog.from_arrays([0, 0, 1], [0, 0, 1], [1, 2, 2], terminated=[False, True, True])
    mdp = log.mdp(discount=0.9, unseen="pessimistic")
    assert mdp.num_states == 4
    assert mdp.terminal.tolist() == [False, False, True, False]
    kernel = dense(mdp)
    assert kernel[0, 1, 3] == kernel[1, 0, 3] == kernel[3, 0, 3] == kernel[3, 1, 3] == kernel[2, 1, 2] == 1
    assert mdp.initial[3] == 0
    table = np.array([[-0.5, 2.0], [-1.5, 0.3], [9.0, 9.0]])  # The terminal state's reward never accrues.

    def reward(x, s, a):
        return x * jnp.asarray(table)[s, a]

    guarded = log.with_trap(reward)
    assert float(guarded(2.0, 3, 1)) == pytest.approx(-3.0)
    assert float(guarded(-1.0, 3, 0)) == pytest.approx(-2.0)  # The worst pair depends on x.
    assert float(guarded(2.0, 1, 1)) == pytest.approx(0.6)
    assert float(log.with_trap(reward, jnp.max)(2.0, 3, 1)) == pytest.approx(4.0)
    problem = brl.BilevelProblem(mdp, guarded, brl.OccupancyCost(lambda x, s, a: 1.0 * (s == 3)), 1.0)
    policy = brl.exact.lower_policy(problem, 1.0, entropy_weight=0.1)
    # (0, 1) pays 2 once and then −1.5 for ever; (0, 0) pays at least −0.5 and −1.5 once.
    assert policy[0, 0] > 0.99


def test_posterior_has_the_moments_of_dirichlet_laws():
    law = small_log().posterior(prior=1.5, unseen="prior")
    rng = np.random.default_rng(0)
    draws = np.stack([law.draw(rng) for _ in range(4_000)])
    alpha = law.concentrations
    total = alpha.sum(-1, keepdims=True)
    mean = alpha / total
    variance = mean * (1 - mean) / (total + 1)
    np.testing.assert_allclose(alpha[0, 0], [0.5, 2.5, 1.5])
    np.testing.assert_allclose(draws.sum(-1), 1)
    assert np.all(np.abs(draws.mean(0) - mean) <= 5 * np.sqrt(variance / len(draws)) + 1e-12)
    # A square's standard error is at most that of a bounded variable: |p − mean| ≤ 1.
    fourth = ((draws - mean) ** 4).mean(0)
    assert np.all(np.abs(draws.var(0) - variance) <= 5 * np.sqrt(fourth / len(draws)) + 1e-12)


def test_tiny_concentrations_still_give_distributions():
    log = brl.TransitionLog.from_arrays([0, 0], [0, 0], [0, 1], all_states=2, all_actions=2)
    law = log.posterior(prior=1e-5, unseen="prior")
    draws = np.stack([law.draw(np.random.default_rng(seed))[0, 1] for seed in range(50)])
    assert np.all(draws.sum(-1) == pytest.approx(1))
    assert 5 < np.sum(draws[:, 0] > 0.5) < 45  # One of the two has all the mass, either as often.


def test_the_fitted_prior_is_that_of_the_law_that_drew_the_rows():
    rng, c = np.random.default_rng(2), 0.6
    triples = []
    for state in range(30):
        for action in range(5):
            row = rng.dirichlet(np.full(4, c / 4))
            triples += [(state, action, s) for s in rng.choice(4, size=12, p=row)]
    counts = TransitionCounts.of(*np.array(triples).T, num_states=30, num_actions=5)
    fitted = counts.fitted_prior()
    assert fitted == pytest.approx(c, rel=0.25)

    def log_likelihood(c):  # By the product of the predictive chances, one transition at a time.
        seen, total = {}, 0.0
        for s, a, reached in triples:
            row = seen.setdefault((s, a), np.zeros(4))
            num_candidates = len({r for state, _, r in triples if state == s})
            total += np.log((row[reached] + c / num_candidates) / (row.sum() + c))
            row[reached] += 1
        return total - 0.5 * np.log(c) ** 2

    assert log_likelihood(fitted) > max(log_likelihood(1.02 * fitted), log_likelihood(0.98 * fitted))


def test_a_log_that_says_nothing_about_the_prior_has_prior_one():
    log = brl.TransitionLog.from_arrays([0, 1], [0, 0], [1, 0])
    assert log.counts.fitted_prior() == pytest.approx(1.0, abs=1e-3)


def test_labels_are_numbered_by_the_alphabet_or_as_given():
    columns = {"from": ["park", "home", "park"], "what": ["go", "go", "wait"], "to": ["home", "park", "park"]}
    names = {"state": "from", "action": "what", "next_state": "to"}
    log = brl.TransitionLog.read(columns, **names)
    assert log.state_labels == ("home", "park")
    assert [log.state("park"), log.action("wait")] == [1, 1]
    np.testing.assert_allclose(dense(log.mdp(discount=0.5))[1, 0], [1, 0])
    assert "never tried: (home, wait)" in str(log)
    given = brl.TransitionLog.read(columns, **names, all_states=["park", "home", "office"], all_actions=["wait", "go"])
    assert given.state_labels == ("park", "home", "office")
    assert given.visits().tolist() == [[1, 1], [0, 1], [0, 0]]
    identifiers = brl.TransitionLog.from_arrays([101, 205], [0, 0], [205.0, 101.0], all_states=[205, 101])
    assert identifiers.counts.states.tolist() == [0, 1]
    with pytest.raises(ValueError, match="label must be one of home, park, got 'office'"):
        log.state("office")


class Frame:
    """What a data frame has, as far as it is used: columns, by name."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return np.asarray(self._columns[name])


def test_files_frames_and_mappings_say_the_same(tmp_path):
    rows = "trip,state,action,next_state,end\n1,0,0,1,false\n1,1,1,2,True\n2,0, 1,1,0\n\n2,1,0,0,0\n"
    path = tmp_path / "log.csv"
    path.write_text(rows)
    columns = {
        "state": [0, 1, 0, 1],
        "action": [0, 1, 1, 0],
        "next_state": [1, 2, 1, 0],
        "trip": list("1122"),
        "end": [0, 1, 0, 0],
    }
    for source in (path, str(path), columns, Frame(columns)):
        log = brl.TransitionLog.read(source, terminated="end", episode="trip")
        assert log.visits().tolist() == [[1, 1], [1, 1], [0, 0]]
        assert log.terminal.tolist() == [False, False, True]
        assert log.starts.tolist() == [2, 0, 0]
    assert brl.TransitionLog.read(path).starts is None


def test_data_frames_and_parquet_files(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"state": ["a", "b"], "action": pandas.Categorical(["x", "x"]), "next_state": ["b", "a"]})
    frame.to_parquet(tmp_path / "log.parquet")
    for source in (frame, tmp_path / "log.parquet"):
        log = brl.TransitionLog.read(source)
        assert (log.state_labels, log.action_labels) == (("a", "b"), ("x",))
        assert log.visits().tolist() == [[1], [1]]
    holed = pandas.DataFrame({"state": [0, None], "action": [0, 0], "next_state": [1, 0]})
    with pytest.raises(
        ValueError, match="column state must hold a whole number or a word in every row, got nan in row 1"
    ):
        brl.TransitionLog.read(holed)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("state,action\n0,0\n", {}, "must have the column 'next_state' that next_state names, got 'state', 'action'"),
        ("state,action,next_state\n0,0,1\n0,,1\n", {}, "column action .* got '' in line 3 of log.csv"),
        ("state,action,next_state\n0,0,1\n0,0,1.5\n", {}, "column next_state must hold either .* '1.5' in line 3"),
        ("state,action,next_state\n0,0,1\n0,0,1\nx,0,1\n", {}, "column state must hold either .* 'x' in line 4"),
        ("state,action,next_state\na,0,b\na,0,7\nb,0,a\n", {}, "column next_state must hold either .* '7' in line 3"),
        ("state,action,next_state\n0,0,1\n0,0\n", {}, "line 3 of log.csv has 2 cells, its header has 3"),
        ("state,action,next_state\n", {}, "source must hold at least one row of state, .* got none"),
        ("state,action,next_state\n0,0,1\n0,0,3\n", {"all_states": 3}, "column next_state .* 0 to 2, got 3 in line 3"),
        ("state,action,next_state\n0,-1,1\n", {}, "column action must hold numbers from 0 .* got -1 in line 2"),
        (
            "state,action,next_state\na,0,b\n",
            {"all_states": ["a"]},
            "holds 'b' in line 2 .* all_states does not list",
        ),
        ("state,action,next_state\na,0,b\n", {"all_states": 2}, "all_states must be the labels"),
        ("state,action,next_state\na,0,b\n", {"all_states": ["a", "a"]}, "all_states must hold labels that differ"),
        ("state,action,next_state,end\n0,0,1,maybe\n", {"terminated": "end"}, "column end .* 'maybe' in line 2"),
        ("state,action,next_state,end\n0,0,1,1\n0,0,1,0\n", {"terminated": "end"}, "1 ends the episode, but in line 3"),
        ("state,action,next_state,end\n0,0,1,1\n1,0,0,0\n", {"terminated": "end"}, "but in line 3 .* it is left"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_column_and_line(tmp_path, lines, options, message):
    (tmp_path / "log.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        brl.TransitionLog.read(tmp_path / "log.csv", **options)


def test_what_is_wrong_with_arrays_is_named_by_row():
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.1, got 2 in row 1"):
        brl.TabularMDP.from_transitions([0, 0], [0, 2], [1, 1], **SIZES, discount=0.9)
    with pytest.raises(ValueError, match="must be equally many, got 2, 1, 2"):
        brl.TabularMDP.from_transitions([0, 0], [0], [1, 1], **SIZES, discount=0.9)
    with pytest.raises(ValueError, match=r"states must hold whole numbers .* got nan"):
        brl.TabularMDP.from_transitions([0, np.nan], [0, 0], [1, 1], **SIZES, discount=0.9)
    with pytest.raises(ValueError, match=r"column states must hold a whole number .* got nan in row 1"):
        brl.TransitionLog.from_arrays([0, np.nan], [0, 0], [1, 1])
    with pytest.raises(ValueError, match=r"terminal must have shape \(3,\)"):
        brl.TabularMDP.from_transitions([0], [0], [1], **SIZES, discount=0.9, terminal=[True])
    with pytest.raises(ValueError, match="prior must be finite and not negative"):
        small_log().mdp(discount=0.9, prior=-1)
    with pytest.raises(TypeError, match="source must be a path, a data frame or a mapping"):
        brl.TransitionLog.read(3)
