"""People as numbers: shares and means, what is left out, what a kill does not lose."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bilevel_rl.checks.functions import takes
from bilevel_rl.rating import AnswerStore, HumanRatings, Question
from bilevel_rl.rating.pictures import NAME
from bilevel_rl.runs import interruption

FIRST, SECOND = ["good", "bad", "same", "good"], ["bad", "good", "same", "fine"]
RANK = {"bad": 0, "fine": 1, "good": 2, "same": 9}


def better(question):
    return float(RANK[question.first] > RANK[question.second])


def worse(question):
    return 1 - better(question)


def shy(question):
    return None


def length(question):
    return float(len(question.first))


def test_pairs_are_shares_of_votes(tmp_path):
    def asked(**raters):
        ratings = HumanRatings(tmp_path, f"{sorted(raters)}", raters_per_question=len(raters), raters=raters)
        return ratings.prefer(FIRST, SECOND, 0).tolist()

    assert asked(a=better) == [1, 0, 0.5, 1]
    assert asked(a=better, b=better, c=worse) == pytest.approx([2 / 3, 1 / 3, 0.5, 2 / 3])
    assert asked(a=better, b=shy) == [0.75, 0.25, 0.5, 0.75]


def test_a_majority_is_what_most_say(tmp_path):
    def asked(**raters):
        return HumanRatings(
            tmp_path, f"{sorted(raters)}", raters_per_question=len(raters), raters=raters, aggregate="majority"
        ).prefer(FIRST, SECOND, 0).tolist()  # fmt: skip

    assert asked(a=better, b=better, c=worse) == [1, 0, 0.5, 1]
    assert asked(a=better, b=worse) == [0.5] * 4


def test_scores_are_means_or_medians(tmp_path):
    raters = {"a": length, "b": lambda question: 1.0, "c": lambda question: 1.0}
    for aggregate, expected in (("mean", [4 / 3, 5 / 3]), ("majority", [1, 1])):
        ratings = HumanRatings(tmp_path / aggregate, raters_per_question=3, aggregate=aggregate, raters=raters)
        assert ratings.score(["ab", "abc"], 5) == pytest.approx(expected)


def test_a_text_that_nobody_can_score_is_worth_the_mean_of_the_others(tmp_path):
    def sometimes(question):
        return None if "?" in question.first else length(question)

    ratings = HumanRatings(tmp_path, raters={"a": sometimes})
    assert ratings.score(["?"], 0).tolist() == [3.0], "the middle of the scale"
    assert ratings.score(["?", "a", "abcd"], 1).tolist() == [2.5, 1, 4]
    assert ratings.score(["?", "??"], 2).tolist() == [2.5, 2.5], "the mean of all before"


def test_the_same_pair_twice_is_one_question_and_equal_texts_are_none(tmp_path):
    asked = []
    ratings = HumanRatings(tmp_path, raters={"a": lambda question: asked.append(question) or 1.0})
    assert ratings.prefer(["x", "x", "z"], ["y", "y", "z"], 0).tolist() == [1, 1, 0.5]
    assert [(question.first, question.second) for question in asked] == [("x", "y")]
    assert ratings.prefer(["x"], ["y"], 1).tolist() == [1]
    assert len(asked) == 2, "in another iteration it is asked again"


def test_training_goes_on_in_time_with_what_is_there_and_again_with_the_same(tmp_path):
    ratings = HumanRatings(tmp_path, wait=0.3)
    questions = [Question("pair", 0, one, other) for one, other in (("good", "bad"), ("bad", "good"))]

    def answer_one():
        with AnswerStore(tmp_path) as store:
            while not store.open_for("ann"):
                time.sleep(0.01)
            time.sleep(0.6)
            store.answer(store.open_for("ann")[0][0], "ann", 1.0)

    person = threading.Thread(target=answer_one)
    started = time.monotonic()
    person.start()
    given = ratings.prefer(["good", "bad"], ["bad", "good"], 0)
    assert time.monotonic() - started > 0.6, "without any answer it goes on waiting"
    assert given.tolist() == [1.0, None]
    person.join()
    with AnswerStore(tmp_path) as store:
        assert store.open_for("bob") == [], "nobody is asked any more what is over"
        store.answer(questions[1], "bob", 1.0)  # Who still had it before him.
    again = HumanRatings(tmp_path, wait=0.3).prefer(["good", "bad"], ["bad", "good"], 0)
    assert np.ma.getmaskarray(again).tolist() == [False, True]


def test_a_run_that_is_told_to_stop_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("bilevel_rl.rating.ratings.asked", lambda: signal.SIGINT)
    with pytest.raises(interruption.Interrupted, match="their answers so far are kept"):
        HumanRatings(tmp_path).score(["a"], 0)


ASKER = """
import sys
from bilevel_rl.rating import HumanRatings
asked = 0
def rater(question):
    global asked
    print("asked", question.first, flush=True)
    asked += 1
    if asked > 3 and sys.argv[2] == "dies":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    return float(question.first < question.second)
