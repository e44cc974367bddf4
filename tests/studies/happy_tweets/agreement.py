"""How well annotators and judges follow people."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bilevel_rl.studies.happy_tweets.tweets import RatedTweet


@dataclass(frozen=True)
class Agreement:
    """How well predictions follow people's mean ratings on tweets that the predictor has not seen.

    Attributes:
        correlation: Pearson's, over tweets.
        pair_accuracy: share of the pairs of tweets with different means that are put in the people's order.
        num_tweets: tweets compared.
    """

    correlation: float
    pair_accuracy: float
    num_tweets: int


def agreement(predictions: np.ndarray, tweets: Sequence[RatedTweet]) -> Agreement:
    """Agreement of one prediction per tweet with the means of its raters."""
    means = np.array([tweet.mean for tweet in tweets])
    first, second = np.triu_indices(len(means), 1)
    order = np.sign(means[first] - means[second])
    guess = np.sign(predictions[first] - predictions[second])
    return Agreement(
        float(np.corrcoef(predictions, means)[0, 1]), float(np.mean(guess[order != 0] == order[order != 0])), len(means)
    )
