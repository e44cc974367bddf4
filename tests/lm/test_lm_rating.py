"""People and a tiny language model: what they say moves the reward, in a real browser too, and no kill loses it."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bilevel_rl.lm import HumanScore, PreferenceLoss
from bilevel_rl.lm.rewards import RewardInputs
from bilevel_rl.rating import AnswerStore, HumanRatings, Question, agreement
from lm.rated_training import INSTRUCTION, build
from lm.tiny_models import all_completions
from lm.tiny_trainers import TextTable, score, trainer

CHROMIUM = Path("/usr/bin/chromium")
EVIL = "</script><img src=x onerror=console.error(1)><b>bold</b>"

TEXTS = all_completions().select(slice(0, 4))


def inputs(names="pqrs", prompts=()):
    return RewardInputs(list(names), TEXTS, torch.zeros(4, 8), prompts)


# What the objectives make of shares, and of questions without an answer.


def test_where_people_are_of_two_minds_the_loss_is_the_mean_over_them():
    rewards = torch.tensor([1.0, 3.0, 0.5, 2.0])
    estimates = [
        PreferenceLoss(lambda first, second, seed, given=given: given)(inputs(), rewards, 0)
        for given in ([True, True], [False, False], [0.25, 0.25])
    ]
    for part in ("costs", "direct"):
        yes, no, torn = (getattr(estimate, part) for estimate in estimates)
        torch.testing.assert_close(torn, 0.25 * yes + 0.75 * no)


def test_a_score_without_answer_pulls_nowhere_and_the_others_stand_for_all():
    def asked(given, mask):
        return HumanScore(lambda texts, seed: np.ma.masked_array(given, mask))(inputs(), torch.zeros(4), 0)

    whole = asked([1.0, 2.0, 3.0, 4.0], [False] * 4)
    assert whole.costs.tolist() == [-1, -2, -3, -4]
    some = asked([1.0, np.nan, np.nan, 4.0], [False, True, True, False])
    # The mean is −2.5, and the two that are there count twice as much.
    assert some.costs.tolist() == [0.5, -2.5, -2.5, -5.5]
    assert (some.objective, some.num_answers) == (-2.5, 2)
    with pytest.raises(ValueError, match="expected at least one answer of 4, got none"):
        asked([1.0] * 4, [True] * 4)


def test_estimates_from_some_answers_are_those_from_all_on_average():
    rewards = torch.tensor([1.0, 3.0, 0.5, 2.0], requires_grad=True)

    def estimate(mask):
        found = PreferenceLoss(lambda first, second, seed: np.ma.masked_array([1.0, 0.0], mask))(inputs(), rewards, 0)
        return found.objective, torch.autograd.grad(found.direct, rewards)[0], found.num_answers

    (f, gradient, count), *parts = [estimate(mask) for mask in ([False, False], [True, False], [False, True])]
    assert f == pytest.approx(np.mean([part[0] for part in parts]))
    torch.testing.assert_close(gradient, (parts[0][1] + parts[1][1]) / 2)
    assert (count, parts[0][2]) == (2, 1)


def test_a_parameter_prompts_gets_what_is_answered(tmp_path):
    asked = []

    def scored(texts, seed, prompts=()):
        asked.append(prompts)
        return score(texts)

    trainer(tmp_path / "s", upper_objective=HumanScore(scored), prompts=("b b", "b"), max_steps=1).train(progress=False)
    assert sorted(set(asked[0])) == ["b", "b b"]
    ratings = HumanRatings(tmp_path / "p", raters={"ann": lambda question: asked.append(question.prompts)})
    given = PreferenceLoss(ratings.prefer)(inputs(prompts=("1", "2", "3", "4")), torch.zeros(4), 0)
    assert asked[1:] == [("1", "2"), ("3", "4")]
    assert given.objective == pytest.approx(np.log(2))


def test_a_resumed_run_goes_on_with_the_answers_that_it_had(tmp_path):
    def rater(question):
        asked.append(question.digest)
        if len(asked) == stops_at:
            raise KeyboardInterrupt
        return float(np.clip(np.round(3 + score([question.first])[0]), 1, 5))

    def run(folder):
        ratings = HumanRatings(folder, raters={"ann": rater})
        built = trainer(folder, upper_objective=HumanScore(ratings.score), max_steps=3, checkpoint_every=0.0)
        built.train(progress=False)
        return built.reward_model.table.detach()

    asked, stops_at = [], None
    expected, num_asked = run(tmp_path / "whole"), len(asked)
    asked, stops_at = [], num_asked - 1
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    stops_at = None
    assert torch.equal(run(tmp_path / "stopped"), expected)
    assert len(asked) == num_asked + 1, "only the question that was cut off"
    assert len(set(asked)) == num_asked


# The page.


class Process:
    """A process of this test, with what it prints in a file."""

    def __init__(self, path, *words):
        root = Path(__file__).parents[2]
        paths = os.pathsep.join([str(root / "src"), str(root / "tests")])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        self.output = path
        with path.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, words)], stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def kill(self):
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def check(self):
        assert self.process.poll() in (None, 0), self.output.read_text()
        return self.process.poll() is None


def wait_until(holds, what, *processes):
    until = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < until, f"{what}: " + "\n".join(process.output.read_text() for process in processes)
        for process in processes:
            process.check()
        time.sleep(0.1)


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Person:
    """A browser of their own, in which they answer by keys."""

    SHOWN = """() => {
        const shown = document.querySelector('[data-question]');
        if (!shown) return null;
        const texts = [...document.querySelectorAll('.choice .text')].map(text => text.innerText);
        return [shown.dataset.question, texts, shown.innerText, document.querySelector('.prompt')?.innerText];
    }"""

    def __init__(self, browser, port, name, worth, width, scheme, *, is_nervous):
        self.is_nervous = is_nervous
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page, self.worth, self.answered, self.wrong = context.new_page(), worth, [], []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, f"http://127.0.0.1:{port}/"))
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.page.fill("input", name, timeout=60_000)
        self.page.keyboard.press("Enter")

    def _note(self, url, home):
        if url.startswith("http") and not url.startswith(home):
            self.wrong.append(url)

    def answers(self):
        """Answers what is shown; whether anything was."""
        shown = self.page.evaluate(self.SHOWN)
        if shown is None:
            return False
        digest, texts, instruction, prompt = shown
        assert (instruction, prompt) == (INSTRUCTION, "b c")
        left, right = map(self.worth, texts)
        self.strike(digest, "s" if left == right else "ArrowLeft" if left > right else "ArrowRight")
        return True

    def strike(self, digest, key):
        """Strikes a key, and waits until the page shows something else."""
        self.page.wait_for_timeout(250)  # So long a question has to be there before it can be answered.
        if self.is_nervous:
            strike = f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
            self.page.evaluate(f"{strike}; {strike}; setTimeout(() => {strike}, 30)")
        else:
            self.page.keyboard.press(key)
        changed = "digest => document.querySelector('[data-question]')?.dataset.question !== digest"
        self.page.wait_for_function(changed, arg=digest, timeout=60_000)
        self.answered.append(digest)

    def fact(self, name):
        return self.page.locator(f"[data-fact={name}]").inner_text()


def noted(folder):
    """Digests that each rater has answered, as the file has them."""
    with sqlite3.connect(folder / "answers.db") as file:
        rows = file.execute(
            "SELECT a.rater, q.digest FROM answers a JOIN questions q ON q.id = a.question ORDER BY a.id"
        ).fetchall()
    return {name: [digest for rater, digest in rows if rater == name] for name in ("ann", "bob")}


def people_in(folder):
    """A function that answers as they did."""
    with AnswerStore(folder) as store:
        rows = store._file.execute(
            "SELECT seed, first, second, value FROM questions q JOIN taken t ON t.question = q.id"
        ).fetchall()
    known = {(seed, first, second): value for seed, first, second, value in rows}

    def prefer(first, second, seed):
        return [0.5 if a == b else known[seed, a, b] for a, b in zip(first, second, strict=True)]

    return prefer, known


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM.is_file(), reason="no Chromium")
def test_two_people_answer_in_their_browsers_while_everything_is_killed_once(tmp_path):
    pytest.importorskip("nicegui")
    playwright = pytest.importorskip("playwright.sync_api")
    run, port = tmp_path / "run", 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def train():
        return Process(tmp_path / "training.txt", Path(__file__).with_name("rated_training.py"), run)

    def serve():
        return Process(tmp_path / "page.txt", "-m", "bilevel_rl", "rate", run, "--port", port)

    training = train()
    wait_until((run / "answers.db").is_file, "training", training)
    server = serve()
    try:
        wait_until(lambda: is_listening(port), "the page", server)
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
            ann = Person(browser, port, "ann", lambda text: text.count("b"), 1440, "light", is_nervous=False)
            bob = Person(browser, port, "bob", len, 390, "dark", is_nervous=True)
            people = ann, bob

            def all_answer(enough):
                until = time.monotonic() + 200
                while not enough():
                    assert time.monotonic() < until, (training.output.read_text(), server.output.read_text())
                    if not any([person.answers() for person in people]):
                        time.sleep(0.05)

            all_answer(lambda: len(ann.answered) >= 8 and len(bob.answered) >= 7)
            for person in people:
                person.page.evaluate("window.isOld = true")
            server.kill()
            training.kill()
            assert noted(run) == {"ann": ann.answered, "bob": bob.answered}, "what the page went on from is there"
            server, training = serve(), train()
            wait_until(lambda: is_listening(port), "the page", server)
            for person in people:  # Pages come back by themselves, and know who they are of.
                is_back = "!window.isOld && document.querySelector('[data-question]')"
                person.page.wait_for_function(is_back, timeout=100_000)
            all_answer(lambda: not training.check())

            assert noted(run) == {"ann": ann.answered, "bob": bob.answered}
            for person in people:
                assert len(set(person.answered)) == len(person.answered) >= 20
                person.page.wait_for_function("!document.querySelector('[data-question]')", timeout=10_000)
                assert "Nothing to rate just now" in person.page.inner_text("main")
                assert person.fact("waiting") == "0 to go"
            with AnswerStore(run) as store:
                agreed = agreement(store.values("pair"))
                assert agreed.num_questions >= 10
                told = f"agreement {agreed.share:.0%}, κ {agreed.kappa:.2f}, on {agreed.num_questions} questions"
                assert [person.fact("agreement") for person in people] == [told] * 2
                bob.page.close()  # He would be shown what one person is asked.
                _check_scores_and_pictures(store, ann, run)
            assert ann.wrong == bob.wrong == []
            browser.close()
    finally:
        training.process.kill()
        server.process.kill()

    # The reward has moved to where they wanted it, and to the same bits as if nobody had been killed.
    prefer, known = people_in(run)
    built = build(tmp_path / "whole", prefer)
    built.train(progress=False)
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    moved = built.reward_model.table.detach() - TextTable().table.detach()
    texts = _texts(built)
    by_text = {text: moved[[n for n in range(27) if texts[n] == text]].mean() for text in texts}
    gains = [(2 * value - 1) * float(by_text[a] - by_text[b]) for (_, a, b), value in known.items() if value != 0.5]
    assert len(gains) >= 10
    assert np.mean(gains) > 0.05


def _texts(built):
    """Of every row of the reward's table; `a` is not shown, so some are the same."""
    rows = [[n // 9, n // 3 % 3, n % 3] for n in range(27)]
    return [text.strip() for text in built.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def _check_scores_and_pictures(store, person, run):
    """Markup is shown as it is written; scores are digits; pictures come from the run folder, and nothing else does."""
    from PIL import Image

    for name, colour in (("one", "red"), ("other", "blue")):
        Image.new("RGB", (8, 8), colour).save(run / f"{name}.png")
    from bilevel_rl.rating.pictures import keep

    shown = Question("pictures", 0, *(keep(run, run / f"{name}.png") for name in ("one", "other")), instruction=EVIL)
    text = Question("score", 0, EVIL, prompts=(EVIL, ""))
    page = person.page
    for question in (shown, text):
        store.ask([question])
        page.wait_for_selector(f'[data-question="{question.digest}"]', timeout=10_000)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert EVIL in page.inner_text("main")
        assert page.locator("main b, main script").count() == 0
        if question is shown:
            are_there = "document.images.length === 2 && [...document.images].every(image => image.naturalWidth === 8)"
            page.wait_for_function(are_there, timeout=10_000)
            page.keyboard.press("7")
            person.strike(question.digest, "ArrowLeft")
        else:
            person.strike(question.digest, "4")
            assert store.answers([text]) == {text.digest: [4.0]}
    for path in ("/picture/../answers.db", "/picture/answers.db", f"/picture/{'0' * 64}.png", "/answers.db"):
        assert page.request.get(page.url.rstrip("/") + path).status == 404
