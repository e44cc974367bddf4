"""The question and the answer of a report, a sentence each."""

import numpy as np

from bilevel_rl.figures.curves import OBJECTIVES
from bilevel_rl.outcome import Outcome
from bilevel_rl.report.gather import Gathered

MOST_NAMED = 3
"""Entries of x that a sentence can hold."""


def question_of(run: Gathered) -> str:
    """The study's or the problem's own, or what every leader asks."""
    if run.said is not None:
        return run.said.question
    if run.outcome is not None and run.outcome.names.question:
        return run.outcome.names.question
    return "How should x be set, so that what the follower then learns to do costs the leader least?"


def answer_of(run: Gathered) -> str:
    """What the study says, or what x became, and what the leader pays before and after."""
    if run.said is not None:
        return run.said.answer
    outcome = run.outcome
    if outcome is not None and outcome.exact is not None:
        costs, seed = outcome.exact.costs.objective, outcome.exact.shown_seed
        best = None if outcome.optimum is None else outcome.optimum.objective
        text = f"{x_sentence(outcome)} {_moved('The leader’s cost Φ', costs[0], costs[1 + seed], best)}"
        return f"{text} Once the follower has answered, that is exact for the median of {_seeds(len(costs) - 1)}."
    found = [] if outcome is None else [x_sentence(outcome)]
    if run.measured is not None:
        values = run.measured.values
        label = "The leader’s cost" if run.objective in OBJECTIVES else f"The {run.labels[str(run.objective)]}"
        before, after = np.median(values[:, 0]), np.median(values[:, -1])
        how = "estimated from samples, " if run.is_sampled else ""
        of = f"medians of {len(values)} seeds" if len(values) > 1 else "of one seed"
        found.append(f"{_moved(label, before, after, None)} These are {how}{of}.")
    return " ".join(found) or "The run has not measured anything yet."


def x_sentence(outcome: Outcome) -> str:
    """What the few entries of x became, or the one of many that moved furthest."""
    seed = 0 if outcome.exact is None else outcome.exact.shown_seed
    start, end, names = outcome.initial_x, outcome.final_x[seed], outcome.x_names
    if len(names) <= MOST_NAMED:
        parts = [f"{name} from {number(a)} to {number(b)}" for name, a, b in zip(names, start, end, strict=True)]
        listed = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
        return f"Set {listed}."
    i = int(np.argmax(np.abs(end - start)))
    return f"Of {len(names)} numbers, {names[i]} moves most, from {number(start[i])} to {number(end[i])}."


def _moved(what: str, before: float, after: float, best: float | None) -> str:
    verb = "falls" if after < before else "rises" if after > before else "stays"
    text = f"{what} {verb} from {number(before)} to {number(after)}"
    if best is not None and before > best:
        share = (before - after) / (before - best)
        near = "more than 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
        text += f", which is {near} of the way to the best known, {number(best)}"
    return f"{text}."


def _seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def number(value: float) -> str:
    """Four digits that matter, with a true minus sign."""
    text = f"{value:.4g}"
    return text.replace("-", "−")
