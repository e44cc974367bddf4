"""What every method that trains a language model shares: completions, evidence, steps, rows and checkpoints.

A method is a subclass that says which policies there are and what one iteration does (`BilevelRLHFTrainer`, and those
in `baselines`).
"""

import abc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from peft import PeftConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from bilevel_rl import checks
from bilevel_rl.algorithms.step_sizes import ScheduleWarning
from bilevel_rl.lm import identity
from bilevel_rl.lm.arguments import (
    check_arguments,
    check_model,
    check_names,
    check_objective,
    default_args,
    tokenizer_of,
)
from bilevel_rl.lm.batches import LAYERS, Batches
from bilevel_rl.lm.callbacks import Callbacks, Events
from bilevel_rl.lm.classifier import ClassifierReward
from bilevel_rl.lm.completion_log import CompletionLog
from bilevel_rl.lm.config import BilevelRLHFConfig
from bilevel_rl.lm.data import Example, no_column, read_prompts, read_rows
from bilevel_rl.lm.encoder import Encoder
from bilevel_rl.lm.engine import TrainerEngine
from bilevel_rl.lm.followers import REFERENCE, Followers
from bilevel_rl.lm.iterations import Scorer
from bilevel_rl.lm.objectives import UpperObjective
from bilevel_rl.lm.reward_models import RewardModel, reward_model_of
from bilevel_rl.lm.rewards import Preferences, check_reward_model, learned, with_features
from bilevel_rl.lm.rows import STEP_SIZE_COLUMNS, StepSizeNumbers
from bilevel_rl.lm.sampling import own_random_numbers
from bilevel_rl.lm.saving import Saving
from bilevel_rl.lm.steps import Steps
from bilevel_rl.lm.tokens import Completions
from bilevel_rl.lm.weighted_rewards import WeightedRewards
from bilevel_rl.runs.folder import Row, RunFolder
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import follow
from bilevel_rl.runs.result import RunResult, columns_of


class RLHFTrainer(Saving, abc.ABC):
    """A language model's policies as adapters, their critics, and a reward with parameters x.

    Arguments, errors and warnings are those of `BilevelRLHFTrainer`; `upper_objective` is None where the method does
    not ask people.
    """

    asks_people: ClassVar[bool] = True
    """whether an upper objective is needed"""

    def __init__(
        self,
        model: PreTrainedModel | str,
        reward_model: RewardModel,
        args: BilevelRLHFConfig | None = None,
        train_dataset: Iterable[Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Callbacks | None = None,
        *,
        upper_objective: UpperObjective | None = None,
        preference_dataset: Iterable[Any] | None = None,
        judges: Mapping[str, Scorer] | None = None,
        **others: Any,
    ):
        check_names(type(self).__name__, others, reward_model)
        check_model(model)
        args = default_args(type(self).__name__, model) if args is None else args
        check_arguments(args, peft_config, judges)
        processing_class = tokenizer_of(model) if processing_class is None else processing_class
        checks.instance("processing_class", processing_class, PreTrainedTokenizerBase)
        self.reward_model = reward_model_of(reward_model, args, processing_class)
        if self.asks_people and upper_objective is None:
            raise ValueError(f"upper_objective is None, but {type(self).__name__} asks people: give one, as HumanScore")
        check_objective(upper_objective, args)
        reads = self.reward_model.reads if isinstance(self.reward_model, WeightedRewards) else no_column
        examples = read_prompts(train_dataset, processing_class, reads)
        self._check_examples("train_dataset", examples)
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
        self.events = Events(callbacks, args, self.followers.base, processing_class)
        check_reward_model(self.reward_model, self.followers.num_features)
        self.reward_model.to(self._processes.device).eval()
        self.reward_model.zero_grad()  # A fit before may have left gradients, and the first step would add to them.
        self.upper_objective = upper_objective
        self.encoder = Encoder(
            self.followers, processing_class, args.max_completion_length, args.per_device_train_batch_size
        )
        self.batches = Batches(self.followers, self.encoder, self.reward_model, examples, self.policies, args)
        self.preferences = None if rows is None else self._encoded(rows, reads)
        self._data = [e if e.columns else e.text for e in examples], [dict(row) for row in rows or []]
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
        self.shown_texts = []
        self.folder = RunFolder(args.output_dir, report_to=args.report_to)
        self.completion_log = CompletionLog(self.folder.path) if args.log_completions else None

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
        self.events.end()
        x = {name: tensor.cpu().numpy()[None] for name, tensor in self._reward_tensors().items()}
        return RunResult(x, None, columns_of(rows) if rows else {}, point.divergences)

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

    def _check_examples(self, name: str, examples: Sequence[Example]):
        if isinstance(self.reward_model, WeightedRewards | ClassifierReward):
            self.reward_model.check_examples(name, examples)

    def _encoded(self, rows: Sequence[Any], reads: Callable[[str], bool]) -> Preferences:
        """Pairs of texts that people chose from, with what the reward makes of them that does not depend on x."""
        preferences = self.encoder.encode_preferences(rows, reads)
        self._check_examples("preference_dataset", preferences.inputs.examples)
        return preferences._replace(inputs=with_features(self.reward_model, preferences.inputs))

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
            "train_dataset": identity.of_json(self._data[0]),
            "preference_dataset": identity.of_json(self._data[1]),
            "upper_objective": identity.of_json(identity.of_callable(self.upper_objective)),
            "judges": identity.of_json({name: identity.of_callable(judge) for name, judge in self.judges.items()}),
        }

    def _averaged(self, columns: dict[str, float]) -> dict[str, float]:
        if self._processes.num_processes == 1:
            return columns
        values = reduce(torch.tensor(list(columns.values()), dtype=torch.float64), "mean")
        return dict(zip(columns, values.tolist(), strict=True))  # pyright: ignore
