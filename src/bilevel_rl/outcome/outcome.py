"""What is known of a run's outcome, as arrays and names. x is flattened: leaves in the order of `jax.tree.leaves`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from bilevel_rl.formulation import Names

SMALL_STEP = 0.01
"""Share of its scale by which an entry of x is moved to see what Φ makes of it."""


@dataclass(frozen=True)
class Optimum:
    """The best that is known.

    Attributes:
        objective: Φ there.
        x: where that is; None where it is not known.
        how: how it is known, as in "exact descent from 4 starts".
    """

    objective: float
    x: PyTree | None = None
    how: str = ""


@dataclass(frozen=True)
class Costs:
    """Φ = expected + regularizer, exactly. The first entry is that of x_0, the others those of the seeds' last x.

    Attributes:
        objective: Φ_τ(x).
        expected: the part that depends on the follower, per step.
        regularizer: g(x), what x itself costs.
    """

    objective: Float[np.ndarray, " points"]
    expected: Float[np.ndarray, " points"]
    regularizer: Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Answer:
    """The follower's best answer to one x, exactly, and some walks of it.

    Attributes:
        policy: π_τ*(a|s).
        occupancy: d(s, a), its share of the discounted time; sums to 1, terminal states included.
        payments: d(s, a) c_x(s, a), what the leader pays where; they sum to the expected cost. None where the upper
            objective is no `OccupancyCost`.
        flows: Σ_a d(s, a) P(s'|s, a) along each of the outcome's edges.
        drift: mean step (x, y) in the layout, y downwards; 0 in terminal states, and without a layout. On a grid jumps
            count as steps of one cell.
        walks: states of some walks from the start on; the same random numbers before and after.
    """

    policy: Float[np.ndarray, "S A"]
    occupancy: Float[np.ndarray, "S A"]
    payments: Float[np.ndarray, "S A"] | None
    flows: Float[np.ndarray, " E"]
    drift: Float[np.ndarray, "S 2"]
    walks: Int[np.ndarray, "walks T"]


@dataclass(frozen=True)
class Slopes:
    """How Φ_τ changes around the x that is shown.

    Attributes:
        gradient: ∂Φ/∂x_i.
        curvature: ∂²Φ/∂x_i², from Hessian-vector products, or differences of the exact gradient; None where x has too
            many entries.
        scale: of each entry: the largest |x_i| at the start and of any seed's end; where that is 0, that of all x; 1
            where all are 0.
    """

    gradient: Float[np.ndarray, " n"]
    curvature: Float[np.ndarray, " n"] | None
    scale: Float[np.ndarray, " n"]

    def changes(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """What Φ changes by when an entry goes up, and when it goes down, by `SMALL_STEP` of its scale."""
        step = SMALL_STEP * self.scale
        bend = 0.0 if self.curvature is None else 0.5 * self.curvature * step**2
        return self.gradient * step + bend, -self.gradient * step + bend


@dataclass(frozen=True)
class Exact:
    """What can be worked out on a known model.

    Attributes:
        shown_seed: the seed with the median Φ, whose x is that of `after` and `slopes`.
        costs: Φ and its parts.
        edges: (from, to) of every transition between two states that can happen at x_0 or at the x shown; sorted.
        terminal: whether a state ends the episode.
        before: the answer to x_0.
        after: the answer to the x shown.
        slopes: how Φ changes around the x shown.
    """

    shown_seed: int
    costs: Costs
    edges: Int[np.ndarray, "E 2"]
    terminal: Bool[np.ndarray, " S"]
    before: Answer
    after: Answer
    slopes: Slopes

    def visits(self, answer: Answer) -> Float[np.ndarray, " S"]:
        """Share of the time in each state where the follower can still act; 0 in terminal states."""
        return np.where(self.terminal, 0.0, answer.occupancy.sum(1))


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        names: of the problem.
        entropy_weight: τ at which the follower answers; None where nothing was measured.
        initial_x: x_0.
        final_x: of every seed.
        optimum: the best that is known, x flattened; None where nothing is.
        exact: None where there are no tables, or too large ones.
    """

    names: Names
    entropy_weight: float | None
    initial_x: Float[np.ndarray, " n"]
    final_x: Float[np.ndarray, "seeds n"]
    optimum: Optimum | None = None
    exact: Exact | None = None

    @property
    def x_names(self) -> tuple[str, ...]:
        """A name for each entry of x; where there is one for each state and none is named, the state's."""
        count = len(self.initial_x)
        if self.exact is not None and len(self.exact.terminal) == count > 1 and not self.names.x:
            return tuple(f"x at {state}" for state in self.state_names)
        return self.names.of_x(count)

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each state; none where they are not known."""
        return () if self.exact is None else self.names.of_states(len(self.exact.terminal))

    @property
    def action_names(self) -> tuple[str, ...]:
        """A name for each action; none where they are not known."""
        return () if self.exact is None else self.names.of_actions(self.exact.before.policy.shape[1])
