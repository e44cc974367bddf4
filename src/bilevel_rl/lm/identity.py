"""What makes a trainer's run the same run, besides its options: model, tokenizer, reward, data and answers.

Nothing is called: a score may ask people. A function is known by its code and by all that it holds, or by what it says
of itself as `identity`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bilevel_rl.lm.followers import Followers
from bilevel_rl.runs import fingerprint

UNSTABLE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "base_model_name_or_path"}
"""Entries of configurations that say where a model is from, and with what it was saved."""


def of_json(data: Any) -> str:
    """Sixteen hexadecimal digits that say whether JSON is the same; sets count as sorted lists."""
    return fingerprint.of_texts(json.dumps(data, sort_keys=True, default=_listed))


def of_model(followers: Followers) -> str:
    """Digest of the frozen model: weights, buffers and configuration, and the form of adapters and critics.

    What adapters start from follows from the seed. Takes about a second for a gigabyte of weights.
    """
    frozen = {path: weight for path, weight in followers.named_parameters() if not weight.requires_grad}
    learned = {path: list(weight.shape) for path, weight in followers.named_parameters() if weight.requires_grad}
    config = followers.base.config.to_dict()
    forms = [learned, [_stable(form) for form in followers.policies.forms()], _stable(config)]
    return fingerprint.of_texts(_tensors(frozen | dict(followers.named_buffers())), of_json(forms))


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of vocabulary, rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    for name in ("padding", "truncation"):  # Which every call sets as it needs them.
        rules.pop(name, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    template = getattr(tokenizer, "chat_template", None)
    return of_json([type(tokenizer).__name__, tokenizer.get_vocab(), rules, special, template])


def of_reward(reward_model: nn.Module) -> str:
    """Digest of the parameters that x starts from, of buffers, bounds and other numbers, and of the code.

    What a module says of itself as `identity`, JSON, counts too.
    """
    options = [
        [path, type(module).__name__, {k: v for k, v in vars(module).items() if _is_option(k, v)}]
        for path, module in reward_model.named_modules()
    ]
    code = fingerprint.of_object(type(reward_model).forward)
    said = getattr(reward_model, "identity", None)
    told = () if said is None or isinstance(said, nn.Module) else (of_json(said),)
    return fingerprint.of_texts(_tensors(reward_model.state_dict()), of_json(options), code, *told)


def of_callable(function: Any) -> Any:
    """Its attribute `identity`, JSON, or the digest of its code and of all that it holds."""
    identity = getattr(function, "identity", None)
    return fingerprint.of_object(function) if identity is None else identity


def _is_option(name: str, value: Any) -> bool:
    return name != "training" and isinstance(value, bool | int | float | str)


def _stable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in UNSTABLE}


def _listed(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))  # pyright: ignore
    return digest.hexdigest()
