"""Two policies and the penalty gradient between them: what one batch of completions says about x, θ and θᴸ."""

import torch

from bilevel_rl.lm import estimators
from bilevel_rl.lm.training import RLHFTrainer, StepSizeNumbers, mean_columns

LOWER, PENALIZED = "lower", "penalized"


class TwoPolicyTrainer(RLHFTrainer):
    """Policies θ, which learns from r_x, and θᴸ, which learns from r_x − w c.

    Raises:
        ValueError: `upper_objective` is None, or as `RLHFTrainer`.
    """

    policies = (LOWER, PENALIZED)

    def _accumulate(self, k: int, step_size: StepSizeNumbers, *, share: float = 1.0) -> dict[str, float]:
        """Gradients of x, of both policies and of both critics, from the completions of iteration k.

        Args:
            k: iteration.
            step_size: of the iteration.
            share: what the gradient of x counts beside those of other iterations.
        """
        w, num_rows = step_size.penalty, self._num_rows
        parts, is_balanced = self.args.gradient_accumulation_steps, self.args.reward_gradient == "balance"
        columns: list[dict[str, float]] = []
        for part, batch in enumerate(self._batches(k, step_size, num_rows=num_rows, compares=is_balanced)):
            r, n = batch.rewards, len(batch.rewards) // 2
            upper = self._ask(batch.inputs.select(torch.arange(n, 2 * n)), r[n:], k * parts + part)
            weights = (
                estimators.plain_weights(2 * n, r.device)
                if batch.log_ratio is None
                else estimators.balance_weights(batch.log_ratio)
            )
            difference = estimators.reward_difference(r, weights)
            upper_gradient_of = upper.direct + difference / w  # ∇_x f̂ + (1/w)(E_θ[∇r_x] − E_θᴸ[∇r_x])
            (upper_gradient_of * (share * n / num_rows)).backward()

            r = r.detach()
            learned = torch.cat([r[:n], r[n:] - w * upper.costs])
            same = (batch.completions.ids[:n] == batch.completions.ids[n:]).all(dim=1)
            columns.append(
                self._ascend(batch, learned, num_rows)  # (A), (C), (AL), (CL)
                | {
                    "upper_value": upper.objective,
                    "reward_difference": float(difference.detach()),
                    "coupling_rate": float(same.float().mean()),
                }
            )
        self.steps.share("upper", "actor", "critic")
        return mean_columns(columns)
