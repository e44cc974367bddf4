"""Entry point: from the words of a command line to an exit status."""

import os
import signal
import sys
import warnings
from collections.abc import Sequence

from rich.errors import MarkupError

from bilevel_rl import __version__
from bilevel_rl.cli import looking, output, running, starters
from bilevel_rl.cli.arguments import parse
from bilevel_rl.cli.commands import Compare, Diagnose, Init, List, Plot, Rate, Report, Resume, Run, Runs, Solve, Tune
from bilevel_rl.comparison.workers import Workers
from bilevel_rl.exact.oracle import OracleError
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolderError
from bilevel_rl.runs.job import Job

EXPECTED = (ValueError, OverflowError, MemoryError, RunFolderError, ModuleNotFoundError, OracleError, MarkupError)
"""Errors that say what is wrong with what was asked for, or with what is there; all others are mistakes of the code."""


def main(arguments: Sequence[str] | None = None):
    """Entry point. Exits with 2 and a message for bad input, before anything is computed."""
    warnings.showwarning = output.show_warning
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:
        print(f"bilevel-rl {__version__}")
        return
    try:
        with output.only_json("--json" in words):
            command = parse(words)
        _do(command, words)
    except BrokenPipeError:  # Whoever read the output, as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        processes.leave(128 + signal.SIGPIPE)
    except processes.LostProcessError as error:
        output.fail(str(error), 3)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        output.fail(named, 2)
    except EXPECTED as error:
        output.fail(str(error), 2)


def _do(command: object, words: Sequence[str]):
    json = bool(getattr(command, "json", False))
    console = output.standard_output(quiet=json)
    match command:
        case Run(study, folder, job, progress):
            with output.only_json(json):
                outcome = running.start(study, folder, job, Workers(), console, words, progress=progress)
            running.report(outcome, json=json)
        case Compare(study, folder, workers, progress) | Tune(study, folder, workers, progress):
            with output.only_json(json):
                outcome = running.start(study, folder, Job(), workers, console, words, progress=progress)
            running.report(outcome, json=json)
        case Solve(study, folder, progress):
            with output.only_json(json):
                outcome = running.start(study, folder, Job(), Workers(), console, words, progress=progress)
            running.report(outcome, json=json)
        case Resume():
            with output.only_json(json):
                outcome = running.resume(command, console)
            running.report(outcome, json=json)
        case Plot():
            looking.plot(command, console)
        case Report():
            looking.report(command, console)
        case Rate():
            looking.rate(command, console)
        case Diagnose():
            looking.diagnose(command.run, console, as_json=json)
        case List():
            looking.list_all(command.runs, console, as_json=json)
        case Runs():
            looking.runs(command, console)
        case Init():
            starters.write(command, console)
