"""Fine-tuning goes on after a kill with the same weights; what it saves is what transformers loads. Micro models."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bilevel_rl.studies.happy_tweets import fine_tuning
from bilevel_rl.studies.happy_tweets.fine_tuning import FineTuning, fine_tune, learning_rate, perplexity, token_losses
from bilevel_rl.studies.happy_tweets.language_models import NUM_HELD_OUT, TinyShape, tiny
from studies.happy_tweets.fake_ratings import UncheckedAssets, made_up_tweets, write_ratings

SETTINGS = FineTuning(num_steps=9, batch_size=4, learning_rate=1e-2, num_warmup_steps=2)
MICRO = TinyShape(vocabulary_size=300, hidden_size=16, num_layers=1)


def micro_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def sequences(num=10, seed=0):
    random = np.random.default_rng(seed)
    return [[1, *random.integers(3, 30, size=length).tolist(), 2] for length in random.integers(1, 12, size=num)]


@pytest.fixture
def checkpoint_every_two(monkeypatch):
    monkeypatch.setattr(fine_tuning, "CHECKPOINT_EVERY", 2)


class Killed(BaseException):
    pass


def killing(when):
    def progress(step, num_steps, loss):
        if step == when:
            raise Killed

    return progress


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_equal_bit_for_bit(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# Losses.


def test_token_losses_are_those_of_the_unpadded_sequences():
    model, texts = micro_model(), sequences()
    with torch.no_grad():
        together = token_losses(model, texts)
        alone = []
        for text in texts:
            ids = torch.tensor([text])
            log_probabilities = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            alone.append(-log_probabilities.gather(1, ids[0, 1:, None])[:, 0])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary():
    model = micro_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, sequences(), batch_size=3) == pytest.approx(30, rel=1e-5)


def test_perplexity_weighs_tokens_not_batches():
    model, texts = micro_model(), sequences(num=7)
    with torch.no_grad():
        expected = math.exp(torch.cat([token_losses(model, [text]) for text in texts]).mean().item())
    assert perplexity(model, texts, batch_size=3) == pytest.approx(expected, rel=1e-5)


# Training.


@pytest.mark.parametrize("when", [1, 2, 5, 9])
def test_a_kill_and_a_second_call_end_with_the_same_weights(tmp_path, checkpoint_every_two, when):
    whole, resumed = micro_model(), micro_model()
    reports = []
    loss = fine_tune(whole, sequences(), SETTINGS, tmp_path / "whole.pt")

    with pytest.raises(Killed):
        fine_tune(resumed, sequences(), SETTINGS, tmp_path / "resumed.pt", killing(when))
    # Another process starts from the model on disk, not from the weights that were trained.
    resumed = micro_model()
    again = fine_tune(resumed, sequences(), SETTINGS, tmp_path / "resumed.pt", lambda *report: reports.append(report))

    assert_equal_bit_for_bit(weights_of(whole), weights_of(resumed))
    assert again == loss
    done = when if when == 9 else when // 2 * 2
    assert [report[0] for report in reports] == list(range(done + 1, 10))


def test_a_checkpoint_of_other_texts_or_settings_is_not_continued(tmp_path, checkpoint_every_two):
    checkpoint = tmp_path / "checkpoint.pt"
    fine_tune(micro_model(), sequences(seed=1), SETTINGS, checkpoint)
    expected, model = micro_model(), micro_model()
    fine_tune(expected, sequences(), SETTINGS, tmp_path / "other.pt")
    fine_tune(model, sequences(), SETTINGS, checkpoint)
    assert_equal_bit_for_bit(weights_of(expected), weights_of(model))


def test_every_text_is_seen_once_an_epoch():
    settings = FineTuning(num_steps=10, batch_size=4, learning_rate=1.0, seed=5)
    seen = [text for step in range(10) for text in fine_tuning._batch(10, settings, step)]
    assert len(seen) == 40
    epochs = [seen[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_only_weights_that_require_gradients_move(tmp_path):
    model = micro_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = weights_of(model)
    fine_tune(model, sequences(), SETTINGS, tmp_path / "checkpoint.pt")
    after = weights_of(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == before.keys() - {"model.embed_tokens.weight"}


def test_the_learning_rate_rises_and_falls():
    settings = FineTuning(num_steps=100, batch_size=1, learning_rate=2.0, num_warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.01
    assert all(second < first for first, second in itertools.pairwise(rates[10:]))


# The tiny model.


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    write_ratings(cache / "ratings", made_up_tweets())
    return cache


@pytest.fixture(scope="module")
def folder(cache):
    return tiny(UncheckedAssets(cache), SETTINGS, MICRO)


def test_transformers_loads_what_was_saved(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(set(marks)) == 3
    assert [model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id] == marks
    text = "I <3 w1 :) caf\u00e9 \U0001f600"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    with torch.no_grad():
        drawn = model.generate(
            torch.tensor([[tokenizer.bos_token_id]]), do_sample=True, max_new_tokens=5, pad_token_id=marks[2]
        )
    assert drawn.shape[1] <= 6


def test_the_report_is_that_of_the_saved_model(folder, cache):
    from bilevel_rl.studies.happy_tweets.fine_tuning import token_sequences
    from bilevel_rl.studies.happy_tweets.tweets import read_tweets, split_tweets

    report = json.loads((folder / "sft.json").read_text())
    held_out = [tweet.text for tweet in split_tweets(read_tweets(cache / "ratings")).judge[:NUM_HELD_OUT]]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    after = perplexity(model, token_sequences(tokenizer, held_out))
    assert report["held_out_perplexity_after"] == pytest.approx(after, rel=1e-5)
    assert after < report["held_out_perplexity_before"]
    assert report["num_steps"] == 9


def test_the_second_call_trains_nothing(folder, cache):
    assert tiny(UncheckedAssets(cache), SETTINGS, MICRO, progress=killing(1)) == folder


def test_other_settings_are_another_folder(folder, cache):
    other = tiny(UncheckedAssets(cache), FineTuning(num_steps=1, batch_size=1, learning_rate=1e-3), MICRO)
    assert other != folder
    assert json.loads((other / "sft.json").read_text())["num_steps"] == 1


def test_a_killed_training_of_the_model_ends_with_the_same_file(tmp_path, folder, cache, checkpoint_every_two):
    write_ratings(tmp_path / "ratings", made_up_tweets())
    with pytest.raises(Killed):
        tiny(UncheckedAssets(tmp_path), SETTINGS, MICRO, progress=killing(5))
    assert not list(tmp_path.glob("tiny-tweets-*/"))
    assert len(list(tmp_path.glob("*.checkpoint.pt"))) == 1
    resumed = tiny(UncheckedAssets(tmp_path), SETTINGS, MICRO)
    assert resumed.name == folder.name
    assert (resumed / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.checkpoint.pt"))
