"""Writes the page: what was gathered of every run, charts and pictures, into one HTML file."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from bilevel_rl.files.atomic import write_atomically
from bilevel_rl.report import files, vega
from bilevel_rl.report.gather import SUMMARY, Said, gather
from bilevel_rl.report.sections import section_of
from bilevel_rl.report.side_by_side import comparison_of, runs_table
from bilevel_rl.runs.diagnosis import find_runs
from bilevel_rl.runs.folder import RunFolder

REPORT = "report.html"


def write_report(folders: Sequence[Path | str], path: Path | str | None = None) -> Path:
    """Writes one HTML file about run folders; it opens without a network and needs nothing but a browser.

    Args:
        folders: run folders; of an experiment with several runs all of these are shown, side by side; of a comparison
            or a search its tables and figures.
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
    runs = [gather(run) for folder in folders for run in _runs_of(folder)]
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


def write_report_of_study(folder: RunFolder, question: str, answer: str) -> Path:
    """The report of a study of many runs, such as a comparison: what it asks and says, its figures and its tables.

    Args:
        folder: of the study, with figures and Markdown tables.
        question: in a sentence.
        answer: likewise.
    """
    folder.write_text(SUMMARY, json.dumps(dataclasses.asdict(Said(question, answer)), indent=2) + "\n")
    return write_report([folder.path])


def _runs_of(folder: Path | str) -> Sequence[RunFolder]:
    return [RunFolder(folder)] if (Path(folder) / SUMMARY).is_file() else find_runs(folder)