print(HumanRatings(sys.argv[1], raters={"r": rater}).prefer(list("abcdefg"), list("caebdgf"), 11).tolist())
"""


@pytest.mark.slow
def test_after_a_kill_only_what_has_no_answer_is_asked(tmp_path):
    killed, whole = (
        subprocess.run([sys.executable, "-c", ASKER, str(tmp_path), how], capture_output=True, text=True, timeout=100)
        for how in ("dies", "lives")
    )
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.split() == ["asked", "a", "asked", "b", "asked", "c", "asked", "d"]
    assert whole.stdout.splitlines()[:-1] == [f"asked {text}" for text in "defg"], whole.stderr
    assert whole.stdout.splitlines()[-1] == "[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]"


def test_pictures_are_kept_in_the_folder_under_their_digest(tmp_path):
    for name in ("one", "other"):
        (tmp_path / f"{name}.gif").write_bytes(b"GIF89a" + name.encode())
    seen = []
    ratings = HumanRatings(tmp_path / "run", raters={"a": lambda question: seen.append(question) or 0.0})
    given = ratings.prefer_pictures([tmp_path / "one.gif"], [str(tmp_path / "other.gif")], 3)
    assert given.tolist() == [0.0]
    assert all(NAME.fullmatch(name) for name in (seen[0].first, seen[0].second))
    assert (tmp_path / "run/rating" / seen[0].second).read_bytes() == b"GIF89aother"
    with AnswerStore(tmp_path / "run") as store:
        assert store.has_picture(seen[0].first)
        assert not store.has_picture("0" * 64 + ".gif")
    (tmp_path / "evil.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(ValueError, match=r"evil\.png must be a GIF or a PNG, and begins with b'<svg onl'"):
        ratings.prefer_pictures([tmp_path / "evil.png"], [tmp_path / "one.gif"], 0)
    with pytest.raises(ValueError, match="of one length, got 1 and 2"):
        ratings.prefer_pictures(["a"], ["b", "c"], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait": -1.0}, r"wait must be finite and not negative, got -1\.0; it is in seconds"),
        ({"levels": 10}, "levels must be at most 9, got 10; each is a key of the keyboard"),
        ({"raters_per_question": 0}, "raters_per_question must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        HumanRatings(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(TypeError, match=r"raters\['a'\] must take the arguments \(question\)"):
        HumanRatings(tmp_path / "run", raters={"a": lambda: 1.0})


def test_what_they_are_asked_stands_for_the_people(tmp_path):
    ratings = HumanRatings(tmp_path, "Which one?", raters_per_question=2)
    elsewhere = HumanRatings(tmp_path / "other", "Which one?", raters_per_question=2, wait=5.0)
    assert ratings.prefer.identity == elsewhere.score.identity == ["HumanRatings", "Which one?", 2, "mean", 5]
    assert HumanRatings(tmp_path).identity != ratings.identity
    takes("score", ratings.score, "texts", "seed")
    takes("prefer", ratings.prefer, "first", "second", "seed")


@pytest.mark.slow
def test_processes_that_start_together_share_one_file(tmp_path):
    code = f"from bilevel_rl.rating.store import AnswerStore; AnswerStore({str(tmp_path)!r})"
    together = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(3)]
    assert [process.wait(timeout=100) for process in together] == [0] * 3
