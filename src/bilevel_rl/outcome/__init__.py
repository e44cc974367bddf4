"""What became of a run: measured once, while the problem is there, so that figures and reports need no user's code."""

from bilevel_rl.outcome.files import (
    find_outcome as find_outcome,
    read_outcome as read_outcome,
    write_outcome as write_outcome,
)
from bilevel_rl.outcome.measure import can_be_exact as can_be_exact, measure_outcome as measure_outcome
from bilevel_rl.outcome.outcome import (
    Answer as Answer,
    Costs as Costs,
    Exact as Exact,
    Optimum as Optimum,
    Outcome as Outcome,
    Slopes as Slopes,
)
