"""Annotator and judges: fitted once, noisy like people, measured by what they claim. The encoder is a fake one."""

import importlib.util
import os
import py_compile
import sys
import types
import zlib

import numpy as np
import pytest

from bilevel_rl.studies.happy_tweets import people
from bilevel_rl.studies.happy_tweets.assets import AssetError
from bilevel_rl.studies.happy_tweets.judges import Nade, Vader, spaced_punctuation
from bilevel_rl.studies.happy_tweets.people import Annotator, Judge, RatingModel, noisy_ratings, rater_noise
from bilevel_rl.studies.happy_tweets.sentence_encoder import SentenceEncoder
from bilevel_rl.studies.happy_tweets.tweets import RatedTweet
from studies.happy_tweets.agreement import agreement
from studies.happy_tweets.fake_ratings import UncheckedAssets, write_ratings


class FakeEncoder(SentenceEncoder):
    """Random vectors, equal for equal texts."""

    def __init__(self, assets):
        pass

    def embed(self, texts, batch_size=64):
        vectors = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=4) for text in texts]
        return np.array(vectors, np.float32).reshape(len(texts), 4) / 10


def pleasant_tweets(num_tweets=4_200, seed=0):
    """Tweets whose words are pleasant or not; their mean is what their words add up to, raters differ by 0.9."""
    random = np.random.default_rng(seed)
    values = random.normal(size=400)
    tweets = []
    for i in range(num_tweets):
        words = random.integers(0, 400, size=8)
        latent = values[words].sum() * 0.6 + 0.9 * random.normal(size=20)
        ratings = np.clip(np.rint(latent), -4, 4).astype(int).tolist()
        tweets.append((i + 1, " ".join(f"w{word}" for word in words), ratings))
    return tweets


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    write_ratings(cache / "ratings", pleasant_tweets())
    return UncheckedAssets(cache)


@pytest.fixture(autouse=True)
def _fake_encoder(monkeypatch):
    monkeypatch.setattr(people, "SentenceEncoder", FakeEncoder)


# Agreement.


def test_agreement_with_known_answers():
    tweets = [RatedTweet(i, str(i), (rating,)) for i, rating in enumerate([-2, 0, 0, 3])]
    right = agreement(np.array([-1.0, 0.0, 0.1, 1.0]), tweets)
    assert (right.pair_accuracy, right.num_tweets) == (1.0, 4)
    wrong = agreement(np.array([2.0, 0.0, 0.0, -3.0]), tweets)
    assert wrong.correlation == pytest.approx(-1)
    assert wrong.pair_accuracy == 0
    # Of five pairs with different means the first and the last tweet are in the wrong order.
    assert agreement(np.array([1.0, 0.0, 0.5, 0.9]), tweets).pair_accuracy == pytest.approx(2 / 5)


def test_a_constant_judge_orders_no_pair():
    tweets = [RatedTweet(i, str(i), (i,)) for i in range(4)]
    with np.errstate(invalid="ignore"):
        assert agreement(np.zeros(4), tweets).pair_accuracy == 0


# Noise.


@pytest.mark.parametrize("noise", [0.5, 0.85, 1.2])
def test_the_noise_of_raters_is_recovered(noise):
    random = np.random.default_rng(0)
    means = random.uniform(-1, 1, size=2_000)
    ratings = np.stack([noisy_ratings(means, noise, seed) for seed in range(20)], axis=1)
    tweets = [RatedTweet(i, str(i), tuple(int(r) for r in row)) for i, row in enumerate(ratings)]
    # A sample variance of 20 normal numbers has the relative standard error sqrt(2/19).
    standard_error = noise * 0.5 * np.sqrt(2 / 19 / 2_000)
    assert abs(rater_noise(tweets) - noise) < 5 * standard_error + 0.002


def test_a_raters_answers_have_mean_and_spread_of_the_tweet():
    means = np.full(20_000, 0.7)
    answers = noisy_ratings(means, 0.85, seed=3)
    variance = 0.85**2 + 1 / 12
    assert answers.dtype == np.int64
    assert abs(answers.mean() - 0.7) < 4 * np.sqrt(variance / len(means))
    assert abs(answers.var() / variance - 1) < 4 * np.sqrt(2 / len(means))


