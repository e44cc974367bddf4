"""Completions of all policies, and all that is known of them: what one iteration learns from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor, nn

from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.encoder import Encoder
from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.learning import Evidence, PolicyPass, Regularization, gather_evidence
from bilevel_rl.lm.rewards import RewardInputs, rewards_of, with_features
from bilevel_rl.lm.sampling import sample, stream
from bilevel_rl.lm.tokens import Completions

ORDER_OF_PROMPTS, NOISE, ANSWERS, PAIRS, EVALUATION, LAYERS = range(6)
"""What a stream of random numbers is for."""


ROWS_WITHOUT_GRADIENTS = 32
"""Completions that are written at a time where nothing is learned from them; which they are does not depend on it."""


ROWS_PER_PASS = 16
"""Completions that are learned from at a time: what the layers remember of them needs most of the memory."""


class Batch(NamedTuple):
    """Completions of all policies, the first policy's rows first, and r_x of them, with gradients for x."""

    policies: list[str]
    completions: Completions
    inputs: RewardInputs
    rewards: Float[Tensor, " N"]
    evidence: Evidence


class Batches:
    """Collects batches; which prompts and which noise an iteration has follows from seed and iteration alone.

    Args:
        followers: the policies.
        encoder: of prompts.
        reward_model: r_x.
        examples: what completions begin with; an empty text is the start mark alone.
        policies: names of those that write, all after the same prompts.
        args: batch size, horizon, seed and coupling.

    Raises:
        ValueError: one of the prompts cannot be used.
    """

    def __init__(
        self,
        followers: Followers,
        encoder: Encoder,
        reward_model: nn.Module,
        examples: Sequence[Example],
        policies: Sequence[str],
        args: BilevelRLHFConfig,
    ):
        encoder.prompts([example.text for example in examples])
        self._followers, self._encoder, self._reward_model = followers, encoder, reward_model
        self.examples, self._policies, self._args = list(examples), tuple(policies), args

    def collect(self, k: int, *, num_rows: int, compares: bool) -> Iterator[Batch]:
        """This process's completions of iteration k, in `gradient_accumulation_steps` passes.

        Args:
            k: iteration.
            num_rows: of each policy, in all processes.
            compares: whether to work out log π of every row under the other one of two policies.
        """
        processes = PartialState()
        share = num_rows // processes.num_processes
        size = share // self._args.gradient_accumulation_steps
        first = processes.process_index * share
        for start in range(first, first + share, size):
            rows = range(start, min(start + size, first + share))
            streams = [
                stream(self._args.seed, NOISE, k, row, policy)
                for policy in range(1 if self._args.coupled else len(self._policies))
                for row in rows
            ]
            examples = [self.example(k * num_rows + row) for row in rows]
            completions = self._write(self._policies, examples, streams)
            yield self._observe(completions, examples * len(self._policies), compares=compares)

    def passes(self, batch: Batch, regularization: Mapping[str, Regularization]) -> Iterator[tuple[slice, PolicyPass]]:
        """Some rows after the other, with a pass that is to be used up before the next one is asked for."""
        for start in range(0, len(batch.policies), ROWS_PER_PASS):
            rows = slice(start, start + ROWS_PER_PASS)
            completions = batch.completions.select(rows)
            first = int(batch.completions.mask[:start].sum())
            reference_states = batch.evidence.reference_states[first : first + completions.num_tokens]
            yield rows, PolicyPass(self._followers, batch.policies[rows], completions, reference_states, regularization)

    def complete(self, policy: str, num_completions: int, seed: int) -> Iterator[tuple[Completions, list[Example]]]:
        """Completions of one policy, and what they answer, in batches. The same seed gives the same noise."""
        for start in range(0, num_completions, ROWS_WITHOUT_GRADIENTS):
            rows = range(start, min(start + ROWS_WITHOUT_GRADIENTS, num_completions))
            examples = [self.examples[row % len(self.examples)] for row in rows]
            yield self._write([policy], examples, [stream(seed, EVALUATION, row) for row in rows]), examples

    def example(self, number: int) -> Example:
        """Every example once, in a random order, then again in another order."""
        epoch, place = divmod(number, len(self.examples))
        if len(self.examples) == 1:
            return self.examples[0]
        order = np.random.default_rng((self._args.seed, ORDER_OF_PROMPTS, epoch)).permutation(len(self.examples))
        return self.examples[order[place]]

    def _write(
        self, names: Sequence[str], examples: Sequence[Example], streams: Sequence[torch.Generator]
    ) -> Completions:
        return sample(
            self._followers,
            names,
            self._encoder.prompts([example.text for example in examples]),
            streams,
            max_length=self._args.max_completion_length,
            end_id=self._encoder.end_id,
            pad_id=self._encoder.pad_id,
        )

    def _observe(self, completions: Completions, examples: Sequence[Example], *, compares: bool) -> Batch:
        size = len(completions.ids) // len(self._policies)
        policies = [name for name in self._policies for _ in range(size)]
        evidence = gather_evidence(self._followers, completions, policies[::-1] if compares else None)
        inputs = RewardInputs(
            self._encoder.texts(completions),
            completions,
            evidence.states,
            self._encoder.prompt_texts(completions),
            tuple(examples),
        )
        inputs = with_features(self._reward_model, inputs)
        return Batch(policies, completions, inputs, rewards_of(self._reward_model, inputs), evidence)
