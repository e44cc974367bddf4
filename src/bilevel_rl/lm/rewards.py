"""Rewards r_x of whole completions, and what people say about pairs of them.

A reward model is any `torch.nn.Module` that maps `RewardInputs` to one number a row; its parameters are x. It is in
evaluation mode, also while it is trained: with dropout a text would have another reward whenever it is asked for.
"""

import abc
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilevel_rl import checks
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.tokens import Completions


class RewardInputs(NamedTuple):
    """What a reward model may look at; `states` are the frozen model's last hidden states, mean over a completion.

    `prompts` are the texts that were completed, for whoever shows them to people; nothing where nobody does. `examples`
    are the rows of the data that were completed. `features` are what a `FeatureReward` said of the rows, so that it
    is asked once for each; None where it was not.
    """

    texts: list[str]
    completions: Completions
    states: Float[Tensor, "N d"]
    prompts: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    features: Float[Tensor, "N k"] | None = None

    def select(self, rows: Int[Tensor, " n"]) -> "RewardInputs":
        """Some of the rows, in any order."""
        numbers = rows.tolist()
        return RewardInputs(
            [self.texts[row] for row in numbers],
            self.completions.select(rows),
            self.states[rows],
            tuple(self.prompts[row] for row in numbers) if self.prompts else (),
            tuple(self.examples[row] for row in numbers) if self.examples else (),
            None if self.features is None else self.features[rows],
        )


class RewardHead(nn.Module):
    """r_x(y) = bound · tanh(u / bound) of a linear or one-hidden-layer function u of the standardized states.

    Args:
        num_features: d.
        bound: largest |r_x|, so that no completion is worth more than what people can say.
        hidden_size: of the hidden layer; None for a linear function.

    Raises:
        TypeError, ValueError: a size is no positive integer, or the bound no finite positive number.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int, *, bound: float = 3.5, hidden_size: int | None = None):
        super().__init__()
        checks.integer("num_features", num_features, at_least=1)
        checks.number("bound", bound, above=0)
        if hidden_size is None:
            self.score: nn.Module = nn.Linear(num_features, 1)
        else:
            checks.integer("hidden_size", hidden_size, at_least=1)
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
            ValueError: there are fewer than two, so that no scale can be told, or they have other features.
        """
        checks.instance("states", states, Tensor)
        if states.ndim != 2 or states.shape[1] != len(self.mean) or not bool(torch.isfinite(states).all()):
            raise ValueError(
                f"states must be finite and of shape (N, {len(self.mean)}), got {tuple(states.shape)}, of which "
                f"{int((~torch.isfinite(states)).sum())} numbers are not finite"
            )
        if len(states) < 2:
            raise ValueError(f"states must have at least 2 rows to tell their scale, got {len(states)}")
        self.mean.copy_(states.mean(dim=0))
        self.scale.copy_(states.std(dim=0).clamp(min=1e-6))

    def forward(self, inputs: RewardInputs) -> Float[Tensor, " N"]:
        """r_x of every row."""
        score = self.score((inputs.states - self.mean) / self.scale).squeeze(-1)
        return self.bound * torch.tanh(score / self.bound)


class FeatureReward(nn.Module, abc.ABC):
    """A reward model that looks at a completion through features, which do not depend on x."""

    @abc.abstractmethod
    def features(self, inputs: RewardInputs) -> Float[Tensor, "N k"]:
        """What is known of every row. `forward` takes it from `inputs.features` where it stands there."""


@torch.no_grad()
def with_features(reward_model: nn.Module, inputs: RewardInputs) -> RewardInputs:
    """The same with the features of a reward model that has such, worked out once."""
    if not isinstance(reward_model, FeatureReward):
        return inputs
    return inputs._replace(features=reward_model.features(inputs))


