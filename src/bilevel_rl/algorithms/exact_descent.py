"""ExactDescent: projected descent on the exact hyper-gradient of a known model. The reference line for sampled methods.

Source: docs/explanation/method.md, section 7, equation (IG), and section 8. No samples: an iteration costs 0
transitions.

| symbol | name              | meaning                                                                    |
|--------|-------------------|----------------------------------------------------------------------------|
| x      | `x`               | upper variable                                                             |
| V      | `values`          | soft values of the follower's answer to the previous x, where the next solve begins |
| ζ, τ   | `upper`, `entropy`| step size of x, and entropy weight at which the follower answers           |

The step sizes of actor, critic and penalty are not used.

Choices of ours:

1. Any optax transformation turns the gradient into a direction, which ζ_k scales.
2. τ_k may move, as in `GeometricDecay`: a large one smooths Φ_τ, whose stationary points are many at a small one.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from bilevel_rl import checks
from bilevel_rl.algorithms.algorithm import check_parts
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.exact.objectives import implicit_gradient
from bilevel_rl.exact.soft_mdp import SoftSolution, soft_optimal
from bilevel_rl.exact.tables import reward_table
from bilevel_rl.formulation import BilevelProblem

ADAM = optax.adam(1.0)


class ExactDescentState(NamedTuple):
    """What the next iteration needs."""

    num_iterations: Int[Array, ""]
    x: PyTree
    optimizer_state: PyTree
    values: Float[Array, " S"]


class ExactDescentInfo(NamedTuple):
    """Diagnostics of one iteration, of the follower's answer."""

    mean_cost: Float[Array, "1"]


class ExactDescent(eqx.Module):
    """Projected descent along (IG) on a bi-level problem whose model is known.

    Works in the ambient precision. Double precision needs `jax.enable_x64(True)`; in single precision values are
    resolved to about 10⁻⁵ of their size, which must be small against τ. Where the follower's answer does not converge,
    x becomes NaN, and the runner stops the seed and says so.

    Attributes:
        problem: what is solved.
        step_sizes: of the five sequences `upper` (ζ) and `entropy` (τ) are used.
        optimizer: an optax transformation; its update is multiplied by ζ_k, so its own learning rate is best 1.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the environment is not a `TabularMDP`.

    Example:
        >>> import dataclasses, jax, bilevel_rl as brl
        >>> annealed = dataclasses.replace(
        ...     brl.StepSizes.constant_entropy(upper=0.1),
        ...     entropy=brl.GeometricDecay(initial=1.0, final=0.01, num_iterations=100),
        ... )
        >>> problem = brl.problems.goal_position(size=4, target=(3, 1), initial_x=(0, 2), width=2.0)
        >>> algorithm = brl.ExactDescent(problem, annealed)
        >>> result = brl.run(algorithm, jax.random.key(0), 1, 150, log_every=150, progress=False)
        >>> result.x.round(1).tolist()
        [[3.0, 1.0]]
    """

    problem: BilevelProblem
    step_sizes: StepSizes
    optimizer: optax.GradientTransformation = eqx.field(static=True)

    def __init__(
        self,
        problem: BilevelProblem,
        step_sizes: StepSizes | None = None,
        optimizer: optax.GradientTransformation = ADAM,
    ):
        self.problem = problem
        self.step_sizes = StepSizes.constant_entropy() if step_sizes is None else step_sizes
        self.optimizer = checks.instance(
            "optimizer", optimizer, optax.GradientTransformation, remedy="for instance optax.adam(1.0)"
        )
        check_parts(self.problem, self.step_sizes)
        problem.mdp  # noqa: B018 - raises where the environment has no tables

    @property
    def num_transitions_per_iteration(self) -> int:
        """None: nothing is sampled."""
        return 0

    def init(self, key: Array) -> ExactDescentState:
        """x at the problem's start, values at 0."""
        x = self.problem.start(key)
        return ExactDescentState(jnp.int32(0), x, self.optimizer.init(x), jnp.zeros(self.problem.mdp.num_states))

    def draw(self, key: Array, num_iterations: int) -> tuple[()]:
        """No randomness."""
        return ()

    def step(self, noise: tuple[()], state: ExactDescentState) -> tuple[ExactDescentState, ExactDescentInfo]:
        """One iteration: the follower's answer to x, the hyper-gradient there, one step of x."""
        problem, step_size = self.problem, self.step_sizes(state.num_iterations)
        answer = self._answer(state)
        objective, gradient = implicit_gradient(problem, state.x, answer.log_policy, step_size.entropy)  # (IG)
        updates, optimizer_state = self.optimizer.update(gradient, state.optimizer_state, state.x)
        x = problem.project(jax.tree.map(lambda x, update: x + step_size.upper * update, state.x, updates))
        cost = objective - problem.upper.regularizer(state.x)
        info = ExactDescentInfo(cost[None])
        return ExactDescentState(state.num_iterations + 1, x, optimizer_state, answer.values), info

    def recommend(self, state: ExactDescentState) -> PyTree:
        """The last x."""
        return state.x

    def log_policies(self, state: ExactDescentState) -> Float[Array, "1 S A"]:
        """log π_τ*(x)."""
        return self._answer(state).log_policy[None]

    def _answer(self, state: ExactDescentState) -> SoftSolution:
        """π_τ*(x) at the present entropy weight."""
        τ = self.step_sizes(state.num_iterations).entropy
        mdp, reward = self.problem.environment_at(state.x), reward_table(self.problem, state.x)
        return soft_optimal(mdp, reward, τ, start_values=state.values)
