"""Trainers on the tiny models, and rewards with a number of their own for every text."""

import torch
from torch import nn

from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, HumanScore
from bilevel_rl.lm.followers import LORA
from lm.tiny_models import END, HORIZON, TABLE_ADAPTER, free_tables, llama, prefix_table, randomize, tokenizer

PREFERENCES = [
    {"chosen": "b", "rejected": "b b"},
    {"chosen": "b b", "rejected": ""},
    {"chosen": "b", "rejected": ""},
]


def text_number(completions):
    """0…26, of every row; what stands after the end counts as 0."""
    ids = torch.where(completions.mask, completions.ids, 0)
    ids = nn.functional.pad(ids, (0, HORIZON - ids.shape[1]))
    return 9 * ids[:, 0] + 3 * ids[:, 1] + ids[:, 2]


class TextTable(nn.Module):
    """r_x(y) = x[y]. Keeps the last completions that it was asked about."""

    def __init__(self, seed=0):
        super().__init__()
        self.table = nn.Parameter(torch.randn(27, generator=torch.Generator().manual_seed(seed)))
        self.seen = None

    def forward(self, inputs):
        self.seen = inputs.completions
        return self.table[text_number(inputs.completions)]


def score(texts, seed=0):
    """Asymmetric, and not monotone in anything."""
    return [0.8 * text.count("b") ** 2 - 1.1 * text.count("c") - 1.7 * text.startswith("b") for text in texts]


class Bomb:
    """A judge that fails when it is called for the n-th time."""

    identity = "bomb"

    def __init__(self, explodes_at=None):
        self.explodes_at, self.calls = explodes_at, 0

    def __call__(self, texts):
        self.calls += 1
        if self.calls == self.explodes_at:
            raise KeyboardInterrupt
        return score(texts)


SCORES = HumanScore(score)


def trainer(
    folder,
    method=BilevelRLHFTrainer,
    *,
    model=llama,
    end_id=END,
    reward_model=None,
    upper_objective=SCORES,
    prompts=("",),
    preferences=None,
    judges=None,
    callbacks=None,
    peft_config=LORA,
    words=None,
    starts_at=0.3,
    method_options=None,
    **options,
):
    """Small steps, four rows; policies and critics start at random numbers of scale `starts_at`."""
    options = {"per_device_train_batch_size": 4, "max_steps": 3, "max_completion_length": HORIZON} | options
    built = method(
        model(),
        TextTable() if reward_model is None else reward_model,
        BilevelRLHFConfig(folder, **options),
        list(prompts),
        words or tokenizer(end_id),
        TABLE_ADAPTER if model is prefix_table else peft_config,
        callbacks,
        upper_objective=upper_objective,
        preference_dataset=preferences,
        judges=judges,
        **(method_options or {}),
    )
    if model is prefix_table:
        free_tables(built.followers)
    if starts_at:
        randomize(built.followers, scale=starts_at)
    return built
