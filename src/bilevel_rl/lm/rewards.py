"""Rewards r_x of whole completions, and what people say about pairs of them.

A reward model is any `torch.nn.Module` that maps `RewardInputs` to one number a row; its parameters are x.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.tokens import Completions, Prompts


class RewardInputs(NamedTuple):
    """What a reward model may look at; `states` are the frozen model's last hidden states, mean over a completion."""

    texts: list[str]
    completions: Completions
    states: Float[Tensor, "N d"]

    def select(self, rows: Int[Tensor, " n"]) -> "RewardInputs":
        """Some of the rows, in any order."""
        return RewardInputs(
            [self.texts[row] for row in rows.tolist()], self.completions.select(rows), self.states[rows]
        )


class RewardHead(nn.Module):
    """r_x(y) = bound · tanh(u / bound) of a linear or one-hidden-layer function u of the standardized states.

    Args:
        num_features: d.
        bound: largest |r_x|, so that no completion is worth more than what people can say.
        hidden_size: of the hidden layer; None for a linear function.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int, *, bound: float = 3.5, hidden_size: int | None = None):
        super().__init__()
        if not bound > 0:
            raise ValueError(f"bound must be positive, got {bound}")
        if hidden_size is None:
            self.score: nn.Module = nn.Linear(num_features, 1)
        else:
            self.score = nn.Sequential(nn.Linear(num_features, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))
        last = self.score if isinstance(self.score, nn.Linear) else self.score[-1]  # pyright: ignore
        nn.init.zeros_(last.weight)  # pyright: ignore
        nn.init.zeros_(last.bias)  # pyright: ignore
        self.bound = bound
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def standardize(self, states: Float[Tensor, "N d"]):
        """Sets the fixed mean and scale of the features from examples.

        Raises:
            ValueError: there are fewer than two, so that no scale can be told.
        """
        if len(states) < 2:
            raise ValueError(f"states must have at least 2 rows to tell their scale, got {len(states)}")
        self.mean.copy_(states.mean(dim=0))
        self.scale.copy_(states.std(dim=0).clamp(min=1e-6))

    def forward(self, inputs: RewardInputs) -> Float[Tensor, " N"]:
        """r_x of every row."""
        score = self.score((inputs.states - self.mean) / self.scale).squeeze(-1)
        return self.bound * torch.tanh(score / self.bound)


class Preferences(NamedTuple):
    """Pairs of texts of which people chose one: every different text once, and who won."""

    inputs: RewardInputs
    chosen: Int[Tensor, " n"]
    rejected: Int[Tensor, " n"]

    def negative_log_likelihood(
        self, reward_model: nn.Module, pairs: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, ""]:
        """NLL_D(x) = −mean log σ(r_x(chosen) − r_x(rejected)) of all pairs, or of some: Bradley–Terry."""
        if pairs is None:
            rewards = reward_model(self.inputs)
            return -nn.functional.logsigmoid(rewards[self.chosen] - rewards[self.rejected]).mean()
        rows = torch.cat([self.chosen[pairs], self.rejected[pairs]])
        chosen, rejected = reward_model(self.inputs.select(rows)).chunk(2)
        return -nn.functional.logsigmoid(chosen - rejected).mean()


class Encoder:
    """Turns texts into what policies and reward models read.

    Args:
        followers: whose frozen model gives the states.
        tokenizer: of that model, with an end mark and a padding token.
        max_length: T, longer completions are cut.
        batch_size: rows of a pass.

    Raises:
        ValueError: the tokenizer has no end mark or no padding token.
    """

    def __init__(self, followers: Followers, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int):
        for mark in ("eos_token_id", "pad_token_id"):
            if getattr(tokenizer, mark) is None:
                raise ValueError(f"processing_class: {mark} is None; set the tokenizer's {mark[:-3]}")
        self._followers, self._tokenizer = followers, tokenizer
        self._max_length, self._batch_size = max_length, batch_size
        self.end_id: int = tokenizer.eos_token_id  # pyright: ignore
        self.pad_id: int = tokenizer.pad_token_id  # pyright: ignore

    def prompt_ids(self, prompt: str) -> list[int]:
        """Tokens of a prompt; an empty one is the start mark.

        Raises:
            ValueError: the prompt is empty and the tokenizer has no start mark.
        """
        ids: list[int] = self._tokenizer(prompt)["input_ids"]  # pyright: ignore
        if ids:
            return ids
        if self._tokenizer.bos_token_id is None:
            raise ValueError("prompts: an empty prompt needs a start mark; set the tokenizer's bos_token")
        return [self._tokenizer.bos_token_id]  # pyright: ignore

    def texts(self, completions: Completions) -> list[str]:
        """What was written."""
        return completions.texts(self._tokenizer)

    def prompts(self, prompts: Sequence[str]) -> Prompts:
        """A batch of prompts."""
        return Prompts.pad([self.prompt_ids(prompt) for prompt in prompts], self.pad_id, self._followers.device)

    def completions(self, prompts: Sequence[str], texts: Sequence[str]) -> Completions:
        """Texts as if a policy had written them after these prompts."""
        encoded: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # pyright: ignore
        rows = [[*row[: self._max_length - 1], self.end_id] for row in encoded]
        width = max(len(row) for row in rows)
        device = self._followers.device
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return Completions(self.prompts(prompts), ids, torch.arange(width, device=device) < lengths[:, None])

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

    def encode_preferences(self, dataset: Sequence[Mapping[str, str]]) -> Preferences:
        """Pairs in TRL's form, rows with "chosen" and "rejected", and "prompt" where it is not empty.

        Raises:
            ValueError: there is no row, or one lacks a column.
        """
        if len(dataset) == 0:
            raise ValueError("preference_dataset is empty; pass None where there are no preferences")
        index: dict[tuple[str, str], int] = {}
        pairs: list[list[int]] = []
        for number, row in enumerate(dataset):
            if not {"chosen", "rejected"} <= set(row):
                raise ValueError(f"preference_dataset: row {number} needs 'chosen' and 'rejected', got {sorted(row)}")
            keys = [(row.get("prompt", ""), row[side]) for side in ("chosen", "rejected")]
            pairs.append([index.setdefault(key, len(index)) for key in keys])
        chosen, rejected = torch.tensor(pairs, device=self._followers.device).unbind(dim=1)
        return Preferences(self.encode([p for p, _ in index], [t for _, t in index]), chosen, rejected)


def mean_states(hidden: Float[Tensor, "N L d"], completions: Completions) -> Float[Tensor, "N d"]:
    """Means of hidden states over the written tokens, end mark included."""
    hidden = hidden[:, completions.prompts.ids.shape[1] :].float()
    weights = completions.mask.float()
    return (hidden * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def prior(reward_model: nn.Module, precision: float) -> Float[Tensor, ""]:
    """(κ/2) ‖x‖²: the negative logarithm of a Gaussian prior of x, in units of one preference's likelihood."""
    return precision / 2 * torch.stack([(weight**2).sum() for weight in reward_model.parameters()]).sum()


def fit_reward(
    reward_model: nn.Module,
    preferences: Preferences,
    *,
    precision: float,
    num_steps: int = 400,
    learning_rate: float = 3e-3,
) -> float:
    """Minimizes NLL_D(x) + (κ/2) ‖x‖² on all pairs by Adam, κ the precision; returns the NLL at the end."""
    optimizer = torch.optim.Adam(reward_model.parameters(), lr=learning_rate)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = preferences.negative_log_likelihood(reward_model) + prior(reward_model, precision)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()  # A trainer adds to what it finds.
    return float(preferences.negative_log_likelihood(reward_model).detach())
