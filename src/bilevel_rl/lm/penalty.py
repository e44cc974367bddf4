"""Two policies and the penalty gradient between them: what one batch of completions says about x, θ and θᴸ."""

import torch

from bilevel_rl.lm import estimators
from bilevel_rl.lm.learning import Regularization
from bilevel_rl.lm.rows import StepSizeNumbers, mean_columns
from bilevel_rl.lm.training import RLHFTrainer

LOWER, PENALIZED = "lower", "penalized"


class TwoPolicyTrainer(RLHFTrainer):
    """Policies θ, which learns from r_x, and θᴸ, which learns from r_x − w c.

    With `upper_beta` = η the leader minimizes f + η KL(π‖π_ref), so that c has the part η log(π(a|s) / π_ref(a|s)) for
    every token: θᴸ learns with the weights β + w η of log π_ref and τ + w η of its entropy.

    Raises:
        ValueError: `upper_objective` is None, or as `BilevelRLHFTrainer`.
    """

    policies = (LOWER, PENALIZED)

    def _regularization(self, policy: str, step_size: StepSizeNumbers) -> Regularization:
        β, τ = super()._regularization(policy, step_size)
        η = self.args.upper_beta * step_size.penalty if policy == PENALIZED else 0.0
        return Regularization(β + η, τ + η)

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
        for part, batch in enumerate(self._batches(k, num_rows=num_rows, compares=is_balanced)):
            r, n = batch.rewards, len(batch.rewards) // 2
            upper = self._ask(batch, range(n, 2 * n), k * parts + part)
            learned = torch.cat([r[:n], r[n:] - w * upper.costs]).detach()
            row, log_probs = self._ascend(batch, learned, step_size, num_rows)  # (A), (C), (AL), (CL)

            other_log_probs = batch.evidence.other_log_probs
            weights = (
                estimators.plain_weights(2 * n, r.device)
                if other_log_probs is None
                else estimators.balance_weights(estimators.log_ratio(log_probs, other_log_probs))
            )
            difference = estimators.reward_difference(r, weights)
            upper_gradient_of = upper.direct + difference / w  # ∇_x f̂ + (1/w)(E_θ[∇r_x] − E_θᴸ[∇r_x])
            (upper_gradient_of * (share * n / num_rows)).backward()

            same = (batch.completions.ids[:n] == batch.completions.ids[n:]).all(dim=1)
            columns.append(
                row
                | {
                    "upper_value": upper.objective + self.args.upper_beta * row[f"{PENALIZED}_mean_divergence"],
                    "reward_difference": float(difference.detach()),
                    "coupling_rate": float(same.float().mean()),
                }
            )
        self.steps.share("upper", "actor", "critic")
        return mean_columns(columns)
