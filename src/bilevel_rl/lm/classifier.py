"""A reward that is a sequence classifier of transformers with one score, as TRL trains and uses reward models.

What is learned is its head, on a frozen trunk; or, where some of its weights are frozen already, as in a model with a
peft adapter, those that are not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.lm import identity
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.rewards import RewardInputs

ROWS = 16
"""Texts that are scored at a time."""


class ClassifierReward(nn.Module):
    """r_x(y): the score of prompt and completion together.

    A conversation is written by the classifier's own chat template. Texts follow each other with a space between, where
    the prompt does not end with one.

    Args:
        model: made by `AutoModelForSequenceClassification` with `num_labels=1`, or such a model with a peft adapter.
        tokenizer: of that model, with a padding token.

    Raises:
        TypeError: they are not a model and a tokenizer.
        ValueError: the model gives another number of scores than one, or the tokenizer has no padding token.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        checks.instance("reward_model", model, PreTrainedModel, PeftModel)
        self.tokenizer = checks.instance("tokenizer of reward_model", tokenizer, PreTrainedTokenizerBase)
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        if not type(base).__name__.endswith("ForSequenceClassification") or base.config.num_labels != 1:
            raise ValueError(
                "reward_model must be a sequence classifier with one score, as AutoModelForSequenceClassification"
                f".from_pretrained(…, num_labels=1), got {type(base).__name__} with num_labels={base.config.num_labels}"
            )
        if tokenizer.pad_token_id is None:
            raise ValueError("reward_model: its tokenizer has no padding token; set the tokenizer's pad_token")
        if all(weight.requires_grad for weight in base.parameters()):
            base.base_model.requires_grad_(False)
        base.config.pad_token_id = tokenizer.pad_token_id  # The last token is told by it.
        self.model = model
        self._num_tokens = base.get_input_embeddings().num_embeddings
        self._num_positions: int | None = getattr(base.config, "max_position_embeddings", None)

    @property
    def identity(self) -> list[Any]:
        """What makes it the same reward, besides its weights, as JSON."""
        learned = [name for name, weight in self.named_parameters() if weight.requires_grad]
        return [identity.of_tokenizer(self.tokenizer), learned]

    def check_examples(self, name: str, examples: Sequence[Example]):
        """Raises `ValueError` where a conversation is among the rows of `name`, and there is no chat template."""
        if self.tokenizer.chat_template is None and not all(isinstance(each.prompt, str) for each in examples):
            raise ValueError(f"reward_model: {name} holds conversations, and its tokenizer has no chat template")

    def forward(self, inputs: RewardInputs) -> Float[Tensor, " N"]:
        """r_x of every row.

        Raises:
            ValueError: the model does not know a token, or has no room for a text.
        """
        examples = inputs.examples or [Example("", "", {})] * len(inputs.texts)
        rows = [self._ids(example, text) for example, text in zip(examples, inputs.texts, strict=True)]
        parts = [self._scores(rows[start : start + ROWS]) for start in range(0, len(rows), ROWS)]
        return torch.cat(parts)

    def save(self, path: Path):
        """Writes model, or adapter, and tokenizer as `from_pretrained` reads them."""
        self.model.save_pretrained(str(path))
        self.tokenizer.save_pretrained(str(path))

    def _ids(self, example: Example, text: str) -> list[int]:
        if isinstance(example.prompt, str):
            is_apart = not example.prompt or example.prompt[-1].isspace()
            ids: Any = self.tokenizer(example.prompt + ("" if is_apart else " ") + text)["input_ids"]
        else:
            messages = [*example.prompt, *example.answer(text)]
            whole = self.tokenizer.apply_chat_template(messages, tokenize=False)
            ids = self.tokenizer(whole, add_special_tokens=False)["input_ids"]
        ids = list(ids) or [self.tokenizer.pad_token_id]
        if max(ids) >= self._num_tokens:
            raise ValueError(
                f"reward_model knows {self._num_tokens} tokens, and {text!r:.80} holds the token {max(ids)}: it has "
                "another tokenizer, give both as ClassifierReward(model, tokenizer)"
            )
        if self._num_positions is not None and len(ids) > self._num_positions:
            raise ValueError(
                f"reward_model has {self._num_positions} positions, and prompt and completion {text!r:.80} have "
                f"{len(ids)} tokens: shorten the prompt, or lower max_completion_length"
            )
        return ids

    def _scores(self, rows: Sequence[list[int]]) -> Float[Tensor, " n"]:
        width, device = max(map(len, rows)), self.model.device
        pad: Any = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.arange(width, device=device) < torch.tensor([len(row) for row in rows], device=device)[:, None]
        return self.model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
