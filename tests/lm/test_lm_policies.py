"""Other policies than LoRA's: a pass for each, and otherwise the same in everything."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig
from transformers import AutoModelForCausalLM

from bilevel_rl.lm.followers import LORA, REFERENCE, Followers
from bilevel_rl.lm.sampling import sample, stream
from bilevel_rl.lm.tokens import Prompts
from lm.test_lm_followers import alone, texts_of_unequal_lengths
from lm.tiny_models import all_completions, llama, randomize, token_logits
from lm.tiny_trainers import PREFERENCES, trainer

NAMES = ("lower", "penalized")
LAYERS = ["k_proj", "v_proj", "down_proj"]
KINDS = {
    "dora": LoraConfig(r=2, target_modules=LAYERS, use_dora=True, task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=LAYERS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "full": None,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def moved(kind, **options):
    """Two policies that differ from the reference and from each other."""
    followers = Followers(llama(vocab_size=7, **options), NAMES, kind)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in NAMES:
            for weight in followers.adapter(name):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return followers


def test_policies_start_as_the_reference_and_as_each_other(kind):
    followers, texts = Followers(llama(vocab_size=7), NAMES, kind), texts_of_unequal_lengths()
    with torch.no_grad():
        expected = token_logits(followers, [REFERENCE] * 4, texts)[texts.mask]
        for rows in (["lower"] * 4, ["penalized", REFERENCE, "lower", "penalized"]):
            torch.testing.assert_close(token_logits(followers, rows, texts)[texts.mask], expected, rtol=1e-4, atol=1e-5)
    trained = [weight for weight in followers.parameters() if weight.requires_grad]
    named = [weight for name in NAMES for weight in followers.adapter(name) + followers.critic(name)]
    assert {id(weight) for weight in trained} == {id(weight) for weight in named}


def test_rows_of_a_mixed_batch_are_what_each_is_alone(kind):
    followers, texts = moved(kind), texts_of_unequal_lengths()
    rows = ["penalized", REFERENCE, "lower", "penalized"]
    with torch.no_grad():
        mixed = token_logits(followers, rows, texts)
        for row, name in enumerate(rows):
            single = token_logits(followers, [name], alone(texts, row))[0]
            torch.testing.assert_close(mixed[row][: len(single)], single, rtol=1e-4, atol=1e-4)
        others = token_logits(followers, ["lower", "lower", "penalized", REFERENCE], texts)
    assert ((others - mixed).abs().amax(dim=(1, 2)) > 0.01).all()


def test_gradients_reach_the_rows_own_policy_only(kind):
    followers, texts = moved(kind), all_completions().select(slice(0, 2))
    token_logits(followers, ["lower", "penalized"], texts)[0].square().sum().backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in followers.adapter("penalized"))
    assert any(weight.grad is not None and weight.grad.any() for weight in followers.adapter("lower"))


def test_what_is_written_step_by_step_has_the_law_of_whole_texts(kind):
    followers = moved(kind)
    prompts = Prompts.pad([[3], [5, 1, 4], [6, 2]], 0, "cpu")
    options = {"max_length": 5, "end_id": 2, "pad_id": 0}
    both = sample(followers, NAMES, prompts, [stream(0, row) for row in range(3)], **options)
    for number, name in enumerate(NAMES):
        one = sample(followers, [name], prompts, [stream(0, row) for row in range(3)], **options)
        part = both.select(slice(3 * number, 3 * number + 3))
        width = one.ids.shape[1]
        assert torch.equal(part.ids[:, :width][one.mask], one.ids[one.mask])
    # The noise chooses the same tokens from the logits of whole texts.
    logits = token_logits(followers, [name for name in NAMES for _ in range(3)], both)
    for row in range(6):
        generator = stream(0, row % 3)
        for step in range(int(both.mask[row].sum())):
            noise = -torch.empty(7).exponential_(generator=generator).log()
            assert int((logits[row, step] + noise).argmax()) == int(both.ids[row, step])


@pytest.mark.variants
@pytest.mark.parametrize("name", KINDS)
def test_training_moves_both_policies_goes_on_with_the_same_bits_and_is_saved(tmp_path, name):
    options = {"peft_config": KINDS[name], "preferences": PREFERENCES, "checkpoint_every": 0.0, "starts_at": 0}
    options |= {"learning_rate": 0.01, "critic_learning_rate": 0.05}
    whole = trainer(tmp_path / "whole", max_steps=3, **options).train(progress=False)
    for steps in (1, 3):
        built = trainer(tmp_path / "stopped", max_steps=steps, **options)
        found = built.train(progress=False)
    assert found.rows == whole.rows
    assert found.rows[0]["lower_mean_divergence"] == pytest.approx(0.0, abs=1e-6)
    assert found.rows[-1]["lower_mean_divergence"] > 1e-4
    for policy in built.policies:
        path = tmp_path / "stopped/adapters" / policy
        if KINDS[name] is None:
            loaded = AutoModelForCausalLM.from_pretrained(path)
        else:
            loaded = PeftModel.from_pretrained(llama(), path)
        texts = all_completions()
        with torch.no_grad():
            logits = loaded.eval()(texts.input_ids).logits[:, :-1]
            expected = token_logits(built.followers, [policy] * 15, texts)
        torch.testing.assert_close(logits[texts.mask], expected[texts.mask], rtol=1e-4, atol=1e-4)


def test_lora_mixes_and_gives_what_a_pass_for_each_gives():
    followers, texts = randomize(Followers(llama(vocab_size=7), NAMES, LORA)), texts_of_unequal_lengths()
    rows = ["penalized", REFERENCE, "lower", "penalized"]
    with torch.no_grad():
        mixed = token_logits(followers, rows, texts)
        followers.policies._mixes = False
        torch.testing.assert_close(token_logits(followers, rows, texts), mixed, rtol=1e-5, atol=1e-5)


def test_what_is_no_adapter_in_layers_is_refused():
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="peft_config must be of adapters in layers, as LoraConfig, got Prompt"):
        Followers(llama(), NAMES, prompts)
    with pytest.raises(ValueError, match=r"bf16 holds a frozen model in torch.bfloat16, and peft_config=None trains"):
        Followers(llama().bfloat16(), NAMES, None)
