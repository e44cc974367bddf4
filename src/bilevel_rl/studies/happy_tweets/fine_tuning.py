"""Supervised fine-tuning on short texts that goes on after a kill as if nothing had happened.

Every text is one sequence: begin mark, tokens of the text, end mark. The model that comes out, given the begin mark
alone, writes a text and ends it.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int, float], None]
"""Called after every step with steps done, steps in all, and the step's loss (nats a token)."""

CHECKPOINT_EVERY = 20
"""Steps between checkpoints; a kill costs at most these."""

TEXTS_PER_PASS = 8
"""Texts that go through the model at a time; the scores of all their tokens are what needs most memory."""

MAX_TOKENS = 64
"""Longer texts are cut, without end mark. Tweets have 21 tokens on average, and one of 4,200 has more than 64."""


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune.

    Attributes:
        num_steps: optimizer steps.
        batch_size: texts a step.
        learning_rate: AdamW's highest; rises linearly over `num_warmup_steps`, then falls to 0 as a half cosine.
        num_warmup_steps: see `learning_rate`.
        max_gradient_norm: larger gradients are scaled down to this global norm.
        seed: of the order of the texts and of the new weights.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    num_warmup_steps: int = 10
    max_gradient_norm: float = 1.0
    seed: int = 0


def token_sequences(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Begin mark, tokens, end mark of every text; at most `MAX_TOKENS` + 2.

    Raises:
        ValueError: the tokenizer has no begin or end mark.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is None or end is None:
        raise ValueError(f"the tokenizer needs a begin and an end mark, has {begin} and {end}")
    tokens = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[begin, *one, end][: MAX_TOKENS + 2] for one in tokens]  # pyright: ignore[reportGeneralTypeIssues]


def token_losses(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Negative log-likelihoods of all tokens but the begin marks, in nats; shape (num_tokens,), float32."""
    length = max(map(len, sequences))
    # Padding stands on the right, where causal attention never looks, so no attention mask is needed.
    ids = torch.tensor([[*one, *[0] * (length - len(one))] for one in sequences])
    real = torch.tensor([[i < len(one) for i in range(1, length)] for one in sequences])
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    # With two axes: a frozen output matrix is copied once a row for a batch of sequences.
    logits = model.get_output_embeddings()(hidden[real])  # pyright: ignore[reportCallIssue, reportOptionalCall]
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][real], reduction="none")


def perplexity(model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int = 32) -> float:
    """exp of the mean negative log-likelihood of a token, end marks counted, begin marks not."""
    ordered = sorted(sequences, key=len)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        losses = [token_losses(model, ordered[i : i + batch_size]) for i in range(0, len(ordered), batch_size)]
    model.train(was_training)
    return math.exp(torch.cat(losses).double().mean().item())


def fine_tune(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    settings: FineTuning,
    checkpoint: Path,
    progress: Progress | None = None,
) -> float:
    """Trains the parameters of `model` that require gradients, in place.

    What is done is written to `checkpoint` every 20 steps and at the end; a call with the same arguments goes on from
    there and ends with the same weights, bit for bit. A checkpoint of other arguments is not read. The caller removes
    the file when it has saved the model.

    Args:
        sequences: token numbers of every text, begin and end mark included.
        checkpoint: file of weights and optimizer; replaced atomically.

    Returns:
        The mean loss of the last 20 steps, in nats a token.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    identity = _identity(weights, sequences, settings)
    losses = _restore(checkpoint, identity, weights, optimizer)
    model.train()
    for step in range(len(losses), settings.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        batch = [sequences[i] for i in _batch(len(sequences), settings, step)]
        num_tokens = sum(len(one) - 1 for one in batch)
        loss = 0.0
        for start in range(0, len(batch), TEXTS_PER_PASS):
            part = token_losses(model, batch[start : start + TEXTS_PER_PASS]).sum() / num_tokens
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(weights.values(), settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        # Before the report, so that a kill in it costs nothing.
        if len(losses) % CHECKPOINT_EVERY == 0 or len(losses) == settings.num_steps:
            _save(checkpoint, identity, weights, optimizer, losses)
        if progress is not None:
            progress(len(losses), settings.num_steps, losses[-1])
    model.eval()
    last = losses[-CHECKPOINT_EVERY:]
    return sum(last) / len(last)


def learning_rate(settings: FineTuning, step: int) -> float:
    """Rate of the step that follows `step` steps: a linear rise, then a half cosine down to 0."""
    rise = min(1.0, (step + 1) / settings.num_warmup_steps) if settings.num_warmup_steps else 1.0
    done = max(0, step - settings.num_warmup_steps) / max(1, settings.num_steps - settings.num_warmup_steps)
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * done))


def _batch(num_sequences: int, settings: FineTuning, step: int) -> list[int]:
    """Texts of a step. A function of seed and step alone, so there is no generator to save."""
    batch: list[int] = []
    for position in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        epoch, index = divmod(position, num_sequences)
        if not batch or index == 0:
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
            order = torch.randperm(num_sequences, generator=generator)
        batch.append(int(order[index]))  # pyright: ignore[reportPossiblyUnboundVariable]
    return batch


def _identity(weights: dict[str, Any], sequences: Sequence[Sequence[int]], settings: FineTuning) -> str:
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    return hashlib.sha256(repr((settings, shapes, [list(one) for one in sequences])).encode()).hexdigest()


def _save(
    checkpoint: Path, identity: str, weights: dict[str, Any], optimizer: torch.optim.Optimizer, losses: list[float]
):
    temporary = checkpoint.with_name(checkpoint.name + ".tmp")
    state = {"identity": identity, "weights": weights, "optimizer": optimizer.state_dict(), "losses": losses}
    torch.save(state, temporary)
    temporary.replace(checkpoint)


def _restore(checkpoint: Path, identity: str, weights: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[float]:
    """Puts back weights and optimizer; returns the losses so far, none without a checkpoint of this training."""
    if not checkpoint.is_file():
        return []
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity:
        return []
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"]
