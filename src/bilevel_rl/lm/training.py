"""What every method that trains a language model shares: completions, evidence, steps, rows and checkpoints.

A method is a subclass that says which policies there are and what one iteration does (`BilevelRLHFTrainer`, and those
in `baselines`).
"""

import abc
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from jaxtyping import Float
from peft import PeftConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.lm import identity
from bilevel_rl.lm.answers import number_each
from bilevel_rl.lm.arguments import check_arguments, check_objective
from bilevel_rl.lm.batches import ANSWERS, LAYERS, PAIRS, Batch, Batches
from bilevel_rl.lm.classifier import ClassifierReward
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.data import Example, no_column, read_prompts, read_rows
from bilevel_rl.lm.encoder import Encoder
from bilevel_rl.lm.engine import TrainerEngine
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.learning import Regularization
from bilevel_rl.lm.objectives import UpperEstimate, UpperObjective, checked
from bilevel_rl.lm.reward_models import RewardModel, reward_model_of
from bilevel_rl.lm.rewards import Preferences, RewardInputs, check_reward_model, learned, prior, with_features
from bilevel_rl.lm.rows import STEP_SIZE_COLUMNS, Ascent, StepSizeNumbers, policy_columns
from bilevel_rl.lm.sampling import own_random_numbers, stream
from bilevel_rl.lm.state import TrainerState
from bilevel_rl.lm.steps import Steps
from bilevel_rl.lm.tokens import Completions
from bilevel_rl.lm.weighted_rewards import WeightedRewards
from bilevel_rl.runs.folder import Row, RunFolder
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import follow
from bilevel_rl.runs.result import RunResult, columns_of

Scorer = Callable[[list[str]], Sequence[float] | np.ndarray]
"""Texts → one number each. Judges are scorers: they are logged, and nothing learns from them."""


