"""Rating files as the authors write them, of made-up tweets."""

import numpy as np

from bilevel_rl.studies.happy_tweets.assets import Assets


class UncheckedAssets(Assets):
    """Takes what a test put into the cache, which has not the digests of the real files."""

    def folder(self, name, package):
        assert (self.cache / name).is_dir()
        return self.cache / name


def write_ratings(folder, tweets):
    """Writes both files; tweets are (identifier, text, ratings)."""
    folder.mkdir(parents=True, exist_ok=True)
    texts, ratings = [], []
    for identifier, text, answers in tweets:
        mean = sum(answers) / len(answers)
        texts.append(f"{identifier}\t{mean:.9g}\t{text}")
        ratings.append(f"{identifier}\t{mean:.9g}\t{np.std(answers):.5g}\t{list(answers)}")
    (folder / "tweets_GroundTruth.txt").write_bytes("\r\n".join(texts).encode())
    (folder / "tweets_anonDataRatings.txt").write_bytes("\r\n".join(ratings).encode())


def made_up_tweets(num_tweets=4_200, seed=0):
    """Tweets of 8 random words of 2,000, rated by 5 people each."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 2_000, size=(num_tweets, 8))
    ratings = random.integers(-4, 5, size=(num_tweets, 5))
    return [(i + 1, " ".join(f"w{word}" for word in words[i]), ratings[i].tolist()) for i in range(num_tweets)]
