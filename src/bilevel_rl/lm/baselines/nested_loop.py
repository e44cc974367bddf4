"""Nested loop: Algorithm 1's equations with T steps of both policies between two steps of x, at fixed w and τ.

The completions of the later half of the T steps, when the policies have had time to answer, are what x learns from.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel_rl import checks
from bilevel_rl.lm.penalty import TwoPolicyTrainer
from bilevel_rl.lm.rows import StepSizeNumbers


class NestedLoopRLHFTrainer(TwoPolicyTrainer):
    """x moves once in T iterations. Takes the arguments of `BilevelRLHFTrainer`, and:

    Args:
        num_inner_steps: T.

    Raises:
        TypeError, ValueError: `num_inner_steps` is no integer, or < 1.
    """

    def __init__(self, *arguments: Any, num_inner_steps: int = 5, **options: Any):
        self._num_inner_steps = checks.integer("num_inner_steps", num_inner_steps, at_least=1)
        super().__init__(*arguments, **options)

    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """One inner step: (A), (C), (AL), (CL); with the last of T also (U)."""
        first, inner = self._step_sizes(0), k % self._num_inner_steps
        fixed = step_size._replace(penalty=float(first.penalty), entropy=float(first.entropy))
        num_learned_from = self._num_inner_steps - self._num_inner_steps // 2
        is_learned_from = inner >= self._num_inner_steps // 2
        weights = list(self.reward_model.parameters())
        earlier = [weight.grad for weight in weights]
        self.steps.optimizers["upper"].zero_grad()  # What processes share is this iteration's part.
        columns = self._accumulate(k, fixed, share=is_learned_from / num_learned_from)
        for weight, gradient in zip(weights, earlier, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else gradient + weight.grad
        columns |= {"penalty": fixed.penalty, "entropy_weight": fixed.entropy, "hyper_gradient_norm": 0.0}
        if self.preferences is not None:
            with torch.no_grad():
                columns["preference_loss"] = float(self._preference_loss(self.preferences, k))
        if inner == self._num_inner_steps - 1:
            self._add_preference_gradient(k)
            columns["hyper_gradient_norm"] = self.steps.move("upper", step_size.upper)  # (U)
        self.steps.move("actor", step_size.actor)  # (A), (AL)
        self.steps.move("critic", step_size.critic)  # (C), (CL)
        return columns

    def identity(self) -> dict[str, Any]:
        """As `RLHFTrainer.identity`, and the baseline's own options."""
        return super().identity() | {"num_inner_steps": self._num_inner_steps}

    def tensors(self) -> dict[str, Tensor]:
        """As `RLHFTrainer.tensors`, and the gradient of x that inner steps have added up."""
        weights = self.reward_model.named_parameters()
        gradients = {f"gradient.{name}": weight.grad for name, weight in weights if weight.grad is not None}
        return super().tensors() | gradients

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]):
        """As `RLHFTrainer.restore`."""
        super().restore(tensors, counters)
        for name, weight in self.reward_model.named_parameters():
            weight.grad = tensors.get(f"gradient.{name}")
