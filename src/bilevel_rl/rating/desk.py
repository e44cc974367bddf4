"""Who is shown which question, so that people who rate at the same time do not do the same work."""

import hashlib
import time
from dataclasses import dataclass

from bilevel_rl.rating.store import AnswerStore, Question

SECONDS_KEPT = 120.0
"""After which a question that somebody looks at without an answer is shown to others too."""


@dataclass(frozen=True)
class _Shown:
    rater: str
    question: Question
    since: float


class Desk:
    """Hands out the open questions of a store. One a server; who is shown what is forgotten when it ends.

    Args:
        store: of the run.
    """

    def __init__(self, store: AnswerStore):
        self.store = store
        self._shown: dict[str, _Shown] = {}

    def question(self, visitor: str, rater: str) -> Question | None:
        """What to show now: the same as before while it is open; None where nothing waits for this rater.

        Args:
            visitor: an open page.
            rater: whose answer it would be.
        """
        waiting = self.store.open_for(rater)
        before = self._shown.get(visitor)
        if before is not None and before.rater == rater and any(before.question == q for q, _ in waiting):
            return before.question
        self.leave(visitor)
        now = time.monotonic()
        for question, missing in waiting:
            others = [entry for entry in self._shown.values() if entry.question.digest == question.digest]
            kept = sum(now - entry.since < SECONDS_KEPT for entry in others)
            if kept < missing and all(entry.rater != rater for entry in others):
                self._shown[visitor] = _Shown(rater, question, now)
                return question
        return None

    def answer(self, visitor: str, digest: str, value: float | None) -> bool:
        """Notes an answer to what a page shows. False, and nothing is noted, where it shows another question by now."""
        shown = self._shown.get(visitor)
        if shown is None or shown.question.digest != digest:
            return False
        is_new = self.store.answer(shown.question, shown.rater, value)
        self.leave(visitor)
        return is_new

    def leave(self, visitor: str):
        """A page was closed, or has answered."""
        self._shown.pop(visitor, None)


def is_swapped(question: Question, rater: str) -> bool:
    """Whether this rater sees the second of a pair on the left: half of them do, so that a habit favours neither."""
    return question.kind != "score" and hashlib.sha256(f"{question.digest} {rater}".encode()).digest()[0] % 2 == 1
