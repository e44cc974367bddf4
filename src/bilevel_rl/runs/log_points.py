"""After which iterations a run is measured."""

from dataclasses import dataclass

from bilevel_rl import checks

MOST_HALVINGS = 30


@dataclass(frozen=True)
class LogPoints:
    """Every so many iterations, and before the first of these after a half, a quarter, … of them.

    A fast method can so be told from a very fast one, without a measurement every few iterations.

    Attributes:
        every: iterations between two log points.
        num_halvings: log points before the first of these.

    Raises:
        TypeError: a field is no integer.
        ValueError: `every` < 1, or `num_halvings` lies outside of 0…30.

    Example:
        >>> from bilevel_rl.runs.log_points import LogPoints
        >>> points, k = LogPoints(100, num_halvings=2), 0
        >>> [k := points.after(k) for _ in range(5)]
        [25, 50, 100, 200, 300]
    """

    every: int
    num_halvings: int = 0

    def __post_init__(self):
        checks.integer("log_every", self.every, at_least=1)
        checks.integer("num_halvings", self.num_halvings, at_least=0, at_most=MOST_HALVINGS)

    def after(self, num_iterations: int) -> int:
        """The next log point."""
        if num_iterations >= self.every:
            return num_iterations - num_iterations % self.every + self.every
        early = (self.every >> halvings for halvings in range(self.num_halvings, -1, -1))
        return next(point for point in early if point > num_iterations)
