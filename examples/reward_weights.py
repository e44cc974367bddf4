"""Which weights should the parts of a reward have? A small language model writes reviews, and is paid by three rules.

    python examples/reward_weights.py     # half a minute on two idle cores; needs the extra `lm`

You have three ideas of what makes a review good: nice words, no nasty words, and length. As a sum with weights 1, 0 and
1 they teach the model to praise without end. People want one thing said, and said kindly. They are asked about what the
model writes, and the weights move to where they like it.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, Evaluation, HumanScore, WeightedRewards, evaluate

NICE, NASTY = ["good", "great", "friendly"], ["slow", "bad"]
WORDS = ["<s>", "</s>", "<pad>", "the", "food", "service", "was", "and", *NICE, *NASTY]


# The reward: functions of texts, as TRL's.


def nice(completions, **columns):
    """Different nice words."""
    return [float(len(set(text.split()) & set(NICE))) for text in completions]


def nasty(completions, **columns):
    """Nasty words."""
    return [float(sum(word in NASTY for word in text.split())) for text in completions]


def length(completions, **columns):
    """Words."""
    return [float(len(text.split())) for text in completions]


# The people, whom the reward does not know.


def people(texts, seed=0):
    """3 for one kind word, 1 less for each word too many, and 2 less for each nasty one."""
    judgements = [[word for word in text.split() if word in NICE + NASTY] for text in texts]
    kind = [3.0 * any(word in NICE for word in found) for found in judgements]
    flaws = [max(len(found) - 1, 0) + 2.0 * sum(word in NASTY for word in found) for found in judgements]
    return [worth - flaw for worth, flaw in zip(kind, flaws, strict=True)]


# A model that writes reviews with one to three judgements.


def tokenizer() -> PreTrainedTokenizerFast:
    """A token is a word."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def review(rng: np.random.Generator) -> str:
    """A random one."""
    judgements = rng.choice(NICE + NASTY, rng.integers(1, 4), replace=False)
    return f"the {rng.choice(['food', 'service'])} was {' and '.join(judgements)} </s>"


def language_model() -> LlamaForCausalLM:
    """A transformer of 21,000 weights after 200 steps on random reviews."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 32}
    options |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    options |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**options))
    optimizer, words, rng = torch.optim.Adam(model.parameters(), lr=3e-3), tokenizer(), np.random.default_rng(0)
    for _ in range(200):
        rows = words([review(rng) for _ in range(32)], padding=True, return_tensors="pt")
        labels = rows.input_ids.masked_fill(rows.attention_mask == 0, -100)
        loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main(folder: Path | str, *, num_steps: int = 60, progress: bool = True) -> tuple[BilevelRLHFTrainer, Evaluation]:
    """Trains; returns the trainer, and what people say of the policy at the end."""
    trainer = BilevelRLHFTrainer(
        model=language_model(),
        reward_model={"nice": nice, "nasty": nasty, "length": length},
        args=BilevelRLHFConfig(
            folder,
            max_steps=num_steps,
            per_device_train_batch_size=32,
            max_completion_length=10,
            beta=0.2,
            reward_weights={"nice": 1.0, "nasty": 0.0, "length": 1.0},
            reward_bounds=(-3.0, 3.0),
            upper_learning_rate=0.1,
            learning_rate=1e-2,
            critic_learning_rate=1e-2,
        ),
        train_dataset=[{"prompt": "the food was"}, {"prompt": "the service was"}],
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        upper_objective=HumanScore(people, identity="people of the example"),
    )
    trainer.train(progress=progress)
    return trainer, evaluate(trainer, "lower", {"people": people}, num_completions=200, seed=0)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The model is so small that threads would wait for each other.
    built, found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reward-weights"))
    assert isinstance(built.reward_model, WeightedRewards)
    print({name: round(weight, 2) for name, weight in built.reward_model.named_weights().items()})
    print(f"people: {found.scores['people'].mean():.2f}")
    print(*found.texts[:6], sep="\n")
