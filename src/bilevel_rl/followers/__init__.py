"""Followers after a run: what they do, whether a reward teaches fresh ones too, and the reward as a file for others."""

from bilevel_rl.followers.judgement import (
    Judgement as Judgement,
    read_judgement as read_judgement,
    write_judgement as write_judgement,
)
from bilevel_rl.followers.learned_reward import LearnedReward as LearnedReward, write_reward as write_reward
from bilevel_rl.followers.rollout import Rollout as Rollout, rollout as rollout
from bilevel_rl.followers.training import FreshFollowers as FreshFollowers, learn as learn, train as train
