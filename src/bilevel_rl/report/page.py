"""Writes the page: what was gathered of every run, charts and pictures, into one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from bilevel_rl.outcome import Exact, Outcome
from bilevel_rl.report import charts, files, vega
from bilevel_rl.report.gather import OBJECTIVES, OTHERS, RESIDUALS, Gathered, gather
from bilevel_rl.report.pictures import Picture, pictures_of, x_pictures_of
from bilevel_rl.report.sentences import answer_of, number, question_of
from bilevel_rl.runs.atomic import write_atomically
from bilevel_rl.runs.diagnosis import find_runs
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean

NAME = "report.html"

Table = Sequence[Sequence[str]]


class Chart(NamedTuple):
    """A chart, and the same numbers as a table: the first row are the heads."""

    title: str
    spec: charts.Spec
    table: Table


@dataclass(frozen=True)
class Section:
    """All that the template shows of one run."""

    run: Gathered
    question: str
    answer: str
    facts: Sequence[tuple[str, str]]
    pictures: Sequence[Picture]
    x_pictures: Sequence[Picture]
    follower: Sequence[Chart]
    curves: Sequence[Chart]
    x: Chart | None
    payments: Sequence[Chart]
    seeds: Table
    sensitivity: Chart | None
    embedded: Sequence[files.Embedded]
    omitted: Sequence[str]
    texts: Sequence[files.Text]


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
        section, left = _section(run, left)
        sections.append(section)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bilevel_rl.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    text = environment.get_template("report.html.j2").render(
        sections=sections,
        comparison=_comparison(runs) if len(runs) > 1 else (),
        table=_runs_table(runs),
        vega=vega.script(),
    )
    target = Path(folders[0]) / NAME if path is None else Path(path)
    write_atomically(target, text)
    return target


def _section(run: Gathered, left: int) -> tuple[Section, int]:
    outcome = run.outcome
    exact = None if outcome is None else outcome.exact
    embedded, omitted, left = files.pictures(run.folder, left)
    pictures = () if outcome is None else pictures_of(outcome)
    section = Section(
        run,
        question_of(run),
        answer_of(run),
        _facts(run),
        pictures,
        () if outcome is None else x_pictures_of(outcome),
        _follower(outcome, exact) if outcome is not None and exact is not None and not pictures else (),
        _curves(run),
        None if outcome is None else _x(outcome),
        _payments(outcome, exact) if outcome is not None and exact is not None else (),
        _seeds(run),
        _sensitivity(outcome, exact) if outcome is not None and exact is not None else None,
        embedded,
        omitted,
        files.texts(run.folder),
    )
    return section, left


def _final(run: Gathered) -> np.ndarray | None:
    """What each seed ends with: exactly where that was measured."""
    if run.outcome is not None and run.outcome.exact is not None:
        return run.outcome.exact.costs.objective[1:]
    return None if run.objective is None else run.curves[run.objective].values[:, -1]


def _facts(run: Gathered) -> list[tuple[str, str]]:
    """The few numbers on top of the page."""
    facts, outcome = [], run.outcome
    if outcome is not None and outcome.exact is not None:
        costs = outcome.exact.costs.objective
        facts += [("Φ before", number(costs[0])), ("Φ after", number(costs[1 + outcome.exact.shown_seed]))]
    elif run.objective is not None:
        values = run.curves[run.objective].values
        facts += [("before", number(np.median(values[:, 0]))), ("after", number(np.median(values[:, -1])))]
    if outcome is not None and outcome.optimum is not None:
        facts.append(("best known", number(outcome.optimum.objective)))
    if run.findings:
        facts.append(("verdict", run.findings[0].name.partition(" (")[0]))
    return facts


def _curves(run: Gathered) -> list[Chart]:
    best = None if run.outcome is None or run.outcome.optimum is None else run.outcome.optimum.objective
    paid = {run.labels[metric]: run.curves[metric] for metric in OBJECTIVES if metric in run.curves}
    missed = {run.labels[metric]: run.curves[metric] for metric in RESIDUALS if metric in run.curves}
    found = []
    if paid:
        text = "What the leader pays against transitions: median, middle half and range of the seeds"
        found.append(Chart("What the leader pays", charts.curves_chart(paid, text, best), _points(paid)))
    for metric in (metric for metric in OTHERS if metric in run.curves and not paid):
        curve = {run.labels[metric]: run.curves[metric]}
        title = run.labels[metric]
        found.append(
            Chart(
                title[0].upper() + title[1:], charts.curves_chart(curve, f"{title} against transitions"), _points(curve)
            )
        )
    if missed:
        text = "Return that the policies miss against transitions, logarithmic: median and range of the seeds"
        chart = charts.curves_chart(missed, text, log=True)
        found.append(Chart("How far the policies are from optimal", chart, _points(missed)))
    return found


def _points(curves: Mapping[str, Any], most: int = 25) -> Table:
    rows = [("curve", "transitions", "median", "lowest", "highest")]
    for label, curve in curves.items():
        count = len(curve.num_transitions)
        for i in np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)):
            values = curve.values[:, i]
            numbers = map(number, (np.median(values), values.min(), values.max()))
            rows.append((label, f"{curve.num_transitions[i]:,}", *numbers))
    return rows


def _x(outcome: Outcome) -> Chart:
    rows = [["entry of x", "start", "end, median", "lowest seed", "highest seed"]]
    best = None if outcome.optimum is None or outcome.optimum.x is None else np.asarray(outcome.optimum.x)
    if best is not None:
        rows[0].append("best known")
    for i, name in enumerate(outcome.x_names):
        ends = outcome.final_x[:, i]
        values = [outcome.initial_x[i], np.median(ends), ends.min(), ends.max(), *([] if best is None else [best[i]])]
        rows.append([name, *map(number, values)])
    shown, total = len(charts.ranked_entries(outcome, charts.MOST_BARS)), len(outcome.x_names)
    title = "Start → end" if shown == total else f"Start → end: the {shown} of {total} entries that moved most"
    text = "Each entry of x at the start and at the end, with the range of the seeds"
    return Chart(title, charts.x_chart({"run": outcome}, text), rows)


def _follower(outcome: Outcome, exact: Exact) -> list[Chart]:
    """Without a layout: where the follower is, and what it does there."""
    visits = {"before": exact.before.occupancy.sum(1), "after": exact.after.occupancy.sum(1)}
    shown = np.argsort(-np.maximum(*visits.values()), kind="stable")[: charts.MOST_BARS]
    names = [outcome.state_names[s] for s in shown]
    text = "Share of the follower's time in its most frequent states, before and after"
    spec = charts.bars_chart(names, {k: v[shown] for k, v in visits.items()}, text, "share of the time")
    rows: list[Sequence[str]] = [("state", "when", "share of the time", *outcome.action_names)]
    for s in shown:
        for when, answer in (("before", exact.before), ("after", exact.after)):
            chances = (f"{chance:.0%}" for chance in answer.policy[s])
            rows.append((outcome.state_names[s], when, f"{visits[when][s]:.1%}", *chances))
    return [Chart("Where the follower is", spec, rows)]


def _payments(outcome: Outcome, exact: Exact) -> list[Chart]:
    best, point = None if outcome.optimum is None else outcome.optimum.objective, 1 + exact.shown_seed
    costs = exact.costs
    rows: list[Sequence[str]] = [("part", "before", "after")]
    for label, values in (
        ("for what the follower does", costs.expected),
        ("for x itself", costs.regularizer),
        ("together, Φ", costs.objective),
    ):
        rows.append((label, number(values[0]), number(values[point])))
    spec = charts.parts_chart(exact, best, "The leader's cost before and after, in its parts")
    found = [Chart("Before and after", spec, rows)]
    if exact.before.payments is None or exact.after.payments is None:
        return found
    paid = {"before": exact.before.payments.sum(1), "after": exact.after.payments.sum(1)}
    shown = np.argsort(-np.maximum(*map(np.abs, paid.values())), kind="stable")[:10]
    names = [outcome.state_names[s] for s in shown]
    spec = charts.bars_chart(
        names, {k: v[shown] for k, v in paid.items()}, "States that cost most, before and after", "share of time × cost"
    )
    rows = [
        ("state", "before", "after"),
        *((n, *(number(v[s]) for v in paid.values())) for n, s in zip(names, shown, strict=True)),
    ]
    return [*found, Chart("Where it is paid: the states that matter most", spec, rows)]


def _seeds(run: Gathered) -> Table:
    """How sure the last value is, over the seeds."""
    final = _final(run)
    if final is None:
        return ()
    rows = [
        ("seeds", f"{len(final)}"),
        ("median", number(np.median(final))),
        ("lowest to highest", f"{number(final.min())} to {number(final.max())}"),
        ("interquartile mean", number(float(interquartile_mean(final)))),
    ]
    if len(final) > 1:
        low, high = bootstrap_interval(final)
        rows.append(("its 95 % bootstrap interval", f"{number(float(low))} to {number(float(high))}"))
    if run.outcome is not None and run.outcome.optimum is not None and run.outcome.exact is not None:
        best, first = run.outcome.optimum.objective, run.outcome.exact.costs.objective[0]
        if first > best:
            near = int((final - best <= 0.1 * (first - best)).sum())
            rows.append(("close 90 % of the gap to the best known", f"{near} of {len(final)}"))
    return rows


def _sensitivity(outcome: Outcome, exact: Exact) -> Chart:
    slopes = exact.slopes
    up, down = slopes.changes()
    largest = np.maximum(np.abs(up), np.abs(down))
    order = np.argsort(-largest, kind="stable")
    rows: list[Sequence[str]] = [("entry of x", "1 % of its scale", "up", "down", "slope of Φ", "curvature")]
    for i in order:
        curvature = "–" if slopes.curvature is None else number(slopes.curvature[i])
        numbers = (number(v) for v in (0.01 * slopes.scale[i], up[i], down[i], slopes.gradient[i]))
        rows.append((outcome.x_names[i], *numbers, curvature))
    shown = order[: charts.MOST_BARS]
    names = [outcome.x_names[i] for i in shown]
    text = "Change of the leader's cost when an entry of x moves by one percent of its scale"
    spec = charts.bars_chart(names, {"1 % up": up[shown], "1 % down": down[shown]}, text, "change of Φ")
    return Chart("What one percent changes", spec, rows)


def _comparison(runs: Sequence[Gathered]) -> list[Chart]:
    """Runs laid over each other."""
    found = []
    curves = {_unique(run, runs): run.curves[run.objective] for run in runs if run.objective is not None}
    if curves:
        spec = charts.curves_chart(curves, "What the leader pays in each run against transitions")
        found.append(Chart("What the leader pays", spec, _points(curves, most=10)))
    outcomes = {_unique(run, runs): run.outcome for run in runs if run.outcome is not None}
    names = {outcome.x_names for outcome in outcomes.values()}
    if len(names) == 1 and len(outcomes) > 1:
        rows: list[Sequence[str]] = [("entry of x", *outcomes)]
        for i, name in enumerate(next(iter(names))):
            rows.append((name, *(number(np.median(outcome.final_x[:, i])) for outcome in outcomes.values())))
        spec = charts.x_chart(outcomes, "Each entry of x at the end of each run, with the range of the seeds")
        found.append(Chart("What x became", spec, rows))
    return found


def _unique(run: Gathered, runs: Sequence[Gathered]) -> str:
    """The name of a run's folder, with its place where others have the same."""
    same = [other for other in runs if other.name == run.name]
    return run.name if len(same) == 1 else f"{run.name} ({1 + [id(r) for r in same].index(id(run))})"


def _runs_table(runs: Sequence[Gathered]) -> Table:
    rows: list[Sequence[str]] = [("run", "before", "after, median", "best known", "seeds", "verdict")]
    for run in runs:
        facts, final = dict(_facts(run)), _final(run)
        before, after = (facts.get(f"Φ {when}", facts.get(when, "–")) for when in ("before", "after"))
        count = "–" if final is None else f"{len(final)}"
        rows.append((_unique(run, runs), before, after, facts.get("best known", "–"), count, facts.get("verdict", "–")))
    return rows
