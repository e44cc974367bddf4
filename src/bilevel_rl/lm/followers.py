"""Policies that share one frozen language model: each is a LoRA adapter with a linear critic of its own.

A batch may mix policies. Every row names its policy, `REFERENCE` being the frozen model itself, so one pass reads the
model's weights once for all of them.
"""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from bilevel_rl.lm.tokens import Completions

REFERENCE = "__base__"
"""The frozen model without an adapter; peft's name for it."""


class Followers(nn.Module):
    """Policies π_θ with critics V, as adapters on a frozen model π_ref.

    All adapters start as copies of the first one, which starts as the frozen model: policies that learn from the same
    rewards on the same random numbers stay equal. Dropout is off, since a policy that is sampled with other weights
    than it learns with is another policy.

    Args:
        model: any causal language model; it is frozen, and its layers are wrapped in place.
        names: one for every policy.
        peft_config: the adapters' form.

    Raises:
        ValueError: a name is missing, doubled or that of the reference; the model carries adapters already; or its
            logits are not what its output embedding makes of its last hidden states, which every policy here relies on.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], peft_config: PeftConfig | None = None):
        super().__init__()
        if not names or len(set(names)) < len(names) or REFERENCE in names:
            raise ValueError(f"names must be different names of policies, not {REFERENCE!r}, got {list(names)}")
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ValueError("model carries adapters already, perhaps those of another trainer: load it again")
        config = peft_config or LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.names = tuple(names)
        self.adapted = get_peft_model(model, config, adapter_name=names[0])
        for name in names[1:]:
            self.adapted.add_adapter(name, config)
        self._decoder = model.base_model
        arguments = inspect.signature(self._decoder.forward).parameters
        self._takes_positions = "position_ids" in arguments
        # transformers renames the argument, model by model, from 5.24 on.
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        self.adapted.requires_grad_(False)
        first = self.adapter(names[0])
        with torch.no_grad():
            for name in names:
                for weight, other in zip(self.adapter(name), first, strict=True):
                    weight.requires_grad_(True).copy_(other)
        width = self.num_features
        self.critics = nn.ModuleDict({name: nn.Linear(width, 1, device=model.device) for name in names})
        for critic in self.critics.values():
            nn.init.zeros_(critic.weight)  # pyright: ignore
            nn.init.zeros_(critic.bias)  # pyright: ignore
        self._rows: list[str] = []
        for module in self.adapted.modules():
            if isinstance(module, BaseTunerLayer):
                module.register_forward_pre_hook(self._name_rows, with_kwargs=True)
        self.eval()
        self._check_logits()

    def adapter(self, name: str) -> list[nn.Parameter]:
        """The weights of one policy."""
        return [weight for path, weight in self.adapted.named_parameters() if name in path.split(".")[-2:]]

    def critic(self, name: str) -> list[nn.Parameter]:
        """The weights of one critic."""
        return list(self.critics[name].parameters())

    def hidden_states(self, rows: Sequence[str], completions: Completions) -> Float[Tensor, "N L d"]:
        """Last hidden states of prompts and completions, row i under policy rows[i]."""
        with self._acting(rows):
            return self._decode(completions.input_ids, completions.attention_mask)

    def acting_states(self, rows: Sequence[str], completions: Completions) -> Float[Tensor, "M d"]:
        """Hidden states that the M written tokens were chosen from."""
        hidden = self.hidden_states(rows, completions)
        return hidden[:, completions.prompts.ids.shape[1] - 1 : -1][completions.mask]

    def next_states(
        self, rows: Sequence[str], ids: Tensor, mask: Tensor, cache: DynamicCache | None
    ) -> tuple[Float[Tensor, "N d"], DynamicCache]:
        """Last column's hidden states when `ids` come after what the cache holds; `mask` covers both."""
        cache = cache if cache is not None else DynamicCache()
        with self._acting(rows):
            return self._decode(ids, mask, **{self._cache_argument: cache}, use_cache=True)[:, -1], cache

    def logits(self, rows: Sequence[str], hidden: Float[Tensor, "M d"]) -> Float[Tensor, "M A"]:
        """Scores of all tokens in single precision, one row of `rows` for every hidden state."""
        # Always two-dimensional: a frozen matrix times a sliced three-dimensional array is copied for every row.
        with self._acting(rows):
            return self._head(hidden).float()

    def values(self, name: str, hidden: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        """V(s) of hidden states; the critic's steps do not reach the policy."""
        return self.critics[name](hidden.detach().float()).squeeze(-1)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.adapted.device

    @property
    def num_tokens(self) -> int:
        """Tokens that the model knows."""
        return int(self._head.weight.shape[0])  # pyright: ignore

    @property
    def num_features(self) -> int:
        """d, of the hidden states."""
        return int(self._head.weight.shape[1])  # pyright: ignore

    @property
    def num_positions(self) -> int | None:
        """Tokens of the longest text that the model was made for; None where it does not say."""
        config = self.adapted.get_base_model().config.get_text_config()  # pyright: ignore
        return getattr(config, "max_position_embeddings", None)

    @property
    def _head(self) -> nn.Module:
        return self.adapted.get_base_model().get_output_embeddings()  # pyright: ignore

    def _decode(self, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        if self._takes_positions:
            options["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._decoder(input_ids=ids, attention_mask=mask.long(), **options).last_hidden_state

    @contextlib.contextmanager
    def _acting(self, rows: Sequence[str]) -> Iterator[None]:
        self._rows = list(rows)
        try:
            yield
        finally:
            self._rows = []

    def _name_rows(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return arguments, {**options, "adapter_names": self._rows} if self._rows else options

    @torch.no_grad()
    def _check_logits(self):
        model: PreTrainedModel = self.adapted.get_base_model()  # pyright: ignore
        ids = torch.arange(2, device=self.device).reshape(1, 2) % model.config.vocab_size
        with self._acting([REFERENCE]):
            hidden = self._decode(ids, torch.ones_like(ids))
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        if not torch.allclose(self.logits([REFERENCE] * 2, hidden[0]), logits[0].float(), rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"model: {type(model).__name__} changes its logits after the output embedding (a cap or a scale), "
                "which is not supported; use a model that does not"
            )
