"""Bi-level reinforcement learning of language models: Algorithm 1 on transformers and peft. Needs the extra `[lm]`."""

import importlib.util as _importlib

for _name in ("torch", "transformers", "peft", "accelerate", "safetensors"):
    if _importlib.find_spec(_name) is None:
        raise ModuleNotFoundError(
            f"bilevel_rl.lm needs {_name}, which is not installed: run `make lm` in a checkout, or "
            "`pip install 'bilevel-rl[lm]'` (for a build of torch without CUDA install torch first)",
            name=_name,
        )

from bilevel_rl.lm.baselines import (  # noqa: E402
    IteratedRLHFTrainer as IteratedRLHFTrainer,
    NestedLoopRLHFTrainer as NestedLoopRLHFTrainer,
    PartialSGDRLHFTrainer as PartialSGDRLHFTrainer,
    TwoStageRLHFTrainer as TwoStageRLHFTrainer,
)
from bilevel_rl.lm.classifier import ClassifierReward as ClassifierReward  # noqa: E402
from bilevel_rl.lm.config import BilevelRLHFConfig as BilevelRLHFConfig  # noqa: E402
from bilevel_rl.lm.evaluation import Evaluation as Evaluation, evaluate as evaluate  # noqa: E402
from bilevel_rl.lm.objectives import HumanScore as HumanScore, PreferenceLoss as PreferenceLoss  # noqa: E402
from bilevel_rl.lm.rewards import (  # noqa: E402
    RewardHead as RewardHead,
    RewardInputs as RewardInputs,
    fit_reward as fit_reward,
)
from bilevel_rl.lm.trainer import BilevelRLHFTrainer as BilevelRLHFTrainer  # noqa: E402
from bilevel_rl.lm.weighted_rewards import WeightedRewards as WeightedRewards  # noqa: E402
