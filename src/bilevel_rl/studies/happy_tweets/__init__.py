"""Tweets that people like: real human ratings, a small language model that writes tweets, and judges of its tweets.

Language models and encoder need the extra `lm`; what needs them is imported from its module when it is first asked for.
"""

from typing import TYPE_CHECKING

from bilevel_rl.studies.happy_tweets.assets import AssetError, Assets
from bilevel_rl.studies.happy_tweets.tweets import RatedTweet, Splits, preference_pairs, read_tweets, split_tweets

if TYPE_CHECKING:
    from bilevel_rl.studies.happy_tweets.judges import Nade, Vader
    from bilevel_rl.studies.happy_tweets.language_models import smollm2, tiny
    from bilevel_rl.studies.happy_tweets.people import Annotator, Judge

__all__ = [
    "Annotator",
    "AssetError",
    "Assets",
    "Judge",
    "Nade",
    "RatedTweet",
    "Splits",
    "Vader",
    "preference_pairs",
    "read_tweets",
    "smollm2",
    "split_tweets",
    "tiny",
]

_MODULES = {
    "Annotator": "people",
    "Judge": "people",
    "Nade": "judges",
    "Vader": "judges",
    "smollm2": "language_models",
    "tiny": "language_models",
}


def __getattr__(name: str) -> object:
    """Imports transformers only when something is used that needs it."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
