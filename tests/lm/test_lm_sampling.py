"""Completions follow the policies' laws, coupled or not, and do not depend on how a batch is split."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.sampling import sample, stream
from bilevel_rl.lm.tokens import Prompts
from lm.tiny_models import (
    END,
    HORIZON,
    all_completions,
    llama,
    log_probs,
    randomize,
    token_log_policies,
)

NAMES = ("lower", "penalized")
PROMPTS = ((0,), (1, 0, 1))
"""Rows of a batch have them in turn."""


def followers_that_differ(scale=0.5):
    return randomize(Followers(llama(), NAMES), scale=scale)


def write(followers, rows, *, coupled=True, names=NAMES, end_id=END, pad_id=1, seed=0):
    prompts = Prompts.pad([PROMPTS[row % 2] for row in rows], 0, "cpu")
    streams = [stream(seed, row, policy) for policy in range(1 if coupled else len(names)) for row in rows]
    return sample(followers, names, prompts, streams, max_length=HORIZON, end_id=end_id, pad_id=pad_id)


def as_tuples(completions):
    return [tuple(ids[mask].tolist()) for ids, mask in zip(completions.ids, completions.mask, strict=True)]


@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])
@pytest.mark.parametrize(("end_id", "num_texts"), [(END, 15), (3, 27)])
def test_frequencies_of_all_texts_are_their_probabilities_under_both_policies(coupled, end_id, num_texts):
    followers, num_rows = followers_that_differ(), 2000
    written = as_tuples(write(followers, range(num_rows), coupled=coupled, end_id=end_id))
    laws = []
    for number, name in enumerate(NAMES):
        for turn, prompt in enumerate(PROMPTS):
            texts = all_completions(end_id=end_id, prompt=prompt)
            with torch.no_grad():
                p = log_probs(token_log_policies(followers, name, texts), texts).exp()
            rows = written[number * num_rows : (number + 1) * num_rows][turn::2]
            counts = torch.tensor([rows.count(text) for text in as_tuples(texts)])
            assert len(p) == num_texts
            assert counts.sum() == len(rows) == num_rows / 2
            torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))
            # Counts of rare texts have no normal law: exact tails, of the size of four standard errors.
            tails = [binom.cdf(counts, len(rows), p), binom.sf(counts - 1, len(rows), p)]
            assert np.min(tails) >= norm.sf(4), (name, prompt)
            laws.append(p)
    distances = [(one - other).abs().sum() / 2 for i, one in enumerate(laws) for other in laws[:i]]
    assert min(distances) > 0.1, "all four laws must differ, or this shows nothing"


def test_equal_policies_write_the_same_on_the_same_random_numbers():
    followers = followers_that_differ(scale=0.1)
    with torch.no_grad():
        for one, other in zip(*(followers.adapter(name) for name in NAMES), strict=True):
            one.copy_(other)
    completions = write(followers, range(200))
    assert torch.equal(completions.ids[:200], completions.ids[200:])
    assert torch.equal(completions.mask[:200], completions.mask[200:])
    assert len(set(as_tuples(completions))) > 5


def test_coupled_policies_coincide_the_more_often_the_closer_they_are_and_independent_ones_less():
    num_rows = 2000

    def share_of_equal_texts(scale, coupled):
        written = as_tuples(write(followers_that_differ(scale), range(num_rows), coupled=coupled))
        return sum(one == other for one, other in zip(written[:num_rows], written[num_rows:], strict=True)) / num_rows

    near, far = share_of_equal_texts(0.05, True), share_of_equal_texts(0.1, True)
    near_independent = share_of_equal_texts(0.05, False)
    standard_error = (0.5 / num_rows) ** 0.5  # at most, of a difference of two shares
    assert near > far + 4 * standard_error
    assert far > near_independent + 4 * standard_error
    assert near > 0.8


def test_independent_policies_write_independently():
    followers, num_rows = followers_that_differ(), 2000
    written = as_tuples(write(followers, range(num_rows), coupled=False))
    expected = 0.0
    for prompt in PROMPTS:
        texts = all_completions(prompt=prompt)
        with torch.no_grad():
            p, q = (log_probs(token_log_policies(followers, name, texts), texts).exp() for name in NAMES)
        expected += float((p * q).sum()) / 2
    share = sum(one == other for one, other in zip(written[:num_rows], written[num_rows:], strict=True)) / num_rows
    assert abs(share - expected) <= 4 * (expected * (1 - expected) / num_rows) ** 0.5


@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "independent"])
def test_rows_are_the_same_however_the_batch_is_split(coupled):
    followers = followers_that_differ()
    whole = as_tuples(write(followers, range(12), coupled=coupled))
    parts = [as_tuples(write(followers, rows, coupled=coupled)) for rows in (range(1), range(1, 8), range(8, 12))]
    for number in range(2):
        rows = [row for part in parts for row in part[number * len(part) // 2 : (number + 1) * len(part) // 2]]
        assert rows == whole[12 * number : 12 * (number + 1)]


def test_a_policy_writes_the_same_with_or_without_another_beside_it():
    followers = followers_that_differ()
    both = as_tuples(write(followers, range(12)))
    assert as_tuples(write(followers, range(12), names=("penalized",))) == both[12:]
    assert both[:12] != both[12:]


def test_texts_stop_after_the_end_mark_and_padding_follows():
    completions = write(followers_that_differ(), range(100), pad_id=1)
    lengths = set()
    for ids, mask in zip(completions.ids.tolist(), completions.mask.tolist(), strict=True):
        length = ids.index(END) + 1 if END in ids else HORIZON
        assert mask == [t < length for t in range(HORIZON)]
        assert ids[length:] == [1] * (HORIZON - length)
        lengths.add(length)
    assert lengths == {1, 2, 3}


def test_writing_ends_early_where_all_texts_have_ended():
    followers = followers_that_differ()
    widths = {write(followers, [row], names=("lower",)).ids.shape for row in range(40)}
    assert widths == {(1, 1), (1, 2), (1, 3)}


def test_streams_depend_on_every_part_of_an_identity_and_repeat():
    def draw(*identity):
        return torch.rand(3, generator=stream(*identity)).tolist()

    identities = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2), (0, 2, 0), (2**32 - 1, 0, 0)]
    draws = [draw(*identity) for identity in identities]
    assert draws == [draw(*identity) for identity in identities]
    assert len({tuple(row) for row in draws}) == len(identities)
