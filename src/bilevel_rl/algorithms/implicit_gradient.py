"""What both forms of HPGD have in common: x follows the implicit gradient (IG), estimated from trajectories."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from bilevel_rl.algorithms.episode_tables import EpisodeTables
from bilevel_rl.algorithms.rollouts import Rollouts
from bilevel_rl.algorithms.sampled import SampledAlgorithm
from bilevel_rl.algorithms.step_sizes import StepSizes, as_leaf

Estimator = Literal["rollouts", "tables"]
"""How (IG) is estimated from a policy's trajectories."""


class ImplicitGradientMethod(SampledAlgorithm):
    """x ← Π_X[x − ζ_k clip(∇Φ̂_τ(x))], with an estimate of (IG) from trajectories of the follower's policy.

    Attributes:
        problem: what is solved.
        step_sizes: by default with fixed τ (`StepSizes.fixed_target`); w is not used.
        num_chains: B, walks of an estimate.
        num_rollout_steps: H; sums over time lack the share γ^H.
        estimator: "rollouts", unbiased (`rollouts.py`), or "tables" of average returns, with far less noise and a
            small bias (`episode_tables.py`).
        max_global_norm: longer estimates of the gradient are shortened to this length; infinite for none.

    Raises:
        ValueError: `num_rollout_steps` < 1, `estimator` is unknown, `max_global_norm` is not positive, or as
            `SampledAlgorithm`.
    """

    step_sizes: StepSizes = eqx.field(default_factory=StepSizes.fixed_target)
    num_rollout_steps: int = eqx.field(static=True, default=100, kw_only=True)
    estimator: Estimator = eqx.field(static=True, default="rollouts", kw_only=True)
    max_global_norm: Float[ArrayLike, ""] = eqx.field(default=np.inf, kw_only=True, converter=as_leaf)

    def __check_init__(self):
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {self.estimator!r}")
        if self.num_rollout_steps < 1:
            raise ValueError(f"num_rollout_steps must be at least 1, got {self.num_rollout_steps}")
        if not isinstance(self.max_global_norm, Tracer) and not np.all(np.asarray(self.max_global_norm) > 0):
            raise ValueError(f"max_global_norm must be positive (infinite for no clipping), got {self.max_global_norm}")

    @property
    def rollouts(self) -> Rollouts | EpisodeTables:
        """What estimates (IG)."""
        estimator = EpisodeTables if self.estimator == "tables" else Rollouts
        return estimator(self.problem, self.num_chains, self.num_rollout_steps)

    def _descended(self, x: PyTree, gradient: PyTree, step: Array) -> PyTree:
        """Π_X[x − step · clip(gradient)]."""
        scale = jnp.minimum(1.0, self.max_global_norm / optax.tree.norm(gradient))
        return self._moved(x, jax.tree.map(lambda leaf: leaf * scale, gradient), step)
