"""Variance of the difference in (U), ∇_x (E_θ[r_x(y)] − E_θᴸ[r_x(y)]), by four estimators at held policies.

    python -m benchmarks.lm_reward_gradient --run runs/happy-tweets      # 40 batches of each, 10 minutes on two cores
    python -m benchmarks.lm_reward_gradient --self-check                 # a random tiny model, half a minute

Loads the newest checkpoint of a bi-level run, holds x, θ and θᴸ, and draws N batches as an iteration of the trainer
does (`Batches.collect`, so sampling, passes and weights are the trainer's own):

| estimator           | completions                          | weights of the rewards' gradients      |
|---------------------|--------------------------------------|----------------------------------------|
| independent, plain  | B of each policy, own random numbers | difference of two means                |
| independent, balance| the same                             | `estimators.balance_weights` of all 2B |
| coupled, plain      | B of each, common random numbers     | difference of two means                |
| coupled, balance    | the same                             | `estimators.balance_weights` of all 2B |

For each: the total variance, which is the trace of the covariance of the gradient of one batch over the N batches, with
a bootstrap interval (2.5 and 97.5 %; over batches), its ratio to that of independent-plain with an interval, and the
squared length of the mean gradient, less what the noise of the mean adds to it. The factor 1/w of (U) is left out: it
is the same for all. Coupling rate: share of the B rows in which both policies wrote the same.

All have the same expectation, which is checked: for each two of them the squared distance of the means divided by
what their noise makes it on average (about 1), and p, the share of wild-bootstrap draws (residuals with random signs)
in which noise alone makes the distance larger. `--self-check` exits with 1 where p < 0.001.

The run's folder is only read. Options of the run are read from its `run.json`, the adapters' form from `adapters/`,
the form of the reward from the checkpoint. Batches that are done are kept in `--output`, and the same command goes on.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from peft import LoraConfig, PeftConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.lm import BilevelRLHFConfig, BilevelRLHFTrainer, HumanScore, RewardHead, estimators
from bilevel_rl.lm.batches import Batch, Batches
from bilevel_rl.lm.engine import read_checkpoint
from bilevel_rl.lm.learning import Regularization
from bilevel_rl.runs.folder import RunFolder

Sampling = Literal["independent", "coupled"]
Weights = Literal["plain", "balance"]
ESTIMATORS: tuple[tuple[Sampling, Weights], ...] = tuple(itertools.product(get_args(Sampling), get_args(Weights)))
FIRST_BATCH = 10**6
"""Iterations whose random numbers no training has used."""
NOTHING_IS_LEARNED = dict.fromkeys(BilevelRLHFTrainer.policies, Regularization(0.0, 0.0))
NUM_BOOTSTRAP, NUM_SIGNS, LOWEST_P, CHECKED_ROWS = 2_000, 20_000, 1e-3, 256


def trainer_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    head: RewardHead,
    args: BilevelRLHFConfig,
    peft_config: PeftConfig,
) -> BilevelRLHFTrainer:
    """A trainer that asks nobody and has no preferences: neither enters the difference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScheduleWarning)
        return BilevelRLHFTrainer(
            model,
            head,
            args,
            [{"prompt": ""}],
            tokenizer,
            peft_config,
            upper_objective=HumanScore(lambda texts, seed: [0.0] * len(texts)),
        )


def restored(run: Path, model: str | None, batch_size: int | None, output_dir: str) -> BilevelRLHFTrainer:
    """The newest state of a run.

    Raises:
        SystemExit: the folder is not that of a bi-level run of language models with a checkpoint.
    """
    identity = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    folder = RunFolder(run)
    latest = folder.latest_checkpoint()
    if identity.pop("method", None) != BilevelRLHFTrainer.__name__ or latest is None:
        sys.exit(f"{run} holds no checkpoint of a bi-level run of a language model")
    names = {field.name for field in dataclasses.fields(BilevelRLHFConfig)}
    args = BilevelRLHFConfig(output_dir, **{name: value for name, value in identity.items() if name in names})
    # All completions of an iteration in one pass.
    rows = batch_size or args.per_device_train_batch_size * args.gradient_accumulation_steps
    args = dataclasses.replace(args, per_device_train_batch_size=rows, gradient_accumulation_steps=1)
    tensors, counters = read_checkpoint(folder, latest)
    path = model or fine_tuned_model()
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if args.bf16 else torch.float32)
    hidden_layer = tensors.get("reward.score.0.weight")
    head = RewardHead(loaded.config.hidden_size, hidden_size=None if hidden_layer is None else len(hidden_layer))
    trainer = trainer_of(loaded, AutoTokenizer.from_pretrained(path), head, args, form_of_adapters(run))
    trainer.restore(tensors, counters)
    print(f"{run}: {latest} iterations, {args.per_device_train_batch_size} completions of each policy a batch")
    return trainer


def form_of_adapters(run: Path) -> PeftConfig:
    """What `save_model` wrote at the end of the run; before that, the form that happy tweets has."""
    saved = sorted((run / "adapters").rglob("adapter_config.json"))
    if saved:
        config = PeftConfig.from_pretrained(str(saved[0].parent))
        config.inference_mode = False
        return config
    return LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")


