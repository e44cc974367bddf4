"""Judges that owe nothing to this library's fits: VADER, rules and a lexicon; NADE, emotions learned from emojis.

VADER comes from the authors of the rated tweets, who tuned its rules on some of them: half independent. NADE never saw
them. Neither takes part in any training.
"""

import gzip
import itertools
import re
import types
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilevel_rl.studies.happy_tweets.assets import Assets
from bilevel_rl.studies.happy_tweets.tweets import HIGHEST_RATING

EMOTION_SIGNS = {"joy": 1, "trust": 1, "anger": -1, "disgust": -1, "fear": -1, "sadness": -1}
"""Emotions of NADE with a sign; Plutchik's other two, surprise and anticipation, may be pleasant or not."""


class Vader:
    """VADER 3.3.2 (Hutto & Gilbert, ICWSM 2014).

    Args:
        assets: where its module and lexicons are.

    Raises:
        AssetError: they cannot be had.
    """

    def __init__(self, assets: Assets):
        # Its distribution is fetched for the rating files anyway, so nothing has to be installed.
        path = assets.pinned("vader") / "vaderSentiment.py"
        module = types.ModuleType("bilevel_rl_vader")
        # Not imported: an import would take compiled code that lies beside the checked file instead of it.
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
        self._analyzer = module.SentimentIntensityAnalyzer()

    def mean(self, texts: Sequence[str]) -> np.ndarray:
        """4 times the compound score, so −4..4; shape (len(texts),)."""
        compounds = [self._analyzer.polarity_scores(text)["compound"] for text in texts]
        return HIGHEST_RATING * np.array(compounds, dtype=float)


class Nade:
    """NADE 0.3.1 (Hotz-Behofsits; MIT): texts to probabilities of 151 emojis, these to intensities of emotions.

    Args:
        assets: where its models are.

    Raises:
        ImportError: fastText or LightGBM is not installed.
        AssetError: the models cannot be had.
    """

    def __init__(self, assets: Assets):
        try:
            import fasttext  # pyright: ignore[reportMissingImports]
            import lightgbm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"NADE needs {error.name}: pip install fasttext-predict lightgbm (fasttext itself fails with numpy 2)"
            ) from error
        folder = assets.pinned("nade")
        self._emojis: Any = fasttext.load_model(str(folder / "nade_250k_hp.ftz"))
        self._emotions: dict[str, Any] = {}
        for emotion in EMOTION_SIGNS:
            with gzip.open(folder / f"reg_{emotion}.txt.gz", "rt") as file:
                self._emotions[emotion] = lightgbm.Booster(model_str=file.read())

    def mean(self, texts: Sequence[str]) -> np.ndarray:
        """4 times what pleasant emotions exceed unpleasant ones by, cut to −4..4; shape (len(texts),).

        The order of tweets follows people; the scale does not, for most tweets show little of any emotion.
        """
        probabilities = np.array([self._probabilities(text) for text in texts]).reshape(len(texts), -1)
        intensities = [
            sign * np.clip(self._emotions[emotion].predict(probabilities), 0, 1)
            for emotion, sign in EMOTION_SIGNS.items()
        ]
        return HIGHEST_RATING * np.clip(np.sum(intensities, axis=0), -1, 1)

    def _probabilities(self, text: str) -> list[float]:
        labels, probabilities = self._emojis.predict(spaced_punctuation(text), k=-1)
        # The order of the columns that the intensities were learned from.
        numbers = [int(label.removeprefix("__label__")) for label in labels]
        return [float(probability) for _, probability in sorted(zip(numbers, probabilities, strict=True))]


def spaced_punctuation(text: str) -> str:
    """Lower case, one space around runs of punctuation and for any white space; NADE was trained on such."""
    runs = itertools.groupby(text, lambda character: unicodedata.category(character).startswith("P"))
    spaced = "".join(f" {''.join(run)} " if is_punctuation else "".join(run) for is_punctuation, run in runs)
    return re.sub(r"\s+", " ", spaced).lower().strip()
