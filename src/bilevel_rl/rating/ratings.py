"""People as the upper objective: what asks them, waits, and makes numbers of what they say."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from bilevel_rl import checks
from bilevel_rl.checks.functions import takes
from bilevel_rl.rating import pictures
from bilevel_rl.rating.store import AnswerStore, Question
from bilevel_rl.runs.interruption import Interrupted, asked

SECONDS_BETWEEN_LOOKS = 0.2

Rater = Callable[[Question], float | None]
"""A function in a person's place: 1 for the first and 0 for the second of a pair, or a score; None: cannot say."""


@dataclass(frozen=True)
class HumanRatings:
    """Asks people through RUN/answers.db, which `bilevel-rl rate RUN` shows them.

    `HumanScore(ratings.score)` and `PreferenceLoss(ratings.prefer)` are upper objectives of a language model's trainer;
    `ratings.prefer_pictures` asks about pictures of any two followers.

    Every question is noted before it is shown, every answer before the next question is, and what training went on with
    before it goes on. So a run that was killed and is resumed asks nothing twice, and ends with the same bits.

    A pair becomes the share of people who prefer the first; whoever cannot say counts as half a vote, and two texts
    that are the same are a tie that nobody is asked about. A text becomes the mean of its scores; where nobody could
    say, the mean of the call's other texts (else of all scores so far, else the middle of the scale). What lacks
    answers when `wait` is over is masked in the array that comes back, and the objectives leave it out; but at least
    one answer is always waited for, since without any there is nothing to estimate f from.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message names it.
    """

    folder: Path | str
    """run folder; made if it does not exist"""
    instruction: str = ""
    """what raters read above every question, such as "Which answer is more helpful?" """
    raters_per_question: int = 1
    """people who answer each question"""
    aggregate: Literal["mean", "majority"] = "mean"
    """mean: the share of votes, the mean of scores; majority: 1, 0, or ½ at a tie; the median of scores"""
    wait: float | None = None
    """seconds after which training goes on with the answers that are there; None waits for all"""
    levels: int = 5
    """scores go from 1 to this, at most 9"""
    raters: Mapping[str, Rater] = field(default_factory=dict)
    """functions in people's place, by name, which are asked first: for tests, and for simulated people"""

    def __post_init__(self):
        checks.instance("folder", self.folder, Path, str)
        checks.instance("instruction", self.instruction, str)
        checks.integer("raters_per_question", self.raters_per_question, at_least=1)
        checks.one_of("aggregate", self.aggregate, ("mean", "majority"))
        if self.wait is not None:
            checks.number("wait", self.wait, at_least=0, remedy="it is in seconds, and None waits for all answers")
        checks.integer("levels", self.levels, at_least=2, at_most=9, remedy="each is a key of the keyboard")
        for name, rater in checks.instance("raters", self.raters, Mapping).items():
            takes(f"raters[{name!r}]", rater, "question")
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        AnswerStore(self.folder).close()  # So that the page can be opened before the first question.

    @property
    def identity(self) -> list[Any]:
        """What stands for these people in the identity of a run: what they are asked, not where or by when."""
        return ["HumanRatings", self.instruction, self.raters_per_question, self.aggregate, self.levels]

    @property
    def score(self) -> "Scores":
        """A function for `HumanScore`: texts, seed → a score each."""
        return Scores(self)

    @property
    def prefer(self) -> "Preferences":
        """A function for `PreferenceLoss`: first texts, second texts, seed → how many prefer the first, each."""
        return Preferences(self)

    def prefer_pictures(
        self, first: Sequence[Path | str], second: Sequence[Path | str], seed: int
    ) -> Float[np.ndarray, " N"]:
        """Which of two GIFs or PNGs is better, as those of two followers: the share of people who prefer the first.

        Args:
            first: N files, which are copied into the run folder.
            second: N other ones.
            seed: tells this call from others, such as the number of the iteration.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: one is neither GIF nor PNG, or the lists differ in length.
        """
        _check_lengths(first=first, second=second)
        names = [[pictures.keep(Path(self.folder), path) for path in paths] for paths in (first, second)]
        return self.ask([Question("pictures", seed, one, other) for one, other in zip(*names, strict=True)])

    def ask(self, questions: Sequence[Question]) -> Float[np.ndarray, " N"]:
        """Asks, waits, and returns a number each; masked where training goes on without.

        Raises:
            Interrupted: the run was told to stop; whoever resumes it asks the same questions, and loses no answer.
        """
        levels, count, told = self.levels, self.raters_per_question, self.instruction
        questions = [Question(q.kind, q.seed, q.first, q.second, q.prompts, told, levels, count) for q in questions]
        differ = [question for question in questions if not _is_tie(question)]
        with AnswerStore(self.folder) as store:
            store.ask(differ)
            values = store.taken(differ)
            if new := [question for question in differ if question.digest not in values]:
                self._wait_for_answers(store, new)
                store.take(self._values(store, new))
                values = store.taken(differ)
        given = [0.5 if _is_tie(question) else values[question.digest] for question in questions]
        absent = np.array([value is None for value in given])
        numbers = np.array([0.0 if value is None else value for value in given])
        return np.ma.masked_array(numbers, absent) if absent.any() else numbers

    def _wait_for_answers(self, store: AnswerStore, questions: Sequence[Question]):
        until = None if self.wait is None else time.monotonic() + self.wait
        for name, rater in self.raters.items():
            for question in questions:
                if store.is_open_for(question, name):
                    store.answer(question, name, rater(question))
        while True:
            answers = store.answers(questions)
            if all(len(given) >= self.raters_per_question for given in answers.values()):
                return
            if until is not None and time.monotonic() >= until and any(answers.values()):
                return
            if number := asked():
                raise Interrupted(number, "stopped while it waited for people; their answers so far are kept")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _values(self, store: AnswerStore, questions: Sequence[Question]) -> dict[str, float | None]:
        """A number for every digest; None for those that nobody answered."""
        answers = store.answers(questions)
        values = {
            question.digest: self._of_pair(answers[question.digest])
            if question.kind != "score"
            else self._of_scores(answers[question.digest])
            for question in questions
        }
        scored = [value for value in values.values() if value is not None]
        for digest, given in answers.items():
            if values[digest] is None and given:
                earlier = [value for found in store.values("score") for value in found]
                values[digest] = float(np.mean(scored or earlier or [1, self.levels]))
        return values

    def _of_pair(self, given: Sequence[float | None]) -> float | None:
        if not given:
            return None
        share = float(np.mean([0.5 if value is None else value for value in given]))
        return share if self.aggregate == "mean" else float(np.sign(share - 0.5) + 1) / 2

    def _of_scores(self, given: Sequence[float | None]) -> float | None:
        said = [value for value in given if value is not None]
        if not said:
            return None
        return float(np.mean(said) if self.aggregate == "mean" else np.median(said))


