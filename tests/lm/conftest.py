"""On the CPU with one thread: the models here are so small that more threads only wait for each other."""

import functools
import os

import pytest

from bilevel_rl.runs import folder as results

os.environ["ACCELERATE_USE_CPU"] = "true"
describe_environment = functools.cache(results.describe_environment)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    import torch

    torch.set_num_threads(1)
    monkeypatch.setattr(results, "describe_environment", describe_environment)  # asks git, for every run folder
