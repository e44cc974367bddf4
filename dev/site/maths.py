"""Hook of mkdocs: blocks of LaTeX become MathML, which browsers draw by themselves, without a script or a network.

A block is fenced as `math`. GitHub draws the same block.
"""

import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BLOCK = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def drawn(markdown: str) -> str:
    """The page with its blocks of LaTeX as MathML."""
    return BLOCK.sub(lambda block: f'<div class="math">{convert(block[1].strip(), display="block")}</div>', markdown)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draws the maths of a page."""
    return drawn(markdown)
