"""How it is solved: one file per method."""

from bilevel_rl.algorithms.algorithm import Algorithm as Algorithm
from bilevel_rl.algorithms.bchg import BCHG as BCHG
from bilevel_rl.algorithms.certainty_equivalence import CertaintyEquivalence as CertaintyEquivalence
from bilevel_rl.algorithms.exact_descent import (
    ExactDescent as ExactDescent,
    ExactDescentInfo as ExactDescentInfo,
    ExactDescentState as ExactDescentState,
)
from bilevel_rl.algorithms.finite_difference import FiniteDifference as FiniteDifference
from bilevel_rl.algorithms.followers import Followers as Followers
from bilevel_rl.algorithms.hpgd import HPGD as HPGD
from bilevel_rl.algorithms.model_based import ModelBased as ModelBased
from bilevel_rl.algorithms.nested_loop import NestedLoop as NestedLoop
from bilevel_rl.algorithms.partial_sgd import PartialSGD as PartialSGD
from bilevel_rl.algorithms.pbrl import PBRL as PBRL, BellmanPBRL as BellmanPBRL
from bilevel_rl.algorithms.planned_hpgd import PlannedHPGD as PlannedHPGD
from bilevel_rl.algorithms.single_loop import SingleLoopActorCritic as SingleLoopActorCritic
from bilevel_rl.algorithms.sobirl import SoBiRL as SoBiRL
from bilevel_rl.algorithms.untuned import untuned as untuned
from bilevel_rl.algorithms.upper_steps import UpperSteps as UpperSteps
