"""Prompts and completions as tokens. Completions end with the end mark, or at the horizon."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class Prompts(NamedTuple):
    """Prompts of a batch, padded on the left so that completions start in the same column."""

    ids: Int[Tensor, "N P"]
    mask: Bool[Tensor, "N P"]

    @classmethod
    def pad(cls, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> "Prompts":
        """Prompts of different lengths, each of at least one token."""
        width = max(len(prompt) for prompt in prompts)
        ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts]
        return cls(torch.tensor(ids, device=device), torch.tensor(mask, device=device))

    def select(self, rows: slice | Tensor) -> "Prompts":
        """Some of the rows."""
        return Prompts(self.ids[rows], self.mask[rows])

    def repeat(self, times: int) -> "Prompts":
        """The whole batch several times, one after the other."""
        return Prompts(self.ids.repeat(times, 1), self.mask.repeat(times, 1))


class Completions(NamedTuple):
    """Prompts with what was written after them; the mask holds up to the end mark, which counts as written."""

    prompts: Prompts
    ids: Int[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    @property
    def input_ids(self) -> Int[Tensor, "N L"]:
        """Prompt and completion, L = P + T."""
        return torch.cat([self.prompts.ids, self.ids], dim=1)

    @property
    def attention_mask(self) -> Bool[Tensor, "N L"]:
        """True for tokens that are there."""
        return torch.cat([self.prompts.mask, self.mask], dim=1)

    @property
    def actions(self) -> Int[Tensor, " M"]:
        """The M written tokens of all rows, one row after the other."""
        return self.ids[self.mask]

    @property
    def num_tokens(self) -> int:
        """Environment transitions: tokens written, end marks included."""
        return int(self.mask.sum())

    def select(self, rows: slice | Tensor) -> "Completions":
        """Some of the rows."""
        return Completions(self.prompts.select(rows), self.ids[rows], self.mask[rows])

    def per_token(self, flat: Tensor) -> Tensor:
        """Numbers of the M written tokens at their places in an (N, T) table that is 0 elsewhere."""
        table = torch.zeros(self.mask.shape, dtype=flat.dtype, device=flat.device)
        return table.masked_scatter(self.mask, flat)

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What was written, without special tokens."""
        rows = [ids[mask].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]
        return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
