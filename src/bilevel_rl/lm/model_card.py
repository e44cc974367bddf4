"""The page of a trained model: what it is, how it was trained, how to load it, whom to cite."""

import dataclasses
import importlib.metadata
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from bilevel_rl.lm.arguments import path_of
from bilevel_rl.lm.policies import Copies
from bilevel_rl.lm.weighted_rewards import WeightedRewards

if TYPE_CHECKING:
    from bilevel_rl.lm.saving import Saving

TAGS = "bilevel-rl", "rlhf", "generated_from_trainer"

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""What a model is called on the Hub; paths of a machine are not told to others."""

CITATION = """\
@inproceedings{zeng2026hessianfree,
  title         = {A Hessian-Free Actor-Critic Algorithm for Bi-Level Reinforcement Learning
                   with Applications to {LLM} Fine-Tuning},
  author        = {Zeng, Sihan and Bhatt, Sujay and Ganesh, Sumitra and Koppel, Alec},
  booktitle     = {International Conference on Artificial Intelligence and Statistics (AISTATS)},
  series        = {Proceedings of Machine Learning Research},
  volume        = {300},
  pages         = {37--45},
  year          = {2026},
  eprint        = {2601.16399},
  archivePrefix = {arXiv}
}"""

PACKAGES = "bilevel-rl", "torch", "transformers", "peft", "accelerate"


def model_card(
    trainer: "Saving", model_name: str | None, dataset_name: str | None, tags: str | Sequence[str] | None
) -> str:
    """Markdown, with the block of metadata that the Hub reads.

    Args:
        trainer: whose model it is.
        model_name: title; by default the name of the run folder.
        dataset_name: on the Hub, of the prompts.
        tags: beside `TAGS`.
    """
    name = model_name or trainer.folder.path.name
    path = path_of(trainer.followers.base)
    base = path if HUB_NAME.fullmatch(path) else None
    more = [tags] if isinstance(tags, str) else list(tags or ())
    data = ModelCardData(
        base_model=base,
        datasets=dataset_name,
        library_name="transformers" if _is_whole(trainer) else "peft",
        model_name=name,
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([*TAGS, *more])),
    )
    parts = [
        f"---\n{data.to_yaml().strip()}\n---",
        f"# {name}",
        _about(trainer, base),
        "## Load it",
        _loading(trainer, base),
        "## The reward",
        _reward(trainer),
        "## Training",
        _training(trainer),
        "## Versions",
        "\n".join(f"- {package}: {importlib.metadata.version(package)}" for package in PACKAGES),
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _is_whole(trainer: "Saving") -> bool:
    """Whether a policy is a whole model, and no adapter."""
    return isinstance(trainer.followers.policies, Copies)


def _about(trainer: "Saving", base: str | None) -> str:
    of = f"[{base}](https://huggingface.co/{base})" if base else "a causal language model"
    what = f"{of[0].upper()}{of[1:]}" if _is_whole(trainer) else f"An adapter of {of}"
    return (
        f"{what}, trained with `{type(trainer).__name__}` of bilevel-rl: a policy that learns what a reward asks for, "
        "while the reward moves to where that policy writes what its leader wants."
    )


def _loading(trainer: "Saving", base: str | None) -> str:
    if _is_whole(trainer):
        lines = ['model = AutoModelForCausalLM.from_pretrained("THIS-REPOSITORY")']
    else:
        lines = [
            f'base = AutoModelForCausalLM.from_pretrained("{base or "THE-BASE-MODEL"}")',
            'model = PeftModel.from_pretrained(base, "THIS-REPOSITORY")',
        ]
        lines = ["from peft import PeftModel", *lines]
    code = "\n".join(["from transformers import AutoModelForCausalLM", *lines])
    return f"```python\n{code}\n```\n\nIn a run folder it lies in `adapters/{trainer.policies[0]}`."


def _reward(trainer: "Saving") -> str:
    kept = "`reward.safetensors` holds its parameters."
    if not isinstance(trainer.reward_model, WeightedRewards):
        return f"`{type(trainer.reward_model).__name__}`. {kept}"
    rows = [[f"`{name}`", f"{weight:.4g}"] for name, weight in trainer.reward_model.named_weights().items()]
    return f"A weighted sum of {len(rows)} reward functions. {kept}\n\n" + _table(["function", "weight"], rows)


def _training(trainer: "Saving") -> str:
    done = {
        "iterations": trainer.num_iterations,
        "tokens written": trainer.num_transitions,
        "answers of people": trainer.num_answers,
    }
    options = dataclasses.asdict(trainer.args)
    del options["output_dir"]
    rows = [[name, f"{value:,}"] for name, value in done.items()]
    return (
        _table(["", ""], rows) + "\n\n" + _table(["option", "value"], [[f"`{n}`", f"{v}"] for n, v in options.items()])
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
