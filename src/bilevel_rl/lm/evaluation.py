"""How good, how varied and how fluent a policy's completions are, and how far it is from the frozen model."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from bilevel_rl.lm.answers import number_each
from bilevel_rl.lm.learning import PolicyPass, Regularization, gather_evidence
from bilevel_rl.lm.rewards import RewardInputs, rewards_of
from bilevel_rl.lm.training import RLHFTrainer


class Evaluation(NamedTuple):
    """Texts of a policy, one number each for every measure, and measures of the whole set.

    `scores` holds a column for every judge; "reward", r_x; "divergence", nats from the frozen model, the sum over
    tokens of KL(π‖π_ref) in the states that were visited; "perplexity_nats", −log π_ref of the text per token.
    """

    texts: list[str]
    scores: dict[str, np.ndarray]
    distinct_1: float
    distinct_2: float

    def summary(self) -> dict[str, float]:
        """Means, their standard errors (`_se`), and the perplexity under the frozen model."""
        row: dict[str, float] = {"distinct_1": self.distinct_1, "distinct_2": self.distinct_2}
        for name, values in self.scores.items():
            row[name] = float(values.mean())
            row[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        row["perplexity"] = float(np.exp(row.pop("perplexity_nats")))
        del row["perplexity_nats_se"]
        return row


@torch.no_grad()
def evaluate(
    trainer: RLHFTrainer,
    policy: str,
    judges: Mapping[str, Callable[[list[str]], Sequence[float] | np.ndarray]],
    *,
    num_completions: int,
    seed: int,
) -> Evaluation:
    """Measures fresh completions of a policy of the trainer, or of the frozen model (`followers.REFERENCE`).

    Raises:
        TypeError, ValueError: there is no such policy, a number is no positive integer, or a judge does not give one
            finite number for each text.
    """
    texts: list[str] = []
    columns: dict[str, list[np.ndarray]] = {"reward": [], "divergence": [], "perplexity_nats": []}
    unregularized = {policy: Regularization(0.0, 0.0)}
    for completions, examples in trainer.written(num_completions, policy=policy, seed=seed):
        evidence = gather_evidence(trainer.followers, completions, None)
        rows = [policy] * len(completions.ids)
        measured = PolicyPass(trainer.followers, rows, completions, evidence.reference_states, unregularized)
        written = completions.texts(trainer.tokenizer)
        inputs = RewardInputs(written, completions, evidence.states, examples=tuple(examples))
        texts += inputs.texts
        columns["reward"].append(rewards_of(trainer.reward_model, inputs).cpu().numpy())
        columns["divergence"].append(measured.divergence.cpu().numpy())
        nats = -measured.reference_log_probs / completions.mask.sum(dim=1)
        columns["perplexity_nats"].append(nats.cpu().numpy())
    scores = {name: np.concatenate(parts) for name, parts in columns.items()}
    scores |= {
        name: np.array(number_each(f"judges[{name!r}]", judge(texts), len(texts))) for name, judge in judges.items()
    }
    return Evaluation(texts, scores, distinct(texts, 1), distinct(texts, 2))


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams of words in the texts together; 1 is never the same twice.

    Falls with the number of texts: compare equal numbers only.
    """
    words = [text.lower().split() for text in texts]
    grams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)
