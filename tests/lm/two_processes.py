"""A process of a job that `test_lm_processes` starts: trains, and saves what it ended with. Not a test."""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from bilevel_rl.lm import (
    BilevelRLHFTrainer,
    HumanScore,
    IteratedRLHFTrainer,
    NestedLoopRLHFTrainer,
    PartialSGDRLHFTrainer,
    PreferenceLoss,
    TwoStageRLHFTrainer,
)
from lm.tiny_trainers import PREFERENCES, score, trainer


def count(completions):
    return [float(text.count("b")) for text in completions]


def size(completion_ids):
    return [len(ids) / 3 for ids in completion_ids]


class StopsAtTwo(TrainerCallback):
    """Asks for the end after two iterations, in the first process only."""

    def on_step_end(self, args, state, control, **given):
        control.should_training_stop = state.is_world_process_zero and state.global_step == 2


FUNCTIONS = {"reward_model": {"b": count, "size": size}, "reward_bounds": (0.9, 1.1), "log_completions": True}

SETTINGS = {
    "scores": (BilevelRLHFTrainer, {}, {}),
    "preferences": (BilevelRLHFTrainer, {"reward_gradient": "plain", "coupled": False}, {}),
    "functions": (BilevelRLHFTrainer, FUNCTIONS, {}),
    "nested": (NestedLoopRLHFTrainer, {}, {"num_inner_steps": 3}),
    "partial": (PartialSGDRLHFTrainer, {}, {}),
    "two_stage": (TwoStageRLHFTrainer, {}, {}),
    "iterated": (IteratedRLHFTrainer, {}, {"refit_every": 1, "num_fit_steps": 3}),
}
NUM_ROWS = 8


def train(setting, folder, num_processes):
    """Three iterations of 8 rows of each policy; returns the trainer, its rows, and the questions that people got."""
    torch.set_num_threads(1)
    asked = []

    def ask(texts, seed):
        asked.append([texts, seed])
        return score(texts)

    def prefer(first, second, seed):
        asked.append([[*first, *second], seed])
        return [one > other for one, other in zip(score(first), score(second), strict=True)]

    method, options, method_options = SETTINGS[setting]
    built = trainer(
        folder,
        method,
        upper_objective=PreferenceLoss(prefer) if setting == "preferences" else HumanScore(ask),
        per_device_train_batch_size=NUM_ROWS // num_processes,
        prompts=("", "b", "b a b"),
        preferences=PREFERENCES,
        optimizer="sgd",
        learning_rate=0.1,
        critic_learning_rate=0.2,
        upper_learning_rate=0.1,
        max_steps=3,
        method_options=method_options,
        **options,
    )
    rows = built.train(progress=False).rows
    return built, rows, asked


def train_with_a_failure(folder, num_processes):
    """People are out of reach, which only the first process sees."""

    def ask(texts, seed):
        raise ConnectionError("nobody is there")

    built = trainer(folder, upper_objective=HumanScore(ask), per_device_train_batch_size=NUM_ROWS // num_processes)
    built.train(progress=False)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for setting in SETTINGS:
        built, rows, asked = train(setting, root / setting, num_processes)
        assert built._processes.num_processes == num_processes
        tensors = {name: tensor.contiguous().clone() for name, tensor in built.tensors().items()}
        save_file(tensors, root / f"{setting}-{rank}.safetensors")
        (root / f"{setting}-{rank}.json").write_text(json.dumps([rows, asked]))
    built = trainer(root / "callback", callbacks=[StopsAtTwo], per_device_train_batch_size=4)
    (root / f"callback-{rank}.json").write_text(json.dumps(len(built.train(progress=False).rows)))
    try:
        train_with_a_failure(root / "failure", num_processes)
    except Exception as error:
        (root / f"failure-{rank}.json").write_text(json.dumps(f"{type(error).__name__}: {error}"))
    torch.distributed.destroy_process_group()
