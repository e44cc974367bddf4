"""How policies learn from completions: the steps (A), (C), (AL), (CL) for adapters on a language model.

`Evidence` is what passes without gradients say about a batch. `PolicyPass` is the pass with gradients; its `ascend`
leaves in the weights' `grad` the negated mean direction, for an optimizer that descends.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilevel_rl.lm import estimators
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.rewards import mean_states
from bilevel_rl.lm.tokens import Completions

CHUNK = 256
"""Tokens whose scores over the whole vocabulary are worked on at a time."""


class Regularization(NamedTuple):
    """Weights of log π_ref and of the entropy in what a policy learns from: β and τ."""

    reference: float
    entropy: float


class Evidence(NamedTuple):
    """What passes without gradients say: states that π_ref acts from, mean states, and log π of the other policies."""

    reference_states: Float[Tensor, "M d"]
    states: Float[Tensor, "N d"]
    other_log_probs: Float[Tensor, " N"] | None


@torch.no_grad()
def gather_evidence(followers: Followers, completions: Completions, others: Sequence[str] | None) -> Evidence:
    """One pass for the reference and, where `others` names a policy for every row, for those policies too."""
    num_rows = len(completions.ids)
    rows = [REFERENCE] * num_rows
    batch = completions
    if others is not None:
        rows = rows + list(others)
        batch = completions.select(torch.arange(2 * num_rows, device=completions.ids.device) % num_rows)
    hidden = followers.hidden_states(rows, batch)
    states = mean_states(hidden[:num_rows], completions)
    acting = hidden[:, completions.prompts.ids.shape[1] - 1 : -1][batch.mask]
    num_tokens = completions.num_tokens
    reference_states = acting[:num_tokens]
    if others is None:
        return Evidence(reference_states, states, None)
    log_probs = torch.cat(
        [
            _log_probs(followers.logits(names, states_), actions)
            for names, states_, actions in _chunks(
                _per_token(others, completions), acting[num_tokens:], completions.actions
            )
        ]
    )
    return Evidence(reference_states, states, completions.per_token(log_probs).sum(dim=1))


class PolicyPass:
    """One pass of every row's own policy, with gradients.

    Args:
        followers: the policies.
        rows: the policy of every row, which wrote it.
        completions: N rows of M tokens in all.
        reference_states: that the frozen model chooses the tokens from, as in `Evidence`.
        regularization: of every policy.
    """

    def __init__(
        self,
        followers: Followers,
        rows: Sequence[str],
        completions: Completions,
        reference_states: Float[Tensor, "M d"],
        regularization: Mapping[str, Regularization],
    ):
        self._followers, self._rows, self._completions = followers, rows, completions
        self._acting = followers.acting_states(rows, completions)
        # Scores hang on a copy of the states, so that their large arrays are freed before the pass back through layers.
        self._leaf = self._acting.detach().requires_grad_()
        token_rows = _per_token(rows, completions)
        self._chunks = [
            (followers.logits(names, states), actions, self._reference_logits(acting), regularization[names[0]])
            for names, states, actions, acting in _chunks(token_rows, self._leaf, completions.actions, reference_states)
        ]
        parts = [self._describe(*chunk) for chunk in self._chunks]
        log_probs, reference_log_probs, regularizer, entropy, divergence = (
            torch.cat(part) for part in zip(*parts, strict=True)
        )
        self.log_probs: Float[Tensor, " N"] = completions.per_token(log_probs).sum(dim=1)
        self.reference_log_probs: Float[Tensor, " N"] = completions.per_token(reference_log_probs).sum(dim=1)
        self.regularizer: Float[Tensor, "N T"] = completions.per_token(regularizer)
        self.entropy: Float[Tensor, " N"] = completions.per_token(entropy).sum(dim=1)
        self.divergence: Float[Tensor, " N"] = completions.per_token(divergence).sum(dim=1)

    def ascend(
        self, rewards: Float[Tensor, " N"], *, discount: float, gae_lambda: float, num_rows: int
    ) -> Float[Tensor, "N T"]:
        """(A), (C) for all rows: accumulates gradients of the mean over `num_rows` rows; returns δ.

        `rewards` come at the end of each row; R(s) comes with every token.
        """
        completions = self._completions
        values_with_gradient = self._values()
        learned = self.regularizer + estimators.at_the_end(rewards, completions.mask)
        values = completions.per_token(values_with_gradient.detach())
        δ = estimators.temporal_differences(learned, values, completions.mask, discount)
        token_advantages = estimators.advantages(δ, discount, gae_lambda)[completions.mask]
        values_with_gradient.backward(-token_advantages / num_rows)  # (C), (CL)
        done = 0
        while self._chunks:
            logits, actions, reference, weights = self._chunks.pop(0)
            part = token_advantages[done : done + len(actions)]
            done += len(actions)
            with torch.no_grad():
                row = estimators.direction(part, actions, logits.detach(), reference, *weights)
            logits.backward(row.div_(-num_rows))  # (A), (AL)
        if self._acting.requires_grad:  # not where only the output embedding is adapted
            self._acting.backward(self._leaf.grad)
        return δ

    def _values(self) -> Tensor:
        token_rows = _per_token(self._rows, self._completions)
        places = {name: [i for i, n in enumerate(token_rows) if n == name] for name in dict.fromkeys(self._rows)}
        values = torch.cat([self._followers.values(name, self._leaf[place]) for name, place in places.items()])
        return values[torch.tensor([i for place in places.values() for i in place]).argsort()]

    @torch.no_grad()
    def _reference_logits(self, states: Tensor) -> Tensor:
        return self._followers.logits([REFERENCE] * len(states), states)

    @torch.no_grad()
    def _describe(
        self, logits: Tensor, actions: Tensor, reference: Tensor, weights: Regularization
    ) -> tuple[Tensor, ...]:
        logits = logits.detach()
        entropy, cross = estimators.entropy_and_cross(logits, reference)
        regularizer = weights.reference * cross + weights.entropy * entropy
        return _log_probs(logits, actions), _log_probs(reference, actions), regularizer, entropy, -entropy - cross


def _log_probs(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.gather(1, actions[:, None]).squeeze(1) - torch.logsumexp(logits, dim=-1)


def _per_token(rows: Sequence[str], completions: Completions) -> list[str]:
    lengths = completions.mask.sum(dim=1).tolist()
    return [name for name, length in zip(rows, lengths, strict=True) for _ in range(length)]


def _chunks(names: list[str], *arrays: Tensor) -> Iterator[tuple]:
    """Parts of at most `CHUNK` tokens, each of one policy."""
    start = 0
    for _, group in itertools.groupby(names):
        end = start + len(list(group))
        for first in range(start, end, CHUNK):
            part = slice(first, min(first + CHUNK, end))
            yield names[part], *(array[part] for array in arrays)
        start = end
