"""Best of n on happy tweets: the fine-tuned model writes n tweets, and the fitted reward keeps one. Nothing is trained.

    python -m benchmarks.happy_tweets_best_of_n --seed 0

The reward is that of two-stage RLHF: fitted to as many offline preferences as other methods get answers. Prints, for
every n, the judges' means of the kept tweets with standard errors, the reward, distinct-2, and log n − (n − 1)/n, which
bounds the distance from the model in nats.
"""

import math
import tempfile
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from bilevel_rl.lm import RewardHead, RewardInputs, TwoStageRLHFTrainer
from bilevel_rl.lm.evaluation import distinct
from bilevel_rl.lm.followers import REFERENCE
from bilevel_rl.lm.learning import gather_evidence
from bilevel_rl.lm.rewards import fit_reward
from bilevel_rl.studies.happy_tweets.setting import prepare
from bilevel_rl.studies.happy_tweets.study import PRIOR_PRECISION, HappyTweets


@dataclass(frozen=True)
class BestOfN:
    """What is measured."""

    num_kept: int = 128
    """tweets that are kept and judged"""
    ns: tuple[int, ...] = (1, 4, 16)
    """numbers of tweets of which one is kept"""
    num_answers: int = 2_400
    """offline preferences"""
    seed: int = 0
    """root of all randomness"""


@torch.no_grad()
def write(trainer: TwoStageRLHFTrainer, num_texts: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Tweets of the frozen model, and what the reward says of them."""
    texts: list[str] = []
    rewards: list[np.ndarray] = []
    for completions in trainer.completions(num_texts, policy=REFERENCE, seed=seed):
        states = gather_evidence(trainer.followers, completions, None).states
        inputs = RewardInputs(completions.texts(trainer.tokenizer), completions, states)
        texts += inputs.texts
        rewards.append(trainer.reward_model(inputs).numpy())
    return texts, np.concatenate(rewards)


def main(options: BestOfN):
    """Prints a table."""
    setting = prepare("smollm2")
    config = HappyTweets(method="two-stage")
    head = RewardHead(setting.model.config.hidden_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TwoStageRLHFTrainer(
            setting.model,
            head,
            config.trainer_config(folder),
            [{"prompt": ""}],
            setting.tokenizer,
            setting.peft_config,
            preference_dataset=setting.preferences(options.num_answers, options.seed),
        )
    assert trainer.preferences is not None
    head.standardize(trainer.preferences.inputs.states)
    fit_reward(head, trainer.preferences, precision=PRIOR_PRECISION)

    texts, rewards = write(trainer, options.num_kept * max(options.ns), options.seed)
    print(
        f"| n | {' | '.join(setting.judges)} | reward | distinct-2 | nats |\n|---|{'---|' * (len(setting.judges) + 3)}"
    )
    for n in options.ns:
        groups = np.arange(options.num_kept * n).reshape(options.num_kept, n)
        kept = groups[np.arange(options.num_kept), rewards[groups].argmax(axis=1)]
        chosen = [texts[i] for i in kept]
        cells = []
        for judge in setting.judges.values():
            scores = np.asarray(judge(chosen))
            cells.append(f"{scores.mean():.2f} ± {scores.std(ddof=1) / math.sqrt(len(scores)):.2f}")
        nats = math.log(n) - (n - 1) / n
        print(f"| {n} | {' | '.join(cells)} | {rewards[kept].mean():.2f} | {distinct(chosen, 2):.2f} | {nats:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(BestOfN, description=__doc__))