def test_answers_stay_on_the_scale():
    for mean in (-4.0, 4.0):
        answers = noisy_ratings(np.full(1_000, mean), 1.0, seed=0)
        assert answers.min() >= -4
        assert answers.max() <= 4
        assert (np.abs(answers) == 4).mean() > 0.5


def test_tweets_of_one_rater_say_nothing_about_noise():
    tweets = [RatedTweet(1, "a", (4,)), RatedTweet(2, "b", (1, 3))]
    assert rater_noise(tweets) == pytest.approx(np.sqrt(2 - 1 / 12))
    with pytest.raises(ValueError, match="two raters"):
        rater_noise(tweets[:1])


# Annotator and judge.


@pytest.mark.long
def test_annotator_and_judge_predict_tweets_that_they_have_not_seen(assets):
    annotator, judge = Annotator(assets), Judge(assets)
    texts = [tweet.text for tweet in judge.test_tweets]
    for model in (annotator, judge):
        measured = agreement(model.mean(texts), judge.test_tweets)
        assert measured.num_tweets == 300
        assert measured.correlation > 0.6
        assert measured.pair_accuracy > 0.7
    assert not np.array_equal(annotator.mean(texts), judge.mean(texts))


ONE_TERM = people._Fit(np.array(["w1"]), np.ones(1), np.zeros(5), np.zeros(()))


def test_annotator_and_judge_are_fitted_on_their_own_tweets(assets, monkeypatch):
    fitted = []
    monkeypatch.setattr(people, "_cached_fit", lambda _, tweets, name, encoder: fitted.append(tweets) or ONE_TERM)
    splits = assets.splits()
    Annotator(assets)
    judge = Judge(assets)
    assert fitted[0] == splits.annotator
    assert len(fitted[1]) == 700
    assert {*fitted[1], *judge.test_tweets} == set(splits.judge)
    assert not set(fitted[1]) & set(judge.test_tweets)


def test_answers_are_integers_and_depend_on_texts_and_seed_alone(assets):
    annotator, again = Annotator(assets), Annotator(assets)
    texts = [f"w{i} w{i + 1} w{i + 2}" for i in range(50)]
    answers = annotator.rate(texts, seed=1)
    assert answers.shape == (50,)
    assert answers.dtype == np.int64
    np.testing.assert_array_equal(answers, again.rate(texts, seed=1))
    assert not np.array_equal(answers, annotator.rate(texts, seed=2))
    assert annotator.noise == pytest.approx(0.9, abs=0.05)


def test_answers_scatter_around_the_mean(assets):
    annotator = Annotator(assets)
    mean = float(annotator.mean(["w1 w2"])[0])
    answers = np.array([annotator.rate(["w1 w2"] * 50, seed=seed) for seed in range(40)])
    assert abs(mean) < 2
    assert abs(answers.mean() - mean) < 4 * np.sqrt((annotator.noise**2 + 1 / 12) / answers.size)


def test_predictions_stay_on_the_scale(assets):
    tweets = [RatedTweet(i, f"word{i % 2}", (4, 4) if i % 2 else (-4, -4)) for i in range(40)]
    model = RatingModel(assets, tweets, "extreme")
    model._fit = model._fit._replace(intercept=np.array(10.0))
    assert model.mean(["word1"]) == [4.0]


