"""Vega, Vega-Lite and Vega-Embed as one script, which a page holds itself."""

import contextlib
import os
from importlib.metadata import version
from pathlib import Path

import vl_convert

from bilevel_rl.files.atomic import write_atomically


def script() -> str:
    """The bundle; kept in the user's cache, since making it takes seconds."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bilevel-rl"
    path = caches / f"vega-{version('vl-convert-python')}.js"
    if path.is_file():
        return path.read_text()
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    with contextlib.suppress(OSError):  # A home that cannot be written to costs some seconds, not the report.
        caches.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return text
