"""What a trainer remembers from iteration to iteration: all of it is in a checkpoint, and comes back from one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.steps import Steps


class TrainerState:
    """Weights of the reward, the policies and the critics, their optimizers, and counters."""

    reward_model: nn.Module
    followers: Followers
    steps: Steps
    num_iterations: int = 0
    num_transitions: int = 0
    num_answers: int = 0
    _has_moved: bool = False

    def parts_not_finite(self) -> tuple[str, ...]:
        """Parts of the state that hold a number that is not finite: "reward", "followers" or "optimizer"."""
        spoiled = (name for name, tensor in self.tensors().items() if not bool(torch.isfinite(tensor).all()))
        return tuple(dict.fromkeys(name.partition(".")[0] for name in spoiled))

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name."""
        tensors = {f"reward.{name}": tensor for name, tensor in self._reward_tensors().items()}
        for path, weight in self.followers.named_parameters():
            if weight.requires_grad:
                tensors[f"followers.{path}"] = weight.detach()
        return tensors | {f"optimizer.{path}": tensor for path, tensor in self.steps.tensors().items()}

    def counters(self) -> dict[str, Any]:
        """All that a resumed run needs besides tensors, as JSON."""
        names = ("num_iterations", "num_transitions", "num_answers")
        return {name: getattr(self, name) for name in names}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]):
        """Gives back what `tensors` and `counters` gave."""
        for name in ("num_iterations", "num_transitions", "num_answers"):
            setattr(self, name, counters[name])
        self._has_moved = True
        for module in (self.reward_model, self.followers):
            module.zero_grad()  # An interrupted iteration may have left gradients.
        self.reward_model.load_state_dict(_below("reward.", tensors), strict=False)  # Frozen weights are not there.
        with torch.no_grad():
            for path, weight in self.followers.named_parameters():
                if weight.requires_grad:
                    weight.copy_(tensors[f"followers.{path}"])
        self.steps.restore(_below("optimizer.", tensors))

    def _reward_tensors(self) -> dict[str, Tensor]:
        """x and buffers."""
        weights = self.reward_model.named_parameters(remove_duplicate=False)
        frozen = {name for name, weight in weights if not weight.requires_grad}
        return {name: tensor for name, tensor in self.reward_model.state_dict().items() if name not in frozen}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
