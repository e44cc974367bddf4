"""Options of the trainers, named as TRL names them where it has the same."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.runs.trackers import ReportTo


@dataclass(frozen=True)
class BilevelRLHFConfig:
    """How a language model and its reward are trained.

    Raises:
        TypeError: an option is not of its type, as 1.5 or True where an integer is asked for; the message names it.
        ValueError: a number is not finite or out of its range; the message names it.
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

    reward_weights: Sequence[float] | Mapping[str, float] | None = None
    """weights that several rewards start with, in their order or by name; None for 1 each"""
    reward_bounds: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None
    """lowest and highest weight of several rewards, for all or by name; None for none"""

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
    report_to: ReportTo = "none"
    """where metric rows go besides metrics.csv; each but tensorboard is an extra of its name"""
    log_completions: bool = False
    """keep all completions, with what they were worth, as Parquet files in the folder completions"""

    def __post_init__(self):
        if not isinstance(self.output_dir, str | Path) or not str(self.output_dir):
            raise TypeError(f"output_dir must be the path of a folder, got {self.output_dir!r}")
        sizes = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "max_completion_length")
        for name in (*sizes, "logging_steps"):
            self._set(name, checks.integer(name, getattr(self, name), at_least=1))
        self._set("seed", checks.integer("seed", self.seed, at_least=0, at_most=2**32 - 1))
        if self.preference_batch_size is not None:
            size = checks.integer("preference_batch_size", self.preference_batch_size, at_least=1)
            self._set("preference_batch_size", size)
        steps = ("upper_learning_rate", "learning_rate", "critic_learning_rate")
        for name in ("beta", "upper_beta", "preference_weight", "prior_precision", *steps):
            self._set(name, checks.number(name, getattr(self, name), at_least=0))
        for name in ("penalty", "offset"):
            self._set(name, checks.number(name, getattr(self, name), above=0))
        if self.entropy_weight is not None:
            self._set("entropy_weight", checks.number("entropy_weight", self.entropy_weight, above=0))
        elif self.beta == 0:
            raise ValueError(f"entropy_weight must be above 0, and None stands for beta, got {self.beta}")
        if self.max_grad_norm is not None:
            norm = checks.number("max_grad_norm", self.max_grad_norm, above=0, allow_infinite=True)
            self._set("max_grad_norm", norm)
        for name in ("discount", "gae_lambda"):
            self._set(name, checks.number(name, getattr(self, name), at_least=0, at_most=1))
        seconds = checks.number("checkpoint_every", self.checkpoint_every, at_least=0, allow_infinite=True)
        self._set("checkpoint_every", seconds)
        for name in ("bf16", "coupled", "log_completions"):
            checks.instance(name, getattr(self, name), bool)
        for name in ("schedule", "reward_gradient", "optimizer", "report_to"):
            choices = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def _set(self, name: str, value: Any):
        # NumPy's numbers become Python's, as which they can be written as JSON.
        object.__setattr__(self, name, value)

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
        free = ("output_dir", "max_steps", "checkpoint_every", "report_to", "log_completions")
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in free}
        return json.loads(json.dumps(options))  # Where a tuple is a list.
