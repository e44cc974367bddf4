"""Malformed calls of the API and malformed command lines: does garbage ever pass, crash or hang?

    .venv/bin/python -m benchmarks.storm_api [--calls N] [--lines N]

Each call is a valid one of which one argument is replaced (`valid_calls.py`), each line a valid one of which one option
is. Right is an object that is valid, or a `ValueError` or `TypeError` that names the argument; of a line, exit code 2
and a message. The table counts everything else. Nothing that is accepted on the command line is run.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.malformed import GARBAGE, Call
from benchmarks.valid_calls import all_calls

SECONDS = 60.0
"""A call that takes longer hangs."""

FINE, RAW, NAMELESS, SILENT, FALSE, HANG = (
    "fine",
    "raw error",
    "nameless error",
    "silent",
    "refused though valid",
    "hang",
)


class TooLongError(BaseException):
    """The time of a call is over; no `Exception`, which a call may catch."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a call: one of the words above, and what was seen."""

    what: str
    verdict: str
    seen: str


@contextlib.contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    def stop(*_: Any):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(call: Call, argument: str, value: Any) -> Outcome:
    """Makes the call with another value of one argument."""
    what = f"{call.name}({argument}={_short(value)})"
    is_right = call.accepts.get(argument, lambda value: False)(value)
    try:
        with time_limit(), warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            call.function(**(call.arguments | {argument: value}))
    except TooLongError:
        return Outcome(what, HANG, "")
    except (TypeError, ValueError) as error:
        message = str(error).replace("-", "_")
        if argument.removesuffix("s") not in message and call.named_as.get(argument, argument) not in message:
            return Outcome(what, NAMELESS, f"{type(error).__name__}: {error}")
        return Outcome(what, FALSE if is_right else FINE, str(error))
    except Exception as error:
        return Outcome(what, RAW, f"{type(error).__name__}: {error}")
    return Outcome(what, FINE if is_right else SILENT, "accepted")


def calls() -> list[tuple[Call, str, Any]]:
    """Every call with every garbage in place of every argument, but for those that are as they were."""
    return [
        (call, argument, value) for call in all_calls() for argument in call.arguments for value in GARBAGE.values()
    ]


TOKENS = ("no", "nan", "inf", "-inf", "-1", "0", "1.5", "", "1e400", str(10**23), "None", "0x10", "é", "1 2", "[1]")

STARTS = "run", "compare", "tune"

STRUCTURES: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    ("walk",),
    ("run",),
    ("run", "no-such-study"),
    ("run", "goal-position", "extra"),
    ("run", "goal-position", "--no-such-option", "1"),
    ("run", "goal-position", "--size"),
    ("run", "goal-position", "--size", "3", "4"),
    ("run", "goal-position", "--target", "1"),
    ("run", "goal-position", "--target", "1", "2", "3"),
    ("run", "goal-position", "--walls", "1"),
    ("run", "goal-position", "--size=3=4"),
    ("run", "goal-position", "--jobs", "2"),
    ("run", "goal-position", "--process-id", "1"),
    ("run", "goal-position", "--coordinator", "nowhere"),
    ("run", "goal-position", "--coordinator", "localhost:1", "--num-processes", "2"),
    ("run", "goal-position", "--cpu-devices", "0"),
    ("run", "goal-position", "--folder"),
    ("run", "goal-position", "--folder", __file__),
    ("compare",),
    ("compare", "goal-position", "--methods"),
    ("compare", "goal-position", "--methods", "no-such-method"),
    ("compare", "goal-position", "--backend", "ray"),
    ("compare", "goal-position", "--backend", "dask"),
    ("compare", "goal-position", "--address", "localhost"),
    ("compare", "goal-position", "--jobs", "-1"),
    ("tune", "goal-position", "--method", "no-such-method"),
    ("tune", "goal-position", "--budget", "1"),
    *(
        (command, *rest)
        for command in ("resume", "plot", "diagnose")
        for rest in ((), ("nowhere",), (__file__,), (".",))
    ),
    ("resume", "nowhere", "--jobs", "no"),
    ("plot", ".", "--pdf", "no"),
    ("list", "--no-such-option"),
)


def lines() -> list[tuple[str, ...]]:
    """Every option of every study with every token, and lines of another structure."""
    from bilevel_rl.studies.registry import find_studies

    return [
        *STRUCTURES,
        *(
            (kind.command, kind.name.removeprefix(f"{kind.command}-"), f"--{option.replace('_', '-')}", token)
            for kind in find_studies().values()
            if kind.command is not None and not kind.takes_reference
            for option in _options(kind)
            for token in TOKENS
        ),
    ]


