"""What every algorithm offers to the runner: the contract that tests/algorithms/test_contract.py checks."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.formulation import BilevelProblem


def check_parts(problem: Any, step_sizes: Any):
    """Raises `TypeError` unless both are what every algorithm is made of."""
    checks.instance("problem", problem, BilevelProblem)
    checks.instance("step_sizes", step_sizes, StepSizes, remedy="for instance StepSizes.decaying()")


@runtime_checkable
class Algorithm(Protocol):
    """A pytree whose `init`, `draw` and `step` are pure, un-jitted functions, so that seeds and step sizes vmap."""

    @property
    def problem(self) -> BilevelProblem:
        """What is solved."""
        ...

    @property
    def step_sizes(self) -> StepSizes:
        """The five sequences."""
        ...

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration, all chains and inner loops included."""
        ...

    def init(self, key: Array) -> Any:
        """The state at iteration 0: a named tuple of arrays of fixed shapes, all that the next iteration needs.

        It has `num_iterations` (k, a scalar) and `x` among its fields.
        """
        ...

    def draw(self, key: Array, num_iterations: int) -> PyTree[Array]:
        """All randomness of a block of iterations: arrays whose leading axis is the iteration.

        Drawn ahead, a block at a time, because a generator is fastest when it fills long arrays.
        """
        ...

    def step(self, noise: PyTree[Array], state: Any, /) -> tuple[Any, Any]:
        """The next state, and an Info: a named tuple of diagnostics of this iteration. Deterministic.

        `noise` is one iteration's entry of `draw`. `num_iterations` is the same for all seeds that run side by side.
        Entries of an Info are scalars, or have an axis of policies: the lower one, or the lower and the penalized one.
        Their means over iterations are logged. Of `upper_gradient` (like x) and `squared_upper_gradient` the variance
        of the estimates is.
        """
        ...

    def recommend(self, state: Any) -> PyTree:
        """The upper variable that the method would have the leader choose now; what runs measure."""
        ...

    def log_policies(self, state: Any) -> Float[Array, "P S A"]:
        """log π in every state, of the lower policy (P = 1), or of the lower and the penalized one (P = 2)."""
        ...
