"""What may be given as a reward model, and the module that it becomes."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.lm.classifier import ClassifierReward
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.weighted_rewards import RewardFunction, WeightedRewards

RewardModel = nn.Module | Mapping[str, RewardFunction] | Sequence[RewardFunction]
"""What a trainer takes for r_x."""


def reward_model_of(given: Any, args: BilevelRLHFConfig, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """r_x as a module.

    Args:
        given: a module from `RewardInputs` to one number a row; reward functions, a list or by name; or a sequence
            classifier.
        args: initial weights and bounds of several rewards.
        tokenizer: of the policies, and of a classifier that comes without one.

    Raises:
        TypeError: it is none of these.
        ValueError: functions cannot be used, or weights are given where there are no functions.
    """
    if isinstance(given, Mapping | list | tuple):
        return WeightedRewards(given, weights=args.reward_weights, bounds=args.reward_bounds)
    for name in ("reward_weights", "reward_bounds"):
        if getattr(args, name) is not None:
            raise ValueError(f"{name} are of several rewards: give reward_model as a list or a mapping of functions")
    if isinstance(given, PreTrainedModel | PeftModel):
        return ClassifierReward(given, tokenizer)
    remedy = "put a reward function into a list" if callable(given) else ""
    return checks.instance("reward_model", given, nn.Module, remedy=remedy)
