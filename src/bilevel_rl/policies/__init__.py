"""How parameters become logits and values, and how a step in logit space is applied to them."""

from bilevel_rl.policies.tabular import TabularActorCritic as TabularActorCritic, over_samples as over_samples
