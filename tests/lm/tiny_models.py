"""Language models small enough to enumerate everything that they can write."""

import itertools

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from bilevel_rl.lm.tokens import Completions, Prompts

HORIZON = 3
END = 2
"""The third token ends a text, so there are 15 texts of up to three tokens; with `end_id=3` there are all 27."""


def tokenizer(end_id=END):
    """Words a, b, c, d, one of which is the end mark; a is the start mark and the padding too."""
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="a", pad_token="a", eos_token="abcd"[end_id])


def llama(*, vocab_size=3, seed=0, scale=0.5):
    """A transformer with weights large enough that its next-token laws differ from each other."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=END,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=scale)
    return model


def gpt2(*, vocab_size=3, seed=0, scale=0.5):
    """Another architecture: learned positions, tied embeddings, and dropout that must be off."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_embd=8,
        n_layer=1,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=END,
        attn_pdrop=0.5,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=scale)
    return model


class PrefixConfig(PretrainedConfig):
    model_type = "prefix-table"

    def __init__(self, vocab_size=3, num_prefixes=13, **options):
        super().__init__(**options)
        self.vocab_size, self.num_prefixes = vocab_size, num_prefixes


class PrefixStates(PreTrainedModel):
    """Hidden states are one-hot codes of the prefix that was written after the first token."""

    config_class = PrefixConfig

    def __init__(self, config):
        super().__init__(config)
        self.anchor = nn.Parameter(torch.zeros(()))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
        past = getattr(past_key_values, "written", input_ids[:, :0])
        ids = torch.cat([past, input_ids], dim=1)
        if past_key_values is not None:
            past_key_values.written = ids
        codes = torch.stack([prefix_number(ids[:, 1 : t + 1], self.config.vocab_size) for t in range(ids.shape[1])], 1)
        hidden = nn.functional.one_hot(codes, self.config.num_prefixes).float()
        return BaseModelOutput(last_hidden_state=hidden[:, past.shape[1] :])


def prefix_number(ids, vocab_size):
    """0 for the empty prefix, then 1..3 for single tokens, then 4..12 for pairs."""
    number = torch.zeros(len(ids), dtype=torch.long)
    for column in ids.unbind(dim=1):
        number = vocab_size * number + column + 1
    return number.clamp(max=12)


class PrefixTable(PreTrainedModel):
    """A policy with a free row of logits for every prefix."""

    config_class = PrefixConfig
    base_model_prefix = "states"

    def __init__(self, config):
        super().__init__(config)
        self.states = PrefixStates(config)
        self.table = nn.Linear(config.num_prefixes, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask=None):
        return CausalLMOutput(logits=self.table(self.states(input_ids).last_hidden_state))


TABLE_ADAPTER = LoraConfig(r=13, lora_alpha=13, target_modules=["table"], init_lora_weights=True)


def prefix_table(*, seed=0, scale=0.7):
    """A reference policy whose law differs from prefix to prefix."""
    torch.manual_seed(seed)
    model = PrefixTable(PrefixConfig(pad_token_id=0))
    torch.nn.init.normal_(model.table.weight, std=scale)
    return model


def free_tables(followers):
    """Makes adapters of form TABLE_ADAPTER free: B, of shape (tokens, prefixes), is what comes on top of π_ref's table.

    Returns the B of every policy.
    """
    layer = followers.base.table
    with torch.no_grad():
        for name in followers.names:
            nn.init.eye_(layer.lora_A[name].weight.requires_grad_(False))
    return {name: layer.lora_B[name].weight for name in followers.names}


def randomize(followers, *, seed=1, scale=0.5):
    """Different random adapters and critics for every policy."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in followers.parameters():
            if weight.requires_grad:
                weight.normal_(std=scale, generator=generator)
    return followers


def token_logits(followers, rows, completions):
    """Logits of every written token's law, (N, T, A), from one pass over whole texts."""
    hidden = followers.hidden_states(rows, completions)[:, completions.prompts.ids.shape[1] - 1 : -1]
    names = [name for name in rows for _ in range(hidden.shape[1])]
    return followers.logits(names, hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


def token_log_policies(followers, name, completions):
    """log π(·|s_t) of all tokens in the states of every row, (N, T, A)."""
    return torch.log_softmax(token_logits(followers, [name] * len(completions.ids), completions).double(), dim=-1)


def log_probs(log_policies, completions):
    """log π(y) of every row."""
    chosen = log_policies.gather(2, completions.ids[:, :, None]).squeeze(2)
    return torch.where(completions.mask, chosen, 0.0).sum(dim=1)


def all_completions(end_id=END, prompt=(0,)):
    """Every text of up to HORIZON tokens."""
    rows = []
    for tokens in itertools.product(range(3), repeat=HORIZON):
        length = tokens.index(end_id) + 1 if end_id in tokens else HORIZON
        if tokens[length:] == (0,) * (HORIZON - length):
            rows.append((tokens, length))
    ids = torch.tensor([tokens for tokens, _ in rows])
    mask = torch.arange(HORIZON) < torch.tensor([length for _, length in rows])[:, None]
    return Completions(Prompts.pad([list(prompt)] * len(rows), 0, "cpu"), ids, mask)
