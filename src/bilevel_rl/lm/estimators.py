"""What one batch of completions says about the policies and about the reward: pure functions of tensors.

Equation names are those of docs/explanation/method.md, section 4; the language-model forms are in
docs/explanation/language_models.md.

| symbol | name               | meaning                                                             |
|--------|--------------------|---------------------------------------------------------------------|
| β      | `reference_weight` | weight of log π_ref in the follower's reward                        |
| τ      | `entropy_weight`   | weight of the policy's entropy; τ = β is KL-regularized RLHF        |
| R(s)   | `regularizer`      | E_{a∼π}[β log π_ref(a|s) − τ log π(a|s)] = −β KL(π‖π_ref) for τ = β |
| Δ      | `log_ratio`        | log π_θ(y) − log π_θᴸ(y) of a whole completion                      |
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def entropy_and_cross(
    logits: Float[Tensor, "M A"], reference_logits: Float[Tensor, "M A"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """H(π) and E_π[log π_ref], in nats; KL(π‖π_ref) is minus their sum."""
    # Each pass over an array of all tokens costs as much as a layer: products are summed as they are made.
    policy = torch.softmax(logits, dim=-1)[:, None]
    mean_logit, mean_reference = (
        torch.bmm(policy, table[:, :, None]).flatten() for table in (logits, reference_logits)
    )
    return torch.logsumexp(logits, dim=-1) - mean_logit, mean_reference - torch.logsumexp(reference_logits, dim=-1)


def regularizer(
    logits: Float[Tensor, "M A"],
    reference_logits: Float[Tensor, "M A"],
    reference_weight: float,
    entropy_weight: float,
) -> Float[Tensor, " M"]:
    """R(s), the expected part of an action's reward: β E_π[log π_ref] + τ H(π).

    The paper's loop has H(π(·|s)) in δ instead of −log π(a|s). Here log π_ref(a|s) is a part of the reward that is
    known for all actions, so its mean can stand in its place too, and π = π_ref gives 0 without noise for τ = β.
    """
    entropy, cross = entropy_and_cross(logits, reference_logits)
    return reference_weight * cross + entropy_weight * entropy


def direction(
    advantages: Float[Tensor, " M"],
    actions: Int[Tensor, " M"],
    logits: Float[Tensor, "M A"],
    reference_logits: Float[Tensor, "M A"],
    reference_weight: float,
    entropy_weight: float,
) -> Float[Tensor, "M A"]:
    """A ∇ log π(a|s) + ∇ R(s) with respect to the logits: the row that (A) and (AL) step along.

    For β = 0 it is the paper's δ (1_a − π) + τ ∇H.
    """
    policy = torch.softmax(logits, dim=-1)
    preference = (reference_logits * reference_weight).sub_(logits, alpha=entropy_weight)
    mean = torch.bmm(policy[:, None], preference[:, :, None]).reshape(-1, 1)
    row = preference.sub_(mean + advantages[:, None]).mul_(policy)
    return row.scatter_add_(1, actions[:, None], advantages[:, None])


def temporal_differences(
    rewards: Float[Tensor, "N T"], values: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], discount: float
) -> Float[Tensor, "N T"]:
    """δ_t = r_t + γ V(s_{t+1}) − V(s_t) of every written token; V is 0 after the last one."""
    values = torch.where(mask, values, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return torch.where(mask, rewards + discount * following - values, 0.0)


def advantages(differences: Float[Tensor, "N T"], discount: float, gae_lambda: float) -> Float[Tensor, "N T"]:
    """Σ_l (γλ)^l δ_{t+l}: λ = 0 is the paper's δ, λ = 1 the whole return less V(s_t), unbiased whatever V is."""
    total, reversed_sums = torch.zeros_like(differences[:, 0]), []
    for column in reversed(differences.unbind(dim=1)):
        total = column + discount * gae_lambda * total
        reversed_sums.append(total)
    return torch.stack(reversed_sums[::-1], dim=1)


def at_the_end(rewards: Float[Tensor, " N"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """Rewards of whole completions at the last written token of each, 0 before."""
    last = mask.sum(dim=1, keepdim=True) - 1
    return torch.zeros(mask.shape, dtype=rewards.dtype, device=mask.device).scatter_(1, last, rewards[:, None])


def log_ratio(log_probs: Float[Tensor, " N"], other_log_probs: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Δ, where the first half of the completions is π_θ's and the other half π_θᴸ's, from log π of each completion
    under the policy that wrote it and under the other one."""
    own_less_other = log_probs - other_log_probs
    return torch.cat([own_less_other[: len(log_probs) // 2], -own_less_other[len(log_probs) // 2 :]])


def balance_weights(log_ratio: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """(p − q) / ((p + q)/2) = 2 tanh(Δ/2) of completions from the even mixture of p = π_θ and q = π_θᴸ.

    E_p[g] − E_q[g] = E_{y∼(p+q)/2}[weight(y) g(y)]. The weights lie in [−2, 2] and vanish as the policies meet, where
    the weights ±2 of the plain difference of two means do not. Unbiased also where half of the completions are from
    either policy.
    """
    return 2 * torch.tanh(log_ratio / 2)


def plain_weights(num_rows: int, device: torch.device) -> Float[Tensor, " N"]:
    """2 for the first half of the rows, from π_θ, and −2 for the other half, from π_θᴸ."""
    return torch.full((num_rows,), 2.0, device=device).where(
        torch.arange(num_rows, device=device) < num_rows // 2, -2.0
    )


def reward_difference(rewards: Float[Tensor, " N"], weights: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Estimates E_θ[r_x(y)] − E_θᴸ[r_x(y)]; its gradient with respect to x is the difference in (U)."""
    return (weights * rewards).mean()
