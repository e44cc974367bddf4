"""Rewards of texts, and preferences between them, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from bilevel_rl.lm import RewardHead
from bilevel_rl.lm.encoder import Encoder
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.rewards import Preferences, RewardInputs, fit_reward, mean_states
from bilevel_rl.lm.tokens import Completions, Prompts
from lm.tiny_models import llama, randomize, tokenizer
from lm.tiny_trainers import PREFERENCES, TextTable


def an_encoder(*, max_length=4, batch_size=2, followers=None, of=None):
    return Encoder(followers or Followers(llama(), ("lower",)), of or tokenizer(), max_length, batch_size)


def inputs_with(states):
    n = len(states)
    ids = torch.zeros(n, 1, dtype=torch.long)
    completions = Completions(Prompts.pad([[0]] * n, 0, "cpu"), ids, torch.ones(n, 1, dtype=torch.bool))
    return RewardInputs([""] * n, completions, states)


def random_states(n, d=8, seed=0):
    return 3 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + torch.arange(d)


@pytest.mark.parametrize("hidden_size", [None, 5])
def test_a_reward_head_starts_at_zero_and_is_bounded(hidden_size):
    torch.manual_seed(0)
    head, inputs = RewardHead(8, bound=1.5, hidden_size=hidden_size), inputs_with(random_states(50))
    assert torch.equal(head(inputs), torch.zeros(50))
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_(std=5.0)
        rewards = head(inputs)
    assert rewards.abs().max() <= 1.5
    assert rewards.min() < -1.4
    assert rewards.max() > 1.4


def test_a_linear_reward_head_by_hand():
    head = RewardHead(2, bound=2.0)
    head.standardize(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))  # means 2, 20; deviations √2, 10 √2
    with torch.no_grad():
        head.score.weight.copy_(torch.tensor([[0.5, -1.0]]))
        head.score.bias.fill_(0.25)
    reward = head(inputs_with(torch.tensor([[4.0, 10.0]])))
    expected = 2.0 * math.tanh((0.5 * 2 / 2**0.5 + 10 / (10 * 2**0.5) + 0.25) / 2.0)
    assert float(reward.detach()) == pytest.approx(expected)


def test_standardized_states_do_not_depend_on_the_features_units():
    states, units = random_states(20), torch.tensor([1.0, 5.0, 0.1, 3.0, 1.0, 10.0, 0.5, 2.0])
    rewards = []
    for scaled in (states, states * units + 7.0):
        torch.manual_seed(1)
        head = RewardHead(8)
        nn.init.normal_(head.score.weight)
        head.standardize(scaled)
        rewards.append(head(inputs_with(scaled)).detach())
    torch.testing.assert_close(rewards[0], rewards[1], rtol=1e-4, atol=1e-4)
    assert rewards[0].std() > 0.5


def test_one_example_tells_no_scale():
    with pytest.raises(ValueError, match="states must have at least 2 rows to tell their scale, got 1"):
        RewardHead(3).standardize(torch.zeros(1, 3))


def test_a_feature_that_never_varies_does_no_harm():
    states = random_states(20)
    states[:, 3] = 4.0
    head = RewardHead(8)
    nn.init.ones_(head.score.weight)
    head.standardize(states)
    assert torch.isfinite(head(inputs_with(states))).all()


def test_mean_and_scale_are_saved_but_not_learned():
    head = RewardHead(8)
    head.standardize(random_states(20))
    assert {"mean", "scale"} <= set(head.state_dict())
    assert {name for name, _ in head.named_parameters()} == {"score.weight", "score.bias"}


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_must_be_positive(bound):
    with pytest.raises(ValueError, match=f"bound must be finite and positive, got {bound}"):
        RewardHead(8, bound=bound)


def test_preferences_hold_every_text_once_and_who_won():
    preferences = an_encoder().encode_preferences(
        [
            {"chosen": "b", "rejected": "b b"},
            {"prompt": "", "chosen": "b b", "rejected": "b b b"},
            {"prompt": "b", "chosen": "b", "rejected": "b b"},
            {"chosen": "b", "rejected": "b b b", "ignored": "yes"},
        ]
    )
    assert preferences.inputs.texts == ["b", "b b", "b b b", "b", "b b"]
    assert preferences.chosen.tolist() == [0, 1, 3, 0]
    assert preferences.rejected.tolist() == [1, 2, 4, 2]
    prompts = preferences.inputs.completions.prompts
    assert [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)] == [[0]] * 3 + [[1]] * 2


def test_preferences_that_cannot_be_are_refused():
    encoder = an_encoder()
    with pytest.raises(ValueError, match="preference_dataset is empty"):
        encoder.encode_preferences([])
    with pytest.raises(ValueError, match=r"row 1 needs 'chosen' and 'rejected', got \['chosen', 'prompt'\]"):
        encoder.encode_preferences([PREFERENCES[0], {"prompt": "b", "chosen": "b b"}])


def test_negative_log_likelihood_by_hand():
    class Given(nn.Module):
        def forward(self, inputs):
            return inputs.states[:, 0]

    inputs = inputs_with(torch.tensor([[1.0], [3.0], [0.5]]))
    preferences = Preferences(inputs, torch.tensor([0, 1, 1]), torch.tensor([1, 2, 0]))
    losses = [math.log1p(math.exp(-difference)) for difference in (1.0 - 3.0, 3.0 - 0.5, 3.0 - 1.0)]
    assert float(preferences.negative_log_likelihood(Given())) == pytest.approx(sum(losses) / 3)
    some = preferences.negative_log_likelihood(Given(), torch.tensor([2, 0, 2]))
    assert float(some) == pytest.approx((2 * losses[2] + losses[0]) / 3)


def test_fitting_lowers_the_loss_and_ranks_the_chosen_above_the_rejected():
    encoder = an_encoder()
    preferences = encoder.encode_preferences(PREFERENCES)
    torch.manual_seed(0)
    head = RewardHead(8)
    head.standardize(preferences.inputs.states)
    before = float(preferences.negative_log_likelihood(head).detach())
    after = fit_reward(head, preferences, precision=0.0, num_steps=100, learning_rate=0.05)
    assert before == pytest.approx(math.log(2))
    assert after == pytest.approx(float(preferences.negative_log_likelihood(head).detach()))
    assert after < 0.3
    rewards = head(preferences.inputs)
    assert (rewards[preferences.chosen] > rewards[preferences.rejected]).all()


def test_a_fit_with_a_prior_ends_where_likelihood_and_prior_balance():
    preferences, model, κ = an_encoder().encode_preferences(PREFERENCES), TextTable(), 0.2
    fit_reward(model, preferences, precision=κ, num_steps=2_000, learning_rate=0.02)
    model.zero_grad()
    preferences.negative_log_likelihood(model).backward()
    assert float(model.table.grad.abs().max()) > 0.05
    torch.testing.assert_close(model.table.grad, -κ * model.table.detach(), rtol=0, atol=1e-3)


def test_a_fit_leaves_no_gradient():
    model = TextTable()
    fit_reward(model, an_encoder().encode_preferences(PREFERENCES), precision=0.1, num_steps=2)
    assert model.table.grad is None


def test_a_tokenizer_without_a_mark_is_refused():
    followers = Followers(llama(), ("lower",))
    for mark in ("eos_token", "pad_token"):
        lacking = tokenizer()
        setattr(lacking, mark, None)
        with pytest.raises(ValueError, match=f"processing_class: {mark}_id is None; set the tokenizer's {mark}$"):
            an_encoder(followers=followers, of=lacking)


def test_an_empty_prompt_is_the_start_mark_and_needs_one():
    followers, lacking = Followers(llama(), ("lower",)), tokenizer()
    assert an_encoder(followers=followers).prompt_ids("") == [0]
    assert an_encoder(followers=followers).prompt_ids("b a") == [1, 0]
    lacking.bos_token = None
    assert an_encoder(followers=followers, of=lacking).prompt_ids("b") == [1]
    with pytest.raises(ValueError, match="an empty prompt needs a start mark; set the tokenizer's bos_token"):
        an_encoder(followers=followers, of=lacking).prompt_ids("")


def test_texts_end_with_the_end_mark_and_are_cut_to_the_horizon():
    completions = an_encoder(max_length=4).completions(["", "b", ""], ["b", "b b b b b", ""])
    assert completions.ids.tolist() == [[1, 2, 0, 0], [1, 1, 1, 2], [2, 0, 0, 0]]
    assert completions.mask.sum(dim=1).tolist() == [2, 4, 1]
    assert completions.texts(tokenizer()) == ["b", "b b b", ""]


def test_mean_states_by_hand():
    prompts = Prompts.pad([[1, 1], [1]], 0, "cpu")
    mask = torch.tensor([[True, True, True], [True, False, False]])
    completions = Completions(prompts, torch.ones(2, 3, dtype=torch.long), mask)
    hidden = torch.arange(20.0).reshape(2, 5, 2) ** 2
    # columns 2, 3, 4 of row 0; column 2 of row 1
    expected = [[(16 + 36 + 64) / 3, (25 + 49 + 81) / 3], [14.0**2, 15.0**2]]
    torch.testing.assert_close(mean_states(hidden, completions), torch.tensor(expected))


def test_encoded_states_are_the_references_whatever_the_batches():
    followers = randomize(Followers(llama(), ("lower",)))
    prompts, texts = ["", "b", "b a b", "", "b"], ["b", "b b", "", "b b b", "b"]
    found = [an_encoder(followers=followers, batch_size=size).encode(prompts, texts) for size in (1, 2, 5)]
    assert found[0].texts == texts
    for inputs in found[1:]:
        torch.testing.assert_close(inputs.states, found[0].states, rtol=1e-5, atol=1e-5)
    encoder = an_encoder(followers=followers)
    single = encoder.completions(prompts[1:2], texts[1:2])
    with torch.no_grad():
        hidden = followers.hidden_states([REFERENCE], single)[0]
    torch.testing.assert_close(found[0].states[1], hidden[1:].mean(dim=0), rtol=1e-5, atol=1e-5)


def test_rows_are_selected_in_any_order():
    inputs = an_encoder().encode(["", "b", ""], ["b", "b b", ""])
    some = inputs.select(torch.tensor([2, 0, 2]))
    assert some.texts == ["", "b", ""]
    assert torch.equal(some.states, inputs.states[[2, 0, 2]])
    assert torch.equal(some.completions.ids, inputs.completions.ids[[2, 0, 2]])
    assert torch.equal(some.completions.prompts.mask, inputs.completions.prompts.mask[[2, 0, 2]])
