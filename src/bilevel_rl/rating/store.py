"""Questions and answers of a run, in RUN/answers.db: SQLite, append-only, each answer on disk before it counts.

| table       | a row is                                                                                    |
|-------------|---------------------------------------------------------------------------------------------|
| `questions` | what was asked, once, whatever was killed in between                                        |
| `answers`   | what one rater said about one question, and when; `value` is NULL where they could not say |
| `taken`     | what training went on with, so that a resumed run goes on with the same                     |

Training writes questions, the page writes answers; they need not be one process. The folder must be on a disk of this
machine: processes that write at the same time meet in shared memory.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["score", "pair", "pictures"]
"""One text on a scale, the better of two texts, the better of two pictures."""

NAME = "answers.db"

SECONDS_FOR_OTHERS = 30.0
"""How long a write waits for that of another process."""

MOST_SHOWN = 100
"""Open questions that are looked at; more people are never at work at once."""

TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, call INTEGER NOT NULL, time REAL NOT NULL,
    kind TEXT NOT NULL, seed INTEGER NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
    first_prompt TEXT NOT NULL, second_prompt TEXT NOT NULL,
    instruction TEXT NOT NULL, levels INTEGER NOT NULL, num_raters INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions, rater TEXT NOT NULL,
    value REAL, time REAL NOT NULL, UNIQUE (question, rater)
);
CREATE TABLE IF NOT EXISTS taken (
    question INTEGER PRIMARY KEY REFERENCES questions, value REAL, time REAL NOT NULL
);
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{event} BEFORE {event} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'answers.db is append-only'); END;\n"
    for table in ("questions", "answers", "taken")
    for event in ("UPDATE", "DELETE")
)


@dataclass(frozen=True)
class Question:
    """What a person is asked. The same question has the same digest in every process."""

    kind: Kind
    """score, pair or pictures"""
    seed: int
    """of the call that asked, which tells iterations apart"""
    first: str
    """a text, or the name of a picture"""
    second: str = ""
    """the other one of a pair"""
    prompts: tuple[str, str] = ("", "")
    """what the texts answer"""
    instruction: str = ""
    """what raters read above it"""
    levels: int = 5
    """scores go from 1 to this"""
    num_raters: int = 1
    """people who are asked"""

    @property
    def digest(self) -> str:
        """Of all that is asked, and of how many people."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:32]

    @property
    def values(self) -> tuple[float, ...]:
        """What can be answered: 1 for the first of a pair and 0 for the second, or the scores."""
        return tuple(map(float, range(1, self.levels + 1))) if self.kind == "score" else (1.0, 0.0)


COLUMNS = "q.kind, q.seed, q.first, q.second, q.first_prompt, q.second_prompt, q.instruction, q.levels, q.num_raters"
assert len(COLUMNS.split(",")) == len(fields(Question)) + 1  # The prompts are two.


class Progress(NamedTuple):
    """How far a rater is, and the run: questions that they answered, that wait for them, and that wait for anybody."""

    num_answered: int
    num_waiting: int
    num_open: int


