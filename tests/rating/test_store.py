"""Answers that are there once, whoever is killed; and how much raters agree."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from bilevel_rl.rating import AnswerStore, Progress, Question, agreement
from bilevel_rl.rating.desk import SECONDS_KEPT, Desk, is_swapped

PAIRS = [Question("pair", 3, f"text {i}", f"other {i}") for i in range(6)]


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path) as opened:
        yield opened


def test_a_question_is_asked_once_and_an_answer_stays(store):
    store.ask(PAIRS)
    store.ask(PAIRS)
    assert store.open_for("ann") == [(question, 1) for question in PAIRS]
    assert store.answer(PAIRS[2], "ann", 1.0)
    assert not store.answer(PAIRS[2], "ann", 0.0)
    assert store.answers(PAIRS[2:4]) == {PAIRS[2].digest: [1.0], PAIRS[3].digest: []}
    assert [question for question, _ in store.open_for("ann")] == [*PAIRS[:2], *PAIRS[3:]]
    assert store.progress("ann") == Progress(1, 5, 5)
    assert store.progress("bob") == Progress(0, 5, 5)


def test_the_newest_call_comes_first_and_what_was_taken_is_over(store):
    newer = Question("pair", 4, "text 0", "other 0")
    store.ask(PAIRS[:2])
    store.ask([newer])
    assert [question for question, _ in store.open_for("ann")] == [newer, *PAIRS[:2]]
    store.take({newer.digest: None, PAIRS[0].digest: 0.5})
    store.take({PAIRS[0].digest: 1.0})
    assert store.taken(PAIRS[:2]) == {PAIRS[0].digest: 0.5}
    assert store.taken([newer]) == {newer.digest: None}
    assert [question for question, _ in store.open_for("ann")] == [PAIRS[1]]


def test_several_raters_answer_a_question_and_each_of_them_once(store):
    question = Question("score", 0, "a text", num_raters=2)
    store.ask([question])
    store.answer(question, "ann", 4.0)
    assert store.open_for("ann") == []
    assert store.open_for("bob") == [(question, 1)]
    assert (store.progress("ann"), store.progress("bob")) == (Progress(1, 0, 1), Progress(0, 1, 1))
    store.answer(question, "bob", None)
    assert store.open_for("cleo") == []
    assert store.answers([question]) == {question.digest: [4.0, None]}
    assert store.values("score") == [[4.0]]


@pytest.mark.parametrize(("kind", "wrong"), [("pair", 0.5), ("pair", 2.0), ("score", 0.0), ("score", 6.0)])
def test_what_is_no_answer_is_refused(store, kind, wrong):
    question = Question(kind, 0, "a", "b")
    store.ask([question])
    with pytest.raises(ValueError, match=f"value must be one of .* for a {kind}, got {wrong}"):
        store.answer(question, "ann", wrong)
    with pytest.raises(ValueError, match="question must be one that was asked"):
        store.answer(Question(kind, 1, "a", "b"), "ann", 1.0)


@pytest.mark.parametrize("table", ["questions", "answers", "taken"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET time = 0", "DELETE FROM {}"])
def test_nothing_is_changed_or_removed(store, tmp_path, table, statement):
    store.ask(PAIRS[:1])
    store.answer(PAIRS[0], "ann", 1.0)
    store.take({PAIRS[0].digest: 1.0})
    with sqlite3.connect(tmp_path / "answers.db") as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement.format(table))


def test_every_part_of_a_question_tells_it_from_others():
    usual = {"kind": "pair", "seed": 1, "first": "a", "second": "b"}
    others = {"kind": "score", "seed": 2, "first": "b", "second": "a", "prompts": ("p", ""), "instruction": "i"}
    others |= {"levels": 7, "num_raters": 2}
    digests = {Question(**usual | {name: value}).digest for name, value in others.items()}
    assert len(digests | {Question(**usual).digest}) == 9


RATER = """
import sys
from bilevel_rl.rating import AnswerStore, Question
store = AnswerStore(sys.argv[1])
for i in range(10_000):
    question = Question("score", i, f"text {i}")
    store.ask([question])
    store.answer(question, "ann", 1.0 + i % 5)
    print(i, flush=True)  # Only now the page would show the next one.