def rewards_of(reward_model: nn.Module, inputs: RewardInputs) -> Float[Tensor, " N"]:
    """r_x of every row, in single precision; a column of shape (N, 1), as sequence classifiers give it, is one too.

    Raises:
        ValueError: there is not one real number a row.
    """
    rewards, num_rows = reward_model(inputs), len(inputs.texts)
    if not isinstance(rewards, Tensor):
        got = f"{rewards!r:.80}"
    elif tuple(rewards.shape) not in ((num_rows,), (num_rows, 1)) or not rewards.is_floating_point():
        got = f"a tensor of shape {tuple(rewards.shape)} and type {rewards.dtype}"
    else:
        return rewards.reshape(num_rows).float()
    raise ValueError(f"reward_model must give one real number for each of the {num_rows} completions, got {got}")


def check_reward_model(reward_model: nn.Module, num_features: int):
    """Looks at a reward model before it is trained.

    Args:
        reward_model: r_x.
        num_features: of the states that it will see.

    Raises:
        TypeError: it is no module.
        ValueError: its weights cannot be trained or saved, or it was made for other states.
    """
    checks.instance("reward_model", reward_model, nn.Module)
    weights = list(reward_model.parameters())
    if any(isinstance(weight, nn.UninitializedParameter) for weight in weights):
        raise ValueError("reward_model has weights without a shape: call it once before")
    if not any(weight.requires_grad for weight in weights):
        raise ValueError("reward_model has no weights that can be trained (requires_grad)")
    for name, value in reward_model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"reward_model cannot be saved: {name} of its state_dict is no tensor, but {value!r:.80}")
        if value.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"reward_model must hold single precision, got {name} in {value.dtype}: call .float() on it"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"reward_model must hold finite numbers, got others in {name}")
    if isinstance(reward_model, RewardHead) and len(reward_model.mean) != num_features:
        raise ValueError(
            f"reward_model is made for {len(reward_model.mean)} features, and the model's states have {num_features}: "
            f"RewardHead({num_features})"
        )


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
            rewards = rewards_of(reward_model, self.inputs)
            return -nn.functional.logsigmoid(rewards[self.chosen] - rewards[self.rejected]).mean()
        rows = torch.cat([self.chosen[pairs], self.rejected[pairs]])
        chosen, rejected = rewards_of(reward_model, self.inputs.select(rows)).chunk(2)
        return -nn.functional.logsigmoid(chosen - rejected).mean()


def mean_states(hidden: Float[Tensor, "N L d"], completions: Completions) -> Float[Tensor, "N d"]:
    """Means of hidden states over the written tokens, end mark included."""
    hidden = hidden[:, completions.prompts.ids.shape[1] :].float()
    weights = completions.mask.float()
    return (hidden * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def learned(reward_model: nn.Module) -> list[nn.Parameter]:
    """x: the parameters that are not frozen."""
    return [weight for weight in reward_model.parameters() if weight.requires_grad]


def prior(reward_model: nn.Module, precision: float) -> Float[Tensor, ""]:
    """(κ/2) ‖x‖²: the negative logarithm of a Gaussian prior of x, in units of one preference's likelihood."""
    return precision / 2 * torch.stack([(weight**2).sum() for weight in learned(reward_model)]).sum()


def fit_reward(
    reward_model: nn.Module,
    preferences: Preferences,
    *,
    precision: float,
    num_steps: int = 400,
    learning_rate: float = 3e-3,
) -> float:
    """Minimizes NLL_D(x) + (κ/2) ‖x‖² on all pairs by Adam, as two-stage RLHF does before its policy learns.

    Args:
        reward_model: r_x, changed in place.
        preferences: D, as the attribute `preferences` of a trainer.
        precision: κ.
        num_steps: of Adam.
        learning_rate: of Adam.

    Returns:
        NLL_D at the end, in nats.
    """
    reward_model.eval()  # As a trainer has it: what is fitted is what policies will learn from.
    optimizer = torch.optim.Adam(learned(reward_model), lr=learning_rate)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = preferences.negative_log_likelihood(reward_model) + prior(reward_model, precision)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()  # A trainer adds to what it finds.
    return float(preferences.negative_log_likelihood(reward_model).detach())