class AnswerStore:
    """The database of a folder; made if it does not exist. For one thread at a time.

    Args:
        folder: which exists.

    Raises:
        sqlite3.Error: there is such a file, and it is none of SQLite.
    """

    def __init__(self, folder: Path | str):
        self._file = sqlite3.connect(
            Path(folder) / NAME, timeout=SECONDS_FOR_OTHERS, isolation_level=None, check_same_thread=False
        )
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")  # On disk when the statement returns, also if power fails.
        self._file.execute("PRAGMA foreign_keys=ON")
        self._file.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")

    def close(self):
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(self, *_: object):
        self.close()

    def ask(self, questions: Sequence[Question]):
        """Adds those that are not there, as one call: all or none of them."""
        with self._at_once():
            call = self._file.execute("SELECT 1 + COALESCE(MAX(call), 0) FROM questions").fetchone()[0]
            rows = [(q.digest, call, time.time(), *_flat(q)) for q in questions]
            self._file.executemany(
                "INSERT OR IGNORE INTO questions (digest, call, time, kind, seed, first, second, first_prompt,"
                " second_prompt, instruction, levels, num_raters) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def open_for(self, rater: str) -> list[tuple[Question, int]]:
        """Questions that lack answers, and not this rater's, with how many they lack; those of the newest call first.

        What training has gone on without is not open any more.
        """
        rows = self._file.execute(
            f"SELECT {COLUMNS}, q.num_raters - COUNT(a.id) AS missing FROM questions q"
            " LEFT JOIN answers a ON a.question = q.id WHERE q.id NOT IN (SELECT question FROM taken)"
            " GROUP BY q.id HAVING missing > 0 AND COALESCE(SUM(a.rater = ?), 0) = 0"
            " ORDER BY q.call DESC, q.id LIMIT ?",
            (rater, MOST_SHOWN),
        )
        return [(_question(*row), missing) for *row, missing in rows]

    def is_open_for(self, question: Question, rater: str) -> bool:
        """Whether it lacks answers, and this rater's."""
        others, own = self._file.execute(
            "SELECT COUNT(*), COALESCE(SUM(a.rater = ?), 0) FROM answers a JOIN questions q ON a.question = q.id"
            " WHERE q.digest = ?",
            (rater, question.digest),
        ).fetchone()
        return not own and others < question.num_raters

    def answer(self, question: Question, rater: str, value: float | None) -> bool:
        """Notes what a rater says; None where they cannot say. False where they had answered before: that stays.

        Raises:
            ValueError: there is no such question, or this is no answer to it.
        """
        if value is not None and value not in question.values:
            raise ValueError(f"value must be one of {question.values} or None for a {question.kind}, got {value}")
        with self._at_once():
            found = self._file.execute("SELECT id FROM questions WHERE digest = ?", (question.digest,)).fetchone()
            if found is None:
                raise ValueError(f"question must be one that was asked, got {question.digest}")
            row = (found[0], rater, None if value is None else float(value), time.time())
            done = self._file.execute(
                "INSERT OR IGNORE INTO answers (question, rater, value, time) VALUES (?, ?, ?, ?)", row
            )
        return done.rowcount == 1

    def answers(self, questions: Sequence[Question]) -> dict[str, list[float | None]]:
        """Digest to what people said so far, None for each who could not say."""
        found: dict[str, list[float | None]] = {question.digest: [] for question in questions}
        for digest in found:
            rows = self._file.execute(
                "SELECT a.value FROM answers a JOIN questions q ON a.question = q.id WHERE q.digest = ? ORDER BY a.id",
                (digest,),
            )
            found[digest] = [value for (value,) in rows]
        return found

    def take(self, values: Mapping[str, float | None]):
        """Notes what training goes on with, by digest; None for what it goes on without."""
        with self._at_once():
            self._file.executemany(
                "INSERT OR IGNORE INTO taken (question, value, time) SELECT id, ?, ? FROM questions WHERE digest = ?",
                [(value, time.time(), digest) for digest, value in values.items()],
            )

    def taken(self, questions: Sequence[Question]) -> dict[str, float | None]:
        """What `take` noted of these; those that it did not are left out."""
        found: dict[str, float | None] = {}
        for digest in {question.digest for question in questions}:
            row = self._file.execute(
                "SELECT t.value FROM taken t JOIN questions q ON t.question = q.id WHERE q.digest = ?", (digest,)
            ).fetchone()
            if row is not None:
                found[digest] = row[0]
        return found

    def values(self, kind: Kind) -> list[list[float]]:
        """Of every question of a kind: what those said who could."""
        found: dict[int, list[float]] = {}
        rows = self._file.execute(
            "SELECT a.question, a.value FROM answers a JOIN questions q ON a.question = q.id"
            " WHERE q.kind = ? AND a.value IS NOT NULL ORDER BY a.id",
            (kind,),
        )
        for question, value in rows:
            found.setdefault(question, []).append(value)
        return list(found.values())

    def progress(self, rater: str) -> Progress:
        """Counts for the page."""
        answered = self._file.execute("SELECT COUNT(*) FROM answers WHERE rater = ?", (rater,)).fetchone()[0]
        waiting, anybody = self._file.execute(
            "SELECT COALESCE(SUM(by_rater = 0), 0), COUNT(*) FROM ("
            " SELECT COALESCE(SUM(a.rater = ?), 0) AS by_rater FROM questions q"
            " LEFT JOIN answers a ON a.question = q.id WHERE q.id NOT IN (SELECT question FROM taken)"
            " GROUP BY q.id HAVING COUNT(a.id) < q.num_raters)",
            (rater,),
        ).fetchone()
        return Progress(answered, waiting, anybody)

    def has_picture(self, name: str) -> bool:
        """Whether a question shows this picture."""
        row = self._file.execute(
            "SELECT 1 FROM questions WHERE kind = 'pictures' AND (first = ? OR second = ?) LIMIT 1", (name, name)
        ).fetchone()
        return row is not None

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """All statements or none; other writers wait."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")


def _flat(question: Question) -> tuple[str | int, ...]:
    kind, seed, first, second, prompts, *rest = astuple(question)
    return kind, seed, first, second, *prompts, *rest


def _question(
    kind: Kind, seed: int, first: str, second: str, first_prompt: str, second_prompt: str, *rest: str | int
) -> Question:
    instruction, levels, num_raters = rest
    return Question(
        kind, seed, first, second, (first_prompt, second_prompt), str(instruction), int(levels), int(num_raters)
    )
