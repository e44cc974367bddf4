"""Methods that the bi-level trainer is compared with: one file each, the same policies, completions and rows."""

from bilevel_rl.lm.rivals.iterated import IteratedRLHFTrainer as IteratedRLHFTrainer
from bilevel_rl.lm.rivals.nested_loop import NestedLoopRLHFTrainer as NestedLoopRLHFTrainer
from bilevel_rl.lm.rivals.partial_sgd import PartialSGDRLHFTrainer as PartialSGDRLHFTrainer
from bilevel_rl.lm.rivals.two_stage import TwoStageRLHFTrainer as TwoStageRLHFTrainer
