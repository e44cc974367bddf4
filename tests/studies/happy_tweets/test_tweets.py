"""Rated tweets: read as they are, split so that nothing held out is known, drawn as people would answer."""

import itertools
import re

import numpy as np
import pytest

from bilevel_rl.studies.happy_tweets.tweets import (
    RatedTweet,
    Splits,
    part_tweets,
    preference_pairs,
    read_tweets,
    same_tweet_groups,
    split_tweets,
    words,
)
from studies.happy_tweets.fake_ratings import made_up_tweets, write_ratings


def tweet(identifier, text, *ratings):
    return RatedTweet(identifier, text, ratings or (0,))


# Reading.


def test_reads_entities_line_ends_and_a_last_line_without_one(tmp_path):
    write_ratings(
        tmp_path, [(2, "I &lt;3 this &amp; that", [4, 3, 4]), (1, "@anonymous caf\u00e9 \U0001f600 ", [-1, 0])]
    )
    assert read_tweets(tmp_path) == [
        RatedTweet(1, "@anonymous caf\u00e9 \U0001f600", (-1, 0)),
        RatedTweet(2, "I <3 this & that", (4, 3, 4)),
    ]
    for name in ("tweets_GroundTruth.txt", "tweets_anonDataRatings.txt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b"\r\n", b"\n") + b"\n")
    assert [one.text for one in read_tweets(tmp_path)] == ["@anonymous caf\u00e9 \U0001f600", "I <3 this & that"]


def test_line_separators_of_unicode_are_part_of_the_text(tmp_path):
    write_ratings(tmp_path, [(1, "one\u2028two\x85three", [1])])
    assert [one.text for one in read_tweets(tmp_path)] == ["one\u2028two\x85three"]


def test_means_are_those_of_the_ratings_not_the_published_ones(tmp_path):
    write_ratings(tmp_path, [(1, "text", [1, 2, 4])])
    path = tmp_path / "tweets_GroundTruth.txt"
    path.write_bytes(re.sub(rb"\t[^\t]*\t", b"\t-3.5\t", path.read_bytes()))
    assert read_tweets(tmp_path)[0].mean == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("tweets_GroundTruth.txt", b"2\t0.5", "line 2: expected 3 fields, got 2"),
        ("tweets_GroundTruth.txt", b"two\t0.5\ttext", "line 2: expected an integer identifier, got 'two'"),
        ("tweets_anonDataRatings.txt", b"2\t0.5\t1\t[1, 5]", "line 2: expected integer ratings of -4..4"),
        ("tweets_anonDataRatings.txt", b"2\t0.5\t1\t[1, 0.5]", "line 2: expected integer ratings of -4..4"),
        ("tweets_anonDataRatings.txt", b"2\t0.5\t1\t[]", "line 2: expected integer ratings of -4..4"),
        ("tweets_anonDataRatings.txt", b"2\t0.5\t1\t[1, 2", "line 2: expected a list of ratings"),
        ("tweets_anonDataRatings.txt", b"2\t0.5\t1\t7", "line 2: expected a list of ratings"),
        ("tweets_anonDataRatings.txt", b"3\t0.5\t1\t[1]", r"different tweets.*\[2, 3\]"),
    ],
)
def test_lines_that_are_not_what_they_have_to_be_are_named(tmp_path, name, line, message):
    write_ratings(tmp_path, [(1, "one", [1]), (2, "two", [2])])
    path = tmp_path / name
    path.write_bytes(path.read_bytes().split(b"\r\n")[0] + b"\r\n" + line)
    with pytest.raises(ValueError, match=message):
        read_tweets(tmp_path)


# Versions of a tweet.


def test_versions_of_a_tweet_share_a_group():
    texts = [
        "@anonymous Ha, that's awesome. Great song. :D",
        "Ha, thats AWESOME!!! GREAT song http://url_removed",
        "@anonymous nothing of this kind",
        "@anonymous :D",
        "@someone else :D",
        "",
    ]
    groups = same_tweet_groups(texts)
    assert groups[0] == groups[1]
    assert len(set(groups[1:])) == len(texts) - 1


def test_a_chain_of_versions_is_one_group():
    chain = ["a b c d e f", "a b c d e g", "a b c d h g", "a b c i h g"]
    assert len(words(chain[0]) & words(chain[3])) / len(words(chain[0]) | words(chain[3])) < 0.6
    assert len(set(same_tweet_groups(chain))) == 1


@pytest.mark.parametrize(("common", "same"), [(5, False), (6, True)])
def test_the_limit_of_sixty_percent(common, same):
    first = [f"c{i}" for i in range(common)] + [f"a{i}" for i in range(10 - common)]
    groups = same_tweet_groups([" ".join(first), " ".join(f"c{i}" for i in range(common))])
    assert (groups[0] == groups[1]) == same