def fine_tuned_model() -> str:
    """SmolLM2 fine-tuned on tweets; trained if it is not in the cache."""
    from bilevel_rl.studies.happy_tweets.assets import Assets
    from bilevel_rl.studies.happy_tweets.language_models import smollm2

    return str(smollm2(Assets()))


def random_trainer(output_dir: str) -> BilevelRLHFTrainer:
    """Two policies that differ from each other and a random reward, on a transformer with eight tokens."""
    words = Tokenizer(models.WordLevel({**{f"w{i}": i for i in range(7)}, "end": 7}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", pad_token="w0", eos_token="end")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=7,
            pad_token_id=0,
        )
    )
    head = RewardHead(16)
    args = BilevelRLHFConfig(output_dir, per_device_train_batch_size=CHECKED_ROWS, max_completion_length=6)
    trainer = trainer_of(model, tokenizer, head, args, LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for weight in [*trainer.followers.parameters(), *head.parameters()]:
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape))
    return trainer


def batches(
    trainer: BilevelRLHFTrainer, sampling: Sampling, first: int, number: int
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """One batch of each of these iterations, as the trainer draws it, and Δ of its completions."""
    args = dataclasses.replace(trainer.args, coupled=sampling == "coupled")
    collected = Batches(
        trainer.followers, trainer.encoder, trainer.reward_model, trainer.batches.examples, trainer.policies, args
    )
    for k in range(first, first + number):
        with torch.no_grad():
            (batch,) = collected.collect(k, num_rows=args.per_device_train_batch_size, compares=True)
            log_probs = torch.cat([part.log_probs for _, part in collected.passes(batch, NOTHING_IS_LEARNED)])
        assert batch.evidence.other_log_probs is not None
        yield batch, estimators.log_ratio(log_probs, batch.evidence.other_log_probs)


def gradients(trainer: BilevelRLHFTrainer, batch: Batch, log_ratio: torch.Tensor) -> dict[Weights, np.ndarray]:
    """Of the difference with respect to x, by both kinds of weights."""
    parameters = [weight for weight in trainer.reward_model.parameters() if weight.requires_grad]
    rewards = trainer.reward_model(batch.inputs)
    weights: dict[Weights, torch.Tensor] = {
        "plain": estimators.plain_weights(len(rewards), rewards.device),
        "balance": estimators.balance_weights(log_ratio),
    }
    result: dict[Weights, np.ndarray] = {}
    for name, weight in weights.items():
        difference = estimators.reward_difference(rewards, weight)
        parts = torch.autograd.grad(difference, parameters, retain_graph=True)
        result[name] = torch.cat([part.flatten() for part in parts]).double().numpy()
    return result


def draw(trainer: BilevelRLHFTrainer, num_batches: int, output: Path | None) -> dict[str, np.ndarray]:
    """Gradients of all batches, (N, dim x) for each estimator, and what is known of each batch."""
    arrays: dict[str, np.ndarray] = {}
    for number, sampling in enumerate(get_args(Sampling)):
        path = None if output is None else output / f"{sampling}.npz"
        done = dict(np.load(path)) if path is not None and path.is_file() else {}
        have = len(next(iter(done.values()), ()))
        # Other random numbers for both ways of sampling, so that their means are independent.
        first = FIRST_BATCH * (1 + number) + have
        for batch, log_ratio in batches(trainer, sampling, first, num_batches - have):
            n = len(batch.completions.ids) // 2
            same = (batch.completions.ids[:n] == batch.completions.ids[n:]).all(dim=1)
            row = {f"gradient_{name}": gradient for name, gradient in gradients(trainer, batch, log_ratio).items()}
            row["coupling_rate"] = np.array(float(same.float().mean()))
            row["log_ratio"] = log_ratio.double().numpy()
            row["tokens"] = np.array(batch.completions.num_tokens)
            done = {
                name: np.concatenate([done[name], value[None]]) if name in done else value[None]
                for name, value in row.items()
            }
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".unfinished.npz")
                np.savez(temporary, **done)  # pyright: ignore[reportArgumentType]
                temporary.replace(path)
            if len(done["tokens"]) % 10 == 0:
                print(f"{sampling}: {len(done['tokens'])} of {num_batches} batches", file=sys.stderr, flush=True)
        arrays |= {f"{sampling}_{name}": value[:num_batches] for name, value in done.items()}
    return arrays


def total_variance(rows: np.ndarray) -> np.ndarray:
    """Trace of the sample covariance; (…, N, d) → (…,)."""
    return rows.var(axis=-2, ddof=1).sum(axis=-1)


