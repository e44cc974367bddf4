"""Writes the page: what was gathered of every run, charts and pictures, into one HTML file."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.report import files, vega
from bilevel_rl.report.gather import gather
from bilevel_rl.report.sections import section_of
from bilevel_rl.report.side_by_side import comparison_of, runs_table
from bilevel_rl.runs.diagnosis import find_runs

REPORT = "report.html"


def write_report(folders: Sequence[Path | str], path: Path | str | None = None) -> Path:
    """Writes one HTML file about run folders; it opens without a network and needs nothing but a browser.

    Args:
        folders: run folders; of an experiment with several runs all of these are shown, side by side.
        path: of the file; by default `report.html` in the first folder.

    Returns:
        The file's path.

    Raises:
        ValueError: there are no folders.
        RunFolderError: a folder is no run folder, or has no metrics yet.
        DamagedFileError: a file is not what was written.
    """
    if not folders:
        raise ValueError("folders must hold at least one run folder, got none")
    runs = [gather(run) for folder in folders for run in find_runs(folder)]
    left, sections = files.MOST_BYTES, []
    for run in runs:
        section, left = section_of(run, left)
        sections.append(section)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bilevel_rl.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template("report.html.j2").render(
        sections=sections,
        comparison=comparison_of(runs) if len(runs) > 1 else (),
        table=runs_table(runs),
        vega=vega.script(),
    )
    target = Path(folders[0]) / REPORT if path is None else Path(path)
    write_atomically(target, text)
    return target
