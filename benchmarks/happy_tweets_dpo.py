"""TRL's DPOTrainer on the offline preferences of happy tweets: an outside reference for bi-level RLHF and its rivals.

    python -m benchmarks.happy_tweets_dpo --folder runs/happy-tweets-dpo            # β 0.01, 0.1, 1 × seeds 0, 1, 2
    python -m benchmarks.happy_tweets_dpo --folder runs/happy-tweets-dpo --report   # the table of what there is

Needs the extra `lm-bench`. DPO asks nobody about what it writes, so it gets as many more offline preferences as the
others get answers: 1,600 + 100 iterations × 16 = 3,200 by default, the same pairs that two-stage RLHF sees at a seed.
For a study with `--options.batch-size 8` that is `--pairs 2400`.
Model, adapter (LoRA, r = 8, on q, v, o, as `happy_tweets.prepare` gives it), judges, and the evaluation of 256 tweets
of up to 24 tokens are those of `bilevel-rl run happy-tweets`; "reward" is r_x fitted to the same pairs as two-stage
RLHF's, which DPO does not see. β is DPO's own: its optimum is that of RLHF with the KL weight β under the
Bradley–Terry reward of the pairs.

One pass over all pairs: 200 steps of 16 pairs (`--epochs`, `--steps`, `--batch-size`), AdamW without decay, constant
learning rate after 10 steps of warm-up. Tokens are reported: "tokens" counts those of texts that gradients pass
through, end marks included. The others' 100 iterations × 32 completions write and learn from at most 76,800, so DPO
learns from more tokens, and writes none. Texts are whole tweets, begin mark, text, end mark, as the model was
fine-tuned on.

Every (β, seed) writes one JSON file when it is finished; the same command goes on with those that are missing. A run
of 200 steps takes half an hour to an hour on two cores.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bilevel_rl.lm import BilevelRLHFConfig, Evaluation, RewardHead, TwoStageRLHFTrainer, evaluate
from bilevel_rl.lm.followers import REFERENCE
from bilevel_rl.lm.rewards import fit_reward
from bilevel_rl.studies.happy_tweets import setting as problem
from bilevel_rl.studies.happy_tweets.study import HUMAN_MAXIMUM, PRIOR_PRECISION

MAX_LENGTH, BATCH_OF_EVALUATION, NUM_SHOWN = 24, 16, 12
NUM_LAST = 20
"""Steps at the end over which numbers of the training are averaged."""
POLICY = TwoStageRLHFTrainer.policies[0]
COLUMNS = {
    "score": "judge",
    "reward": "reward",
    "gap": "reward − judge",
    "vader": "VADER",
    "nade": "NADE",
    "divergence": "KL, nats",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "perplexity": "perplexity",
    "above_maximum": f"above {HUMAN_MAXIMUM}",
    "pair_accuracy": "pairs in order",
    "tokens": "tokens",
    "training_seconds": "s",
}


def train(setting: problem.Setting, beta: float, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Wraps the setting's model and trains its adapter; returns the adapter's weights and numbers of the training."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    pairs, tokenizer = setting.preferences(arguments.pairs, seed), setting.tokenizer
    # TRL's tokenizer makes no tokens of an empty prompt, and the first token would have no state to be chosen from.
    rows = [{**pair, "prompt": tokenizer.bos_token} for pair in pairs]
    lengths = [len(ids) + 1 for pair in pairs for ids in _ids(tokenizer, [pair["chosen"], pair["rejected"]])]
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder,
            seed=seed,
            data_seed=seed,
            num_train_epochs=arguments.epochs,
            max_steps=arguments.steps or -1,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=beta,
            max_length=None,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            eval_strategy="no",
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = DPOTrainer(
            setting.model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=setting.peft_config,
        )
        _check_tokens(trainer, pairs, tokenizer)
        begin = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - begin
    steps = trainer.state.global_step
    last = [row for row in trainer.state.log_history if "loss" in row][-NUM_LAST:]
    share = steps * arguments.batch_size / len(pairs)
    return {
        "weights": {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad},
        "numbers": {
            "steps": steps,
            "epochs": share,
            "tokens": round(share * sum(lengths)),
            "training_seconds": round(seconds, 1),
            "loss": float(np.mean([row["loss"] for row in last])),
            "pair_accuracy": float(np.mean([row["rewards/accuracies"] for row in last])),
            "margin": float(np.mean([row["rewards/margins"] for row in last])),
        },
    }


def judged(
    weights: Mapping[str, torch.Tensor], seed: int, arguments: argparse.Namespace
) -> tuple[dict[str, Evaluation], float]:
    """The trained policy's and the frozen model's tweets, with r_x as two-stage RLHF fits it; and NLL_D of that r_x."""
    setting = problem.prepare(arguments.size, arguments.cache, progress=False)
    head = RewardHead(setting.model.config.hidden_size)
    with tempfile.TemporaryDirectory() as folder:
        args = BilevelRLHFConfig(
            folder,
            per_device_train_batch_size=BATCH_OF_EVALUATION,
            max_completion_length=MAX_LENGTH,
            seed=seed,
        )
        # Never trained: it holds the adapter, samples from it, and measures it like every other policy.
        holder = TwoStageRLHFTrainer(
            setting.model,
            head,
            args,
            [{"prompt": ""}],
            setting.tokenizer,
            setting.peft_config,
            preference_dataset=setting.preferences(arguments.pairs, seed),
        )
        assert holder.preferences is not None
        head.standardize(holder.preferences.inputs.states)
        loss = fit_reward(head, holder.preferences, precision=PRIOR_PRECISION)
        own = {path.removeprefix("adapted."): w for path, w in holder.followers.policies.named_parameters()}
        with torch.no_grad():
            for name, weight in weights.items():
                own[name.replace(".default.", f".{POLICY}.")].copy_(weight)
        evaluations = {
            name: evaluate(holder, policy, setting.judges, num_completions=arguments.num_evaluated, seed=seed)
            for name, policy in (("before", REFERENCE), ("after", POLICY))
        }
    return evaluations, float(loss)


def measures(evaluation: Evaluation) -> dict[str, float]:
    summary = evaluation.summary()
    return summary | {
        "gap": summary["reward"] - summary["score"],
        "above_maximum": float(np.mean(evaluation.scores["score"] > HUMAN_MAXIMUM)),
        "reward_above_maximum": float(np.mean(evaluation.scores["reward"] > HUMAN_MAXIMUM)),
    }


def run(path: Path, beta: float, seed: int, arguments: argparse.Namespace):
    """Trains, judges, and writes the file, whole or not at all."""
    setting = problem.prepare(arguments.size, arguments.cache)
    trained = train(setting, beta, seed, arguments)
    evaluations, preference_loss = judged(trained["weights"], seed, arguments)
    result = {
        "beta": beta,
        "seed": seed,
        "options": {name: getattr(arguments, name) for name in ("pairs", *IDENTITY)},
        "training": trained["numbers"],
        "reward_preference_loss": preference_loss,
        **{name: measures(evaluation) for name, evaluation in evaluations.items()},
        "tweets": [
            {name: {"text": e.texts[i], "score": float(e.scores["score"][i])} for name, e in evaluations.items()}
            for i in range(min(NUM_SHOWN, arguments.num_evaluated))
        ],
    }
    temporary = path.with_suffix(".unfinished")
    temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
    after = result["after"]
    print(
        f"{path.stem}: judge {result['before']['score']:.2f} → {after['score']:.2f}, KL {after['divergence']:.1f} nats"
    )


def report(folder: Path):
    """Prints means over seeds ± standard errors, for every β, as Markdown."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("beta-*.json"))]
    if not results:
        print(f"{folder} holds no results yet")
        return
    print(f"| β | seeds | {' | '.join(COLUMNS.values())} |\n|---|---|{'---|' * len(COLUMNS)}")
    print(_line("before", [result["before"] for result in results]))
    for beta in sorted({result["beta"] for result in results}):
        rows = [result["after"] | result["training"] for result in results if result["beta"] == beta]
        print(_line(f"{beta:g}", rows))


