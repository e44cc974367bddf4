"""What an iteration says of itself: columns of its metric row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

STEP_SIZE_COLUMNS = ("upper_step", "actor_step", "critic_step", "penalty", "entropy_weight")
"""Names of the five step sizes in metric rows, as in those of tabular runs."""


class StepSizeNumbers(NamedTuple):
    """The five step sizes at one iteration, as Python numbers."""

    upper: float
    actor: float
    critic: float
    penalty: float
    entropy: float


class Ascent(NamedTuple):
    """Columns that describe each policy, and log π of every completion under the policy that wrote it."""

    columns: dict[str, float]
    log_probs: Float[Tensor, " N"]


def policy_columns(policies: Sequence[str], numbers: Mapping[str, Float[Tensor, " N"]]) -> dict[str, float]:
    """Means over each policy's rows, the first policy's rows first: column `name` becomes `policy_name`."""
    return {
        f"{policy}_{name}": float(part.mean())
        for name, values in numbers.items()
        for policy, part in zip(policies, values.chunk(len(policies)), strict=True)
    }


def mean_columns(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Column means of rows with the same columns."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
