"""How much raters agree: the share of pairs of answers that are the same, and Fleiss' κ, which takes off chance.

Source: Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971). The number of
raters may differ from question to question; each question counts alike in κ. Of two raters and all questions the share
is that of the questions on which they agree.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Agreement(NamedTuple):
    """Of the questions that two people or more have answered."""

    num_questions: int
    share: float | None
    """of pairs of answers to one question, those that are the same, in [0, 1]; None where there is no pair"""
    kappa: float | None
    """1: always the same, 0: as chance has it, negative: less; None where all said the same of everything"""


def agreement(ratings: Sequence[Sequence[float]]) -> Agreement:
    """Agreement of answers.

    Args:
        ratings: of every question, the answers that it has.
    """
    counts = [Counter(answers) for answers in ratings if len(answers) > 1]
    if not counts:
        return Agreement(0, None, None)
    same = [sum(n * (n - 1) for n in count.values()) for count in counts]
    pairs = [count.total() * (count.total() - 1) for count in counts]
    observed = sum(s / p for s, p in zip(same, pairs, strict=True)) / len(counts)
    everything = sum(counts, Counter())
    by_chance = sum((n / everything.total()) ** 2 for n in everything.values())
    kappa = None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
    return Agreement(len(counts), sum(same) / sum(pairs), kappa)
