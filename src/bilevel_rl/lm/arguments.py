"""What a trainer is given, looked at before anything is loaded or computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.checks.functions import takes
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.objectives import PreferenceLoss, UpperObjective

NEW_NAMES = {"prompts": "train_dataset", "tokenizer": "processing_class", "reward_funcs": "reward_model"}
"""What arguments were called before, or are called elsewhere."""


def check_names(kind: str, others: Mapping[str, Any], reward_model: Any):
    """Raises `TypeError` for arguments that a trainer of this kind has not, and for those of before in their order."""
    for name in others:
        remedy = f"; it is called {NEW_NAMES[name]}" if name in NEW_NAMES else ""
        raise TypeError(f"{kind} has no argument {name!r}{remedy}")
    if isinstance(reward_model, PreTrainedTokenizerBase):
        raise TypeError(
            f"reward_model is a tokenizer: the arguments of {kind} are (model, reward_model, args, train_dataset, "
            "processing_class, peft_config), as TRL's"
        )


def check_model(model: Any):
    """Raises `TypeError` for what is neither a model nor a path."""
    if not isinstance(model, str):
        checks.instance("model", model, PreTrainedModel)


def path_of(model: PreTrainedModel | str) -> str:
    """Where a model was loaded from; empty for one that was not."""
    return model if isinstance(model, str) else model.name_or_path or ""


def default_args(kind: str, model: PreTrainedModel | str) -> BilevelRLHFConfig:
    """Default options in a folder of the working directory, named after model and method.

    Raises:
        ValueError: the model has no name.
    """
    name = Path(path_of(model)).name
    if not name:
        raise ValueError("args is None, and the model has no name to call a folder by: give BilevelRLHFConfig(FOLDER)")
    return BilevelRLHFConfig(f"{name}-{kind.removesuffix('Trainer')}")


def tokenizer_of(model: PreTrainedModel | str) -> PreTrainedTokenizerBase:
    """The tokenizer that lies where a model was loaded from.

    Raises:
        ValueError: it was not loaded from anywhere.
    """
    path = path_of(model)
    if not path:
        raise ValueError("processing_class is None, and the model was not loaded from a path: give its tokenizer")
    return AutoTokenizer.from_pretrained(path)


def check_arguments(args: BilevelRLHFConfig, peft_config: PeftConfig | None, judges: Mapping[str, Any] | None):
    """Raises `TypeError` where an argument is not what it has to be; the message names it."""
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
