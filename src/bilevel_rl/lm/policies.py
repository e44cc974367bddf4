"""How several policies and their reference live in memory: adapters that share one frozen model, or copies of it.

Every row of a batch names its policy. Where peft can mix adapters in a pass, as those of LoRA, one pass reads the
model's weights once for all policies; otherwise there is a pass for each.
"""

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

REFERENCE = "__base__"
"""The frozen model itself; peft's name for it."""

Pass = Callable[..., Tensor]
"""(group, model, *arrays) → a row for each row of the arrays; the group is that of rows which are passed together."""


class Policies(nn.Module, abc.ABC):
    """Policies that start as a frozen model, and that model."""

    @property
    @abc.abstractmethod
    def base(self) -> PreTrainedModel:
        """The frozen model, with adapters inside where policies are such."""

    @abc.abstractmethod
    def weights(self, name: str) -> list[nn.Parameter]:
        """Of one policy, each once."""

    @abc.abstractmethod
    def run(self, rows: Sequence[str], function: Pass, *arrays: Tensor) -> Tensor:
        """Rows of arrays through the model of the policy that each belongs to."""

    @abc.abstractmethod
    def forms(self) -> list[Mapping[str, Any]]:
        """What there is to say of the policies besides their weights, as JSON."""

    @abc.abstractmethod
    def save(self, path: Path):
        """Writes every policy into a folder of its name, as `from_pretrained` reads it."""


class Adapters(Policies):
    """Adapters of peft in the layers of one model.

    Raises:
        ValueError: the model carries adapters already, or the adapters are none that live in its layers.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], config: PeftConfig):
        super().__init__()
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ValueError("model carries adapters already, perhaps those of another trainer: load it again")
        if config.is_prompt_learning:
            raise ValueError(f"peft_config must be of adapters in layers, as LoraConfig, got {type(config).__name__}")
        self.adapted = get_peft_model(model, copy.deepcopy(config), adapter_name=names[0])
        for name in names[1:]:
            self.adapted.add_adapter(name, copy.deepcopy(config))
        self.adapted.requires_grad_(False)
        first = self.weights(names[0])
        with torch.no_grad():
            for name in names:
                for weight, other in zip(self.weights(name), first, strict=True):
                    weight.requires_grad_(True).copy_(other)
        self._mixes = isinstance(config, LoraConfig) and not config.use_dora
        self._layers = [module for module in self.adapted.modules() if isinstance(module, BaseTunerLayer)]
        self._rows: list[str] = []
        for layer in self._layers:
            layer.register_forward_pre_hook(self._name_rows, with_kwargs=True)  # pyright: ignore

    @property
    def base(self) -> PreTrainedModel:
        """As `Policies.base`."""
        return self.adapted.get_base_model()  # pyright: ignore[reportReturnType]

    def weights(self, name: str) -> list[nn.Parameter]:
        """As `Policies.weights`."""
        return [weight for path, weight in self.adapted.named_parameters() if name in path.split(".")[-2:]]

    def run(self, rows: Sequence[str], function: Pass, *arrays: Tensor) -> Tensor:
        """As `Policies.run`."""
        if not self._mixes:
            return _group_by_group(rows, lambda name, *parts: function(name, self._with(name), *parts), *arrays)
        self._rows = list(rows)
        try:
            return function("all", self.base, *arrays)
        finally:
            self._rows = []

    def forms(self) -> list[Mapping[str, Any]]:
        """As `Policies.forms`: the adapters' configurations."""
        return [config.to_dict() for config in self.adapted.peft_config.values()]

    def save(self, path: Path):
        """As `Policies.save`."""
        self.adapted.save_pretrained(str(path))

    def _name_rows(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return arguments, {**options, "adapter_names": self._rows} if self._rows else options

    def _with(self, name: str) -> PreTrainedModel:
        """The model as one policy, or the frozen one."""
        learned = [weight for weight in self.adapted.parameters() if weight.requires_grad]
        for layer in self._layers:
            layer.enable_adapters(name != REFERENCE)
            if name != REFERENCE:
                layer.set_adapter(name)
        for weight in learned:  # peft freezes those that are not active.
            weight.requires_grad_(True)
        return self.base


class Copies(Policies):
    """Whole models: full fine-tuning. Each policy needs the memory of another model, and twice that for Adam.

    Raises:
        ValueError: the model is not in single precision, in which small steps would be lost.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str]):
        super().__init__()
        if model.dtype != torch.float32:
            raise ValueError(
                f"bf16 holds a frozen model in {model.dtype}, and peft_config=None trains copies of it: leave bf16 "
                "out, or give a LoraConfig"
            )
        self.reference = model
        self.copies = nn.ModuleDict({name: copy.deepcopy(model) for name in names})
        self.reference.requires_grad_(False)
        self.copies.requires_grad_(True)

    @property
    def base(self) -> PreTrainedModel:
        """As `Policies.base`."""
        return self.reference

    def weights(self, name: str) -> list[nn.Parameter]:
        """As `Policies.weights`."""
        return list(self.copies[name].parameters())

    def run(self, rows: Sequence[str], function: Pass, *arrays: Tensor) -> Tensor:
        """As `Policies.run`."""
        models = {REFERENCE: self.reference, **self.copies}
        return _group_by_group(rows, lambda name, *parts: function(name, models[name], *parts), *arrays)

    def forms(self) -> list[Mapping[str, Any]]:
        """As `Policies.forms`."""
        return [{"copies": list(self.copies)}]

    def save(self, path: Path):
        """As `Policies.save`."""
        for name, model in self.copies.items():
            model.save_pretrained(str(path / name))  # pyright: ignore


def _group_by_group(rows: Sequence[str], function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """One pass for the rows of each policy; the results in the rows' order."""
    groups = {name: [i for i, each in enumerate(rows) if each == name] for name in dict.fromkeys(rows)}
    if len(groups) == 1:
        return function(rows[0], *arrays)
    parts = [function(name, *(array[places] for array in arrays)) for name, places in groups.items()]
    order = torch.tensor([i for places in groups.values() for i in places]).argsort()
    return torch.cat(parts)[order.to(parts[0].device)]