"""


def test_what_was_acknowledged_before_a_kill_is_there(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", RATER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(int(line))
        if len(lines) == 25:
            os.kill(process.pid, signal.SIGKILL)
            break
    lines += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    with AnswerStore(tmp_path) as store:
        found = [value for (value,) in store.values("score")]
        assert len(found) in (lines[-1] + 1, lines[-1] + 2)  # One may be stored that was not acknowledged any more.
        assert found == [1.0 + i % 5 for i in range(len(found))]
        assert store._file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Agreement.


def test_kappa_is_that_of_fleiss_example():
    # Table 1 of Fleiss (1971) as given in many textbooks: 10 subjects, 14 raters, 5 categories, κ = 0.210.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    found = agreement([[c for c, n in enumerate(row) for _ in range(n)] for row in table])
    assert found.num_questions == 10
    assert found.share == pytest.approx(0.378, abs=5e-4)
    assert found.kappa == pytest.approx(0.210, abs=5e-4)


def test_agreement_of_two_raters_by_hand():
    # They agree on 3 of 4; of 8 answers 5 are 1: chance (5/8)² + (3/8)² = 34/64, κ = (48 − 34) / (64 − 34).
    found = agreement([[1, 1], [1, 0], [0, 0], [1, 1], [0]])
    assert found == (4, 0.75, pytest.approx(14 / 30))


def test_what_agreement_cannot_be_told_of():
    assert agreement([[1.0], []]) == (0, None, None)
    assert agreement([[1.0, 1.0], [1.0, 1.0]]) == (2, 1.0, None)
    assert agreement([[1, 0], [0, 1]]).kappa == -1


# Who is shown what.


def test_two_raters_do_not_do_the_same_work(store):
    desk = Desk(store)
    store.ask(PAIRS[:3])
    assert desk.question("tab 1", "ann") == PAIRS[0]
    assert desk.question("tab 2", "bob") == PAIRS[1]
    assert desk.question("tab 1", "ann") == PAIRS[0]
    assert desk.question("tab 3", "ann") == PAIRS[2]
    assert desk.question("tab 4", "cleo") is None
    assert desk.answer("tab 1", PAIRS[0].digest, 1.0)
    desk.leave("tab 2")
    assert desk.question("tab 4", "cleo") == PAIRS[1]
    assert desk.question("tab 2", "bob") is None


def test_an_answer_to_what_is_not_shown_any_more_is_none(store):
    desk = Desk(store)
    store.ask(PAIRS[:2])
    desk.question("tab", "ann")
    assert desk.answer("tab", PAIRS[0].digest, 1.0)
    desk.question("tab", "ann")
    assert not desk.answer("tab", PAIRS[0].digest, 1.0), "the second stroke of a key that was struck twice"
    assert store.answers(PAIRS[:2]) == {PAIRS[0].digest: [1.0], PAIRS[1].digest: []}


def test_whoever_looks_for_long_keeps_nobody_waiting(store, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    desk = Desk(store)
    store.ask(PAIRS[:1])
    assert desk.question("tab 1", "ann") == PAIRS[0]
    assert desk.question("tab 2", "bob") is None
    now[0] += SECONDS_KEPT
    assert desk.question("tab 2", "bob") == PAIRS[0]
    assert desk.question("tab 1", "ann") == PAIRS[0]


def test_half_of_the_pairs_are_swapped_for_each_rater_and_not_the_same_half():
    pairs = [Question("pair", i, "a", "b") for i in range(400)]
    ann, bob = ([is_swapped(pair, name) for pair in pairs] for name in ("ann", "bob"))
    assert 160 < sum(ann) < 240  # Four standard deviations of a fair coin's 400 throws.
    assert 160 < sum(one != other for one, other in zip(ann, bob, strict=True)) < 240
    assert not is_swapped(Question("score", 0, "a"), "ann")
