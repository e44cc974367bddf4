"""Stand-ins for people: an annotator that may be asked during training, and a judge that only looks at the result.

Both predict the mean rating of a tweet by ridge regression on its MiniLM embedding and its TF-IDF weighted words and
pairs of words. They are fitted on different tweets, so what fools the annotator need not fool the judge; what
they share is the recipe, which is why there are other judges, too (`judges`).
"""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel_rl.studies.happy_tweets.assets import AssetError, Assets
from bilevel_rl.studies.happy_tweets.sentence_encoder import SentenceEncoder
from bilevel_rl.studies.happy_tweets.tweets import (
    HIGHEST_RATING,
    LOWEST_RATING,
    RatedTweet,
    part_tweets,
)

JUDGE_PARTS = {"fit": 700, "test": 300}

PENALTIES = tuple(float(penalty) for penalty in np.geomspace(0.1, 10, 9))
"""Ridge penalties to choose from, by leave-one-out error on the tweets of the fit."""


class RatingModel:
    """Mean ratings predicted from texts. The first fit of some tweets is kept in the cache.

    Args:
        assets: where encoder and fits are kept.
        tweets: what to fit.
        name: start of the fit's name in the cache.
        encoder: of the texts; loaded where there is none, and worth sharing between several models.

    Attributes:
        noise: standard deviation of one rater's latent answer around the tweet's mean: `rater_noise` of the tweets.
    """

    def __init__(self, assets: Assets, tweets: Sequence[RatedTweet], name: str, encoder: SentenceEncoder | None = None):
        self._encoder = encoder or SentenceEncoder(assets)
        self._fit = _cached_fit(assets, tweets, name, self._encoder)
        self._tfidf = self._fit.tfidf()
        self.noise = rater_noise(tweets)

    def mean(self, texts: Sequence[str]) -> np.ndarray:
        """Predicted mean ratings, −4..4; shape (len(texts),)."""
        features = _stack(self._encoder.embed(texts), self._tfidf, texts)
        return np.clip(features @ self._fit.weights + self._fit.intercept, LOWEST_RATING, HIGHEST_RATING)

    def rate(self, texts: Sequence[str], seed: int) -> np.ndarray:
        """One rater's answers: integers −4..4, shape (len(texts),); equal for equal texts and seed.

        `round(mean + noise)`, cut to −4..4, with normal noise of one size for all tweets: raters differ by 0.8 to 1.0
        whatever the tweet's mean.
        """
        return noisy_ratings(self.mean(texts), self.noise, seed)


class Annotator(RatingModel):
    """Answers for the people that training may ask. Fitted on the split `annotator`.

    Args:
        assets: data, encoder, and where the fit is kept.
        encoder: one that is loaded already.

    Raises:
        AssetError: data or encoder cannot be had.
    """

    def __init__(self, assets: Assets, encoder: SentenceEncoder | None = None):
        super().__init__(assets, assets.splits().annotator, "annotator", encoder)


class Judge(RatingModel):
    """Judges what came out. Trains nothing: it is fitted on 700 tweets of the split `judge`, tested on the other 300.

    Args:
        assets: data, encoder, and where the fit is kept.
        encoder: one that is loaded already.

    Attributes:
        test_tweets: the 300 tweets, on which any judge or annotator may be tested.

    Raises:
        AssetError: data or encoder cannot be had.
    """

    def __init__(self, assets: Assets, encoder: SentenceEncoder | None = None):
        parts = part_tweets(assets.splits().judge, JUDGE_PARTS)
        super().__init__(assets, parts["fit"], "judge", encoder)
        self.test_tweets = parts["test"]


def rater_noise(tweets: Sequence[RatedTweet]) -> float:
    """Standard deviation of the normal noise that, rounded, makes raters of one tweet differ as these raters do.

    Raises:
        ValueError: no tweet has two raters.
    """
    variances = [np.var(tweet.ratings, ddof=1) for tweet in tweets if len(tweet.ratings) > 1]
    if not variances:
        raise ValueError("how raters of one tweet differ needs a tweet with two raters")
    # Rounding to integers adds the variance of a uniform number on an interval of length 1 (Sheppard).
    return float(np.sqrt(max(0.0, np.mean(variances) - 1 / 12)))


def noisy_ratings(means: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Integers −4..4 around the means; shape of `means`."""
    answers = means + noise * np.random.default_rng(seed).normal(size=means.shape)
    return np.clip(np.rint(answers), LOWEST_RATING, HIGHEST_RATING).astype(np.int64)


class _Fit(NamedTuple):
    """What a fit has learned, as arrays: a pickle would run what is in it when it is read."""

    terms: np.ndarray
    """(n,), words and pairs of words, by column"""
    idf: np.ndarray
    """(n,), their inverse document frequencies"""
    weights: np.ndarray
    """(d + n,), of embedding and terms"""
    intercept: np.ndarray
    """()"""

    def tfidf(self) -> Any:
        """The TF-IDF features of the terms."""
        features = _tfidf(self.terms.tolist())
        features.idf_ = self.idf
        return features


def _cached_fit(assets: Assets, tweets: Sequence[RatedTweet], name: str, encoder: SentenceEncoder) -> _Fit:
    import sklearn

    # Another version may take texts apart in another way; it fits anew under another name.
    identity = repr(("arrays", sklearn.__version__, PENALTIES, [(tweet.text, tweet.ratings) for tweet in tweets]))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]

    def fill(folder: Path):
        np.savez(folder / "fit.npz", **_fit(tweets, encoder)._asdict())

    path = assets.make(f"{name}-{digest}", fill) / "fit.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _Fit(**arrays)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise AssetError(f"{path} is not a fit: {error}\nRemove {path.parent}; then run again.") from error


def _fit(tweets: Sequence[RatedTweet], encoder: SentenceEncoder) -> _Fit:
    from sklearn.linear_model import RidgeCV

    texts = [tweet.text for tweet in tweets]
    # Character sequences and signs as words change nothing: correlation 0.834 to 0.838 on a quarter of the annotator's
    # tweets with any of them, 0.822 with the embedding alone.
    features = _tfidf()
    features.fit(texts)
    ridge = RidgeCV(alphas=PENALTIES).fit(
        _stack(encoder.embed(texts), features, texts), [tweet.mean for tweet in tweets]
    )
    terms = features.get_feature_names_out().astype(str)
    return _Fit(terms, features.idf_, np.asarray(ridge.coef_), np.asarray(ridge.intercept_))


def _tfidf(terms: list[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, vocabulary=terms)


def _stack(vectors: np.ndarray, features: Any, texts: Sequence[str]) -> Any:
    import scipy.sparse

    return scipy.sparse.hstack([scipy.sparse.csr_array(vectors), features.transform(texts)], format="csr")
