"""What a report shows of each run: charts with their tables, pictures, and the few numbers on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bilevel_rl.figures.curves import OBJECTIVES
from bilevel_rl.figures.tables import Curves
from bilevel_rl.followers import Judgement
from bilevel_rl.outcome import Exact, Outcome
from bilevel_rl.report import charts, files
from bilevel_rl.report.gather import OTHERS, RESIDUALS, Gathered
from bilevel_rl.report.pictures import Picture, pictures_of, x_pictures_of
from bilevel_rl.report.sentences import answer_of, number, question_of
from bilevel_rl.runs.statistics import bootstrap_interval, interquartile_mean

Table = Sequence[Sequence[str]]
"""The first row are the heads, the first column the names of the rows."""


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
    fresh: Table
    sensitivity: Chart | None
    embedded: Sequence[files.Embedded]
    omitted: Sequence[str]
    texts: Sequence[files.Text]


def section_of(run: Gathered, left: int) -> tuple[Section, int]:
    """Of a run; `left` bytes may go into its pictures, and what is left of these is returned too."""
    outcome = run.outcome
    exact = None if outcome is None else outcome.exact
    embedded, omitted, left = files.pictures(run.folder, left)
    pictures = () if outcome is None else pictures_of(outcome)
    section = Section(
        run,
        question_of(run),
        answer_of(run),
        facts_of(run),
        pictures,
        () if outcome is None else x_pictures_of(outcome),
        _follower(outcome, exact) if outcome is not None and exact is not None and not pictures else (),
        _curves(run),
        None if outcome is None else _x(outcome),
        _payments(outcome, exact) if outcome is not None and exact is not None else (),
        _seeds(run),
        () if run.judgement is None else _fresh(run.judgement),
        _sensitivity(outcome, exact) if outcome is not None and exact is not None else None,
        embedded,
        omitted,
        files.texts(run.folder),
    )
    return section, left


def final_values(run: Gathered) -> np.ndarray | None:
    """What each seed ends with: exactly where that was measured."""
    if run.outcome is not None and run.outcome.exact is not None:
        return run.outcome.exact.costs.objective[1:]
    return None if run.objective is None else run.curves[run.objective].values[:, -1]


def facts_of(run: Gathered) -> list[tuple[str, str]]:
    """The few numbers on top of the page."""
    facts, outcome = [], run.outcome
    if outcome is not None and outcome.exact is not None:
        costs = outcome.exact.costs.objective
        facts += [("Φ before", number(costs[0])), ("Φ after", number(costs[1 + outcome.exact.shown_seed]))]
    elif run.measured is not None:
        values = run.measured.values
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
        found.append(Chart("What the leader pays", charts.curves_chart(paid, text, best), points_of(paid)))
    for metric in (metric for metric in OTHERS if metric in run.curves and not paid):
        curve = {run.labels[metric]: run.curves[metric]}
        title = run.labels[metric]
        found.append(
            Chart(
                title[0].upper() + title[1:],
                charts.curves_chart(curve, f"{title} against transitions"),
                points_of(curve),
            )
        )
    if missed:
        text = "Return that the policies miss against transitions, logarithmic: median and range of the seeds"
        chart = charts.curves_chart(missed, text, log=True)
        found.append(Chart("How far the policies are from optimal", chart, points_of(missed)))
    return found


def points_of(curves: Mapping[str, Curves], most: int = 25) -> Table:
    """Some points of curves, as a table."""
    rows: list[Sequence[str]] = [("curve", "transitions", "median", "lowest", "highest")]
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
        rows.append((label, number(float(values[0])), number(float(values[point]))))
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
    final = final_values(run)
    if final is None:
        return ()
    if len(final) == 1:
        return [("seeds", "1: runs with another --seed would tell how much chance there is in it")]
    rows = [
        ("seeds", f"{len(final)}"),
        ("median", number(np.median(final))),
        ("lowest to highest", f"{number(final.min())} to {number(final.max())}"),
        ("interquartile mean", number(float(interquartile_mean(final)))),
    ]
    low, high = bootstrap_interval(final)
    rows.append(("its 95 % bootstrap interval", f"{number(float(low))} to {number(float(high))}"))
    if run.outcome is not None and run.outcome.optimum is not None and run.outcome.exact is not None:
        best, first = run.outcome.optimum.objective, run.outcome.exact.costs.objective[0]
        if first > best:
            near = int((final - best <= 0.1 * (first - best)).sum())
            rows.append(("close 90 % of the gap to the best known", f"{near} of {len(final)}"))
    return rows


def _fresh(judgement: Judgement) -> Table:
    """Whether the reward teaches others than the run's own follower."""

    def shown(costs: Sequence[float]) -> str:
        return f"{number(np.median(costs))} ({number(min(costs))} to {number(max(costs))})"

    rows = [
        (
            "followers trained from scratch",
            f"{len(judgement.after)}, on {judgement.num_transitions:,} transitions each",
        ),
        ("leader’s cost f(x, π) with the first reward, median", shown(judgement.before)),
        ("with the learned reward, median", shown(judgement.after)),
        ("with the run’s own follower", number(judgement.own)),
    ]
    if judgement.share is not None:
        rows.append(("fresh followers’ share of that gain", f"{100 * judgement.share:.0f} %".replace("-", "−")))
    return rows


def _sensitivity(outcome: Outcome, exact: Exact) -> Chart:
    slopes = exact.slopes
    up, down = slopes.changes()
    largest = np.maximum(np.abs(up), np.abs(down))
    order = np.argsort(-largest, kind="stable")
    rows: list[Sequence[str]] = [("entry of x", "1 % of its scale", "up", "down", "slope of Φ", "curvature")]
    for i in order:
        curvature = "–" if slopes.curvature is None else number(float(slopes.curvature[i]))
        numbers = (number(float(v)) for v in (0.01 * slopes.scale[i], up[i], down[i], slopes.gradient[i]))
        rows.append((outcome.x_names[i], *numbers, curvature))
    shown = order[: charts.MOST_BARS]
    names = [outcome.x_names[i] for i in shown]
    text = "Change of the leader's cost when an entry of x moves by one percent of its scale"
    spec = charts.bars_chart(names, {"1 % up": up[shown], "1 % down": down[shown]}, text, "change of Φ")
    return Chart("What one percent changes", spec, rows)
