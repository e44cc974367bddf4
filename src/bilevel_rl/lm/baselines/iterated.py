"""Iterated RLHF: two-stage RLHF whose reward is fitted again, every m iterations, to all answers so far.

People score as many completions an iteration as in the bi-level trainer. Scores of one iteration become pairs: each two
completions with different scores. The reward then minimizes the mean negative log-likelihood of all pairs, in which an
answer counts as much as an offline preference.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from bilevel_rl import checks
from bilevel_rl.lm.rewards import prior, rewards_of, with_features
from bilevel_rl.lm.rows import StepSizeNumbers, mean_columns
from bilevel_rl.lm.training import RLHFTrainer


class IteratedRLHFTrainer(RLHFTrainer):
    """θ learns from r_x; x is fitted to people's answers on what θ writes. As `BilevelRLHFTrainer`, and:

    Args:
        refit_every: m, iterations between two fits.
        num_fit_steps: Adam steps of size ζ in a fit, which starts from the x before it.

    Raises:
        TypeError, ValueError: `refit_every` or `num_fit_steps` is no integer, or < 1.
    """

    policies = ("lower",)

    def __init__(self, *arguments: Any, refit_every: int = 10, num_fit_steps: int = 100, **options: Any):
        self._refit_every = checks.integer("refit_every", refit_every, at_least=1)
        self._num_fit_steps = checks.integer("num_fit_steps", num_fit_steps, at_least=1)
        super().__init__(*arguments, **options)
        self._answers: list[tuple[list[int], list[str], list[float]]] = []
        """Of every iteration: numbers of prompts, texts and scores."""

    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """y ~ π_θ; then (A), (C), and after every m-th iteration a fit of x."""
        num_rows, columns = 2 * self._num_rows, []
        first = k * num_rows + self._processes.process_index * (num_rows // self._processes.num_processes)
        numbers: list[int] = []
        texts: list[str] = []
        scores: list[float] = []
        for number, batch in enumerate(self._batches(k, num_rows=num_rows, compares=False)):
            r, n = batch.rewards, (len(batch.rewards) + 1) // 2
            upper = self._ask(batch, range(n), k * num_rows + number)
            numbers += [first + number * len(r) + row for row in range(n)]
            texts += batch.inputs.texts[:n]
            scores += (-upper.costs).tolist()
            columns.append(
                self._ascend(batch, r.detach(), step_size, num_rows).columns | {"upper_value": upper.objective}
            )  # (A), (C)
        self._answers.append((gather_object(numbers), gather_object(texts), gather_object(scores)))
        self.steps.share("actor", "critic")
        self.steps.move("actor", step_size.actor)
        self.steps.move("critic", step_size.critic)
        if (k + 1) % self._refit_every == 0:
            self._fit(step_size.upper)
        return mean_columns(columns)

    def _fit(self, step: float):
        examples = [self.batches.example(number) for part, _, _ in self._answers for number in part]
        texts = [text for _, part, _ in self._answers for text in part]
        inputs = self.encoder.encode([example.text for example in examples], texts)
        inputs = with_features(self.reward_model, inputs._replace(examples=tuple(examples)))
        pairs = self._pairs()
        if pairs.shape[1] == 0 and self.preferences is None:
            return
        num_offline = 0 if self.preferences is None else len(self.preferences.chosen)
        offline = num_offline / (num_offline + len(texts))
        for _ in range(self._num_fit_steps):
            if pairs.shape[1] > 0:
                rewards = rewards_of(self.reward_model, inputs)
                loss = -nn.functional.logsigmoid(rewards[pairs[0]] - rewards[pairs[1]]).mean()
                ((1 - offline) * loss).backward()
            if self.preferences is not None:
                (offline * self.preferences.negative_log_likelihood(self.reward_model)).backward()
            prior(self.reward_model, self.args.prior_precision).backward()
            self.steps.move("upper", step)

    def _pairs(self) -> Tensor:
        """Rows of the higher and of the lower score of every two completions of an iteration."""
        pairs, start = [], 0
        for _, texts, scores in self._answers:
            given = torch.tensor(scores)
            higher, lower = torch.nonzero(given[:, None] > given[None, :], as_tuple=True)
            pairs.append(torch.stack([higher, lower]) + start)
            start += len(texts)
        return torch.cat(pairs, dim=1)

    def identity(self) -> dict[str, Any]:
        """As `RLHFTrainer.identity`, and the baseline's own options."""
        return super().identity() | {"refit_every": self._refit_every, "num_fit_steps": self._num_fit_steps}

    def counters(self) -> dict[str, Any]:
        """As `RLHFTrainer.counters`, and all answers."""
        return super().counters() | {"answers": self._answers}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]):
        """As `RLHFTrainer.restore`."""
        super().restore(tensors, counters)
        self._answers = [(numbers, texts, scores) for numbers, texts, scores in counters["answers"]]
