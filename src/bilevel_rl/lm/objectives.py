"""Upper objectives f(x, π): what the leader wants from the completions of the policy that its reward induces.

A form of `f` maps a batch of the policy's completions to a cost c of every completion, which enters the penalized
policy through δᴸ, and to an estimate of f's direct part, whose gradient is ∇_x f̂ (docs/explanation/method.md, section
6).

People may not all have answered when training goes on. What a NumPy masked array masks is left out, and those that were
answered stand for all: estimates keep their expectation if whether a text is answered does not depend on it.
"""

import inspect
from collections.abc import Callable, Sequence
from statistics import fmean
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
        score: texts and a seed for what is random in the answers → one number a text, larger is better; in a masked
            array, where there is no answer, nothing. A model, or a function that asks a person. An optional
            parameter `prompts` gets what the texts answer.
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
        told = _takes_prompts(self._score)

        def ask(texts: list[str], prompts: list[str]) -> Any:
            return self._score(texts, seed, **({"prompts": prompts} if told else {}))

        answers = _ask_once(ask, inputs)
        costs = -torch.tensor(answers.values, dtype=torch.float32, device=rewards.device)
        direct = torch.zeros((), device=rewards.device)
        return UpperEstimate(_spread(costs, answers), direct, float(_mean(costs, answers)), sum(answers.is_there))


class PreferenceLoss:
    """f(x, π) = E_{y,y'∼π}[−log σ(r_x(winner) − r_x(loser))]: r_x agrees with people on what it makes policies write.

    Where people are of two minds, it is the mean over them.

    Rows 0 and 1 are a pair, rows 2 and 3, and so on. f depends on π through both completions of a pair, so each has the
    cost 2 ℓ.

    Args:
        prefer: first texts, second texts and a seed for what is random in the answers → for every pair whether people
            prefer the first, or the share of them that does; in a masked array, where there is no answer, nothing.
            An optional parameter `prompts` gets what the texts answer, as two lists.
        identity: what stands for `prefer` in the identity of a run; as for `HumanScore`.

    Raises:
        TypeError: `prefer` is not a function of two lists of texts and a seed.
        ValueError: when called, where the number of completions is odd or there is not one answer, true, false or
            between 0 and 1, for each pair.
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
        told = _takes_prompts(self._prefer)

        def ask(texts: list[str], prompts: list[str]) -> Any:
            given = {"prompts": (prompts[::2], prompts[1::2])} if told else {}
            return self._prefer(texts[::2], texts[1::2], seed, **given)

        answers = _ask_once(ask, inputs, pairs=2)
        if not all(0 <= value <= 1 for value in answers.values):
            raise ValueError(
                "upper_objective: prefer must say true or false of each pair, or the share of people that prefer the "
                f"first, got {answers.values!r:.200}"
            )
        share = torch.tensor(answers.values, device=rewards.device)
        r = rewards[::2] - rewards[1::2]
        losses = -share * nn.functional.logsigmoid(r) - (1 - share) * nn.functional.logsigmoid(-r)
        costs = _spread(2 * losses.detach(), answers).repeat_interleave(2)
        direct = _mean(losses, answers)
        return UpperEstimate(costs, direct, float(direct.detach()), sum(answers.is_there))


class _Answers(NamedTuple):
    """This process's answers; `share` of those of all processes are there, the others are 0."""

    values: list[float]
    is_there: list[bool]
    share: float


def _spread(costs: Float[Tensor, " n"], answers: _Answers) -> Float[Tensor, " n"]:
    """Costs that stand for those without answer too: c̄ + (c − c̄) / share, and c̄, which pulls nowhere, of the others."""
    if answers.share == 1:
        return costs
    is_there = torch.tensor(answers.is_there, device=costs.device)
    mean = fmean(gather_object(costs[is_there].tolist()))
    return torch.where(is_there, mean + (costs - mean) / answers.share, mean)


def _mean(numbers: Float[Tensor, " n"], answers: _Answers) -> Float[Tensor, ""]:
    """Mean of those with an answer; with several processes, the part of this one of which the mean is that of all."""
    if answers.share == 1:
        return numbers.mean()
    return numbers[torch.tensor(answers.is_there, device=numbers.device)].sum() / (len(numbers) * answers.share)


def _takes_prompts(function: Callable[..., Any]) -> bool:
    try:
        return "prompts" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # Some built-in functions have none.
        return False


def _ask_once(ask: Callable[[list[str], list[str]], Any], inputs: RewardInputs, pairs: int = 1) -> _Answers:
    """Answers about the texts of all processes, asked in the first one only; returns this process's share.

    Args:
        ask: texts and what they answer → one number each, or each pair.
        inputs: of this process.
        pairs: texts that a question is about.

    Raises:
        ValueError: there is not one finite number each, or all are masked.
        RuntimeError: asking failed in another process.
    """
    state = PartialState()
    texts = inputs.texts
    everything: list[str] = gather_object(texts)
    prompts: list[str] = gather_object(list(inputs.prompts) or [""] * len(texts))
    answers: tuple[list[float], list[bool]] | str = ""
    failure = None
    if state.is_main_process:
        try:
            given = ask(everything, prompts)
            is_there = [True] * (len(everything) // pairs)
            if isinstance(given, np.ma.MaskedArray):
                is_there = (~np.ma.getmaskarray(given)).ravel().tolist()
                given = given.filled(0)
            if not any(is_there):
                raise ValueError(f"upper_objective: expected at least one answer of {len(is_there)}, got none")
            answers = number_each("upper_objective", given, len(everything) // pairs), is_there
        except Exception as error:
            # The other processes wait for answers, and would for ever.
            failure, answers = error, f"{type(error).__name__}: {error}"
    told = broadcast_object_list([answers])[0]
    if failure is not None:
        failure.add_note("upper_objective was asked; train() goes on from the last checkpoint")
        raise failure
    if isinstance(told, str):
        raise RuntimeError(f"upper_objective: asking failed in the first process: {told}")
    size = len(texts) // pairs
    own = slice(state.process_index * size, (state.process_index + 1) * size)
    values, is_there = told
    return _Answers(values[own], is_there[own], sum(is_there) / len(is_there))


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
