"""Happy tweets: does a reward that moves with what it induces make a language model write what people like?"""

import csv
import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bilevel_rl import checks, figures
from bilevel_rl.comparison.tables import markdown
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.study import Sharing
from bilevel_rl.runs.trackers import ReportTo, check_tracker
from bilevel_rl.studies.config import OfRuns
from bilevel_rl.studies.happy_tweets.figures import draw_happy_tweets, read_evaluation

if TYPE_CHECKING:
    from bilevel_rl.lm.config import BilevelRLHFConfig

Method = Literal["bilevel", "two-stage", "iterated", "partial-sgd", "nested-loop"]

ASKS_PEOPLE = ("bilevel", "iterated", "partial-sgd", "nested-loop")
"""Methods that ask about what the policy writes. The others get as many more offline preferences."""

HUMAN_MAXIMUM = 3.55
"""Mean rating of the best of the 4,200 rated tweets."""

PRIOR_PRECISION = 0.3
"""κ of the reward's Gaussian prior, at which a fit to some tweets of D predicts preferences between the others best."""

NUM_SHOWN = 12
"""Tweets before and after that `tweets.md` shows."""


@dataclass(frozen=True)
class TweetRunConfig:
    """How long, and from which seed."""

    num_iterations: int = 100
    """iterations; one writes 2 · batch-size tweets and asks about batch-size of them"""
    seed: int = 0
    """root of all randomness"""
    checkpoint_every: float = 60.0
    """seconds between two checkpoints; 0 saves one at every iteration"""
    num_evaluated: int = 128
    """tweets of each policy that are judged at the end"""
    report_to: ReportTo = "none"
    """where metrics go besides metrics.csv; each but tensorboard is an extra of its name"""

    def check(self):
        """Raises `ValueError` for numbers that cannot be run with; the rest is checked with the trainer's options."""
        checks.integer("num_iterations", self.num_iterations, at_least=1)
        check_tracker(self.report_to)
        if self.num_evaluated < 2:
            raise ValueError(f"num_evaluated must be at least 2, got {self.num_evaluated}")


