"""The course of one seed, as its metric rows tell it: what the rules of `diagnosis.py` compare.

Every number is a share of another one of the same unit, so none depends on the scale of rewards, costs or x.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bilevel_rl.runs.folder import Row

LAGS, STOPPED_LEARNING = 0.1, 0.8
"""A follower lags that misses this share of its return, and this share of what it missed a quarter of the run ago."""

WANDERS = 1.2
"""x wanders that goes further in the second half of a run than it ever got from its start."""

WORSE = 0.2
"""The leader is worse off than at the start by this share of the range that its cost had over the run."""

FELT = 0.2
"""Where the leader's cost varied by less than this share of its size, x has not gone far: it is too early to say that
it went astray, or it started near an optimum and stayed there."""

AT_REST = 0.05
"""x is at rest that moves between two log points by less than this share of its distance from the start."""

LEFT, NOTABLE = 0.2, 0.05
"""x is not near a stationary point from where one exact step would still lower the leader's cost by this share of the
range that it had over the run, and by this share of its size."""


class Course:
    """The metric rows of one seed.

    Args:
        rows: in the order of the iterations.
    """

    def __init__(self, rows: Sequence[Row]):
        self._columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
        self.num_points = len(rows)

    def __getitem__(self, column: str) -> Float[np.ndarray, " points"]:
        """A column; `KeyError` where the run does not have it."""
        return self._columns[column]

    def late(self, column: str) -> float:
        """Median over the last quarter of the run."""
        return float(np.nanmedian(self[column][3 * self.num_points // 4 :]))

    def before(self, column: str) -> float:
        """Median over the quarter before the last."""
        return float(np.nanmedian(self[column][self.num_points // 2 : 3 * self.num_points // 4]))

    @property
    def entropy_of_uniform(self) -> float:
        """log |A|: the policy's entropy in the first iteration."""
        return float(self["lower_mean_entropy"][0])

    @property
    def missed_return(self) -> float:
        """Share of its return that the follower misses, in the last quarter.

        The return counts as no smaller than what was missed at the worst moment: it may be about 0.
        """
        missed = self.late("lower_residual")
        return_ = max(missed + abs(self.late("lower_mean_reward")), np.nanmax(self["lower_residual"]))
        return share(missed, return_)

    @property
    def lags(self) -> bool:
        """Whether the follower misses much of its return, and no longer catches up."""
        has_stopped = self.late("lower_residual") > STOPPED_LEARNING * self.before("lower_residual")
        return bool(self.missed_return > LAGS and has_stopped)

    @property
    def noise(self) -> float:
        """Noise of an iteration of (U), as a multiple of the steepest slope that Φ showed; 0 for methods without (U).

        That of the start or the median, since it may vanish where x ran to.
        """
        if "upper_noise" not in self._columns:
            return 0.0
        pairs = self["num_transitions"][-1] / self["num_iterations"][-1] / 2
        noise = max(self["upper_noise"][0], np.nanmedian(self["upper_noise"]))
        return share(noise / np.sqrt(pairs), np.nanmax(self["hyper_gradient_norm"]))

    @property
    def wandering(self) -> float:
        """Length of x's path in the second half of the run, as a multiple of its largest distance from the start."""
        return share(self["x_movement"][self.num_points // 2 :].sum(), self["x_distance"].max())

    @property
    def loss(self) -> float:
        """How far the leader's cost ended above its start, as a share of the range that it had over the run."""
        return share(self.late("upper_objective") - self["upper_objective"][0], self._range_of_cost)

    @property
    def rise(self) -> float:
        """How far the leader's cost ended above its lowest, as a share of the range that it had over the run."""
        return share(self.late("upper_objective") - np.nanmin(self["upper_objective"]), self._range_of_cost)

    @property
    def _range_of_cost(self) -> float:
        return float(np.nanmax(self["upper_objective"]) - np.nanmin(self["upper_objective"]))

    @property
    def runs_away(self) -> bool:
        """Whether x went astray: up and down without an end, or to where the leader pays more than at the start."""
        return self.is_felt and (self.wandering > WANDERS or (self.loss > WORSE and self.is_at_rest))

    @property
    def is_at_rest(self) -> bool:
        """Whether x has come to rest; until then it may still turn round."""
        return share(self.late("x_movement"), self["x_distance"].max()) < AT_REST

    @property
    def is_felt(self) -> bool:
        """Whether x has gone far enough for the leader's cost to change."""
        return bool(self._range_of_cost > FELT * np.nanmax(np.abs(self["upper_objective"])))

    @property
    def left(self) -> float:
        """What one exact step would still lower the leader's cost by in the end, as a share of its range."""
        return share(self.late("descent_left"), self._range_of_cost)

    @property
    def is_near_stationary(self) -> bool:
        """Whether one exact step from where the run ended gains little, beside the range and the size of the cost."""
        size = np.nanmax(np.abs(self["upper_objective"]))
        return not (self.left > LEFT and self.late("descent_left") > NOTABLE * size)

    @property
    def stray(self) -> str:
        """Evidence of `runs_away`."""
        if self.wandering > WANDERS:
            return f"in the second half x went {self.wandering:.1f} times as far as it ever got from its start"
        return f"the leader's cost ended above its start, by {self.loss:.0%} of its range"


def share(part: float, whole: float) -> float:
    """part / whole; 0 where the whole is, because nothing ever moved."""
    return float(part / whole) if whole > 0 else 0.0
