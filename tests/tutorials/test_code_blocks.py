"""Names of the library in the pages' Python exist. README and tutorials are run elsewhere."""

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bilevel_rl as brl

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if BLOCK.search(page.read_text("utf-8"))]
WITHOUT_FILE = {"bilevel_rl.algorithms.random_search"}
"""Modules that a page has the reader write."""


def is_there(package: str, name: str) -> bool:
    """Whether a name can be imported, as `from package import name` does."""
    module = importlib.import_module(package)
    is_module = hasattr(module, "__path__") and importlib.util.find_spec(f"{package}.{name}") is not None
    return is_module or hasattr(module, name)


def unknown(code: str) -> Iterator[str]:
    """Names that a block takes from the library, and that are not there; none of a fragment, which does not parse."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            try:
                text = ast.unparse(node)
                if re.fullmatch(r"brl(\.\w+)+", text) or re.fullmatch(r"bilevel_rl(\.\w+)+", text):
                    found = brl
                    for part in text.split(".")[1:]:
                        found = getattr(found, part)
            except AttributeError:
                yield text
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bilevel_rl"):
            is_missing = node.module.startswith("bilevel_rl.lm") and importlib.util.find_spec("torch") is None
            if not is_missing and node.module not in WITHOUT_FILE:
                yield from (alias.name for alias in node.names if not is_there(node.module, alias.name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_pages_exist(page: Path):
    blocks = [block for block in BLOCK.findall(page.read_text("utf-8")) if ">>>" not in block]
    assert [name for block in blocks for name in unknown(block)] == []


def test_names_that_are_not_there_are_found():
    code = "from bilevel_rl.exact import no\nbrl.exact.solve(brl.nothing(brl.exact.confidence))"
    assert set(unknown(code)) == {"no", "brl.nothing"}
