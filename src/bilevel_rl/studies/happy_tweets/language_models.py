"""Language models that write tweets: SmolLM2-135M, and a tiny one for tests and first tries.

Both are folders that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load. Given the begin
mark alone they write a tweet and end it. They are trained on the tweets of the splits `preferences` and `annotator`;
the split `judge` is held out.

SmolLM2: Allal et al., "SmolLM2: When smol goes big", 2025, arXiv:2502.02737; LoRA: Hu et al., ICLR 2022.
"""

import contextlib
import ctypes
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from bilevel_rl.studies.happy_tweets.assets import Assets
from bilevel_rl.studies.happy_tweets.fine_tuning import FineTuning, Progress, fine_tune, perplexity, token_sequences

SMOLLM2_FINE_TUNING = FineTuning(num_steps=130, batch_size=16, learning_rate=5e-4)
TINY_FINE_TUNING = FineTuning(num_steps=400, batch_size=32, learning_rate=3e-3, num_warmup_steps=20)

LORA_RANK = 16

PRECISION = torch.float32
"""bfloat16 takes half the memory, and half as long again on processors that multiply it no faster."""

NUM_HELD_OUT = 200
"""Tweets whose perplexity is noted before and after; all 1,000 would take as long as half of the training."""

NOT_OF_ARCHITECTURE = (
    *("quantization_config", "pad_token_id", "_name_or_path", "_model_name_or_path"),
    *("transformers_version", "architectures", "dtype"),
)
"""What a configuration says of a checkpoint, and not of the model."""

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class TinyShape:
    """Size of the tiny model: 0.9 million weights.

    Attributes:
        vocabulary_size: byte-level BPE tokens, the three marks included.
        hidden_size: width; 32 per attention head.
        num_layers: transformer layers.
    """

    vocabulary_size: int = 1_024
    hidden_size: int = 128
    num_layers: int = 4


def smollm2(assets: Assets, fine_tuning: FineTuning = SMOLLM2_FINE_TUNING, *, progress: Progress | None = None) -> Path:
    """Folder of SmolLM2-135M fine-tuned on tweets, float32. The first call trains it: some minutes on two cores.

    A call after a kill goes on from the last checkpoint. `sft.json` in the folder says what came out: steps, loss,
    and perplexity of held-out tweets before and after.

    Marks: begin `<|im_start|>`, end `<|im_end|>`, as the model knows them; padding `<|endoftext|>`.

    Raises:
        AssetError: data or model cannot be had.
    """
    # Fetched before the model's folder is locked, so that its errors come first.
    gguf = assets.pinned("smollm2")
    return _model(
        assets,
        "smollm2-tweets",
        fine_tuning,
        (LORA_RANK, PRECISION),
        lambda _: _with_adapter(gguf, fine_tuning.seed),
        progress,
    )


def tiny(
    assets: Assets,
    fine_tuning: FineTuning = TINY_FINE_TUNING,
    shape: TinyShape = TinyShape(),
    *,
    progress: Progress | None = None,
) -> Path:
    """Folder of a small Llama trained on tweets from scratch, float32. The first call trains it: about a minute.

    It writes what looks like a tweet from afar. Resumes, and has an `sft.json`, as `smollm2` does.

    Raises:
        AssetError: the data cannot be had.
    """

    return _model(
        assets, "tiny-tweets", fine_tuning, shape, lambda texts: _untrained(texts, shape, fine_tuning.seed), progress
    )


Start = Callable[[list[str]], tuple[PreTrainedModel, PreTrainedTokenizerBase, Callable[[], PreTrainedModel]]]
"""Training texts to the model to train, its tokenizer, and what gives the model to save once it is trained."""


def _model(
    assets: Assets, name: str, fine_tuning: FineTuning, variant: Any, start: Start, progress: Progress | None
) -> Path:
    splits = assets.splits()
    texts = [tweet.text for tweet in (*splits.preferences, *splits.annotator)]
    held_out = [tweet.text for tweet in splits.judge[:NUM_HELD_OUT]]
    # The name holds what the model depends on: other settings are another folder, never a stale one.
    digest = hashlib.sha256(repr((fine_tuning, variant, texts)).encode()).hexdigest()[:8]
    checkpoint = assets.cache / f"{name}-{digest}.checkpoint.pt"

    def fill(folder: Path):
        seconds = -time.perf_counter()
        model, tokenizer, finish = start(texts)
        before = perplexity(model, token_sequences(tokenizer, held_out))
        loss = fine_tune(model, token_sequences(tokenizer, texts), fine_tuning, checkpoint, progress)
        model = finish()
        after = perplexity(model, token_sequences(tokenizer, held_out))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        report = {
            **asdict(fine_tuning),
            "train_loss": loss,
            "held_out_perplexity_before": before,
            "held_out_perplexity_after": after,
            "seconds": round(seconds + time.perf_counter(), 1),
        }
        (folder / "sft.json").write_text(json.dumps(report, indent=2) + "\n")

    path = assets.make(f"{name}-{digest}", fill)
    checkpoint.unlink(missing_ok=True)
    _return_free_memory()
    return path


def _return_free_memory():
    """Where glibc is the allocator: it keeps a gigabyte of what fine-tuning used, in pieces too small for a trainer."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _with_adapter(
    folder: Path, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Callable[[], PreTrainedModel]]:
    """SmolLM2, frozen, with a LoRA adapter on every linear layer but the output."""
    from peft import LoraConfig, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    # Its own padding mark is the end mark, and what pads is masked: no end would ever be learned by those who train
    # with a mask made from the padding mark. `<|endoftext|>` separates documents, which no tweet holds.
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.chat_template = None
    tokenizer.padding_side = "right"
    quantized = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=_GGUF, dtype=PRECISION, quantization_config=GgufConfig(dequantize=True)
    )
    # A model that came from a GGUF file is marked as quantized and refuses to be saved; a copy of its weights is not.
    config = LlamaConfig(**_architecture(quantized.config.to_dict()), pad_token_id=tokenizer.pad_token_id)
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    adapter = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, adapter)
    return model, tokenizer, lambda: cast(PreTrainedModel, wrapped.merge_and_unload())


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in NOT_OF_ARCHITECTURE}


def _untrained(
    texts: list[str], shape: TinyShape, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Callable[[], PreTrainedModel]]:
    """A Llama with random weights and a tokenizer made of the texts."""
    from tokenizers import ByteLevelBPETokenizer

    begin, end, padding = "<bos>", "<eos>", "<pad>"
    bytewise = ByteLevelBPETokenizer()
    bytewise.train_from_iterator(
        texts, shape.vocabulary_size, special_tokens=[padding, begin, end], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise._tokenizer, bos_token=begin, eos_token=end, pad_token=padding
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.hidden_size * 11 // 4,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=max(1, shape.hidden_size // 32),
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=bytewise.token_to_id(begin),
        eos_token_id=bytewise.token_to_id(end),
        pad_token_id=bytewise.token_to_id(padding),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model, tokenizer, lambda: model