def resampled_variances(rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`total_variance` of bootstrap samples, from the counts of every row: (draws, N)."""
    num_rows = len(rows)
    counts = np.stack([np.bincount(draw, minlength=num_rows) for draw in draws]) / num_rows
    second = counts @ (rows**2).sum(axis=1)
    # Rows of a sample are drawn with replacement; N / (N − 1) once for the sample, once for the draw.
    return (second - ((counts @ rows) ** 2).sum(axis=1)) * (num_rows / (num_rows - 1)) ** 2


def distance_of_means(first: np.ndarray, second: np.ndarray, *, is_paired: bool, seed: int) -> tuple[float, float]:
    """Squared distance of two means in units of its expectation under equal ones, and p by random signs."""
    num_rows = len(first)
    parts = [first - second] if is_paired else [first, -second]
    difference = sum(part.mean(axis=0) for part in parts)
    residuals = np.concatenate([part - part.mean(axis=0) for part in parts]) / num_rows
    gram = residuals @ residuals.T * (num_rows / (num_rows - 1))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(NUM_SIGNS, len(gram)))
    by_chance = np.einsum("si,ij,sj->s", signs, gram, signs, optimize=True)
    distance = float(np.sum(np.square(difference)))
    expected = float(np.trace(gram))
    if expected == 0:
        return 0.0, 1.0
    return distance / expected, float(np.mean(by_chance >= distance))


def report(arrays: Mapping[str, np.ndarray], seed: int = 0) -> float:
    """Prints tables as Markdown; returns the lowest p."""
    rows = {(s, w): arrays[f"{s}_gradient_{w}"] for s, w in ESTIMATORS}
    num_rows = len(rows[ESTIMATORS[0]])
    generator = np.random.default_rng(seed)
    # Both weights of one way of sampling have the same batches, so they are resampled together.
    draws = {s: generator.integers(num_rows, size=(NUM_BOOTSTRAP, num_rows)) for s in get_args(Sampling)}
    resampled = {key: resampled_variances(value, draws[key[0]]) for key, value in rows.items()}
    base = ESTIMATORS[0]
    print(f"{num_rows} batches, x of {rows[base].shape[1]} numbers\n")
    print("| estimator | total variance | interval | ÷ independent, plain | interval | squared mean |")
    print("|---|---|---|---|---|---|")
    for key in ESTIMATORS:
        variance, ratio = total_variance(rows[key]), total_variance(rows[key]) / total_variance(rows[base])
        squared_mean = np.sum(rows[key].mean(axis=0) ** 2) - variance / num_rows
        print(
            f"| {', '.join(key)} | {variance:.4g} | {interval(resampled[key])} | {ratio:.3f} | "
            f"{interval(resampled[key] / resampled[base])} | {squared_mean:.3g} |"
        )
    print("\n| sampling | coupling rate | mean tokens | mean \\|Δ\\|, nats | mean \\|balance weight\\| of 2 |")
    print("|---|---|---|---|---|")
    for sampling in get_args(Sampling):
        log_ratio = arrays[f"{sampling}_log_ratio"]
        print(
            f"| {sampling} | {arrays[f'{sampling}_coupling_rate'].mean():.3f} | "
            f"{arrays[f'{sampling}_tokens'].mean():.0f} | {np.abs(log_ratio).mean():.2f} | "
            f"{np.abs(2 * np.tanh(log_ratio / 2)).mean():.2f} |"
        )
    print("\n| means of | squared distance ÷ expected | p |\n|---|---|---|")
    lowest = 1.0
    for first, second in itertools.combinations(ESTIMATORS, 2):
        ratio, p = distance_of_means(rows[first], rows[second], is_paired=first[0] == second[0], seed=seed)
        lowest = min(lowest, p)
        print(f"| {', '.join(first)} and {', '.join(second)} | {ratio:.2f} | {p:.3f} |")
    return lowest


def interval(values: np.ndarray) -> str:
    low, high = np.nanquantile(values, (0.025, 0.975))
    return f"{low:.4g}–{high:.4g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a bi-level run of happy tweets")
    parser.add_argument("--model", help="folder of its model; by default SmolLM2 fine-tuned on tweets, from the cache")
    parser.add_argument("--batches", type=int, default=40, help="N, of each way of sampling")
    parser.add_argument("--batch-size", type=int, help="B; by default the run's")
    parser.add_argument("--output", type=Path, help="keeps batches here; by default in the run's name beside it")
    parser.add_argument("--self-check", action="store_true", help="a random tiny model instead of a run")
    options = parser.parse_args(arguments)
    if options.self_check == (options.run is not None):
        parser.error("give either --run or --self-check")
    if options.batches < 2:
        parser.error("--batches must be at least 2")
    with tempfile.TemporaryDirectory() as scratch:
        if options.self_check:
            torch.set_num_threads(1)  # More would only wait for each other.
            lowest = report(draw(random_trainer(scratch), options.batches, None))
            print(f"\nself-check: {'failed' if lowest < LOWEST_P else 'passed'}")
            return int(lowest < LOWEST_P)
        trainer = restored(options.run, options.model, options.batch_size, scratch)
        output = options.output or options.run.with_name(options.run.name + "-reward-gradient")
        name = f"{trainer.num_iterations}-{trainer.args.per_device_train_batch_size}"
        report(draw(trainer, options.batches, output / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
