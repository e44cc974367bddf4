"""What a trainer is given, looked at before anything is loaded or computed."""

from collections.abc import Mapping
from typing import Any

from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.checks.functions import takes
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.objectives import PreferenceLoss, UpperObjective


def check_arguments(
    model: PreTrainedModel | str,
    processing_class: PreTrainedTokenizerBase,
    args: BilevelRLHFConfig,
    peft_config: PeftConfig | None,
    judges: Mapping[str, Any] | None,
):
    """Raises `TypeError` where an argument is not what it has to be; the message names it."""
    if not isinstance(model, str):
        checks.instance("model", model, PreTrainedModel)
    checks.instance("processing_class", processing_class, PreTrainedTokenizerBase)
    checks.instance("args", args, BilevelRLHFConfig)
    if peft_config is not None:
        checks.instance("peft_config", peft_config, PeftConfig)
    for name, judge in checks.instance("judges", judges or {}, Mapping).items():
        takes(f"judges[{name!r}]", judge, "texts")


def check_objective(upper_objective: UpperObjective | None, args: BilevelRLHFConfig):
    """Looks at an upper objective.

    Raises:
        TypeError: it is not a function of three arguments.
        ValueError: it asks about pairs, and completions come in odd numbers.
    """
    if upper_objective is None:
        return
    try:
        takes("upper_objective", upper_objective, "inputs", "rewards", "seed")
    except TypeError as error:
        raise TypeError(f"{error}; HumanScore makes one of a function that scores texts") from None
    size = args.per_device_train_batch_size
    if isinstance(upper_objective, PreferenceLoss) and size % 2:
        raise ValueError(f"per_device_train_batch_size must be even, since PreferenceLoss asks about pairs, got {size}")
