"""Algorithm 1 as a hand-written loop: one seed, compiled by numba. The reference that throughput is measured against.

The same equations as `bilevel_rl/algorithms/single_loop.py`, written for goal-position, with every gradient worked out
by hand. It takes its uniforms as an array, so a test can hold it against ours, iteration by iteration.
"""

import math

import numba
import numpy as np

from benchmarks.workload import Workload


def make_state(workload: Workload, start_states: np.ndarray) -> dict[str, np.ndarray]:
    """State at iteration 0, with chains (2, B) at `start_states`."""
    dtype = workload.dtype
    return {
        "x": np.array(workload.initial_x, dtype),
        "logits": np.zeros((2, workload.num_states, workload.num_actions), dtype),
        "values": np.zeros((2, workload.num_states), dtype),
        "chains": np.array(start_states, np.int32),
    }


@numba.njit(fastmath=False, cache=False)
def advance(
    first_iteration, uniforms, x, logits, values, chains, successors, thresholds, step_sizes, target, size, width, γ
):
    """Takes len(uniforms) iterations in place. `uniforms`: (iterations, 4, 2, B); `step_sizes`: (5, 3)."""
    num_chains, num_actions = chains.shape[1], logits.shape[2]
    num_states = logits.shape[1]
    one = x.dtype.type(1)
    policy, log_policy = np.empty(num_actions, x.dtype), np.empty(num_actions, x.dtype)
    new_logits = np.empty((2, num_chains, num_actions), x.dtype)
    new_values = np.empty((2, num_chains), x.dtype)
    old_chains = np.empty_like(chains)
    now = np.empty(5, x.dtype)
    for t in range(len(uniforms)):
        for i in range(5):
            now[i] = step_sizes[i, 0] * (one + (first_iteration + t) / step_sizes[i, 2]) ** -step_sizes[i, 1]
        ζ, α, β, w, τ = now[0], now[1] / num_chains, now[2], now[3], now[4]
        farthest = max(target[0], size - 1 - target[0]) ** 2 + max(target[1], size - 1 - target[1]) ** 2
        bound = (one + w * farthest / size**2 + τ * math.log(num_actions)) / (one - γ)
        gradient_row, gradient_col = x.dtype.type(0), x.dtype.type(0)
        for follower in range(2):
            for chain in range(num_chains):
                s = chains[follower, chain]
                highest = logits[follower, s, 0]
                for a in range(1, num_actions):
                    highest = max(highest, logits[follower, s, a])
                total = x.dtype.type(0)
                for a in range(num_actions):
                    policy[a] = math.exp(logits[follower, s, a] - highest)
                    total += policy[a]
                log_total = math.log(total)
                entropy = x.dtype.type(0)
                for a in range(num_actions):
                    policy[a] /= total
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

                row, col = s // size, s % size
                reward = math.exp(-((row - x[0]) ** 2 + (col - x[1]) ** 2) / (2 * width**2))
                sign = one if follower == 0 else -one
                gradient_row += sign * reward * (row - x[0]) / width**2
                gradient_col += sign * reward * (col - x[1]) / width**2
                learned = reward
                if follower == 1:
                    learned -= w * ((row - target[0]) ** 2 + (col - target[1]) ** 2) / size**2
                δ = learned + τ * entropy + γ * values[follower, next_s] - values[follower, s]
                for a in range(num_actions):
                    step = -δ * policy[a] - τ * policy[a] * (log_policy[a] + entropy)
                    if a == action:
                        step += δ
                    new_logits[follower, chain, a] = α * step
                value = min(max(values[follower, s] + β * δ, -bound), bound)
                new_values[follower, chain] = (value - values[follower, s]) / num_chains
                old_chains[follower, chain] = s
                if uniforms[t, 2, follower, chain] >= γ:
                    next_s = np.int32(uniforms[t, 3, follower, chain] * num_states)
                chains[follower, chain] = next_s
        for follower in range(2):
            for chain in range(num_chains):
                s = old_chains[follower, chain]
                for a in range(num_actions):
                    logits[follower, s, a] += new_logits[follower, chain, a]
                values[follower, s] += new_values[follower, chain]
        scale = ζ / (w * num_chains)
        x[0] = min(max(x[0] - scale * gradient_row, 0), size - 1)
        x[1] = min(max(x[1] - scale * gradient_col, 0), size - 1)
