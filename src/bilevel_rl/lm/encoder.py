"""Texts to what policies and reward models read: tokens that the model knows and has room for."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from bilevel_rl.lm.data import Example, no_column, read_preferences
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.identity import of_json
from bilevel_rl.lm.rewards import Preferences, RewardInputs, mean_states
from bilevel_rl.lm.tokens import Completions, Prompts


class Encoder:
    """Turns texts into what policies and reward models read.

    Args:
        followers: whose frozen model gives the states.
        tokenizer: of that model, with an end mark and a padding token.
        max_length: T, longer completions are cut.
        batch_size: rows of a pass.

    Raises:
        ValueError: the tokenizer has no end mark or no padding token, or the model does not know the padding token.
    """

    def __init__(self, followers: Followers, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int):
        for mark in ("eos_token_id", "pad_token_id"):
            if getattr(tokenizer, mark) is None:
                raise ValueError(f"processing_class: {mark} is None; set the tokenizer's {mark[:-3]}")
        if tokenizer.pad_token_id >= followers.num_tokens:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(
                f"processing_class: pad_token {tokenizer.pad_token!r} has the number {tokenizer.pad_token_id}, and the "
                f"model knows {followers.num_tokens} tokens only: model.resize_token_embeddings(len(tokenizer)), or "
                "set one that it knows, as tokenizer.pad_token = tokenizer.eos_token"
            )
        self._followers, self._tokenizer = followers, tokenizer
        self._max_length, self._batch_size = max_length, batch_size
        self.end_id: int = tokenizer.eos_token_id  # pyright: ignore
        self.pad_id: int = tokenizer.pad_token_id  # pyright: ignore

    def prompt_ids(self, prompt: str, num_more: int | None = None) -> list[int]:
        """Tokens of a prompt, without the end mark that some tokenizers put behind it; an empty one is the start mark.

        Args:
            prompt: a text.
            num_more: tokens that there must be room for; None for a whole completion.

        Raises:
            ValueError: the prompt is empty and the tokenizer has no start mark, or the model does not know a token or
                has no room for a completion.
        """
        start: int | None = self._tokenizer.bos_token_id  # pyright: ignore[reportAssignmentType]
        ids, plain = (self._ids([prompt], add_special_tokens=adds)[0] for adds in (True, False))
        while _num_at_the_end(ids, self.end_id) > _num_at_the_end(plain, self.end_id):
            ids = ids[:-1]
        if ids[:2] == [start, start] and plain[:2] != ids[:2] and plain:
            ids = ids[1:]  # A chat template had set the start mark already.
        if not ids:
            if start is None:
                raise ValueError("train_dataset: an empty prompt needs a start mark; set the tokenizer's bos_token")
            ids = [start]
        self._check_room(f"train_dataset: {prompt!r:.80}", ids, self._max_length if num_more is None else num_more)
        return ids

    def texts(self, completions: Completions) -> list[str]:
        """What was written."""
        return completions.texts(self._tokenizer)

    def prompt_texts(self, completions: Completions) -> tuple[str, ...]:
        """What it answers, without special tokens."""
        rows = [ids[mask].tolist() for ids, mask in zip(*completions.prompts, strict=True)]
        return tuple(text.strip() for text in self._tokenizer.batch_decode(rows, skip_special_tokens=True))

    def prompts(self, prompts: Sequence[str]) -> Prompts:
        """A batch of prompts."""
        return Prompts.pad([self.prompt_ids(prompt) for prompt in prompts], self.pad_id, self._followers.device)

    def completions(self, prompts: Sequence[str], texts: Sequence[str]) -> Completions:
        """Texts as if a policy had written them after these prompts."""
        rows = [[*row[: self._max_length - 1], self.end_id] for row in self._written_ids(texts)]
        for text, row in zip(texts, rows, strict=True):
            self._check_room(f"preference_dataset: {text!r:.80}", row, 0)
        width = max(len(row) for row in rows)
        device = self._followers.device
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        before = [self.prompt_ids(prompt, len(row)) for prompt, row in zip(prompts, rows, strict=True)]
        return Completions(
            Prompts.pad(before, self.pad_id, device), ids, torch.arange(width, device=device) < lengths[:, None]
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], texts: Sequence[str]) -> RewardInputs:
        """What a reward model sees of texts that people wrote."""
        completions = self.completions(prompts, texts)
        states = [
            mean_states(self._followers.hidden_states([REFERENCE] * len(part.ids), part), part)
            for start in range(0, len(texts), self._batch_size)
            for part in [completions.select(slice(start, start + self._batch_size))]
        ]
        return RewardInputs(list(texts), completions, torch.cat(states))

    def encode_preferences(self, dataset: Sequence[Any], reads: Callable[[str], bool] = no_column) -> Preferences:
        """Pairs in TRL's forms (`data.read_preferences`, which says what the arguments are).

        Raises:
            ValueError: there is no row, or one cannot be used, or what is left of the chosen text is that of the
                rejected one in all of them.

        Warns:
            UserWarning: in some of them it is.
        """
        found: dict[tuple[str, str, str], tuple[int, Example]] = {}
        pairs: list[list[int]] = []
        for example, *texts in read_preferences(dataset, self._tokenizer, reads):
            columns = of_json(example.columns)
            keys = [(example.text, columns, text) for text in texts]
            pairs.append([found.setdefault(key, (len(found), example))[0] for key in keys])
        chosen, rejected = torch.tensor(pairs, device=self._followers.device).unbind(dim=1)
        inputs = self.encode([prompt for prompt, _, _ in found], [text for _, _, text in found])
        inputs = inputs._replace(examples=tuple(example for _, example in found.values()))
        preferences = Preferences(inputs, chosen, rejected)
        self._check_differences(preferences)
        return preferences

    def _check_differences(self, preferences: Preferences):
        written, (chosen, rejected) = preferences.inputs.completions, preferences[1:]
        ids = torch.where(written.mask, written.ids, -1)
        num_same = int((ids[chosen] == ids[rejected]).all(dim=1).sum())
        if not num_same:
            return
        longest = max(len(row) for row in self._written_ids(preferences.inputs.texts)) + 1
        told = (
            f"preference_dataset: in {num_same} of {len(chosen)} pairs nothing tells the chosen text from the rejected "
            f"one, cut to max_completion_length={self._max_length} tokens as they are; the longest has {longest} with "
            "its end mark"
        )
        if num_same == len(chosen):
            raise ValueError(told)
        warnings.warn(told, UserWarning, stacklevel=5)

    def _check_room(self, what: str, ids: Sequence[int], num_more: int):
        """Raises `ValueError` where the model does not know a token, or has no room for these and so many more."""
        if max(ids) >= self._followers.num_tokens:
            raise ValueError(
                f"{what} holds the token {max(ids)}, and the model knows {self._followers.num_tokens} only: "
                "processing_class is another model's tokenizer, or model.resize_token_embeddings(len(tokenizer)) is due"
            )
        room = self._followers.num_positions
        if room is not None and len(ids) + num_more > room:
            raise ValueError(
                f"{what} has {len(ids)} tokens; with max_completion_length={self._max_length} that is more than the "
                f"model's {room} positions: shorten the prompt, or lower max_completion_length"
            )

    def _written_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts, without end marks behind them."""
        rows = self._ids(texts, add_special_tokens=False)
        return [row[: len(row) - _num_at_the_end(row, self.end_id)] for row in rows]

    def _ids(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"]  # pyright: ignore


def _num_at_the_end(ids: Sequence[int], mark: int) -> int:
    return len(ids) - next((i + 1 for i in reversed(range(len(ids))) if ids[i] != mark), 0)
