"""Comparison of methods: the tables.

`table.md` and `table.tex` hold the same cells. Times are not reproducible, so they stand apart in `wall_clock.md`.
"""

import numpy as np

from bilevel_rl.comparison.figures import Outcome, read_outcomes
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
    folder.write_text("table.md", _markdown(HEADER, rows))
    folder.write_text("table.tex", _latex(HEADER, rows))
    seconds = [[name, f"{outcome.seconds:.3g}"] for name, outcome in outcomes.items()]
    folder.write_text("wall_clock.md", _markdown(("method", "seconds of the compiled loop per seed"), seconds))


def summarize_comparison(folder: RunFolder) -> str:
    """One line about the outcome."""
    outcomes, optimum = read_outcomes(folder)
    gaps = {name: float(interquartile_mean(outcomes[name].final_objectives)) - optimum for name in _ranked(outcomes)}
    listed = ", ".join(f"{name} {gap:.4f}" for name, gap in gaps.items())
    return f"Φ* = {optimum:.4f}; final Φ − Φ*, interquartile mean: {listed}"


def table_rows(outcomes: dict[str, Outcome], optimum: float) -> list[list[str]]:
    """A line for each method, best first; methods that take no transitions come last, and are not tested."""
    p_values = _p_values(outcomes)
    rows = []
    for name in _ranked(outcomes):
        outcome, final = outcomes[name], outcomes[name].final_objectives
        mean, (low, high) = float(interquartile_mean(final)), map(float, bootstrap_interval(final))
        reached = transitions_to_reach(outcome.transitions, outcome.objectives - optimum, SMALL_SHARE)
        reached[outcome.has_diverged] = np.inf
        rows.append(
            [
                name,
                f"{mean:.4f}",
                _interval(low, high),
                f"{mean - optimum:.4f}",
                _interval(low - optimum, high - optimum),
                f"{p_values[name]:.3f}" if name in p_values else "–",
                "–" if outcome.is_reference else _reached(reached),
                f"{outcome.has_diverged.sum()} of {len(final)}",
            ]
        )
    return rows


def _ranked(outcomes: dict[str, Outcome]) -> list[str]:
    """Lowest interquartile mean first; methods that take no transitions last."""
    means = {name: float(interquartile_mean(outcome.final_objectives)) for name, outcome in outcomes.items()}
    return sorted(outcomes, key=lambda name: (outcomes[name].is_reference, means[name]))


def _p_values(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Holm-adjusted, of every method but the best and those that take no transitions."""
    names = [name for name in _ranked(outcomes) if not outcomes[name].is_reference]
    finals = [outcomes[name].final_objectives for name in names]
    return holm({name: paired_p_value(final, finals[0]) for name, final in zip(names[1:], finals[1:], strict=True)})


def _interval(low: float, high: float) -> str:
    return "–" if np.isnan(low) else f"{low:.4f} to {high:.4f}"


def _reached(transitions: np.ndarray) -> str:
    mean = float(interquartile_mean(transitions))
    return (
        f"{mean:,.0f}" if np.isfinite(mean) else f"not reached ({np.isfinite(transitions).sum()} of {len(transitions)})"
    )


def _markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


LATEX = {"Φ": r"$\Phi$", "%": r"\%", "−": "$-$", "*": "$^*$", "–": "--"}


def _latex(header: tuple[str, ...], rows: list[list[str]]) -> str:
    def line(cells: tuple[str, ...] | list[str]) -> str:
        return " & ".join(cell.translate(str.maketrans(LATEX)) for cell in cells) + r" \\" + "\n"

    body = "".join(line(row) for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\\hline\n{body}\\hline\n\\end{{tabular}}\n"
