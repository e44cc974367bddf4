"""Rewards of few named features: r_x(y) = Σ_i x_i φ_i(y), each φ_i a function as TRL's reward functions are.

What is learned are the weights x, one number for each function, so that the reward can be read. A function is called
once for each completion: its numbers stand in `RewardInputs.features`, and ∇_x r_x(y) = φ(y).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilevel_rl import checks
from bilevel_rl.lm.answers import number_each
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.identity import of_callable
from bilevel_rl.lm.rewards import FeatureReward, RewardInputs

RewardFunction = Callable[..., Sequence[float]]
"""(prompts, completions, **columns) → one number for each completion."""

GIVEN = ("prompts", "completions", "completion_ids")
"""What a reward function gets besides columns of the data, by name, as far as it takes it."""

Numbers = Sequence[float] | Mapping[str, float]
Bounds = tuple[float, float] | Mapping[str, tuple[float, float]]


class WeightedRewards(FeatureReward):
    """r_x(y) = Σ_i x_i φ_i(y): reward functions, and a weight of each that is learned.

    A function gets by name what it takes of `prompts`, `completions` and `completion_ids`, and of the columns of the
    data; one that takes `**columns` gets all. In a conversation a prompt is its messages and a completion a list of one
    message, otherwise both are texts.

    Args:
        rewards: name → function, or functions, which have names.
        weights: x at the start, by name or in the functions' order; by default 1 each.
        bounds: the lowest and the highest value of every weight, or by name of some; may be infinite.

    Raises:
        TypeError, ValueError: there is no function, two have the same name, or a weight or a bound cannot be.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(
        self,
        rewards: Mapping[str, RewardFunction] | Sequence[RewardFunction],
        *,
        weights: Numbers | None = None,
        bounds: Bounds | None = None,
    ):
        super().__init__()
        self._functions = _by_name(rewards)
        self._takes = {name: _taken_by(function) for name, function in self._functions.items()}
        self.names = tuple(self._functions)
        limits = _limits(self.names, bounds)
        self.weights = nn.Parameter(torch.tensor(_initial(self.names, weights, limits)))
        for name, side in zip(("lowest", "highest"), zip(*limits, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(side), persistent=False)

    @property
    def identity(self) -> list[Any]:
        """What makes it the same reward, besides its weights, as JSON."""
        functions = {name: of_callable(function) for name, function in self._functions.items()}
        return [list(self.names), functions, self.lowest.tolist(), self.highest.tolist()]

    def reads(self, column: str) -> bool:
        """Whether a function takes a column of this name."""
        return any(needed is None or column in needed for needed, _ in self._takes.values())

    def check_examples(self, name: str, examples: Sequence[Example]):
        """Raises `ValueError` where a row of the data lacks a column that a function asks for; `name` is the data's."""
        for function, (_, required) in self._takes.items():
            for number, example in enumerate(examples):
                for column in required - set(example.columns):
                    raise ValueError(
                        f"reward_model[{function!r}] takes {column!r}, which row {number} of {name} has not: add the "
                        "column, or give the parameter a default"
                    )

    def features(self, inputs: RewardInputs) -> Float[Tensor, "N d"]:
        """φ(y) of every row: calls every function once.

        Raises:
            ValueError: a function does not give one finite number for each completion; the message names it.
        """
        count = len(inputs.texts)
        given = _given(inputs)
        columns = []
        for name, function in self._functions.items():
            needed = self._takes[name][0]
            arguments = {key: value for key, value in given.items() if needed is None or key in needed}
            columns.append(number_each(f"reward_model[{name!r}]", function(**arguments), count))
        return torch.tensor(columns, dtype=torch.float32, device=self.weights.device).T.contiguous()

    def forward(self, inputs: RewardInputs) -> Float[Tensor, " N"]:
        """r_x of every row."""
        features = self.features(inputs) if inputs.features is None else inputs.features
        return features @ self.weights

    @torch.no_grad()
    def project(self):
        """Puts weights that have left their bounds back onto them."""
        self.weights.copy_(self.weights.clamp(self.lowest, self.highest))

    def named_weights(self) -> dict[str, float]:
        """x, by name."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))


def _by_name(rewards: Any) -> dict[str, RewardFunction]:
    if isinstance(rewards, Mapping):
        named = list(rewards.items())
    else:
        listed = list(checks.instance("reward_model", rewards, list, tuple))
        for number, function in enumerate(listed):
            checks.function(f"reward_model[{number}]", function)
        named = [(getattr(function, "__name__", type(function).__name__), function) for function in listed]
    if not named:
        raise ValueError("reward_model must hold at least one reward function, got none")
    found: dict[str, RewardFunction] = {}
    for name, function in named:
        if not isinstance(name, str) or not name.isprintable() or not name.strip() or set(name) & set(',"'):
            raise ValueError(f"reward_model: names must be printable, without commas or quotes, got {name!r}")
        if name in found:
            raise ValueError(f"reward_model: two rewards are called {name!r}: give a mapping of different names")
        found[name] = checks.function(f"reward_model[{name!r}]", function)
    return found


def _taken_by(function: RewardFunction) -> tuple[set[str] | None, set[str]]:
    """Names that a function takes, None for all; and those columns of the data that it cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some built-in functions have none.
        return None, set()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    named = [parameter for parameter in parameters if parameter.kind in kinds]
    required = {parameter.name for parameter in named if parameter.default is inspect.Parameter.empty}
    return None if takes_all else {parameter.name for parameter in named}, required - set(GIVEN)


def _given(inputs: RewardInputs) -> dict[str, list[Any]]:
    examples = inputs.examples
    completions = inputs.completions
    columns = {name: [example.columns[name] for example in examples] for name in _shared_columns(examples)}
    return columns | {
        "prompts": [example.prompt for example in examples],
        "completions": [example.answer(text) for example, text in zip(examples, inputs.texts, strict=True)],
        "completion_ids": [ids[mask].tolist() for ids, mask in zip(completions.ids, completions.mask, strict=True)],
    }


def _shared_columns(examples: Sequence[Example]) -> list[str]:
    """Columns that all rows have."""
    first = list(examples[0].columns) if examples else []
    return [name for name in first if all(name in example.columns for example in examples)]


def _initial(names: Sequence[str], weights: Numbers | None, limits: Sequence[tuple[float, float]]) -> list[float]:
    if weights is None:
        given = [min(max(1.0, low), high) for low, high in limits]
    elif isinstance(weights, Mapping):
        _check_names("reward_weights", weights, names, all_of_them=True)
        given = [weights[name] for name in names]
    else:
        given = list(weights)
        if len(given) != len(names):
            raise ValueError(f"reward_weights must be one number for each of {', '.join(names)}, got {given!r:.80}")
    for name, weight, (low, high) in zip(names, given, limits, strict=True):
        checks.number(f"reward_weights[{name!r}]", weight, at_least=low, at_most=high)
    return [float(weight) for weight in given]


def _limits(names: Sequence[str], bounds: Bounds | None) -> list[tuple[float, float]]:
    if isinstance(bounds, Mapping):
        _check_names("reward_bounds", bounds, names, all_of_them=False)
        return [_limit(f"reward_bounds[{name!r}]", bounds.get(name)) for name in names]
    return [_limit("reward_bounds", bounds)] * len(names)


def _limit(name: str, pair: Any) -> tuple[float, float]:
    if pair is None:
        return -float("inf"), float("inf")
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"{name} must be a lowest and a highest value, as (0.0, 2.0), got {pair!r:.80}")
    low, high = (checks.number(name, value, allow_infinite=True) for value in pair)
    if low >= high:
        raise ValueError(f"{name}: the lowest value must be below the highest, got {pair!r}")
    return low, high


def _check_names(name: str, given: Mapping[str, Any], names: Sequence[str], *, all_of_them: bool):
    unknown = sorted(map(str, set(given) - set(names)))
    missing = [each for each in names if all_of_them and each not in given]
    if unknown or missing:
        raise ValueError(f"{name} must name the rewards {', '.join(names)}, got {', '.join(map(str, given))}")
