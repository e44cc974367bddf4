"""Two-stage RLHF: the reward is fitted to offline preferences before, and stays; one policy learns from it.

The policy takes the steps (A) and (C) of Algorithm 1 on twice as many completions an iteration as each of its two
policies, so that an iteration costs the same number of tokens. People are not asked.
"""

from bilevel_rl.lm.rows import StepSizeNumbers, mean_columns
from bilevel_rl.lm.training import RLHFTrainer


class TwoStageRLHFTrainer(RLHFTrainer):
    """θ learns from r_x; x stays as it is given. Arguments and errors are those of `BilevelRLHFTrainer`."""

    policies = ("lower",)
    asks_people = False

    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """y ~ π_θ; then (A), (C)."""
        num_rows = 2 * self._num_rows
        columns = mean_columns(
            [
                self._ascend(batch, batch.rewards.detach(), step_size, num_rows).columns  # (A), (C)
                for batch in self._batches(k, num_rows=num_rows, compares=False)
            ]
        )
        self.steps.share("actor", "critic")
        self.steps.move("actor", step_size.actor)
        self.steps.move("critic", step_size.critic)
        return columns
