"""Methods that the bi-level trainer is compared with: one file each, the same policies, completions and rows."""

from bilevel_rl.lm.baselines.iterated import IteratedRLHFTrainer as IteratedRLHFTrainer
from bilevel_rl.lm.baselines.nested_loop import NestedLoopRLHFTrainer as NestedLoopRLHFTrainer
from bilevel_rl.lm.baselines.partial_sgd import PartialSGDRLHFTrainer as PartialSGDRLHFTrainer
from bilevel_rl.lm.baselines.two_stage import TwoStageRLHFTrainer as TwoStageRLHFTrainer