def test_the_fit_is_read_from_the_cache_the_second_time(assets, monkeypatch):
    first = Annotator(assets).mean(["w1 w2 w3"])

    def fail(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr(people, "_fit", fail)
    np.testing.assert_array_equal(Annotator(assets).mean(["w1 w2 w3"]), first)
    with pytest.raises(AssertionError, match="fitted again"):
        RatingModel(assets, [RatedTweet(1, "a", (1,)), RatedTweet(2, "b", (2,))], "annotator")


class Planted:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_a_fit_that_holds_a_pickle_is_refused_unread(assets):
    annotator = Annotator(assets)
    [path] = assets.cache.glob("annotator-*/fit.npz")
    good = path.read_bytes()
    assert not list(assets.cache.rglob("*.joblib"))
    pickled = np.array([Planted()], dtype=object)
    np.savez(path, **(annotator._fit._asdict() | {"terms": pickled}))
    with pytest.raises(AssetError, match=r"fit\.npz is not a fit[\s\S]*Remove .*annotator-"):
        Annotator(assets)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(AssetError, match=r"fit\.npz is not a fit"):
        Annotator(assets)
    path.write_bytes(good)


def test_a_fit_from_the_cache_rates_as_scikit_learns_own_does(assets):
    from sklearn.linear_model import RidgeCV

    texts = [f"w{i} w{i + 1} w{i + 1} unknown" for i in range(50)]
    tweets = assets.splits().annotator
    features, encoder = people._tfidf(), FakeEncoder(assets)
    features.fit([tweet.text for tweet in tweets])

    def columns(texts):
        return people._stack(encoder.embed(texts), features, texts)

    ridge = RidgeCV(alphas=people.PENALTIES).fit(columns([t.text for t in tweets]), [t.mean for t in tweets])
    np.testing.assert_array_equal(Annotator(assets).mean(texts), np.clip(ridge.predict(columns(texts)), -4, 4))


def test_no_texts_no_ratings(assets):
    assert noisy_ratings(np.zeros(0), 1.0, seed=0).shape == (0,)


# Other judges.


def test_vader_is_scaled_to_ratings(tmp_path):
    (tmp_path / "vader").mkdir()
    (tmp_path / "vader" / "vaderSentiment.py").write_text(
        "class SentimentIntensityAnalyzer:\n"
        "    def polarity_scores(self, text):\n"
        "        return {'compound': {'good': 1.0, 'bad': -0.5}[text]}\n"
    )
    np.testing.assert_array_equal(Vader(UncheckedAssets(tmp_path)).mean(["good", "bad"]), [4.0, -2.0])


def test_vader_runs_the_checked_file_and_not_compiled_code_beside_it(tmp_path):
    module = tmp_path / "vader" / "vaderSentiment.py"
    module.parent.mkdir()
    module.write_text("raise SystemExit('compiled code was run')")
    planted = importlib.util.cache_from_source(module)
    py_compile.compile(str(module), cfile=planted)
    stamp = module.stat()
    module.write_text("SentimentIntensityAnalyzer=int".ljust(stamp.st_size))
    os.utime(module, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert module.stat().st_size == stamp.st_size
    Vader(UncheckedAssets(tmp_path))


def test_nade_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", types.ModuleType("fasttext"))
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"lightgbm.*pip install fasttext-predict lightgbm"):
        Nade(UncheckedAssets(tmp_path))


def test_nade_sums_emotions_of_emojis_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "nade").mkdir()
    for emotion in ("joy", "trust", "anger", "disgust", "fear", "sadness"):
        (tmp_path / "nade" / f"reg_{emotion}.txt.gz").write_bytes(gzip.compress(emotion.encode()))

    class Emojis:
        def predict(self, text, k):
            assert (text, k) == ("so glad !", -1)
            return ("__label__20", "__label__3"), (0.7, 0.3)

    class Booster:
        def __init__(self, model_str):
            self.emotion = model_str

        def predict(self, columns):
            np.testing.assert_array_equal(columns, [[0.3, 0.7]])
            return np.array([{"joy": 0.6, "trust": 1.5, "anger": 0.1, "fear": -3.0}.get(self.emotion, 0.25)])

    monkeypatch.setitem(sys.modules, "fasttext", types.SimpleNamespace(load_model=lambda path: Emojis()))
    monkeypatch.setitem(sys.modules, "lightgbm", types.SimpleNamespace(Booster=Booster))
    # 0.6 + 1 - 0.1 - 0.25 - 0 - 0.25: intensities are cut to 0..1, the sum to -1..1.
    np.testing.assert_allclose(Nade(UncheckedAssets(tmp_path)).mean(["So  GLAD!"]), [4.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So  GLAD!!! yes", "so glad !!! yes"),
        ("(a)b \u201cc\u201d", "( a ) b \u201c c \u201d"),
        ("1+1=2 $5", "1+1=2 $5"),
        (" . ", "."),
        ("", ""),
    ],
)
def test_punctuation_stands_alone(text, expected):
    assert spaced_punctuation(text) == expected
