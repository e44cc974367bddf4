"""Completions by the Gumbel trick: the token with the highest score plus noise is a sample of the policy.

Every row has a stream of noise of its own, derived from (seed, iteration, row). So a batch is the same whether one
process writes all of it or several write a part each, and a resumed run needs no generator's state. Policies that get
the same streams are coupled: each writes with its own law, and while their scores are close they write the same.
"""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bilevel_rl.lm.followers import Followers
from bilevel_rl.lm.tokens import Completions, Prompts


def stream(*identity: int) -> torch.Generator:
    """Random numbers of their own for every tuple of non-negative integers, among tuples of one length."""
    words = np.random.SeedSequence(identity).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))


@contextlib.contextmanager
def own_random_numbers(*identity: int) -> Iterator[None]:
    """PyTorch's global random numbers of their own for every tuple, as for `stream`; the caller's go on afterwards.

    A reward model or a judge may draw from them, and must draw the same after a stop.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(stream(*identity).initial_seed())
        yield


@torch.no_grad()
def sample(
    followers: Followers,
    names: Sequence[str],
    prompts: Prompts,
    streams: Sequence[torch.Generator],
    *,
    max_length: int,
    end_id: int,
    pad_id: int,
) -> Completions:
    """Completions of the same prompts by several policies.

    Args:
        followers: the policies.
        names: F policies that write; each gets all prompts.
        prompts: of B rows.
        streams: B of them couple the policies; F · B make them independent.
        max_length: T, the horizon in tokens.
        end_id: end mark.
        pad_id: what stands after it.

    Returns:
        F · B rows, the first policy's rows first.
    """
    num_rows = len(names) * len(prompts.ids)
    rows = [name for name in names for _ in prompts.ids]
    repeated = prompts.repeat(len(names))
    noise: Tensor | None = None
    ids, mask = repeated.ids, repeated.mask
    written, is_there = [], []
    goes_on = torch.ones(num_rows, dtype=torch.bool, device=ids.device)
    cache = None
    for _ in range(max_length):
        hidden, cache = followers.next_states(rows, ids, mask, cache)
        logits = followers.logits(rows, hidden)
        if noise is None:
            noise = torch.empty(len(streams), logits.shape[1])
        for row, generator in zip(noise, streams, strict=True):
            row.exponential_(generator=generator)
        gumbel = -noise.log().to(logits.device).repeat(num_rows // len(streams), 1)
        chosen = torch.where(goes_on, (logits + gumbel).argmax(dim=1), pad_id)
        written.append(chosen)
        is_there.append(goes_on)
        ids, mask = chosen[:, None], torch.cat([mask, goes_on[:, None]], dim=1)
        goes_on = goes_on & (chosen != end_id)
        if not goes_on.any():
            break
    return Completions(repeated, torch.stack(written, dim=1), torch.stack(is_there, dim=1))
