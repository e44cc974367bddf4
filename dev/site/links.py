"""Hook of mkdocs: what the pages link to outside docs/ becomes part of the site.

Pages link to files of the repository, as README, examples and sources, so that they can be followed in a checkout. The
site must stand alone: Markdown files and Python files become pages of it, and a link to anything else its plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "project"
"""Folder of the site for what lies outside docs/."""

LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
IMAGE = re.compile(r"(!\[[^\]]*\])\(([^()\s]+)\)")
TUTORIAL = re.compile(r"^(tutorials/\w+)\.py$")
"""A script that is a page of the site (dev/site/tutorials.py)."""
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def repository_path(page: str) -> str:
    """Where a page of the site lies in the repository."""
    if not page.startswith(f"{OUTSIDE}/"):
        return f"docs/{page}"
    path = page.removeprefix(f"{OUTSIDE}/")
    return path.removesuffix(".md") if path.endswith(".py.md") else path


def site_path(path: str) -> str | None:
    """Where a file of the repository is in the site; None if it is not."""
    if path.startswith("docs/"):
        page = path.removeprefix("docs/")
        return TUTORIAL.sub(r"\1.md", page)
    if path.endswith(".py"):
        return f"{OUTSIDE}/{path}.md"
    return f"{OUTSIDE}/{path}" if path.endswith(".md") else None


def rewritten(markdown: str, page: str) -> str:
    """The page with links that can be followed in the site."""
    source = repository_path(page)

    def target(link: str) -> str | None:
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:") or not path:
            return link
        place = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if place is None:
            return None
        if place == page and path.endswith(".py"):
            return link  # A tutorial's link to its own script is to the file.
        return posixpath.relpath(place, posixpath.dirname(page) or ".") + (f"#{anchor}" if anchor else "")

    def link(match: re.Match) -> str:
        place = target(match[2])
        return match[1] if place is None else f"[{match[1]}]({place})"

    def image(match: re.Match) -> str:
        return f"{match[1]}({target(match[2]) or match[2]})"

    parts = FENCED.split(markdown)
    return "".join(part if i % 2 else IMAGE.sub(image, LINK.sub(link, part)) for i, part in enumerate(parts))


def outside_links(markdown: str, page: str) -> set[str]:
    """Pages of the site, from outside docs/, that a page links to."""
    folder = posixpath.dirname(page) or "."
    links = (match[2].partition("#")[0] for match in LINK.finditer(rewritten(markdown, page)))
    paths = {posixpath.normpath(posixpath.join(folder, link)) for link in links if "://" not in link and link}
    return {path for path in paths if path.startswith(f"{OUTSIDE}/")}


def content(page: str) -> str:
    """Markdown of a page that is made from a file outside docs/."""
    source = repository_path(page)
    text = (ROOT / source).read_text("utf-8")
    if not source.endswith(".py"):
        return text
    return f"---\nsearch:\n  exclude: true\n---\n\n# `{Path(source).name}`\n\n`{source}`\n\n~~~~python\n{text}~~~~\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds every file outside docs/ that a page, or a page so added, links to."""
    found = {page.src_uri: page.content_string for page in files.documentation_pages()}
    new = dict(found)
    while new:
        wanted = set().union(*(outside_links(text, page) for page, text in new.items())) - found.keys()
        new = {page: content(page) for page in sorted(wanted) if (ROOT / repository_path(page)).is_file()}
        found |= new
        for page, text in new.items():
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page."""
    return rewritten(markdown, page.file.src_uri)