def _line(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    return f"| {name} | {len(rows)} | {' | '.join(_cell(column, rows) for column in COLUMNS)} |"


def _cell(column: str, rows: Sequence[Mapping[str, float]]) -> str:
    values = np.array([row[column] for row in rows if column in row])
    if len(values) == 0:
        return "–"
    digits = 0 if column in ("tokens", "training_seconds") else 2
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}"


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _check_tokens(trainer: Any, pairs: Sequence[Mapping[str, str]], tokenizer: Any):
    """TRL must see a begin mark, the text's own tokens and an end mark.

    Raises:
        RuntimeError: it does not, as with a release of TRL that tokenizes otherwise.
    """
    row = trainer.train_dataset[0]
    for side in ("chosen", "rejected"):
        expected = [*_ids(tokenizer, [pairs[0][side]])[0], tokenizer.eos_token_id]
        if list(row["prompt_ids"]) != [tokenizer.bos_token_id] or list(row[f"{side}_ids"]) != expected:
            raise RuntimeError(f"TRL's tokens of {pairs[0][side]!r} are not those of the model's fine-tuning: {row}")


IDENTITY = ("size", "epochs", "steps", "batch_size", "learning_rate", "num_evaluated")
"""Options that a folder's results must share, besides the number of pairs."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/happy-tweets-dpo"))
    parser.add_argument("--betas", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=3_200, help="human answers")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="instead of epochs")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs a step")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--num-evaluated", type=int, default=256)
    parser.add_argument("--size", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--report", action="store_true", help="only report what there is")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        for seed in arguments.seeds:
            for beta in arguments.betas:
                path = arguments.folder / f"beta-{beta:g}-seed-{seed}.json"
                if not path.is_file():
                    run(path, beta, seed, arguments)
                elif (known := json.loads(path.read_text())["options"]) != (
                    wanted := {name: getattr(arguments, name) for name in ("pairs", *IDENTITY)}
                ):
                    parser.error(f"{path} was made with {known}, not {wanted}: name another folder")
    report(arguments.folder)


if __name__ == "__main__":
    main()