@dataclass(frozen=True)
class HappyTweets(OfRuns):
    """Move a reward so that the tweets that it induces are liked: a language model, real ratings (half an hour)."""

    name: ClassVar[str] = "happy-tweets"
    shared_by: ClassVar[Sharing] = "nothing"  # Several processes are started as docs/how_to/language_models.md says.

    run: TweetRunConfig = field(default_factory=TweetRunConfig)
    size: Literal["smollm2", "tiny"] = "smollm2"
    """smollm2: SmolLM2-135M; tiny: a model of 0.9 M parameters, for a run of three minutes"""
    method: Method = "bilevel"
    """bilevel, or another method at the same number of answers and tokens"""
    beta: float = 0.1
    """β = τ_0, weight of staying near the fine-tuned model"""
    schedule: Literal["constant-entropy", "decaying"] = "constant-entropy"
    """constant-entropy keeps τ, as RLHF does; decaying lets it vanish, as the paper does"""
    penalty: float = 0.5
    """w_0, penalty parameter"""
    upper: float = 1e-3
    """ζ_0, step size of the reward's parameters"""
    actor: float = 5e-4
    """α_0, step size of the policies"""
    critic: float = 1e-3
    """β_0, step size of the critics"""
    offset: float = 100.0
    """iterations that the initial step sizes last"""
    upper_beta: float = 0.0
    """η, weight of staying near the fine-tuned model in the upper objective"""
    preference_weight: float = 5.0
    """λ, weight of the offline preferences in the upper objective"""
    num_preferences: int = 1_600
    """offline preferences D; methods that do not ask people get one more for every answer that others ask for"""
    batch_size: int = 16
    """tweets of each policy an iteration"""
    hidden_size: int | None = None
    """width of the reward's hidden layer; none for a linear reward"""
    reward_gradient: Literal["balance", "plain"] = "balance"
    """estimator of the difference in (U)"""
    coupled: bool = True
    """both policies write on the same random numbers"""
    refit_every: int = 10
    """iterated: iterations between two fits of the reward"""
    num_inner_steps: int = 5
    """nested-loop: iterations between two steps of the reward"""
    bf16: bool = False
    """hold the model in bfloat16: half its memory, but slower where the processor multiplies bfloat16 no faster"""
    cache: str | None = None
    """where downloads and prepared models are kept, not noted with the run; by default in the user's cache folder"""

    def to_json(self) -> dict[str, Any]:
        """As `Study.to_json`, without the cache."""
        saved = super().to_json()
        del saved["options"]["cache"]
        return saved

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> "HappyTweets":
        """As `Study.from_json`. A folder may be somebody else's, so where code and models are taken from is not."""
        return super().from_json({name: value for name, value in options.items() if name != "cache"})

    def with_cache(self, cache: str) -> "HappyTweets":
        """As `Study.with_cache`."""
        return dataclasses.replace(self, cache=cache)

    def check(self):
        """Raises `TypeError` or `ValueError` for options that cannot be trained with."""
        self.run.check()
        checks.number("actor", self.actor, at_least=0)
        checks.integer("num_preferences", self.num_preferences, at_least=0)
        for name in ("refit_every", "num_inner_steps"):
            checks.integer(name, getattr(self, name), at_least=1)
        if self.cache == "":
            raise ValueError("cache must be a folder, got ''; leave it out for the user's cache folder")
        if self.hidden_size is not None:
            checks.integer("hidden_size", self.hidden_size, at_least=1)
        self.trainer_config()

    def trainer_config(self, folder: Path | str = ".") -> "BilevelRLHFConfig":
        """The trainer's options; building them checks them."""
        from bilevel_rl.lm.config import BilevelRLHFConfig

        return BilevelRLHFConfig(
            output_dir=folder,
            max_steps=self.run.num_iterations,
            per_device_train_batch_size=self.batch_size,
            max_completion_length=24,
            seed=self.run.seed,
            bf16=self.bf16,
            beta=self.beta,
            schedule=self.schedule,
            upper_learning_rate=self.upper,
            learning_rate=self.actor,
            critic_learning_rate=self.critic,
            penalty=self.penalty,
            offset=self.offset,
            upper_beta=self.upper_beta,
            preference_weight=self.preference_weight,
            prior_precision=PRIOR_PRECISION,
            reward_gradient=self.reward_gradient,
            coupled=self.coupled,
            checkpoint_every=self.run.checkpoint_every,
            report_to=self.run.report_to,
        )

    @property
    def num_offline(self) -> int:
        """Offline preferences of this method."""
        answers = 0 if self.method in ASKS_PEOPLE else self.run.num_iterations * self.batch_size
        return self.num_preferences + answers

    def main(self, folder: RunFolder, *, progress: bool = True):
        """Prepares data and models, trains, judges, and draws the figures.

        Raises:
            ValueError: something that is needed could not be fetched.
        """
        from bilevel_rl.studies.happy_tweets.assets import AssetError

        try:
            self._train_and_judge(folder, progress=progress)
        except AssetError as error:
            raise ValueError(str(error)) from error
        self.plot(folder)

    def _train_and_judge(self, folder: RunFolder, *, progress: bool):
        from bilevel_rl.lm import baselines, trainer as single_loop
        from bilevel_rl.lm.evaluation import evaluate
        from bilevel_rl.lm.followers import REFERENCE
        from bilevel_rl.lm.objectives import HumanScore
        from bilevel_rl.lm.rewards import RewardHead, fit_reward
        from bilevel_rl.studies.happy_tweets.setting import prepare

        setting = prepare(self.size, self.cache, progress=progress)
        people, judges = setting.annotator, setting.judges
        kinds: dict[str, tuple[Any, dict[str, Any]]] = {
            "bilevel": (single_loop.BilevelRLHFTrainer, {}),
            "two-stage": (baselines.TwoStageRLHFTrainer, {}),
            "iterated": (baselines.IteratedRLHFTrainer, {"refit_every": self.refit_every}),
            "partial-sgd": (baselines.PartialSGDRLHFTrainer, {}),
            "nested-loop": (baselines.NestedLoopRLHFTrainer, {"num_inner_steps": self.num_inner_steps}),
        }
        kind, options = kinds[self.method]
        head = RewardHead(setting.model.config.hidden_size, hidden_size=self.hidden_size)
        trainer = kind(
            setting.model,
            head,
            self.trainer_config(folder.path),
            [{"prompt": ""}],
            setting.tokenizer,
            setting.peft_config,
            upper_objective=HumanScore(people.rate),
            preference_dataset=setting.preferences(self.num_offline, seed=self.run.seed),
            judges=judges,
            **options,
        )
        head.standardize(trainer.preferences.inputs.states)
        fit_reward(head, trainer.preferences, precision=PRIOR_PRECISION)
        trainer.train(progress=progress)

        counts = {"num_completions": self.run.num_evaluated, "seed": self.run.seed}
        measured = {
            name: evaluate(trainer, policy, judges, **counts)
            for name, policy in [("before", REFERENCE), *((name, name) for name in trainer.policies)]
        }
        shares = {name: float(np.mean(e.scores["score"] > HUMAN_MAXIMUM)) for name, e in measured.items()}
        rows = {name: e.summary() | {"above_maximum": shares[name]} for name, e in measured.items()}
        _write_evaluation(folder, rows)
        folder.write_arrays(
            "evaluation",
            **{f"{name}_{column}": v for name, e in measured.items() for column, v in e.scores.items()},
        )
        folder.write_text("tweets.md", _tweets_table(measured["before"], measured[trainer.policies[0]]))

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder."""
        draw_happy_tweets(folder)
        figures.draw_step_sizes(folder)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        rows = {row["policy"]: row for row in read_evaluation(folder)}
        before, after = rows["before"], rows["lower"]
        return (
            f"judge {before['score']:.2f} → {after['score']:.2f} (± {after['score_se']:.2f}), "
            f"reward {before['reward']:.2f} → {after['reward']:.2f}, KL {after['divergence']:.1f} nats, "
            f"distinct-2 {before['distinct_2']:.2f} → {after['distinct_2']:.2f}"
        )


def _write_evaluation(folder: RunFolder, rows: dict[str, dict[str, float]]):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["policy", *next(iter(rows.values()))])
    writer.writerows([name, *(repr(value) for value in row.values())] for name, row in rows.items())
    folder.write_text("evaluation.csv", text.getvalue())


def _tweets_table(before: Any, after: Any) -> str:
    """Tweets on the same random numbers, before and after, with the judge's scores."""
    rows = [
        [cell for e in (before, after) for cell in (e.texts[i].replace("\n", " "), f"{e.scores['score'][i]:.1f}")]
        for i in range(min(NUM_SHOWN, len(before.texts)))
    ]
    return markdown(("before", "judge", "after", "judge"), rows)
