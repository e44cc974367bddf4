"""Algorithm 1 as a researcher would write it first: NumPy, one seed, arrays over the chains."""

import numpy as np

from benchmarks.workload import DISCOUNT, OFFSET, STEP_SIZES, TARGET, WIDTH, Workload

State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def advance(workload: Workload, state: State, uniforms: np.ndarray, first: int):
    """Takes len(uniforms) iterations in place, starting with iteration `first`."""
    successors, thresholds = workload.tables()
    for t in range(len(uniforms)):
        _step(workload, state, uniforms[t], first + t, successors, thresholds)


def _step(workload, state, uniforms, iteration, successors, thresholds):
    x, logits, values, chains = state
    size, num_chains, num_actions = workload.size, chains.shape[1], logits.shape[2]
    ζ, α, β, w, τ = (initial * (1 + iteration / OFFSET) ** -exponent for initial, exponent in STEP_SIZES)
    followers, s = np.arange(2)[:, None], chains.copy()

    z = logits[followers, s]
    policy = np.exp(z - z.max(-1, keepdims=True))
    policy /= policy.sum(-1, keepdims=True)
    log_policy = np.log(policy)
    entropy = -(policy * log_policy).sum(-1)
    a = (uniforms[0][..., None] >= policy.cumsum(-1)[..., :-1]).sum(-1)
    outcome = (uniforms[1][..., None] >= thresholds[a, :-1]).sum(-1)
    next_s = successors[s, outcome]

    position = np.stack(np.divmod(s, size), axis=-1)
    reward = np.exp(-((position - x) ** 2).sum(-1) / (2 * WIDTH**2))
    cost = ((position - np.array(TARGET)) ** 2).sum(-1) / size**2
    reward_gradient = reward[..., None] * (position - x) / WIDTH**2
    upper_gradient = (reward_gradient[0].mean(0) - reward_gradient[1].mean(0)) / w

    learned = np.stack([reward[0], reward[1] - w * cost[1]])
    δ = learned + τ * entropy + DISCOUNT * values[followers, next_s] - values[followers, s]
    score = np.eye(num_actions)[a] - policy
    direction = δ[..., None] * score - τ * policy * (log_policy + entropy[..., None])
    farthest = sum(max(t, size - 1 - t) ** 2 for t in TARGET) / size**2
    bound = (1 + w * farthest + τ * np.log(num_actions)) / (1 - DISCOUNT)
    old = values[followers, s]
    np.add.at(logits, (followers, s), α / num_chains * direction)
    np.add.at(values, (followers, s), (np.clip(old + β * δ, -bound, bound) - old) / num_chains)
    x[:] = np.clip(x - ζ * upper_gradient, 0, size - 1)
    start = np.minimum((uniforms[3] * size**2).astype(np.int32), size**2 - 1)
    chains[:] = np.where(uniforms[2] >= DISCOUNT, start, next_s)
