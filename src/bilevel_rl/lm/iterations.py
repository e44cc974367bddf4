"""What iterations of all methods are made of: completions, answers, and gradients of policies and offline term."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from jaxtyping import Float
from torch import Tensor

from bilevel_rl.lm.answers import number_each
from bilevel_rl.lm.batches import ANSWERS, PAIRS, Batch, Batches
from bilevel_rl.lm.completion_log import CompletionLog
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.learning import Regularization
from bilevel_rl.lm.objectives import UpperEstimate, UpperObjective, checked
from bilevel_rl.lm.rewards import Preferences, prior
from bilevel_rl.lm.rows import Ascent, StepSizeNumbers, policy_columns
from bilevel_rl.lm.sampling import stream
from bilevel_rl.lm.state import TrainerState
from bilevel_rl.lm.weighted_rewards import WeightedRewards

Scorer = Callable[[list[str]], Sequence[float] | np.ndarray]
"""Texts → one number each. Judges are scorers: they are logged, and nothing learns from them."""


class Iterations(TrainerState):
    """Parts of an iteration, of which a method's `_iterate` is put together."""

    policies: ClassVar[tuple[str, ...]]
    """names of the policies; the first one is the follower, which answers r_x"""

    args: BilevelRLHFConfig
    batches: Batches
    preferences: Preferences | None
    upper_objective: UpperObjective | None
    judges: Mapping[str, Scorer]
    shown_texts: list[str]
    """examples of what the policies wrote in the last iteration"""
    completion_log: CompletionLog | None
    _processes: PartialState

    def _batches(self, k: int, *, num_rows: int, compares: bool) -> Iterator[Batch]:
        """This process's completions of iteration k; arguments as for `Batches.collect`."""
        for batch in self.batches.collect(k, num_rows=num_rows, compares=compares):
            if k == 0 and not bool(torch.isfinite(batch.rewards).all()):
                raise ValueError("reward_model gives NaN or infinity before anything has moved")
            self.shown_texts = batch.inputs.texts[:: max(1, len(batch.inputs.texts) // 6)][:3]
            self.num_transitions += int(reduce(batch.completions.mask.sum(), "sum"))  # pyright: ignore
            yield batch

    def _regularization(self, policy: str, step_size: StepSizeNumbers) -> Regularization:
        """Weights of what a policy learns from besides rewards."""
        return Regularization(self.args.beta, step_size.entropy)

    def _ascend(self, batch: Batch, rewards: Float[Tensor, " N"], step_size: StepSizeNumbers, num_rows: int) -> Ascent:
        """Gradients of (A), (C) of all policies in a batch for these rewards."""
        regularization = {name: self._regularization(name, step_size) for name in self.policies}
        options = {"discount": self.args.discount, "gae_lambda": self.args.gae_lambda, "num_rows": num_rows}
        parts = []
        for rows, policy_pass in self.batches.passes(batch, regularization):
            δ = policy_pass.ascend(rewards[rows], **options)
            parts.append((policy_pass.log_probs, policy_pass.divergence, policy_pass.entropy, (δ**2).sum(dim=1)))
        log_probs, divergence, entropy, squared = (torch.cat(part) for part in zip(*parts, strict=True))
        num_tokens = batch.completions.mask.sum(dim=1)
        numbers = {
            "mean_reward": batch.rewards.detach(),
            "mean_divergence": divergence,
            "mean_entropy": entropy,
            "mean_length": num_tokens.float(),
            "mean_squared_td_error": squared / num_tokens,
        }
        values = self._values_of_texts(batch)
        if self.completion_log is not None:
            self.completion_log.add(self.num_iterations + 1, batch, values)
        numbers |= values
        return Ascent(policy_columns(self.policies, numbers), log_probs)

    def _values_of_texts(self, batch: Batch) -> dict[str, Float[Tensor, " N"]]:
        """What single rewards and judges say of every text."""
        values: dict[str, Tensor] = {}
        if isinstance(self.reward_model, WeightedRewards) and batch.inputs.features is not None:
            columns = zip(self.reward_model.names, batch.inputs.features.unbind(dim=1), strict=True)
            values |= {f"reward/{name}": column for name, column in columns}
        for name, judge in self.judges.items():
            scores = number_each(f"judges[{name!r}]", judge(batch.inputs.texts), len(batch.inputs.texts))
            values[f"judge_{name}"] = torch.tensor(scores)
        return values

    def _add_preference_gradient(self, k: int) -> float:
        """Adds λ ∇(NLL_D(x) + (κ/2) ‖x‖²) to the gradient of x; returns NLL_D."""
        if self.preferences is None:
            return math.nan
        loss = self._preference_loss(self.preferences, k)
        if k == 0 and not bool(torch.isfinite(loss)):
            raise ValueError("reward_model gives NaN or infinity for preference_dataset before anything has moved")
        regularized = loss + prior(self.reward_model, self.args.prior_precision)
        (self.args.preference_weight * regularized).backward()
        return float(loss.detach())

    def _preference_loss(self, preferences: Preferences, k: int) -> Float[Tensor, ""]:
        """NLL_D(x) of all pairs, or of those of iteration k."""
        pairs, num_pairs = None, self.args.preference_batch_size
        if num_pairs is not None:
            generator = stream(self.args.seed, PAIRS, k)
            pairs = torch.randint(len(preferences.chosen), (num_pairs,), generator=generator)
        return preferences.negative_log_likelihood(self.reward_model, pairs)

    def _ask(self, batch: Batch, rows: range, number: int) -> UpperEstimate:
        """The upper objective on the rows of one policy; `number` is that of the question."""
        assert self.upper_objective is not None
        rewards = batch.rewards[rows.start : rows.stop]
        seed = int(np.random.SeedSequence((self.args.seed, ANSWERS, number)).generate_state(1)[0])
        estimate = self.upper_objective(batch.inputs.select(torch.tensor(rows)), rewards, seed)
        estimate = checked(estimate, len(rewards))
        self.num_answers += int(reduce(torch.tensor(estimate.num_answers, device=rewards.device), "sum"))  # pyright: ignore
        if self.completion_log is not None:
            self.completion_log.note_costs(rows, estimate.costs)
        return estimate

    @property
    def _num_rows(self) -> int:
        """Completions of each policy in an iteration, all processes together."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self._processes.num_processes
