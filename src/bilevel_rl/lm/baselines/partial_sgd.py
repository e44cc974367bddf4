"""Partial SGD: x follows the direct part of f only, x ← x − ζ (∇_x f̂(x, π_θ) + λ ∇NLL_D(x)).

It takes the policy for fixed and does not see how its answer moves with x. For `HumanScore`, which has no direct part,
people's answers change nothing: x fits the offline preferences while θ learns.
"""

from bilevel_rl.lm.rows import StepSizeNumbers, mean_columns
from bilevel_rl.lm.training import RLHFTrainer


class PartialSGDRLHFTrainer(RLHFTrainer):
    """θ learns from r_x; x ignores θ's answer. Arguments and errors are those of `BilevelRLHFTrainer`.

    An iteration asks about as many completions as that of `BilevelRLHFTrainer`, and has as many tokens.
    """

    policies = ("lower",)

    def _iterate(self, k: int, step_size: StepSizeNumbers) -> dict[str, float]:
        """y ~ π_θ; then (U) without its penalty term, (A), (C)."""
        num_rows, columns = 2 * self._num_rows, []
        for number, batch in enumerate(self._batches(k, num_rows=num_rows, compares=False)):
            r, n = batch.rewards, (len(batch.rewards) + 1) // 2
            upper = self._ask(batch, range(n), k * num_rows + number)
            if upper.direct.requires_grad:
                (upper.direct * (len(r) / num_rows)).backward(retain_graph=True)
            columns.append(
                self._ascend(batch, r.detach(), step_size, num_rows).columns | {"upper_value": upper.objective}
            )  # (A), (C)
        self.steps.share("upper", "actor", "critic")
        means = mean_columns(columns) | {"preference_loss": self._add_preference_gradient(k)}
        means["upper_gradient_norm"] = self.steps.move("upper", step_size.upper)
        self.steps.move("actor", step_size.actor)
        self.steps.move("critic", step_size.critic)
        return means
