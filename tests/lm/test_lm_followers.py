"""Policies on one frozen model: they start alike, do not leak into each other, and do not care how a batch is made."""

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.tokens import Completions, Prompts
from lm.tiny_models import (
    TABLE_ADAPTER,
    all_completions,
    free_tables,
    gpt2,
    llama,
    prefix_table,
    randomize,
    token_logits,
)

NAMES = ("lower", "penalized")
MODELS = {"llama": llama, "gpt2": gpt2}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param](vocab_size=7)


def texts_of_unequal_lengths():
    """Prompts of one to three tokens, texts of one to four; tokens after the end are junk."""
    prompts = Prompts.pad([[3], [5, 1, 4], [6, 2], [1, 1, 2]], 0, "cpu")
    ids = torch.tensor([[4, 3, 1, 2], [1, 2, 6, 6], [5, 5, 2, 6], [2, 6, 6, 6]])
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1])[:, None]
    return Completions(prompts, ids, mask)


def alone(completions, row):
    """A row without any padding."""
    prompts = completions.prompts
    prompt = prompts.ids[row][prompts.mask[row]].tolist()
    ids = completions.ids[row][completions.mask[row]][None]
    return Completions(Prompts.pad([prompt], 0, "cpu"), ids, torch.ones_like(ids, dtype=torch.bool))


def test_adapters_start_as_the_frozen_model_and_as_copies_of_each_other(model):
    untouched = type(model)(model.config)
    untouched.load_state_dict(model.state_dict())
    followers, completions = Followers(model, NAMES), texts_of_unequal_lengths()
    for one, other in zip(followers.adapter("lower"), followers.adapter("penalized"), strict=True):
        assert torch.equal(one, other)
        assert one is not other
    assert len(followers.adapter("lower")) > 0
    with torch.no_grad():
        expected = untouched.eval()(alone(completions, 1).input_ids).logits[:, 2:-1]
        for name in (*NAMES, REFERENCE):
            logits = token_logits(followers, [name], alone(completions, 1))
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_critics_start_at_zero_and_learn_apart():
    followers = Followers(llama(), NAMES)
    states = torch.randn(5, 8)
    assert all(torch.equal(followers.values(name, states), torch.zeros(5)) for name in NAMES)
    followers.values("lower", states).sum().backward()
    assert all(weight.grad is None for weight in followers.critic("penalized"))
    assert all(weight.grad.abs().sum() > 0 for weight in followers.critic("lower"))


def test_values_send_no_gradient_into_the_policy():
    followers = randomize(Followers(llama(), NAMES))
    followers.values("lower", followers.acting_states(["lower"] * 15, all_completions())).sum().backward()
    assert all(weight.grad is None for weight in followers.adapter("lower"))


def test_only_adapters_and_critics_are_trained(model):
    followers = Followers(model, NAMES)
    trained = {id(weight) for weight in followers.parameters() if weight.requires_grad}
    named = [weight for name in NAMES for weight in followers.adapter(name) + followers.critic(name)]
    assert trained == {id(weight) for weight in named}


@pytest.mark.parametrize("changed", NAMES)
def test_a_changed_adapter_changes_its_policy_alone(model, changed):
    followers, completions = Followers(model, NAMES), texts_of_unequal_lengths()
    everyone = [*NAMES, REFERENCE]

    def logits_of_everyone():
        return {name: token_logits(followers, [name] * 4, completions) for name in everyone}

    with torch.no_grad():
        before = logits_of_everyone()
        for weight in followers.adapter(changed):
            weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
        after = logits_of_everyone()
    for name in everyone:
        is_same = torch.equal(before[name], after[name])
        assert is_same == (name != changed), name
    assert (after[changed] - before[changed]).abs().max() > 0.1


@pytest.mark.parametrize("learner", NAMES)
def test_gradients_of_one_policys_rows_do_not_reach_the_other(model, learner):
    followers, completions = randomize(Followers(model, NAMES)), texts_of_unequal_lengths()
    rows = ["lower", "penalized", "penalized", "lower"]
    logits = token_logits(followers, rows, completions)
    sum(logits[i].square().sum() for i, name in enumerate(rows) if name == learner).backward()
    for name in NAMES:
        reached = [w.grad is not None and bool(w.grad.abs().sum() > 0) for w in followers.adapter(name)]
        assert all(reached) if name == learner else not any(reached), name


def test_a_mixed_batch_equals_passes_of_one_policy_each_row_by_row(model):
    followers, completions = randomize(Followers(model, NAMES)), texts_of_unequal_lengths()
    rows = ["penalized", REFERENCE, "lower", "penalized"]
    with torch.no_grad():
        mixed = token_logits(followers, rows, completions)
        separate = {name: token_logits(followers, [name] * 4, completions) for name in set(rows)}
    for row, name in enumerate(rows):
        torch.testing.assert_close(mixed[row], separate[name][row], rtol=1e-5, atol=1e-5)
        others = [separate[other][row] for other in separate if other != name]
        assert all((mixed[row] - other).abs().max() > 0.1 for other in others)


