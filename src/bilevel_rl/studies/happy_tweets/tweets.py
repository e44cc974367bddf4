"""4,200 tweets that people rated from −4 (extremely negative) to 4 (extremely positive), and who may see which.

Hutto & Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of social media text", ICWSM 2014.
159,750 ratings; 3,200 tweets have 20 raters, 1,000 have 92 to 99. Means are taken from the ratings themselves: 199 of
the published means disagree with them.
"""

import ast
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

LOWEST_RATING, HIGHEST_RATING = -4, 4

SPLIT_SIZES = {"preferences": 1_600, "annotator": 1_600, "judge": 1_000}

SAME_TWEET_OVERLAP = 0.6
"""Share of common words from which two tweets count as versions of one.

48 groups of 247 tweets are: the authors rewrote some tweets ("GREAT song!", "great song.") to measure what the
difference does. From 0.7 some of these groups fall apart; below 0.6 tweets join that only share a greeting.
"""


@dataclass(frozen=True)
class RatedTweet:
    """A tweet and what each of its raters said.

    Attributes:
        identifier: number of the tweet, from 1.
        text: HTML entities are resolved; users are `@anonymous`, links `http://url_removed`.
        ratings: one integer −4..4 per rater.
    """

    identifier: int
    text: str
    ratings: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean of the raters, −4..4."""
        return sum(self.ratings) / len(self.ratings)


@dataclass(frozen=True)
class Splits:
    """Tweets by who may see them. Disjoint, and no version of a tweet is in another split than the tweet.

    Attributes:
        preferences: what the preference pairs D are drawn from; 1,600.
        annotator: what the annotator that answers for people is fitted on; 1,600.
        judge: what judges are fitted and tested on, and held out from every training; 1,000.
    """

    preferences: tuple[RatedTweet, ...]
    annotator: tuple[RatedTweet, ...]
    judge: tuple[RatedTweet, ...]


def read_tweets(folder: Path) -> list[RatedTweet]:
    """The tweets of the rating files in a folder, by identifier.

    Raises:
        ValueError: a line is not what it has to be, or the two files hold different tweets; names file and line.
    """
    texts: dict[int, str] = {}
    for where, fields in _rows(folder / "tweets_GroundTruth.txt", num_fields=3):
        texts[_identifier(where, fields[0])] = html.unescape(fields[2]).strip()
    ratings: dict[int, tuple[int, ...]] = {}
    for where, fields in _rows(folder / "tweets_anonDataRatings.txt", num_fields=4):
        ratings[_identifier(where, fields[0])] = _ratings(where, fields[3])
    if texts.keys() != ratings.keys():
        odd = sorted(texts.keys() ^ ratings.keys())[:5]
        raise ValueError(f"{folder}: the two files hold different tweets, for example the identifiers {odd}")
    return [RatedTweet(identifier, texts[identifier], ratings[identifier]) for identifier in sorted(texts)]


def same_tweet_groups(texts: Sequence[str]) -> np.ndarray:
    """A number for every text, equal where texts are versions of each other.

    Two texts are versions of each other if they share at least 60% of the words that either has (`SAME_TWEET_OVERLAP`),
    or if a chain of such pairs links them. Case, punctuation, users and links do not count.

    Returns:
        Integers, shape (len(texts),).
    """
    sets = [words(text) for text in texts]
    vocabulary = {word: column for column, word in enumerate(sorted(set().union(*sets)))}
    rows = [row for row, one in enumerate(sets) for _ in one]
    columns = [vocabulary[word] for one in sets for word in one]
    table = scipy.sparse.csr_array((np.ones(len(rows), np.int64), (rows, columns)), (len(sets), len(vocabulary)))
    common = (table @ table.T).tocoo()
    num_words = np.array([len(one) for one in sets])
    union = num_words[common.row] + num_words[common.col] - common.data
    same = common.data >= SAME_TWEET_OVERLAP * union
    links = scipy.sparse.coo_array((np.ones(same.sum()), (common.row[same], common.col[same])), common.shape)
    return scipy.sparse.csgraph.connected_components(links, directed=False)[1]


def words(text: str) -> frozenset[str]:
    """The words that make a tweet: lower case, without users, links and punctuation."""
    text = re.sub(r"https?://\S+|@\w+", " ", text.lower()).replace("'", "")
    return frozenset(re.findall(r"\w+", text))


def split_tweets(tweets: Sequence[RatedTweet]) -> Splits:
    """The splits of the 4,200 tweets (`SPLIT_SIZES`); the same in every process.

    Raises:
        ValueError: there are not 4,200 tweets.
    """
    return Splits(**part_tweets(tweets, SPLIT_SIZES))


def part_tweets(tweets: Sequence[RatedTweet], sizes: Mapping[str, int]) -> dict[str, tuple[RatedTweet, ...]]:
    """Parts of given sizes, drawn by a digest of the identifiers, versions of a tweet together.

    Args:
        sizes: number of tweets in every part; sums to the number of tweets.

    Raises:
        ValueError: the sizes do not sum to the number of tweets, or groups of versions do not fit into them.
    """
    if sum(sizes.values()) != len(tweets):
        raise ValueError(f"parts of {dict(sizes)} need {sum(sizes.values())} tweets, got {len(tweets)}")
    members: dict[int, list[RatedTweet]] = {}
    for group, tweet in zip(same_tweet_groups([tweet.text for tweet in tweets]), tweets, strict=True):
        members.setdefault(int(group), []).append(tweet)
    # Large groups first: single tweets fill what these leave, so the sizes are met exactly.
    groups = sorted(members.values(), key=lambda group: (-len(group), _digest(min(t.identifier for t in group))))
    parts: dict[str, list[RatedTweet]] = {name: [] for name in sizes}
    for group in groups:
        name = max(sizes, key=lambda name: (sizes[name] - len(parts[name])) / sizes[name])
        if len(parts[name]) + len(group) > sizes[name]:
            raise ValueError(f"{len(group)} versions of a tweet do not fit into parts of {dict(sizes)} tweets")
        parts[name] += group
    return {name: tuple(sorted(part, key=lambda tweet: tweet.identifier)) for name, part in parts.items()}


def preference_pairs(tweets: Sequence[RatedTweet], num_pairs: int, seed: int) -> list[dict[str, str]]:
    """Pairs of distinct tweets, ordered by one rating each, drawn among the tweet's raters. Ties are drawn again.

    Of such pairs of really rated tweets 90% are ordered as the tweets' means are.

    Returns:
        `{"prompt": "", "chosen": text, "rejected": text}`, the columns that TRL's preference trainers read. Equal for
        equal arguments; the first pairs do not depend on `num_pairs`.

    Raises:
        ValueError: no two tweets have ratings that differ.
    """
    if len(tweets) < 2 or len({rating for tweet in tweets for rating in tweet.ratings}) < 2:
        raise ValueError("preference pairs need two tweets whose ratings differ")
    random = np.random.default_rng(seed)
    pairs: list[dict[str, str]] = []
    while len(pairs) < num_pairs:
        first, second = (tweets[i] for i in random.choice(len(tweets), size=2, replace=False))
        one, other = (int(random.choice(tweet.ratings)) for tweet in (first, second))
        if one != other:
            chosen, rejected = (first, second) if one > other else (second, first)
            pairs.append({"prompt": "", "chosen": chosen.text, "rejected": rejected.text})
    return pairs


def _rows(path: Path, num_fields: int) -> list[tuple[str, list[str]]]:
    lines = path.read_bytes().decode("utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line:
            continue
        fields = line.split("\t", num_fields - 1)
        if len(fields) != num_fields:
            raise ValueError(f"{path}, line {number}: expected {num_fields} fields, got {len(fields)}")
        rows.append((f"{path}, line {number}", fields))
    return rows


def _identifier(where: str, field: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise ValueError(f"{where}: expected an integer identifier, got {field!r}") from None


def _ratings(where: str, field: str) -> tuple[int, ...]:
    try:
        ratings = tuple(ast.literal_eval(field))
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"{where}: expected a list of ratings, got {field[:40]!r}") from None
    if not ratings or not all(type(r) is int and LOWEST_RATING <= r <= HIGHEST_RATING for r in ratings):
        raise ValueError(f"{where}: expected integer ratings of {LOWEST_RATING}..{HIGHEST_RATING}, got {field[:40]!r}")
    return ratings


def _digest(identifier: int) -> str:
    # Unlike a random generator's stream, the same in every version of every library.
    return hashlib.sha256(str(identifier).encode()).hexdigest()
