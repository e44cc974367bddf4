"""Policies that answer a reward, each with a linear critic of its own: adapters on one language model, or copies of it.

A batch may mix policies. Every row names its policy, `REFERENCE` being the frozen model itself.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from bilevel_rl.lm.policies import REFERENCE as REFERENCE, Adapters, Copies, Policies
from bilevel_rl.lm.tokens import Completions

LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
"""Adapters of rank 8 on all linear layers."""


class Followers(nn.Module):
    """Policies π_θ with critics V, which start as a frozen model π_ref.

    Policies that learn from the same rewards on the same random numbers stay equal. Dropout is off, since a policy that
    is sampled with other weights than it learns with is another policy.

    Args:
        model: any causal language model; it is frozen, and its layers are wrapped in place where there are adapters.
        names: one for every policy.
        peft_config: the adapters' form; None for whole copies of the model.

    Raises:
        ValueError: a name is missing, doubled or that of the reference; the model carries adapters already; or its
            logits are not what its output embedding makes of its last hidden states, which every policy here relies on.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], peft_config: PeftConfig | None = LORA):
        super().__init__()
        if not names or len(set(names)) < len(names) or REFERENCE in names:
            raise ValueError(f"names must be different names of policies, not {REFERENCE!r}, got {list(names)}")
        self.names = tuple(names)
        self.policies: Policies = Copies(model, names) if peft_config is None else Adapters(model, names, peft_config)
        arguments = inspect.signature(model.base_model.forward).parameters
        self._takes_positions = "position_ids" in arguments
        # transformers renames the argument, model by model, from 5.24 on.
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"
        width = self.num_features
        self.critics = nn.ModuleDict({name: nn.Linear(width, 1, device=model.device) for name in names})
        for critic in self.critics.values():
            nn.init.zeros_(critic.weight)  # pyright: ignore
            nn.init.zeros_(critic.bias)  # pyright: ignore
        self.eval()
        self._check_logits()

    @property
    def base(self) -> PreTrainedModel:
        """The frozen model."""
        return self.policies.base

    def adapter(self, name: str) -> list[nn.Parameter]:
        """The weights of one policy."""
        return self.policies.weights(name)

    def critic(self, name: str) -> list[nn.Parameter]:
        """The weights of one critic."""
        return list(self.critics[name].parameters())

    def hidden_states(self, rows: Sequence[str], completions: Completions) -> Float[Tensor, "N L d"]:
        """Last hidden states of prompts and completions, row i under policy rows[i]."""
        return self.policies.run(rows, self._decoded, completions.input_ids, completions.attention_mask)

    def acting_states(self, rows: Sequence[str], completions: Completions) -> Float[Tensor, "M d"]:
        """Hidden states that the M written tokens were chosen from."""
        hidden = self.hidden_states(rows, completions)
        return hidden[:, completions.prompts.ids.shape[1] - 1 : -1][completions.mask]

    def next_states(
        self, rows: Sequence[str], ids: Tensor, mask: Tensor, caches: dict[str, DynamicCache] | None
    ) -> tuple[Float[Tensor, "N d"], dict[str, DynamicCache]]:
        """Last column's hidden states when `ids` come after what the caches hold; `mask` covers both."""
        found: dict[str, DynamicCache] = {} if caches is None else caches

        def decode(group: str, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
            options = {self._cache_argument: found.setdefault(group, DynamicCache()), "use_cache": True}
            return self._decoded(group, model, ids, mask, **options)[:, -1]

        return self.policies.run(rows, decode, ids, mask), found

    def logits(self, rows: Sequence[str], hidden: Float[Tensor, "M d"]) -> Float[Tensor, "M A"]:
        """Scores of all tokens in single precision, one row of `rows` for every hidden state."""
        # Always two-dimensional: a frozen matrix times a sliced three-dimensional array is copied for every row.
        return self.policies.run(rows, lambda group, model, hidden: _head(model)(hidden).float(), hidden)

    def values(self, name: str, hidden: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        """V(s) of hidden states; the critic's steps do not reach the policy."""
        return self.critics[name](hidden.detach().float()).squeeze(-1)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.base.device

    @property
    def num_tokens(self) -> int:
        """Tokens that the model knows."""
        return int(_head(self.base).weight.shape[0])  # pyright: ignore

    @property
    def num_features(self) -> int:
        """d, of the hidden states."""
        return int(_head(self.base).weight.shape[1])  # pyright: ignore

    @property
    def num_positions(self) -> int | None:
        """Tokens of the longest text that the model was made for; None where it does not say."""
        config = self.base.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def save(self, path: Path):
        """Writes every policy into a folder of its name, as `from_pretrained` reads it."""
        self.policies.save(path)

    def _decoded(self, group: str, model: PreTrainedModel, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        if self._takes_positions:
            options["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return model.base_model(input_ids=ids, attention_mask=mask.long(), **options).last_hidden_state

    @torch.no_grad()
    def _check_logits(self):
        ids = torch.arange(2, device=self.device).reshape(1, 2) % self.base.config.vocab_size

        def whole(group: str, model: PreTrainedModel, ids: Tensor) -> Tensor:
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

        hidden = self.policies.run([REFERENCE], self._decoded, ids, torch.ones_like(ids))
        logits = self.policies.run([REFERENCE], whole, ids)
        if not torch.allclose(self.logits([REFERENCE] * 2, hidden[0]), logits[0].float(), rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"model: {type(self.base).__name__} changes its logits after the output embedding (a cap or a scale), "
                "which is not supported; use a model that does not"
            )


def _head(model: PreTrainedModel) -> nn.Module:
    return model.get_output_embeddings()  # pyright: ignore