def test_padding_of_prompts_and_texts_does_not_matter(model):
    followers, completions = randomize(Followers(model, NAMES)), texts_of_unequal_lengths()
    rows = ["lower", "penalized", REFERENCE, "lower"]
    with torch.no_grad():
        batch = token_logits(followers, rows, completions)
        for row, name in enumerate(rows):
            length = int(completions.mask[row].sum())
            single = token_logits(followers, [name], alone(completions, row))[0]
            torch.testing.assert_close(batch[row, :length], single, rtol=1e-5, atol=1e-5)


def test_acting_states_are_those_that_the_written_tokens_were_chosen_from(model):
    followers, completions = randomize(Followers(model, NAMES)), texts_of_unequal_lengths()
    rows = ["lower", "penalized", REFERENCE, "lower"]
    with torch.no_grad():
        states = followers.acting_states(rows, completions)
        expected = []
        for row, name in enumerate(rows):
            single = alone(completions, row)
            width = single.prompts.ids.shape[1]
            hidden = followers.hidden_states([name], single)[0]
            expected += [hidden[width - 1 + t] for t in range(int(single.mask.sum()))]
    torch.testing.assert_close(states, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert len(states) == completions.num_tokens == 10


def test_token_by_token_with_a_cache_equals_one_pass(model):
    followers, completions = randomize(Followers(model, NAMES)), texts_of_unequal_lengths()
    rows, cache, logits = ["lower", "penalized", REFERENCE, "lower"], None, []
    ids, mask = completions.prompts.ids, completions.prompts.mask
    with torch.no_grad():
        for t in range(4):
            hidden, cache = followers.next_states(rows, ids, mask, cache)
            logits.append(followers.logits(rows, hidden))
            ids, mask = completions.ids[:, t : t + 1], torch.cat([mask, completions.mask[:, t : t + 1]], dim=1)
        expected = token_logits(followers, rows, completions)
    written = completions.mask
    torch.testing.assert_close(torch.stack(logits, dim=1)[written], expected[written], rtol=1e-5, atol=1e-5)


def test_a_free_table_adds_to_the_references_logits():
    model = prefix_table()
    table = model.table.weight.clone()
    followers = Followers(model, NAMES, TABLE_ADAPTER)
    deltas = free_tables(followers)
    with torch.no_grad():
        deltas["lower"].normal_()
        completions = all_completions(end_id=3)
        logits = token_logits(followers, ["lower"] * 27, completions)
    prefixes = torch.tensor([[0, a + 1, 3 * (a + 1) + b + 1] for a, b, _ in completions.ids.tolist()])
    assert sorted(set(prefixes.flatten().tolist())) == list(range(13))
    torch.testing.assert_close(logits, (table + deltas["lower"]).detach().T[prefixes])


@pytest.mark.parametrize("names", [(), ("lower", "lower"), ("lower", REFERENCE)])
def test_names_that_cannot_be_are_refused(names):
    with pytest.raises(ValueError, match=r"names must be different names of policies.*got \["):
        Followers(llama(), names)


@pytest.mark.parametrize("names", [("lower",), NAMES, ("another",)])
def test_a_model_that_carries_adapters_already_is_refused_and_they_stay(names):
    model = llama()
    followers = randomize(Followers(model, NAMES))
    before = [weight.detach().clone() for weight in followers.adapter("lower")]
    with pytest.raises(ValueError, match="model carries adapters already, perhaps those of another trainer"):
        Followers(model, names)
    assert all(torch.equal(one, other) for one, other in zip(before, followers.adapter("lower"), strict=True))


@pytest.mark.parametrize("name", ["layers", "model", "0", "lora_A", "self_attn"])
def test_a_name_that_is_also_a_name_of_the_models_parts_is_a_name_like_any_other(name):
    followers = Followers(llama(), (name, "other"))
    mine, others = ({id(weight) for weight in followers.adapter(n)} for n in (name, "other"))
    assert len(mine) == len(others)
    assert not mine & others
    assert len(mine | others) == sum(weight.requires_grad for weight in followers.policies.parameters())


def test_a_model_that_scales_its_logits_after_the_output_embedding_is_refused():
    torch.manual_seed(0)
    options = {"vocab_size": 7, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    options |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.5}
    Followers(GraniteForCausalLM(GraniteConfig(logits_scaling=1.0, **options)), NAMES)
    with pytest.raises(ValueError, match="model: GraniteForCausalLM changes its logits after the output embedding"):
        Followers(GraniteForCausalLM(GraniteConfig(logits_scaling=4.0, **options)), NAMES)
