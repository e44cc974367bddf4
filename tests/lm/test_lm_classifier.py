"""A reward that is a sequence classifier: its own scores, its head or adapter learned, and found again by its users."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bilevel_rl.lm import ClassifierReward
from bilevel_rl.lm.data import Example
from bilevel_rl.lm.rewards import RewardInputs
from bilevel_rl.runs.folder import RunFolderError
from lm.tiny_models import all_completions, llama, tokenizer
from lm.tiny_trainers import PREFERENCES, trainer

SIZE = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def letters():
    """Another tokenizer: every letter is a token, and 0 is the padding."""
    words = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("_abc? ")}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="_", unk_token="?")


def classifier(*, vocab_size=6, num_labels=1, max_position_embeddings=32):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocab_size, num_labels=num_labels, max_position_embeddings=max_position_embeddings, **SIZE
    )
    return LlamaForSequenceClassification(config).eval()


def adapted():
    """With a peft adapter that is not nothing at the start."""
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    return get_peft_model(classifier(), config)


def inputs(texts, prompts=None):
    examples = tuple(Example(prompt, prompt, {}) for prompt in prompts or [""] * len(texts))
    completions = all_completions().select(slice(0, len(texts)))
    return RewardInputs(list(texts), completions, torch.zeros(len(texts), 8), (), examples)


def alone(model, words, text):
    """The score of one text, without padding."""
    return float(model(**words(text, return_tensors="pt", return_token_type_ids=False)).logits)


def test_scores_are_the_classifiers_own_whatever_stands_beside_a_text():
    model, words = classifier(), letters()
    found = ClassifierReward(model, words)(inputs(["b", "bcb", "c b", "cc"], ["a", "a ", "", "b"])).tolist()
    expected = [alone(model, words, text) for text in ("a b", "a bcb", "c b", "b cc")]
    assert found == pytest.approx(expected, rel=1e-4)
    assert max(found) - min(found) > 0.01


def test_an_empty_text_has_a_score_too():
    assert torch.isfinite(ClassifierReward(classifier(), letters())(inputs(["", "b"]))).all()


def test_conversations_are_written_by_the_classifiers_template():
    model, words = classifier(), letters()
    words.chat_template = "{% for m in messages %}{{ 'c' if m.role == 'user' else 'a' }}{{ m.content }}{% endfor %}"
    asked = [{"role": "user", "content": "bb"}]
    given = inputs(["b"])._replace(examples=(Example("whatever", asked, {}),))
    assert float(ClassifierReward(model, words)(given)) == pytest.approx(alone(model, words, "cbbab"))


def bert():
    return BertForSequenceClassification(BertConfig(vocab_size=6, num_labels=1, max_position_embeddings=32, **SIZE))


@pytest.mark.parametrize(
    ("build", "learned"),
    [
        (classifier, {"model.score.weight"}),
        (bert, {"model.classifier.weight", "model.classifier.bias"}),
        (adapted, {"lora_A", "lora_B", "score"}),
    ],
)
def test_head_or_adapter_is_what_is_learned(build, learned):
    reward = ClassifierReward(build(), letters())
    names = {name for name, weight in reward.named_parameters() if weight.requires_grad}
    assert all(any(part in name for part in learned) for name in names)
    assert all(any(part in name for name in names) for part in learned)
    reward(inputs(["b", "cb"])).sum().backward()
    assert {name for name, weight in reward.named_parameters() if weight.grad is not None} == names


def test_the_heads_gradient_is_the_trunks_last_state():
    reward, words = ClassifierReward(classifier(), letters()), letters()
    (gradient,) = torch.autograd.grad(reward(inputs(["bcb"]))[0], [reward.model.score.weight])
    state = reward.model.model(**words("bcb", return_tensors="pt", return_token_type_ids=False)).last_hidden_state
    torch.testing.assert_close(gradient, state[:, -1])


@pytest.mark.variants
@pytest.mark.parametrize("build", [classifier, adapted])
def test_a_stopped_run_goes_on_with_the_same_bits_and_the_classifier_is_saved(tmp_path, build):
    options = {"preferences": PREFERENCES, "checkpoint_every": 0.0, "upper_learning_rate": 0.05}
    before = build().state_dict()
    whole = trainer(tmp_path / "whole", reward_model=ClassifierReward(build(), letters()), max_steps=3, **options)
    expected = whole.train(progress=False)
    for steps in (1, 3):
        built = trainer(
            tmp_path / "stopped", reward_model=ClassifierReward(build(), letters()), max_steps=steps, **options
        )
        found = built.train(progress=False)
    assert found.rows == expected.rows
    after, learned = built.reward_model.model.state_dict(), set(found.x)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == (f"model.{name}" not in learned), name

    path, words = tmp_path / "stopped/reward", letters()
    if build is adapted:
        loaded = PeftModel.from_pretrained(classifier(), path)
    else:
        loaded = AutoModelForSequenceClassification.from_pretrained(path)
    assert alone(loaded.eval(), AutoTokenizer.from_pretrained(path), "bcb") == pytest.approx(
        alone(built.reward_model.model, words, "bcb"), rel=1e-5
    )


def test_without_a_tokenizer_of_its_own_it_has_the_policys(tmp_path):
    built = trainer(tmp_path, reward_model=classifier(vocab_size=4), max_steps=1)
    assert isinstance(built.reward_model, ClassifierReward)
    assert built.reward_model.tokenizer is built.tokenizer
    built.train(progress=False)
    with pytest.raises(RunFolderError, match="its reward_model is another one"):
        trainer(tmp_path, reward_model=ClassifierReward(classifier(vocab_size=4), letters())).train(progress=False)


def without_padding():
    words = letters()
    words.pad_token = None
    return words


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClassifierReward(llama(), letters()), "must be a sequence classifier with one score, .*CausalLM"),
        (lambda: ClassifierReward(classifier(num_labels=2), letters()), "got .* with num_labels=2"),
        (
            lambda: ClassifierReward(classifier(), without_padding()),
            "has no padding token; set the tokenizer's pad_tok",
        ),
        (lambda: ClassifierReward(classifier(vocab_size=2), letters())(inputs(["b"])), "knows 2 tokens, and 'b' holds"),
        (
            lambda: ClassifierReward(classifier(max_position_embeddings=2), letters())(inputs(["bbb"])),
            "reward_model has 2 positions, and prompt and completion 'bbb' have 3 tokens",
        ),
        (
            lambda: ClassifierReward(classifier(), letters()).check_examples("prompts", [Example("", [{}], {})]),
            "prompts holds conversations, and its tokenizer has no chat template",
        ),
    ],
)
def test_what_cannot_score_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_language_model_is_no_reward(tmp_path):
    assert tokenizer().pad_token_id == 0
    with pytest.raises(ValueError, match="reward_model must be a sequence classifier"):
        trainer(tmp_path, reward_model=llama())
