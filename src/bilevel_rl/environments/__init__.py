"""What the follower lives in."""

from bilevel_rl.environments._toy_text import gymnasium_reward as gymnasium_reward
from bilevel_rl.environments.contexts import Contexts as Contexts
from bilevel_rl.environments.driven import DrivenMDP as DrivenMDP
from bilevel_rl.environments.environment import Environment as Environment
from bilevel_rl.environments.functional import (
    Episode as Episode,
    FunctionalEnvironment as FunctionalEnvironment,
    over_axes as over_axes,
)
from bilevel_rl.environments.gymnax import GymnaxState as GymnaxState
from bilevel_rl.environments.host import HostEnvironment as HostEnvironment, HostEpisode as HostEpisode
from bilevel_rl.environments.logged import TransitionLog as TransitionLog
from bilevel_rl.environments.moved import (
    PathwiseTransition as PathwiseTransition,
    ScoreTransition as ScoreTransition,
)
from bilevel_rl.environments.tabular import TabularMDP as TabularMDP

ObservedEnvironment = FunctionalEnvironment | HostEnvironment
"""Environments whose states have no numbers: a policy acts on what it observes of them."""