# Splits.


def with_versions(seed=0):
    """The made-up tweets; some are a version of the tweet 700 before, and some of that one."""
    tweets = [tweet(identifier, text, *ratings) for identifier, text, ratings in made_up_tweets(seed=seed)]
    for i in np.random.default_rng(1).choice(np.arange(700, 4_200), size=150, replace=False).tolist():
        tweets[i] = tweet(i + 1, tweets[i - 700].text.upper() + "!!", *tweets[i].ratings)
    return tweets


def test_splits_have_their_sizes_and_share_no_tweet_and_no_version_of_one():
    tweets = with_versions()
    splits = split_tweets(tweets)
    parts = (splits.preferences, splits.annotator, splits.judge)
    assert tuple(map(len, parts)) == (1_600, 1_600, 1_000)
    assert {one.identifier for part in parts for one in part} == {one.identifier for one in tweets}
    # Pair by pair, unlike the sparse product that the groups are made with.
    for first, second in itertools.combinations(parts, 2):
        where: dict[str, list[frozenset[str]]] = {}
        for one in first:
            for word in words(one.text):
                where.setdefault(word, []).append(words(one.text))
        for one in second:
            mine = words(one.text)
            others = {other for word in mine for other in where.get(word, [])}
            assert all(len(mine & other) < 0.6 * len(mine | other) for other in others)


def test_splits_depend_on_the_tweets_alone():
    tweets = with_versions()
    shuffled = [tweets[i] for i in np.random.default_rng(3).permutation(len(tweets))]
    assert split_tweets(tweets) == split_tweets(shuffled) == split_tweets(list(tweets))
    assert isinstance(split_tweets(tweets), Splits)


def test_versions_are_spread_over_the_splits():
    tweets = with_versions()
    splits = split_tweets(tweets)
    versions = {one.identifier for one in tweets if one.text.endswith("!!")}
    shares = [np.mean([one.identifier in versions for one in part]) for part in (splits.preferences, splits.judge)]
    assert min(shares) > 0.5 * len(versions) / 4_200


def test_parts_that_cannot_be_made_are_refused():
    versions = [tweet(i, "the same words", 1) for i in range(4)]
    with pytest.raises(ValueError, match="need 3 tweets, got 4"):
        part_tweets(versions, {"one": 2, "other": 1})
    with pytest.raises(ValueError, match="4 versions of a tweet do not fit"):
        part_tweets(versions, {"one": 2, "other": 2})


# Preference pairs.


def test_pairs_are_distinct_tweets_ordered_by_ratings_that_both_have():
    tweets = [tweet(1, "low", -4, -2), tweet(2, "middle", -2, 0, 1), tweet(3, "high", 1, 4)]
    pairs = preference_pairs(tweets, 400, seed=0)
    assert all(pair.keys() == {"prompt", "chosen", "rejected"} and pair["prompt"] == "" for pair in pairs)
    # No rating of "low" beats one of the others; "middle" and "low" may tie, and then it is drawn again.
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {
        ("middle", "low"),
        ("high", "low"),
        ("high", "middle"),
    }


def test_people_contradict_each_other_as_often_as_their_ratings_do():
    tweets = [tweet(1, "a", 0, 2), tweet(2, "b", 1, 1, 1, 3)]
    # b > a: (0,1) 3/8, (0,3) 1/8, (2,3) 1/8; a > b: (2,1) 3/8. No ties.
    pairs = preference_pairs(tweets, 4_000, seed=1)
    share = np.mean([pair["chosen"] == "b" for pair in pairs])
    assert abs(share - 5 / 8) < 4 * np.sqrt(5 / 8 * 3 / 8 / 4_000)


def test_ties_are_drawn_again():
    tweets = [tweet(1, "a", 0, 0, 0, 1), tweet(2, "b", 0)]
    assert {pair["chosen"] for pair in preference_pairs(tweets, 50, seed=0)} == {"a"}


def test_pairs_depend_on_the_seed_alone():
    tweets = [tweet(i, f"t{i}", i % 9 - 4) for i in range(30)]
    first = preference_pairs(tweets, 50, seed=2)
    assert first == preference_pairs(tweets, 50, seed=2) == preference_pairs(tweets, 80, seed=2)[:50]
    assert first != preference_pairs(tweets, 50, seed=3)


@pytest.mark.parametrize("tweets", [[], [tweet(1, "a", 0, 1)], [tweet(1, "a", 2), tweet(2, "b", 2, 2)]])
def test_pairs_of_tweets_that_all_tie_are_refused(tweets):
    with pytest.raises(ValueError, match="two tweets whose ratings differ"):
        preference_pairs(tweets, 1, seed=0)
