"""Upper objectives f(x, π): what the leader wants from the completions of the policy that its reward induces.

A form of `f` maps a batch of the policy's completions to a cost c of every completion, which enters the penalized
policy through δᴸ, and to an estimate of f's direct part, whose gradient is ∇_x f̂ (docs/explanation/method.md, section
6).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import Float
from torch import Tensor, nn

from bilevel_rl.checks.functions import takes
from bilevel_rl.lm.answers import number_each
from bilevel_rl.lm.identity import of_callable
from bilevel_rl.lm.rewards import RewardInputs


class UpperEstimate(NamedTuple):
    """One batch's estimate of f: c without gradients, a number with ∇_x f̂, f̂ itself, and answers that people gave."""

    costs: Float[Tensor, " N"]
    direct: Float[Tensor, ""]
    objective: float
    num_answers: int


@runtime_checkable
class UpperObjective(Protocol):
    """What the trainer asks of an upper objective. An attribute `identity`, JSON, stands for it in that of a run."""

    def __call__(self, inputs: RewardInputs, rewards: Float[Tensor, " N"], seed: int) -> UpperEstimate:
        """Estimates f from completions of one policy; `rewards` are r_x of them, with gradients."""
        ...


class HumanScore:
    """f(x, π) = −E_{y∼π}[h(y)]: people score what the policy writes, and the leader wants high scores.

    Args:
        score: texts and a seed for what is random in the answers → one number a text, larger is better. A model, or a
            function that asks a person.
        identity: what stands for `score` in the identity of a run, any JSON, as a survey's name. By default its
            attribute `identity`, or the digest of its code and of all that it holds; it is not called for that.

    Raises:
        TypeError: `score` is not a function of texts and a seed.
        ValueError: when called, where there is not one finite number for each text.
    """

    def __init__(self, score: Callable[[list[str], int], Sequence[float] | np.ndarray], *, identity: Any = None):
        self._score, self._identity = takes("score", score, "texts", "seed"), identity

    @property
    def identity(self) -> Any:
        """What makes its answers those of the same people, as JSON."""
        return ["HumanScore", of_callable(self._score) if self._identity is None else self._identity]

    def __call__(self, inputs: RewardInputs, rewards: Float[Tensor, " N"], seed: int) -> UpperEstimate:
        """c = −h, no direct part."""
        scores = torch.tensor(_ask_once(self._score, inputs.texts, seed), dtype=torch.float32, device=rewards.device)
        return UpperEstimate(-scores, torch.zeros((), device=rewards.device), -float(scores.mean()), len(scores))


class PreferenceLoss:
    """f(x, π) = E_{y,y'∼π}[−log σ(r_x(winner) − r_x(loser))]: r_x agrees with people on what it makes policies write.

    Rows 0 and 1 are a pair, rows 2 and 3, and so on. f depends on π through both completions of a pair, so each has the
    cost 2 ℓ.

    Args:
        prefer: first texts, second texts and a seed for what is random in the answers → for every pair whether people
            prefer the first.
        identity: what stands for `prefer` in the identity of a run; as for `HumanScore`.

    Raises:
        TypeError: `prefer` is not a function of two lists of texts and a seed.
        ValueError: when called, where the number of completions is odd or there is not one answer, true or false, for
            each pair.
    """

    def __init__(
        self, prefer: Callable[[list[str], list[str], int], Sequence[bool] | np.ndarray], *, identity: Any = None
    ):
        self._prefer, self._identity = takes("prefer", prefer, "first", "second", "seed"), identity

    @property
    def identity(self) -> Any:
        """What makes its answers those of the same people, as JSON."""
        return ["PreferenceLoss", of_callable(self._prefer) if self._identity is None else self._identity]

    def __call__(self, inputs: RewardInputs, rewards: Float[Tensor, " N"], seed: int) -> UpperEstimate:
        """c = 2 ℓ of the pair that a completion is in; the direct part is the mean ℓ."""
        if len(inputs.texts) % 2:
            raise ValueError(f"PreferenceLoss needs pairs: an even batch size, got {len(inputs.texts)} completions")
        answers = _ask_once(
            lambda texts, seed: self._prefer(texts[::2], texts[1::2], seed), inputs.texts, seed, pairs=2
        )
        if not set(answers) <= {0.0, 1.0}:
            raise ValueError(f"upper_objective: prefer must say true or false of each pair, got {answers!r:.200}")
        sign = torch.tensor([1.0 if answer else -1.0 for answer in answers], device=rewards.device)
        losses = -nn.functional.logsigmoid(sign * (rewards[::2] - rewards[1::2]))
        costs = (2 * losses.detach()).repeat_interleave(2)
        return UpperEstimate(costs, losses.mean(), float(losses.detach().mean()), len(answers))


def _ask_once(
    ask: Callable[[list[str], int], Sequence[float] | np.ndarray], texts: list[str], seed: int, pairs: int = 1
) -> list[float]:
    """Answers about the texts of all processes, asked in the first one only; returns this process's share.

    Raises:
        ValueError: there is not one finite number each.
        RuntimeError: asking failed in another process.
    """
    state = PartialState()
    everything: list[str] = gather_object(texts)
    answers: list[float] | str = ""
    failure = None
    if state.is_main_process:
        try:
            answers = number_each("upper_objective", ask(everything, seed), len(everything) // pairs)
        except Exception as error:
            # The other processes wait for answers, and would for ever.
            failure, answers = error, f"{type(error).__name__}: {error}"
    given = broadcast_object_list([answers])[0]
    if failure is not None:
        failure.add_note("upper_objective was asked; train() goes on from the last checkpoint")
        raise failure
    if isinstance(given, str):
        raise RuntimeError(f"upper_objective: asking failed in the first process: {given}")
    share = len(texts) // pairs
    return given[state.process_index * share : (state.process_index + 1) * share]


def checked(estimate: UpperEstimate, num_rows: int) -> UpperEstimate:
    """What an upper objective gave.

    Raises:
        TypeError: it is no `UpperEstimate`.
        ValueError: there is not one cost a row, or the direct part is no single number.
    """
    if not isinstance(estimate, UpperEstimate):
        raise TypeError(
            f"upper_objective must give an UpperEstimate, got {estimate!r:.200}; wrap a function that scores texts in "
            "HumanScore"
        )
    costs, direct = (tuple(getattr(part, "shape", ("no tensor",))) for part in (estimate.costs, estimate.direct))
    if (costs, direct) != ((num_rows,), ()):
        raise ValueError(
            f"upper_objective must give costs of shape ({num_rows},) and a direct part of shape (), got {costs} and "
            f"{direct}"
        )
    return estimate
