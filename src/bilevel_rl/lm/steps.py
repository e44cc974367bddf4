"""How gradients become steps of x, of the policies and of the critics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn


class Steps:
    """An optimizer for each of several parts, such as "upper", "actor" and "critic".

    Args:
        parts: name → groups of weights; the gradient of each group is shortened on its own.
        optimizer: Adam, or plain gradient descent.
        max_grad_norm: longer gradients are shortened to this length; None for none.
        never_shortened: parts whose gradients are not.
        projections: of parts, called after every step, in place.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[Sequence[nn.Parameter]]],
        *,
        optimizer: Literal["adam", "sgd"],
        max_grad_norm: float | None,
        never_shortened: Sequence[str] = (),
        projections: Mapping[str, Callable[[], None]] | None = None,
    ):
        build = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        self._parts = parts
        self._projections = dict(projections or {})
        self._max_grad_norm, self._never_shortened = max_grad_norm, never_shortened
        self.optimizers = {
            name: build([w for group in groups for w in group], lr=0.0) for name, groups in parts.items()
        }

    def move(self, name: str, step: float) -> float:
        """Steps along a part's accumulated gradient, and forgets it; returns the length that it had."""
        optimizer, groups = self.optimizers[name], self._parts[name]
        norm = nn.utils.get_total_norm([w.grad for group in groups for w in group if w.grad is not None])
        if self._max_grad_norm is not None and name not in self._never_shortened:
            for group in groups:
                nn.utils.clip_grad_norm_(group, self._max_grad_norm)
        optimizer.param_groups[0]["lr"] = step
        optimizer.step()
        if name in self._projections:
            self._projections[name]()
        optimizer.zero_grad()
        return float(norm)

    def share(self, *names: str):
        """Sums gradients of parts over the processes."""
        if PartialState().num_processes > 1:
            for weight in (w for name in names for group in self._parts[name] for w in group):
                weight.grad = reduce(weight.grad if weight.grad is not None else torch.zeros_like(weight), "sum")  # pyright: ignore

    def tensors(self) -> dict[str, Tensor]:
        """What the optimizers remember, by part, weight and slot."""
        return {
            f"{name}.{number}.{slot}": torch.as_tensor(value)
            for name, optimizer in self.optimizers.items()
            for number, slots in optimizer.state_dict()["state"].items()
            for slot, value in slots.items()
            if value is not None
        }

    def restore(self, tensors: Mapping[str, Tensor]):
        """Gives back what `tensors` gave."""
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for path, tensor in tensors.items():
                part, number, slot = path.split(".")
                if part == name:
                    state.setdefault(int(number), {})[slot] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
