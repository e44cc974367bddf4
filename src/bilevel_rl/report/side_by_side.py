"""Runs laid over each other."""

from collections.abc import Sequence

import numpy as np

from bilevel_rl.report import charts
from bilevel_rl.report.gather import Gathered
from bilevel_rl.report.sections import Chart, Table, facts_of, final_values, points_of
from bilevel_rl.report.sentences import number


def comparison_of(runs: Sequence[Gathered]) -> list[Chart]:
    """Φ of all runs, and x where it has the same entries in all of them."""
    found = []
    curves = {_unique(run, runs): run.curves[run.objective] for run in runs if run.objective is not None}
    if curves:
        spec = charts.curves_chart(curves, "What the leader pays in each run against transitions")
        found.append(Chart("What the leader pays", spec, points_of(curves, most=10)))
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


def runs_table(runs: Sequence[Gathered]) -> Table:
    """A line for each run."""
    rows: list[Sequence[str]] = [("run", "before", "after, median", "best known", "seeds", "verdict")]
    for run in runs:
        facts, final = dict(facts_of(run)), final_values(run)
        before, after = (facts.get(f"Φ {when}", facts.get(when, "–")) for when in ("before", "after"))
        count = "–" if final is None else f"{len(final)}"
        rows.append((_unique(run, runs), before, after, facts.get("best known", "–"), count, facts.get("verdict", "–")))
    return rows
