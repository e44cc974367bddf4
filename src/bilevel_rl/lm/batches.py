"""Completions of all policies, and all that is known of them: what one iteration learns from."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor, nn

from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.learning import PolicyPass, gather_evidence
from bilevel_rl.lm.rewards import Encoder, RewardInputs
from bilevel_rl.lm.sampling import sample, stream
from bilevel_rl.lm.tokens import Completions

ORDER_OF_PROMPTS, NOISE, ANSWERS, PAIRS, EVALUATION = range(5)
"""What a stream of random numbers is for."""


ROWS_WITHOUT_GRADIENTS = 32
"""Completions that are written at a time where nothing is learned from them; which they are does not depend on it."""


class Batch(NamedTuple):
    """Completions of all policies in one pass, the first policy's rows first.

    `log_ratio` is log π_θ − log π_θᴸ of every row, where it was asked for.
    """

    completions: Completions
    inputs: RewardInputs
    rewards: Float[Tensor, " N"]
    policy_pass: PolicyPass
    log_ratio: Float[Tensor, " N"] | None


class Batches:
    """Collects batches; which prompts and which noise an iteration has follows from seed and iteration alone.

    Args:
        followers: the policies.
        encoder: of prompts.
        reward_model: r_x.
        prompts: texts that completions begin with; an empty text is the start mark alone.
        policies: names of those that write, all after the same prompts.
        args: batch size, horizon, seed, β and coupling.

    Raises:
        ValueError: there is no prompt, or one that cannot be used.
    """

    def __init__(
        self,
        followers: Followers,
        encoder: Encoder,
        reward_model: nn.Module,
        prompts: Sequence[str],
        policies: Sequence[str],
        args: BilevelRLHFConfig,
    ):
        if not prompts:
            raise ValueError("prompts must hold at least one text; the empty text '' is the start mark alone")
        encoder.prompts(prompts)
        self._followers, self._encoder, self._reward_model = followers, encoder, reward_model
        self._prompts, self._policies, self._args = list(prompts), tuple(policies), args

    def collect(self, k: int, entropy_weight: float, *, num_rows: int, compares: bool) -> Iterator[Batch]:
        """This process's completions of iteration k, in `gradient_accumulation_steps` passes.

        Args:
            k: iteration.
            entropy_weight: τ_k.
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
            completions = self._write(self._policies, [self.prompt(k * num_rows + row) for row in rows], streams)
            yield self._observe(completions, entropy_weight, compares=compares)

    def complete(self, policy: str, num_completions: int, seed: int) -> Iterator[Completions]:
        """Completions of one policy, in batches. The same seed gives the same noise."""
        for start in range(0, num_completions, ROWS_WITHOUT_GRADIENTS):
            rows = range(start, min(start + ROWS_WITHOUT_GRADIENTS, num_completions))
            prompts = [self._prompts[row % len(self._prompts)] for row in rows]
            yield self._write([policy], prompts, [stream(seed, EVALUATION, row) for row in rows])

    def prompt(self, number: int) -> str:
        """Every prompt once, in a random order, then again in another order."""
        epoch, place = divmod(number, len(self._prompts))
        if len(self._prompts) == 1:
            return self._prompts[0]
        order = np.random.default_rng((self._args.seed, ORDER_OF_PROMPTS, epoch)).permutation(len(self._prompts))
        return self._prompts[order[place]]

    def _write(self, names: Sequence[str], prompts: Sequence[str], streams: Sequence[torch.Generator]) -> Completions:
        return sample(
            self._followers,
            names,
            self._encoder.prompts(prompts),
            streams,
            max_length=self._args.max_completion_length,
            end_id=self._encoder.end_id,
            pad_id=self._encoder.pad_id,
        )

    def _observe(self, completions: Completions, entropy_weight: float, *, compares: bool) -> Batch:
        size = len(completions.ids) // len(self._policies)
        names = [name for name in self._policies for _ in range(size)]
        evidence = gather_evidence(self._followers, completions, names[::-1] if compares else None)
        policy_pass = PolicyPass(
            self._followers, names, completions, evidence.reference_logits, self._args.beta, entropy_weight
        )
        log_ratio = None
        if evidence.other_log_probs is not None:
            sign = torch.ones(len(names), device=completions.ids.device)
            sign[size:] = -1.0
            log_ratio = sign * (policy_pass.log_probs - evidence.other_log_probs)
        inputs = RewardInputs(self._encoder.texts(completions), completions, evidence.states)
        return Batch(completions, inputs, self._reward_model(inputs), policy_pass, log_ratio)