@dataclass(frozen=True)
class _Asked:
    """A function that is answered by people, who are also what it is known by."""

    ratings: HumanRatings

    @property
    def identity(self) -> list[Any]:
        """As `HumanRatings.identity`."""
        return self.ratings.identity


class Scores(_Asked):
    """Texts and a seed → a score each, by people."""

    def __call__(
        self, texts: Sequence[str], seed: int, prompts: Sequence[str] | None = None
    ) -> Float[np.ndarray, " N"]:
        """Asks about every text; the same text twice is one question."""
        prompts = [""] * len(texts) if prompts is None else prompts
        _check_lengths(texts=texts, prompts=prompts)
        return self.ratings.ask(
            [Question("score", seed, text, "", (prompt, "")) for text, prompt in zip(texts, prompts, strict=True)]
        )


class Preferences(_Asked):
    """First texts, second texts and a seed → the share of people who prefer the first, by people."""

    def __call__(
        self,
        first: Sequence[str],
        second: Sequence[str],
        seed: int,
        prompts: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> Float[np.ndarray, " N"]:
        """Asks about every pair; the same pair twice is one question."""
        before, after = ([""] * len(first), [""] * len(second)) if prompts is None else prompts
        _check_lengths(first=first, second=second, prompts_of_first=before, prompts_of_second=after)
        return self.ratings.ask(
            [Question("pair", seed, *pair) for pair in zip(first, second, zip(before, after, strict=True), strict=True)]
        )


def _is_tie(question: Question) -> bool:
    """Whether the two of a pair are the same, so that there is nothing to prefer."""
    return (question.first, question.prompts[0]) == (question.second, question.prompts[1]) and question.kind != "score"


def _check_lengths(**given: Sequence[Any]):
    lengths = [len(each) for each in given.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{' and '.join(given)} must be of one length, got {' and '.join(map(str, lengths))}")