def judge_line(line: Sequence[str]) -> Outcome:
    """Calls the command in this process, but for the work itself."""
    from bilevel_rl import cli
    from bilevel_rl.cli import running

    accepted: list[object] = []
    what, code = " ".join(repr(word) if not word or " " in word else word for word in line), None
    out, err = io.StringIO(), io.StringIO()
    finish, shown = running._finish, warnings.showwarning
    running._finish = lambda study, *_, **__: accepted.append(study)  # pyright: ignore[reportAttributeAccessIssue]
    folder = ("--folder", str(Path(tempfile.mkdtemp()) / "run")) if len(line) == 4 and line[0] in STARTS else ()
    try:
        with time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            cli.main([*line, *folder])
    except TooLongError:
        return Outcome(what, HANG, "")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        return Outcome(what, RAW, f"{type(error).__name__}: {error}")
    finally:
        running._finish, warnings.showwarning = finish, shown
    told = " ".join(err.getvalue().split())
    if code is None:
        is_right = bool(accepted) and _is_valid(line)
        return Outcome(what, FINE if is_right else SILENT, "accepted")
    if "Traceback" in told or code != 2 or not told:
        return Outcome(what, RAW, f"exit {code}: {told}")
    option = line[2].lstrip("-") if folder else ""
    is_named = option.replace("-", "_").removesuffix("s") in told.replace("-", "_")
    is_named |= "which is not installed: pip install" in told  # Of a study that needs an extra, which comes first.
    return Outcome(what, FINE if is_named else NAMELESS, told)


def _is_valid(line: Sequence[str]) -> bool:
    """Whether the value of an option may be what it is: in a study a fraction is one of a number, 0 is for prices."""
    if len(line) != 4:
        return False
    option, token = line[2], line[3]
    if option == "--folder" or (option == "--cache" and token):
        return True
    if option in ("--target", "--initial-target") and token == "-1":
        return True
    if token == "None":
        return option in ("--seeds-per-group", "--hidden-size")
    if token in ("inf", "1e400"):
        return option == "--checkpoint-every"
    if token == "1.5":
        return option not in ("--discount", "--slip")
    return token == "0" or (token == str(10**23) and option not in ("--seed",))


def _options(kind: Any) -> Iterator[str]:
    for entry in dataclasses.fields(kind):
        if dataclasses.is_dataclass(entry.type):
            yield from _options(entry.type)
        elif entry.type not in (bool, "bool"):
            yield entry.name


def _short(value: Any) -> str:
    names = [name for name, garbage in GARBAGE.items() if garbage is value]
    return names[0] if names else repr(value)[:40]


def _spread(items: list[Any], number: int) -> list[Any]:
    """As many of them, evenly spread."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def storm(num_calls: int, num_lines: int) -> list[Outcome]:
    """So many malformed calls and lines; every structure of a line is among them."""
    found = [judge(*call) for call in _spread(calls(), num_calls)] if num_calls else []
    if num_lines:
        fixed = len(STRUCTURES)
        chosen = [*STRUCTURES, *_spread(lines()[fixed:], max(1, num_lines - fixed))]
        found += [judge_line(line) for line in chosen]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10**6)
    parser.add_argument("--lines", type=int, default=10**6)
    arguments = parser.parse_args()
    for call in all_calls() if arguments.calls else ():
        with warnings.catch_warnings(action="ignore"):
            call.function(**call.arguments)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            outcomes = storm(arguments.calls, arguments.lines)
        finally:
            os.chdir(home)
    counts = Counter(outcome.verdict for outcome in outcomes)
    for verdict, group in itertools.groupby(sorted(outcomes, key=lambda o: o.verdict), key=lambda o: o.verdict):
        if verdict != FINE:
            for outcome in group:
                print(f"{verdict}: {outcome.what}: {outcome.seen[:300]}")
    print("| " + " | ".join(("malformed", FINE, RAW, NAMELESS, SILENT, FALSE, HANG)) + " |")
    print(
        f"| {len(outcomes)} | " + " | ".join(str(counts[v]) for v in (FINE, RAW, NAMELESS, SILENT, FALSE, HANG)) + " |"
    )
    return int(counts[FINE] != len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
