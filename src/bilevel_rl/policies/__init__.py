"""How parameters become the laws of actions and values, and how a step in logit space is applied to them."""

from bilevel_rl.policies.batches import over_samples as over_samples
from bilevel_rl.policies.categorical import Categorical as Categorical, CategoricalLaw as CategoricalLaw
from bilevel_rl.policies.gaussian import Gaussian as Gaussian, GaussianLaw as GaussianLaw
from bilevel_rl.policies.learned import NetworkPolicy as NetworkPolicy, load as load, save as save
from bilevel_rl.policies.neural import NeuralActorCritic as NeuralActorCritic
from bilevel_rl.policies.observations import Moments as Moments
from bilevel_rl.policies.policy import Policy as Policy
from bilevel_rl.policies.quadratic import linear_quadratic as linear_quadratic
from bilevel_rl.policies.tabular import TabularActorCritic as TabularActorCritic
