"""What methods have in common that count the kernel from their own transitions."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from bilevel_rl import checks
from bilevel_rl.algorithms.followers import Followers
from bilevel_rl.algorithms.learned_model import PossibleTransitions
from bilevel_rl.algorithms.sampled import SampledAlgorithm
from bilevel_rl.algorithms.transitions import draw_uniforms
from bilevel_rl.formulation import BilevelProblem


class CountingAlgorithm(SampledAlgorithm):
    """A method whose one batch of chains takes T transitions an iteration, which are counted.

    Attributes:
        num_steps: T, transitions of every chain in an iteration.
        possible: what there is to count.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `num_steps` < 1, or as `SampledAlgorithm`.
    """

    num_steps: int = eqx.field(static=True, default=4, kw_only=True)
    possible: PossibleTransitions = eqx.field(init=False)
    has_critics: ClassVar[bool] = False

    def __post_init__(self):
        checks.instance("problem", self.problem, BilevelProblem)
        self.possible = PossibleTransitions.of(self.problem.mdp)

    def __check_init__(self):
        checks.integer("num_steps", self.num_steps, at_least=1)

    @property
    def followers(self) -> Followers:
        """How the chains move."""
        return Followers(self.num_chains, coupled=False, num_steps=self.num_steps)

    @property
    def num_followers(self) -> int:
        """One with chains; those that answer x live on the estimate."""
        return 1

    @property
    def num_transitions_per_iteration(self) -> int:
        """Environment transitions of one iteration: T of every chain."""
        return self.num_steps * self.num_chains

    def draw(self, key: Array, num_iterations: int) -> Float[Array, "iterations U 1 B"]:
        """Uniforms for every transition's action, successor, restart and start."""
        num_uniforms = self.followers.num_uniforms(self.problem.environment)
        return draw_uniforms(key, num_iterations, num_uniforms, 1, self.num_chains)
