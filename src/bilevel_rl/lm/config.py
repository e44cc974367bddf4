"""Options of the trainers, named as TRL names them where it has the same."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from bilevel_rl.algorithms.step_sizes import StepSizes


@dataclass(frozen=True)
class BilevelRLHFConfig:
    """How a language model and its reward are trained.

    Raises:
        ValueError: a number is out of its range; the message names it.
    """

    output_dir: str | Path
    """run folder: metrics, checkpoints, adapters; a run that it holds is continued"""
    max_steps: int = 100
    """iterations"""
    per_device_train_batch_size: int = 16
    """completions of each policy in one pass of one process"""
    gradient_accumulation_steps: int = 1
    """passes that make up the batch of an iteration"""
    max_completion_length: int = 24
    """T, the horizon in tokens"""
    seed: int = 0
    """root of all randomness"""
    bf16: bool = False
    """hold the frozen model in bfloat16; adapters, critics and the reward stay in single precision"""

    beta: float = 0.1
    """β, weight of log π_ref in the follower's reward"""
    schedule: Literal["constant-entropy", "decaying"] = "constant-entropy"
    """constant-entropy keeps τ, as KL-regularized RLHF does; decaying lets it vanish, as the paper does"""
    upper_learning_rate: float = 1e-3
    """ζ_0, step size of the reward's parameters x"""
    learning_rate: float = 5e-4
    """α_0, step size of the policies"""
    critic_learning_rate: float = 1e-3
    """β_0, step size of the critics"""
    penalty: float = 0.5
    """w_0, penalty parameter: smaller is a harder penalty"""
    entropy_weight: float | None = None
    """τ_0, weight of the policies' entropy; None for β"""
    offset: float = 100.0
    """iterations that initial step sizes last"""
    upper_beta: float = 0.0
    """η, weight of KL(π‖π_ref) in the upper objective: what the leader pays for a follower that strays"""
    preference_weight: float = 5.0
    """λ, weight of the preferences' negative log-likelihood in the upper objective"""
    prior_precision: float = 0.0
    """κ of the Gaussian prior (κ/2) ‖x‖² that is added to the likelihood of the preferences"""
    preference_batch_size: int | None = None
    """pairs of a step; None for all"""

    discount: float = 1.0
    """γ; 1 for episodes whose rewards count alike"""
    gae_lambda: float = 1.0
    """λ of generalized advantage estimation: 0 is the paper's one-step δ, 1 the whole return less the critic"""
    coupled: bool = True
    """both policies write on the same random numbers"""
    reward_gradient: Literal["balance", "plain"] = "balance"
    """balance: all completions under both policies, with bounded weights; plain: the difference of two means"""
    optimizer: Literal["adam", "sgd"] = "adam"
    """how gradients become steps"""
    max_grad_norm: float | None = 1.0
    """longer gradients of a policy or of x are shortened to this length"""

    logging_steps: int = 1
    """iterations between metric rows, each the mean over these iterations"""
    checkpoint_every: float = 60.0
    """seconds between two checkpoints; 0 saves one at every metric row"""
    report_to: Literal["none", "tensorboard"] = "none"
    """where metric rows go besides metrics.csv"""

    def __post_init__(self):
        sizes = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length")
        for name in (*sizes, "logging_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.checkpoint_every >= 0:
            raise ValueError(f"checkpoint_every must be a number of seconds, got {self.checkpoint_every}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..{2**32 - 1}, got {self.seed}")
        steps = ("upper_learning_rate", "learning_rate", "critic_learning_rate")
        for name in ("beta", "upper_beta", "preference_weight", "prior_precision", *steps):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("penalty", "offset"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and positive, got {getattr(self, name)}")
        if not 0 < self._entropy_weight < math.inf:
            raise ValueError(
                f"entropy_weight must be finite and positive (None stands for beta), got {self._entropy_weight}"
            )
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("preference_batch_size", "max_grad_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, or None, got {getattr(self, name)}")
        for name in ("schedule", "reward_gradient", "optimizer", "report_to"):
            choices = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def _entropy_weight(self) -> float:
        return self.beta if self.entropy_weight is None else self.entropy_weight

    def step_sizes(self) -> StepSizes:
        """The five sequences."""
        build = StepSizes.decaying if self.schedule == "decaying" else StepSizes.constant_entropy
        return build(
            upper=self.upper_learning_rate,
            actor=self.learning_rate,
            critic=self.critic_learning_rate,
            penalty=self.penalty,
            entropy=self._entropy_weight,
            offset=self.offset,
        )

    def identity(self) -> dict[str, Any]:
        """The options that decide a run's numbers, as JSON."""
        free = ("output_dir", "max_steps", "checkpoint_every", "report_to")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in free}
