"""What comparisons and searches came to, in tables.

`table.md` and `table.tex` hold the same entries. Times are not reproducible, so they stand apart in `wall_clock.md`.
"""

from collections.abc import Sequence

import numpy as np

from bilevel_rl.comparison.outcomes import Outcome, decimals, gaps, ranked, read_outcomes, read_trials
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import (
    bootstrap_interval,
    holm,
    interquartile_mean,
    paired_p_value,
    transitions_to_reach,
)

SMALL_SHARE = 0.05
"""Share of the initial gap that counts as solved."""

HEADER = ("method", "final Φ", "95 %", "final Φ − Φ*", "95 %", "p against the best", "transitions to 5 %", "diverged")


def write_tables(folder: RunFolder):
    """Writes `table.md`, `table.tex` and `wall_clock.md` from the outcomes that the folder holds."""
    outcomes, optimum = read_outcomes(folder)
    rows = table_rows(outcomes, optimum)
    folder.write_text("table.md", markdown(HEADER, rows))
    folder.write_text("table.tex", _latex(HEADER, rows))
    seconds = [[name, f"{outcome.seconds:.3g}"] for name, outcome in outcomes.items()]
    folder.write_text("wall_clock.md", markdown(("method", "seconds of the compiled loop per seed"), seconds))


def answer(outcomes: dict[str, Outcome], optimum: float) -> str:
    """In a sentence which methods come closest to the optimum."""
    first = [(name, gap) for name, gap in gaps(outcomes, optimum).items() if not outcomes[name].is_reference][:3]
    digits = decimals(outcomes, optimum)
    if not first:
        return f"The optimum is Φ* = {optimum:.{digits}f}; no method that takes transitions was compared."
    (best, least), *others = first
    told = [f"{best} ends {least:z.{digits}f} above the optimum Φ* = {optimum:.{digits}f}"]
    told += [f"{name} {gap:z.{digits}f}" for name, gap in others]
    return f"{', '.join(told)}: interquartile means over the seeds, each method with step sizes tuned in the same way."


def table_rows(outcomes: dict[str, Outcome], optimum: float) -> list[list[str]]:
    """A line for each method, best first; methods that take no transitions come last, and are not tested."""
    p_values, digits = _p_values(outcomes), decimals(outcomes, optimum)
    rows = []
    for name in ranked(outcomes):
        outcome, final = outcomes[name], outcomes[name].final_objectives
        mean, (low, high) = float(interquartile_mean(final)), map(float, bootstrap_interval(final))
        reached = transitions_to_reach(outcome.transitions, outcome.objectives - optimum, SMALL_SHARE)
        reached[outcome.has_diverged] = np.inf
        rows.append(
            [
                name,
                f"{mean:.{digits}f}",
                _interval(low, high, digits),
                f"{mean - optimum:z.{digits}f}",
                _interval(low - optimum, high - optimum, digits),
                f"{p_values[name]:.3f}" if name in p_values else "–",
                "–" if outcome.is_reference else _reached(reached),
                f"{outcome.has_diverged.sum()} of {len(final)}",
            ]
        )
    return rows


def _p_values(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Holm-adjusted, of every method but the best and those that take no transitions."""
    names = [name for name in ranked(outcomes) if not outcomes[name].is_reference]
    finals = [outcomes[name].final_objectives for name in names]
    return holm({name: paired_p_value(final, finals[0]) for name, final in zip(names[1:], finals[1:], strict=True)})


def _interval(low: float, high: float, digits: int) -> str:
    return "–" if np.isnan(low) else f"{low:z.{digits}f} to {high:z.{digits}f}"


def _reached(transitions: np.ndarray) -> str:
    mean = float(interquartile_mean(transitions))
    return (
        f"{mean:,.0f}" if np.isfinite(mean) else f"not reached ({np.isfinite(transitions).sum()} of {len(transitions)})"
    )


def write_trials(folder: RunFolder):
    """Writes `trials.md`: all trials of a search, best first."""
    trials, rows = read_trials(folder), []
    digits = trials.decimals
    for number in np.argsort(trials.objectives, kind="stable"):
        objective = trials.objectives[number]
        results = [f"{objective:.{digits}f}", f"{objective - trials.optimal_objective:z.{digits}f}"]
        values = [f"{column[number]:g}" for column in trials.parameters.values()]
        rows.append([str(number), *(results if np.isfinite(objective) else ["diverged", "–"]), *values])
    folder.write_text("trials.md", markdown(("trial", "final Φ", "final Φ − Φ*", *trials.parameters), rows))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


LATEX = {"Φ": r"$\Phi$", "%": r"\%", "−": "$-$", "*": "$^*$", "–": "--"}


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(entries: Sequence[str]) -> str:
        return " & ".join(entry.translate(str.maketrans(LATEX)) for entry in entries) + r" \\" + "\n"

    body = "".join(line(row) for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\\hline\n{body}\\hline\n\\end{{tabular}}\n"
