"""Everything that a run on the tweet problem needs, prepared once and read from the cache afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl.lm.iterations import Scorer
from bilevel_rl.studies.happy_tweets import language_models
from bilevel_rl.studies.happy_tweets.assets import Assets
from bilevel_rl.studies.happy_tweets.judges import Nade, Vader
from bilevel_rl.studies.happy_tweets.people import Annotator, Judge
from bilevel_rl.studies.happy_tweets.sentence_encoder import SentenceEncoder
from bilevel_rl.studies.happy_tweets.tweets import preference_pairs

LOADS = {"use_safetensors": True, "trust_remote_code": False}
"""How a model of the cache is loaded: nothing that lies there is run."""

LINES_OF_FINE_TUNING = 10
"""How often fine-tuning reports."""


@dataclass(frozen=True)
class Setting:
    """The tweet problem.

    Attributes:
        model: fine-tuned on tweets; given the start mark it writes one.
        tokenizer: its tokenizer.
        peft_config: adapters of the policies.
        annotator: answers for people.
        judges: of the results; nothing learns from them. "score" is the one that results are quoted in.
        assets: where everything is kept.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    peft_config: LoraConfig
    annotator: Annotator
    judges: dict[str, Scorer]
    assets: Assets

    def preferences(self, num_pairs: int, seed: int) -> list[dict[str, str]]:
        """Offline preferences D between really rated tweets; the first pairs do not depend on their number."""
        return preference_pairs(self.assets.splits().preferences, num_pairs, seed)


def prepare(size: Literal["smollm2", "tiny"], cache: Path | str | None = None, *, progress: bool = True) -> Setting:
    """Fetches, fine-tunes and fits what is missing in the cache, and loads it all.

    Raises:
        AssetError: something cannot be had; the message says what to do.
    """
    assets = Assets(cache)
    console = Console(stderr=True, quiet=not progress, highlight=False)
    console.print(f"preparing data and models in {assets.cache}", markup=False)
    build, layers = (
        (language_models.smollm2, ["q_proj", "v_proj", "o_proj"])
        if size == "smollm2"
        else (language_models.tiny, "all-linear")
    )
    path = build(assets, progress=_reporter(console))
    encoder = SentenceEncoder(assets)
    annotator, judge = Annotator(assets, encoder), Judge(assets, encoder)
    return Setting(
        AutoModelForCausalLM.from_pretrained(path, **LOADS),
        AutoTokenizer.from_pretrained(path, trust_remote_code=False),
        LoraConfig(r=8, lora_alpha=16, target_modules=layers, task_type="CAUSAL_LM"),
        annotator,
        {"score": judge.mean, "vader": Vader(assets).mean, "nade": Nade(assets).mean},
        assets,
    )


def _reporter(console: Console) -> Callable[[int, int, float], None]:
    def report(step: int, num_steps: int, loss: float):
        if step % max(1, num_steps // LINES_OF_FINE_TUNING) == 0:
            console.print(f"fine-tuning on tweets: {step} of {num_steps} steps, {loss:.2f} nats a token", markup=False)

    return report
