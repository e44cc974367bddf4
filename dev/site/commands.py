"""Hook of mkdocs: the page of all options of the command line, from the parser's own help."""

import contextlib
import io
import os
import textwrap
from collections.abc import Sequence

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PAGE = "reference/commands.md"
WIDTH = "96"
"""Of the help in columns: fits beside the site's two menus."""


def commands() -> list[list[str]]:
    """Words of every command; `run` for every study, `compare` and `tune` for one problem, since all have the same."""
    from bilevel_rl.cli import arguments
    from bilevel_rl.cli.looking import title
    from bilevel_rl.studies.registry import find_studies

    studies = [title(kind) for kind in find_studies().values() if kind.command == "run" and not kind.takes_reference]
    words = [name for name in [*arguments.OF_STUDIES, *arguments.OTHERS] if name not in ("run", "compare", "tune")]
    of_problem = [["compare", "goal-position"], ["tune", "goal-position"]]
    return [*([word] for word in dict.fromkeys(words)), *of_problem, *(["run", study] for study in studies)]


def help_of(words: Sequence[str]) -> str:
    """What `bilevel-rl WORDS --help` prints."""
    from bilevel_rl.cli.arguments import parse

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse([*words, "--help"])
    lines = (line.rstrip() for line in printed.getvalue().splitlines())
    return "\n".join(textwrap.fill(line, int(WIDTH)) if len(line) > int(WIDTH) else line for line in lines).strip()


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds the help of every command to the page that stands for it."""
    if page.file.src_uri != PAGE:
        return markdown
    os.environ["COLUMNS"] = WIDTH
    sections = [f"## `{' '.join(words)}`\n\n```text\n{help_of(words)}\n```\n" for words in commands()]
    return "\n".join([markdown, *sections])
