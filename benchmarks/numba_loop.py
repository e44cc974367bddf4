"""Algorithm 1 as a hand-written loop: one seed, compiled by numba. The reference that throughput is measured against.

The same equations as `bilevel_rl/algorithms/single_loop.py`, written for goal-position, with every gradient worked out
by hand. It takes its uniforms as an array, so a test can hold it against ours, iteration by iteration.
"""

import math

import numba
import numpy as np

from benchmarks.workload import DISCOUNT, OFFSET, STEP_SIZES, TARGET, WIDTH, Workload

State = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def advance(workload: Workload, state: State, uniforms: np.ndarray, first: int):
    """Takes len(uniforms) iterations in place, starting with iteration `first`."""
    real = workload.dtype
    parameters = np.array([*TARGET, WIDTH, DISCOUNT, OFFSET], real)
    arguments = real(first), uniforms, *state, *workload.tables(), np.array(STEP_SIZES, real), parameters
    _advance(*arguments)


@numba.njit
def _advance(first, uniforms, x, logits, values, chains, successors, thresholds, step_sizes, parameters):
    real = x.dtype.type
    one, zero, two = real(1), real(0), real(2)
    num_chains, num_states, num_actions = chains.shape[1], logits.shape[1], logits.shape[2]
    size = int(math.sqrt(num_states) + 0.5)
    per_chain, per_area, per_width = one / real(num_chains), one / real(num_states), one / parameters[2] ** 2
    target_row, target_col, γ, offset = parameters[0], parameters[1], parameters[3], parameters[4]
    far_row = max(target_row, real(size - 1) - target_row)
    far_col = max(target_col, real(size - 1) - target_col)
    farthest = (far_row**2 + far_col**2) * per_area
    most_entropy = real(math.log(num_actions))
    policy, log_policy, now = np.empty(num_actions, x.dtype), np.empty(num_actions, x.dtype), np.empty(5, x.dtype)
    logit_steps = np.empty((2, num_chains, num_actions), x.dtype)
    value_steps = np.empty((2, num_chains), x.dtype)
    visited = np.empty_like(chains)
    for t in range(len(uniforms)):
        for i in range(5):
            now[i] = step_sizes[i, 0] * (one + (first + real(t)) / offset) ** -step_sizes[i, 1]
        ζ, α, β, w, τ = now
        bound = (one + w * farthest + τ * most_entropy) / (one - γ)
        gradient_row, gradient_col = zero, zero
        for follower in range(2):
            for chain in range(num_chains):
                s = chains[follower, chain]
                highest = logits[follower, s, 0]
                for a in range(1, num_actions):
                    highest = max(highest, logits[follower, s, a])
                total = zero
                for a in range(num_actions):
                    policy[a] = math.exp(logits[follower, s, a] - highest)
                    total += policy[a]
                log_total, per_total = math.log(total), one / total
                entropy = zero
                for a in range(num_actions):
                    policy[a] *= per_total
                    log_policy[a] = logits[follower, s, a] - highest - log_total
                    entropy -= policy[a] * log_policy[a]

                action, cumulative = 0, policy[0]
                while action < num_actions - 1 and uniforms[t, 0, follower, chain] >= cumulative:
                    action += 1
                    cumulative += policy[action]
                outcome = 0
                while outcome < num_actions - 1 and uniforms[t, 1, follower, chain] >= thresholds[action, outcome]:
                    outcome += 1
                next_s = successors[s, outcome]

                row, col = real(s // size), real(s % size)
                reward = math.exp(-((row - x[0]) ** 2 + (col - x[1]) ** 2) * per_width / two)
                signed = reward * per_width if follower == 0 else -reward * per_width
                gradient_row += signed * (row - x[0])
                gradient_col += signed * (col - x[1])
                learned = reward
                if follower == 1:
                    learned -= w * ((row - target_row) ** 2 + (col - target_col) ** 2) * per_area
                δ = learned + τ * entropy + γ * values[follower, next_s] - values[follower, s]
                for a in range(num_actions):
                    score = one - policy[a] if a == action else -policy[a]
                    direction = δ * score - τ * policy[a] * (log_policy[a] + entropy)
                    logit_steps[follower, chain, a] = α * per_chain * direction
                clipped = min(max(values[follower, s] + β * δ, -bound), bound)
                value_steps[follower, chain] = (clipped - values[follower, s]) * per_chain
                visited[follower, chain] = s
                if uniforms[t, 2, follower, chain] >= γ:
                    next_s = min(np.int32(uniforms[t, 3, follower, chain] * real(num_states)), num_states - 1)
                chains[follower, chain] = next_s
        for follower in range(2):
            for chain in range(num_chains):
                s = visited[follower, chain]
                for a in range(num_actions):
                    logits[follower, s, a] += logit_steps[follower, chain, a]
                values[follower, s] += value_steps[follower, chain]
        scale = ζ / w * per_chain
        x[0] = min(max(x[0] - scale * gradient_row, zero), real(size - 1))
        x[1] = min(max(x[1] - scale * gradient_col, zero), real(size - 1))