class RLHFTrainer(TrainerState, abc.ABC):
    """A language model's policies as adapters, their critics, and a reward with parameters x.

    Args:
        model: a causal language model, or the path of one. It is frozen, and its layers are wrapped in place.
        processing_class: its tokenizer, with an end mark and a padding token.
        reward_model: r_x, any module from `RewardInputs` to one number a row; or reward functions, a list or by name,
            whose weights are x (`WeightedRewards`); or a sequence classifier (`ClassifierReward`).
        upper_objective: what the leader wants of completions; None where the method does not ask people.
        prompts: texts or conversations that completions begin with, or rows with a "prompt"; an empty text is the start
            mark alone.
        preference_dataset: rows with "chosen" and "rejected" (and "prompt"), texts or conversations, for the offline
            term of the objective.
        args: options.
        peft_config: form of the adapters; by default LoRA of rank 8 on all linear layers.
        judges: columns of the metric rows that nothing learns from.

    Raises:
        TypeError, ValueError: an argument cannot be used; the message names it.

    Warns:
        UserWarning: pairs of `preference_dataset` are the same once they are cut to `max_completion_length`.
        ScheduleWarning: the step sizes violate a validity condition (docs/explanation/method.md, section 4).
    """

    policies: ClassVar[tuple[str, ...]]
    """names of the policies; the first one is the follower, which answers r_x"""
    asks_people: ClassVar[bool] = True
    """whether an upper objective is needed"""

    def __init__(
        self,
        model: PreTrainedModel | str,
        processing_class: PreTrainedTokenizerBase,
        reward_model: RewardModel,
        upper_objective: UpperObjective | None,
        prompts: Iterable[Any],
        preference_dataset: Iterable[Any] | None,
        args: BilevelRLHFConfig,
        peft_config: PeftConfig | None = None,
        *,
        judges: Mapping[str, Scorer] | None = None,
    ):
        check_arguments(model, processing_class, args, peft_config, judges)
        self.reward_model = reward_model_of(reward_model, args, processing_class)
        if self.asks_people and upper_objective is None:
            raise ValueError(f"upper_objective is None, but {type(self).__name__} asks people: give one, as HumanScore")
        check_objective(upper_objective, args)
        reads = self.reward_model.reads if isinstance(self.reward_model, WeightedRewards) else no_column
        examples = read_prompts(prompts, processing_class, reads)
        self._check_examples("prompts", examples)
        rows = None if preference_dataset is None else read_rows("preference_dataset", preference_dataset)
        # Without being told, accelerate takes processes without an accelerator for strangers to each other.
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        self._processes = PartialState(cpu=cpu)
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, str) else model
        loaded.to(device=self._processes.device, dtype=torch.bfloat16 if args.bf16 else torch.float32)  # pyright: ignore
        self.args, self.tokenizer, self.judges = args, processing_class, dict(judges or {})
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            self.followers = Followers(loaded, self.policies, peft_config)
        check_reward_model(self.reward_model, self.followers.num_features)
        self.reward_model.to(self._processes.device).eval()
        self.reward_model.zero_grad()  # A fit before may have left gradients, and the first step would add to them.
        self.upper_objective = upper_objective
        self.encoder = Encoder(
            self.followers, processing_class, args.max_completion_length, args.per_device_train_batch_size
        )
        self.batches = Batches(self.followers, self.encoder, self.reward_model, examples, self.policies, args)
        self.preferences = None if rows is None else self._encoded(rows, reads)
        self._data = examples, [dict(row) for row in rows or []]
        self._step_sizes = args.step_sizes()
        for violation in self._step_sizes.violations():
            warnings.warn(f"step sizes violate {violation}", ScheduleWarning, stacklevel=2)
        self.steps = Steps(
            {
                "upper": [learned(self.reward_model)],
                "actor": [self.followers.adapter(name) for name in self.policies],
                "critic": [self.followers.critic(name) for name in self.policies],
            },
            optimizer=args.optimizer,
            max_grad_norm=args.max_grad_norm,
            never_shortened=["critic"],
            projections={"upper": self.reward_model.project} if isinstance(self.reward_model, WeightedRewards) else {},
        )
        self.shown_texts: list[str] = []
        """examples of what the policies wrote in the last iteration"""
        self.folder = RunFolder(args.output_dir, report_to=args.report_to)

    @abc.abstractmethod
    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """One iteration, all from iteration k's values; returns columns of its metric row."""

    def train(self, *, progress: bool = True) -> RunResult:
        """Runs, or continues what `output_dir` holds, up to `max_steps` iterations.

        Returns:
            As `bilevel_rl.run`, of one seed: x are the reward's tensors, and the trainer itself is the state. Where a
            number left the finite range the run has stopped, `divergences` says why, and the trainer holds the last
            finite state.

        Raises:
            RunFolderError: the folder holds another run (other options, models, data or answers), or a longer one.
            RuntimeError: this trainer was interrupted before its folder held a checkpoint.
        """
        point, rows = follow(
            TrainerEngine(self),
            self.args.max_steps,
            LogPoints(self.args.logging_steps),
            folder=self.folder,
            checkpoint_every=self.args.checkpoint_every,
            progress=progress,
        )
        if self._processes.is_main_process:
            self.save_model()
        self._processes.wait_for_everyone()
        x = {name: tensor.cpu().numpy()[None] for name, tensor in self._reward_tensors().items()}
        return RunResult(x, None, columns_of(rows) if rows else {}, point.divergences)

    def save_model(self):
        """Writes the adapters in peft's form and the reward's parameters into `output_dir`."""
        from safetensors.torch import save_file

        self.followers.adapted.save_pretrained(str(self.folder.path / "adapters"))
        # Copies, since safetensors refuses tensors that share memory, as tied weights do.
        tensors = {name: tensor.contiguous().clone() for name, tensor in self._reward_tensors().items()}
        save_file(tensors, self.folder.path / "reward.safetensors")
        if isinstance(self.reward_model, ClassifierReward):
            self.reward_model.save(self.folder.path / "reward")

    def complete(self, num_completions: int, *, policy: str | None = None, seed: int = 0) -> list[str]:
        """Texts of one policy; `followers.REFERENCE` is the frozen model. The same seed gives the same noise."""
        batches = self.completions(num_completions, policy=policy, seed=seed)
        return [text for completions in batches for text in completions.texts(self.tokenizer)]

    def completions(self, num_completions: int, *, policy: str | None = None, seed: int = 0) -> Iterator[Completions]:
        """As `complete`, as tokens, in batches.

        Raises:
            TypeError, ValueError: there is no such policy, or a number is no integer, or below its least.
        """
        return (completions for completions, _ in self.written(num_completions, policy=policy, seed=seed))

    def written(
        self, num_completions: int, *, policy: str | None = None, seed: int = 0
    ) -> Iterator[tuple[Completions, list[Example]]]:
        """As `completions`, with the rows of the data that they answer."""
        name, known = self.policies[0] if policy is None else policy, (*self.policies, REFERENCE)
        if name not in known:
            raise ValueError(f"policy must be one of {', '.join(known)}, got {name!r}")
        checks.integer("num_completions", num_completions, at_least=1)
        return self.batches.complete(name, num_completions, checks.integer("seed", seed, at_least=0))

    # What iterations are made of.

    def _check_examples(self, name: str, examples: Sequence[Example]):
        if isinstance(self.reward_model, WeightedRewards | ClassifierReward):
            self.reward_model.check_examples(name, examples)

    def _encoded(self, rows: Sequence[Any], reads: Callable[[str], bool]) -> Preferences:
        """Pairs of texts that people chose from, with what the reward makes of them that does not depend on x."""
        preferences = self.encoder.encode_preferences(rows, reads)
        self._check_examples("preference_dataset", preferences.inputs.examples)
        return preferences._replace(inputs=with_features(self.reward_model, preferences.inputs))

    def _batches(self, k: int, *, num_rows: int, compares: bool) -> Iterator[Batch]:
        """This process's completions of iteration k; arguments as for `Batches.collect`."""
        for batch in self.batches.collect(k, num_rows=num_rows, compares=compares):
            if k == 0 and not bool(torch.isfinite(batch.rewards).all()):
                raise ValueError("reward_model gives NaN or infinity before anything has moved")
            self.shown_texts = batch.inputs.texts[:: max(1, len(batch.inputs.texts) // 6)][:3]
            self.num_transitions += int(reduce(batch.completions.mask.sum(), "sum"))  # pyright: ignore
            yield batch

    def _regularization(self, policy: str, step_size: StepSizeNumbers) -> Regularization:
        """Weights of what a policy learns from besides rewards."""
        return Regularization(self.args.beta, step_size.entropy)

    def _ascend(self, batch: Batch, rewards: Float[Tensor, " N"], step_size: StepSizeNumbers, num_rows: int) -> Ascent:
        """Gradients of (A), (C) of all policies in a batch for these rewards."""
        regularization = {name: self._regularization(name, step_size) for name in self.policies}
        options = {"discount": self.args.discount, "gae_lambda": self.args.gae_lambda, "num_rows": num_rows}
        parts = []
        for rows, policy_pass in self.batches.passes(batch, regularization):
            δ = policy_pass.ascend(rewards[rows], **options)
            parts.append((policy_pass.log_probs, policy_pass.divergence, policy_pass.entropy, (δ**2).sum(dim=1)))
        log_probs, divergence, entropy, squared = (torch.cat(part) for part in zip(*parts, strict=True))
        num_tokens = batch.completions.mask.sum(dim=1)
        numbers = {
            "mean_reward": batch.rewards.detach(),
            "mean_divergence": divergence,
            "mean_entropy": entropy,
            "mean_length": num_tokens.float(),
            "mean_squared_td_error": squared / num_tokens,
        }
        if isinstance(self.reward_model, WeightedRewards) and batch.inputs.features is not None:
            columns = zip(self.reward_model.names, batch.inputs.features.unbind(dim=1), strict=True)
            numbers |= {f"reward/{name}": values for name, values in columns}
        for name, judge in self.judges.items():
            scores = number_each(f"judges[{name!r}]", judge(batch.inputs.texts), len(batch.inputs.texts))
            numbers[f"judge_{name}"] = torch.tensor(scores)
        return Ascent(policy_columns(self.policies, numbers), log_probs)

    def _add_preference_gradient(self, k: int) -> float:
        """Adds λ ∇(NLL_D(x) + (κ/2) ‖x‖²) to the gradient of x; returns NLL_D."""
        if self.preferences is None:
            return math.nan
        loss = self._preference_loss(self.preferences, k)
        if k == 0 and not bool(torch.isfinite(loss)):
            raise ValueError("reward_model gives NaN or infinity for preference_dataset before anything has moved")
        regularized = loss + prior(self.reward_model, self.args.prior_precision)
        (self.args.preference_weight * regularized).backward()
        return float(loss.detach())

    def _preference_loss(self, preferences: Preferences, k: int) -> Float[Tensor, ""]:
        """NLL_D(x) of all pairs, or of those of iteration k."""
        pairs, num_pairs = None, self.args.preference_batch_size
        if num_pairs is not None:
            generator = stream(self.args.seed, PAIRS, k)
            pairs = torch.randint(len(preferences.chosen), (num_pairs,), generator=generator)
        return preferences.negative_log_likelihood(self.reward_model, pairs)

    def _ask(self, inputs: RewardInputs, rewards: Float[Tensor, " N"], number: int) -> UpperEstimate:
        """The upper objective on completions of one policy; `number` is that of the question."""
        assert self.upper_objective is not None
        seed = int(np.random.SeedSequence((self.args.seed, ANSWERS, number)).generate_state(1)[0])
        estimate = checked(self.upper_objective(inputs, rewards, seed), len(rewards))
        self.num_answers += int(reduce(torch.tensor(estimate.num_answers, device=rewards.device), "sum"))  # pyright: ignore
        return estimate

    @property
    def _num_rows(self) -> int:
        """Completions of each policy in an iteration, all processes together."""
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self._processes.num_processes

    # What the run loop asks for (`engine.TrainerEngine`).

    @property
    def has_moved(self) -> bool:
        """Whether an iteration was begun."""
        return self._has_moved

    def iterate(self, k: int) -> dict[str, float]:
        """Iteration k, of all processes together; returns columns of its metric row."""
        self._has_moved = True
        self._step_size = StepSizeNumbers(*(float(value) for value in self._step_sizes(k)))
        with own_random_numbers(self.args.seed, LAYERS, k, self._processes.process_index):
            columns = self._averaged(self._iterate(k, self._step_size))
        self.num_iterations = k + 1
        return columns

    def row(self, columns: Mapping[str, float]) -> Row:
        """The metric row of the present iteration, with the mean columns since the last row."""
        counts = {"seed": self.args.seed, "num_iterations": self.num_iterations}
        counts |= {"num_transitions": self.num_transitions, "num_answers": self.num_answers}
        row = counts | dict(zip(STEP_SIZE_COLUMNS, self._step_size, strict=True)) | dict(columns)
        if isinstance(self.reward_model, WeightedRewards):
            row |= {f"reward_weight/{name}": weight for name, weight in self.reward_model.named_weights().items()}
        return row

    def identity(self) -> dict[str, Any]:
        """What decides a run's numbers, as JSON; a run with another identity is not continued."""
        return {"method": type(self).__name__, **self.args.identity(), "digests": self._digests}

    @cached_property
    def _digests(self) -> dict[str, str]:
        # Looked at once: a reward that has moved is no longer what it started from.
        return {
            "model": identity.of_model(self.followers),
            "tokenizer": identity.of_tokenizer(self.tokenizer),
            "reward_model": identity.of_reward(self.reward_model),
            "prompts": identity.of_json([example if example.columns else example.text for example in self._data[0]]),
            "preference_dataset": identity.of_json(self._data[1]),
            "upper_objective": identity.of_json(identity.of_callable(self.upper_objective)),
            "judges": identity.of_json({name: identity.of_callable(judge) for name, judge in self.judges.items()}),
        }

    def _averaged(self, columns: dict[str, float]) -> dict[str, float]:
        if self._processes.num_processes == 1:
            return columns
        values = reduce(torch.tensor(list(columns.values()), dtype=torch.float64), "mean")
        return dict(zip(columns, values.tolist(), strict=True))  # pyright: ignore
