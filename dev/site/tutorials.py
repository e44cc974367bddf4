"""Hook of mkdocs: a tutorial, a script with cells in docs/tutorials/, becomes a page and a notebook of the site."""

import re
from pathlib import PurePosixPath

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = "tutorials"
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n*", re.MULTILINE)
RELATIVE_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://)[^)]*\)")


def page(cells: list, stem: str) -> str:
    """Markdown: the first cell with links to the script and the notebook, and code in fences."""
    title, *rest = (cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells)
    heading, _, first = title.partition("\n")
    files = f"*This page is a [script]({stem}.py), also as a [notebook]({stem}.ipynb).*"
    return "\n\n".join([heading, files, first.strip(), *rest]) + "\n"


def without_places(markdown: str) -> str:
    """For a notebook, which is taken elsewhere: no pictures, since its cells draw them, and no relative links."""
    return RELATIVE_LINK.sub(r"\1", PICTURE.sub("", markdown))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the page and the notebook of every tutorial."""
    for script in [file for file in files if PurePosixPath(file.src_uri).match(f"{FOLDER}/*.py")]:
        stem = PurePosixPath(script.src_uri).stem
        notebook = jupytext.reads(script.content_string, "py:percent")
        text = page(notebook.cells, stem)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = without_places(cell.source)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        files.append(File.generated(config, f"{FOLDER}/{stem}.md", content=text))
        files.append(File.generated(config, f"{FOLDER}/{stem}.ipynb", content=jupytext.writes(notebook, "ipynb")))
    return files
