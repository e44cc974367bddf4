"""Seconds a step of bi-level RLHF, per policy, against one step of TRL's RLOOTrainer and GRPOTrainer.

    python -m benchmarks.lm_step                         # 20 pairs of steps against each, 8 minutes on two idle cores
    python -m benchmarks.lm_step --opponents rloo --steps 40

Needs the extra `lm-bench`. In one process for each opponent, an iteration of `BilevelRLHFTrainer` follows every step of
TRL's trainer (A B A B …), so both see the same load of the machine; the first steps of both are not counted.

What is timed. Ours: all of an iteration of `train()` but the rows on disk and the progress bar: B completions of both
policies, reference, log π under the other policy, rewards, the upper gradient with NLL_D on all pairs, two policies and
two critics; divided by 2, since it moves two policies. TRL: from the end of one step to the end of the next, as its
training loop does them: B completions, log π before the step (RLOO only), reference, loss, optimizer. "Sampling" is
the part of it that writes the completions. Neither has people or a costly reward: scores are random numbers, and the
learning rate is so small that all policies stay the model that they start as and write equally long texts.

The same for both: model in single precision (`--precision`), LoRA (r = 8, α = 16, single precision, no dropout) on q,
v, o, B = 16 completions of one prompt (the start mark) of up to 24 tokens that may end before, temperature 1 and the
whole vocabulary, weight of the KL to the frozen model β = 0.1, Adam, gradients shortened to 1, number of threads.

Set for TRL, beside these: gradient checkpointing off (on by default), no vLLM, no evaluation, no logging, no
checkpoints, no progress bar; num_generations = B, so the batch is one group; one optimizer step a batch
(num_iterations = steps_per_generation = gradient_accumulation_steps = 1), with which GRPO needs no pass for old log π;
mask_truncated_completions off; dynamic KV cache; `--autocast off`, TRL's `bf16=False`
(`--autocast on` is TRL's default).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, TrainerCallback

from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, HumanScore, RewardHead, batches

Opponent = Literal["rloo", "grpo"]
OPPONENTS: tuple[Opponent, ...] = ("rloo", "grpo")
BETA, LEARNING_RATE, TARGET = 0.1, 1e-7, 1.2
NUM_POLICIES = 2
OPTIONS = ("steps", "warm_up", "batch_size", "max_length", "pairs", "precision", "autocast")


class Stopwatch:
    """Adds up the seconds spent in a method of an object, or in a function of a module."""

    def __init__(self, owner: Any, method: str):
        self.seconds = 0.0
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begin

        setattr(owner, method, timed)

    def read(self) -> float:
        """Seconds since the last reading."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def adapter() -> LoraConfig:
    return LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
    )


def load(path: str, precision: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, precision))


class Ours:
    """`BilevelRLHFTrainer`, an iteration at a time."""

    def __init__(self, path: str, arguments: Mapping[str, Any], folder: str):
        precision, num_pairs = arguments["precision"], arguments["pairs"]
        tokenizer, model, generator = (
            AutoTokenizer.from_pretrained(path),
            load(path, precision),
            np.random.default_rng(0),
        )
        pairs = [{"prompt": "", "chosen": f"tweet {i}", "rejected": f"tweet {i + 1}"} for i in range(num_pairs)]
        args = BilevelRLHFConfig(
            folder,
            per_device_train_batch_size=arguments["batch_size"],
            max_completion_length=arguments["max_length"],
            bf16=precision == "bfloat16",
            beta=BETA,
            learning_rate=LEARNING_RATE,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScheduleWarning)
            self.trainer = BilevelRLHFTrainer(
                model,
                RewardHead(model.config.hidden_size),
                args,
                [{"prompt": ""}],
                tokenizer,
                adapter(),
                upper_objective=HumanScore(lambda texts, seed: generator.normal(size=len(texts))),
                preference_dataset=pairs or None,
            )
        self._sampling = Stopwatch(batches, "sample")

    def step(self) -> dict[str, float]:
        """One iteration: seconds, seconds of sampling, tokens; each per policy."""
        trainer = self.trainer
        before, begin, begin_cpu = trainer.num_transitions, time.perf_counter(), time.process_time()
        trainer.iterate(trainer.num_iterations)
        numbers = {
            "seconds": time.perf_counter() - begin,
            "cpu": time.process_time() - begin_cpu,
            "sampling": self._sampling.read(),
            "tokens": trainer.num_transitions - before,
        }
        return {name: value / NUM_POLICIES for name, value in numbers.items()}


def theirs(opponent: Opponent, path: str, arguments: Mapping[str, Any], callback: TrainerCallback, folder: str) -> Any:
    """TRL's trainer."""
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    config, build = {
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
    }[opponent]
    batch_size = arguments["batch_size"]
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    generator = np.random.default_rng(0)
    args = config(
        output_dir=folder,
        max_steps=arguments["warm_up"] + arguments["steps"],
        use_cpu=True,
        bf16=arguments["autocast"] == "on",
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=batch_size,
        num_iterations=1,
        max_completion_length=arguments["max_length"],
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=BETA,
        mask_truncated_completions=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return build(
        load(path, arguments["precision"]),
        reward_funcs=lambda completions, **_: generator.normal(size=len(completions)).tolist(),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [tokenizer.bos_token] * 1_024}),
        processing_class=tokenizer,
        callbacks=[callback],
        peft_config=adapter(),
    )


