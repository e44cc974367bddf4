"""A training that people are asked by, as a process of its own that `test_lm_rating` starts and kills. Not a test."""

import sys
from pathlib import Path

import torch

from bilevel_rl.lm import PreferenceLoss
from bilevel_rl.rating import HumanRatings
from lm.tiny_trainers import trainer

INSTRUCTION = "Which one has more b?"


def build(folder, prefer):
    return trainer(
        folder,
        upper_objective=PreferenceLoss(prefer, identity="people"),
        per_device_train_batch_size=10,
        max_steps=9,
        end_id=3,
        prompts=("b c",),
        checkpoint_every=0.0,
        upper_learning_rate=0.1,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    build(folder, HumanRatings(folder, INSTRUCTION, raters_per_question=2).prefer).train(progress=False)
