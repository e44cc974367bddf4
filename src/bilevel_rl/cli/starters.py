"""init: starter files of a user's own problem."""

from importlib import resources
from pathlib import Path

from rich.console import Console

from bilevel_rl.cli.commands import Init
from bilevel_rl.cli.output import shown

PLACEHOLDER = "my_problem"
"""Stands in the templates for the name of the file."""


def write(command: Init, console: Console):
    """Writes the starter file, and says how it is run.

    Raises:
        ValueError: there is such a file, or its name is none of a Python module.
    """
    path = Path(command.name if command.name.endswith(".py") else f"{command.name}.py")
    if not path.stem.isidentifier():
        raise ValueError(f"{path.name} must be letters, digits and underscores, and not begin with a digit")
    text = resources.files("bilevel_rl.cli").joinpath("templates", f"{command.kind}.py").read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(text.replace(PLACEHOLDER, path.stem))
    except FileExistsError as error:
        raise ValueError(f"{path} exists, and is not overwritten; name another file") from error
    console.print(f"{shown(path.absolute())}: run it with `bilevel-rl run {path}`")