class Alternation(TrainerCallback):
    """After every step of TRL's trainer comes one of ours; the time of each is taken."""

    def __init__(self, ours: Ours):
        self._ours = ours
        self._sampling: Stopwatch | None = None
        self._begin = self._begin_cpu = 0.0
        self._tokens = 0
        self.rows: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}

    def watch(self, trainer: Any):
        """Before training."""
        self._sampling = Stopwatch(trainer, "_generate_single_turn")
        inner = trainer._generate_single_turn

        def counted(*arguments: Any, **options: Any) -> Any:
            written = inner(*arguments, **options)
            # GRPO returns log π and more besides the tokens.
            self._tokens += sum(len(row) for row in (written[0] if isinstance(written, tuple) else written))
            return written

        trainer._generate_single_turn = counted

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any):
        self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any):
        assert self._sampling is not None
        self.rows["theirs"].append(
            {
                "seconds": time.perf_counter() - self._begin,
                "cpu": time.process_time() - self._begin_cpu,
                "sampling": self._sampling.read(),
                "tokens": self._tokens,
            }
        )
        self.rows["ours"].append(self._ours.step())
        self._start()

    def _start(self):
        self._tokens, self._begin, self._begin_cpu = 0, time.perf_counter(), time.process_time()


def compare(opponent: Opponent, arguments: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Rows of counted steps of both."""
    path = arguments["model"]
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(path, arguments, f"{folder}/ours")
        alternation = Alternation(ours)
        trainer = theirs(opponent, path, arguments, alternation, f"{folder}/theirs")
        alternation.watch(trainer)
        trainer.train()
    return {name: rows[arguments["warm_up"] :] for name, rows in alternation.rows.items()}


def in_process(opponent: Opponent, arguments: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """`compare` in a new process; what TRL prints goes to standard error."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        case = json.dumps({**arguments, "opponent": opponent, "file": file.name})
        command = [sys.executable, "-m", "benchmarks.lm_step", "--case", case]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return json.load(file)


def cells(rows: list[dict[str, float]]) -> str:
    seconds, cpu, sampling, tokens = (
        np.array([row[name] for row in rows]) for name in ("seconds", "cpu", "sampling", "tokens")
    )
    return (
        f"{np.median(seconds):.2f} | {seconds.min():.2f}–{seconds.max():.2f} | {np.median(sampling):.2f} | "
        f"{np.median(seconds - sampling):.2f} | {np.median(cpu):.2f} | {tokens.mean():.0f} | "
        f"{np.median(1e3 * seconds / tokens):.2f} |"
    )


def ratios(result: dict[str, list[dict[str, float]]]) -> str:
    """Of medians: seconds a step, with a bootstrap interval over pairs of steps; CPU time; seconds a token."""
    ours, other = (
        {name: np.array([row[name] for row in result[side]]) for name in ("seconds", "cpu", "tokens")}
        for side in ("ours", "theirs")
    )
    num_steps = len(ours["seconds"])
    draws = np.random.default_rng(0).integers(num_steps, size=(2_000, num_steps))
    resampled = np.median(ours["seconds"][draws], axis=1) / np.median(other["seconds"][draws], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    ratio, cpu = (np.median(ours[name]) / np.median(other[name]) for name in ("seconds", "cpu"))
    by_token = np.median(ours["seconds"] / ours["tokens"]) / np.median(other["seconds"] / other["tokens"])
    verdict = "met" if ratio <= TARGET else "missed"
    return f"{ratio:.2f} ({low:.2f}–{high:.2f}), CPU {cpu:.2f}, per token {by_token:.2f}; target {TARGET}: {verdict}"


def main(arguments: argparse.Namespace):
    """Prints the table and the ratios."""
    options = {name: getattr(arguments, name) for name in OPTIONS}
    options["model"] = arguments.model or fine_tuned_model()
    names = ("torch", "transformers", "peft", "trl")
    print(f"{', '.join(f'{name} {version(name)}' for name in names)}; {torch.get_num_threads()} threads")
    print(f"{', '.join(f'{name} {value}' for name, value in options.items())}")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    print("| method | s a step | min–max | sampling s | rest s | CPU s a step | tokens a step | s per 1,000 tokens |")
    print("|---|---|---|---|---|---|---|---|")
    lines = []
    for opponent in arguments.opponents:
        result = in_process(opponent, options)
        print(f"| ours, per policy | {cells(result['ours'])}")
        print(f"| TRL's {opponent.upper()} | {cells(result['theirs'])}", flush=True)
        lines.append(f"ours ÷ {opponent.upper()}: {ratios(result)}")
    print("\n" + "\n".join(lines))
    print(f"load of the machine after: {os.getloadavg()[0]:.1f}")


def fine_tuned_model() -> str:
    """SmolLM2 fine-tuned on tweets; trained if it is not in the cache."""
    from bilevel_rl.studies.happy_tweets.assets import Assets
    from bilevel_rl.studies.happy_tweets.language_models import smollm2

    return str(smollm2(Assets()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder; by default SmolLM2 fine-tuned on tweets, from the cache")
    parser.add_argument("--opponents", nargs="+", choices=OPPONENTS, default=OPPONENTS)
    parser.add_argument("--steps", type=int, default=20, help="that are counted")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before, which are not")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=1_600, help="offline preferences of ours")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="float32", help="of the frozen model")
    parser.add_argument("--autocast", choices=("on", "off"), default="off", help="of TRL")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is None:
        main(given)
    else:
        case = json.loads(given.case)
        measured = compare(case["opponent"], case)
        with open(case["file"], "w") as output:
            json.dump(measured, output)
