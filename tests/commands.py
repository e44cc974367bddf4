"""Calls the command line in this process."""

import contextlib
import io
import warnings

from bilevel_rl.cli import main


def call(*arguments):
    """Exit code (None: returned), standard output, standard error."""
    code = None
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(),  # also puts back the way that `main` shows them
    ):
        warnings.simplefilter("always")
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue(), err.getvalue()
