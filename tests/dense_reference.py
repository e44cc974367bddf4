"""The method's definitions in plain dense NumPy, written independently of the library."""

import numpy as np

from bilevel_rl import TabularMDP


def outcomes(mdp: TabularMDP) -> tuple[np.ndarray, np.ndarray]:
    """Successors and probabilities with an entry for every outcome, where the tables may share them."""
    shape = mdp.num_states, mdp.num_actions, mdp.successors.shape[2]
    return np.broadcast_to(mdp.successors, shape), np.broadcast_to(mdp.probabilities, shape)


def kernel(mdp: TabularMDP) -> np.ndarray:
    """P[s, a, s'], outcome by outcome."""
    successors, probabilities = outcomes(mdp)
    dense = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    for (s, a, k), successor in np.ndenumerate(successors):
        dense[s, a, successor] += probabilities[s, a, k]
    return dense


def table(function, x, mdp: TabularMDP) -> np.ndarray:
    """function(x, s, a) of every pair, 0 in terminal states; x is passed on as it is."""
    values = [[float(function(x, s, a)) for a in range(mdp.num_actions)] for s in range(mdp.num_states)]
    return np.where(mdp.terminal[:, None], 0.0, values)


def entropies(mdp: TabularMDP, policy: np.ndarray) -> np.ndarray:
    """H(π(·|s)), 0 in terminal states."""
    logs = np.log(np.where(policy > 0, policy, 1.0))
    return np.where(mdp.terminal, 0.0, -(policy * logs).sum(-1))


def occupancy_series(mdp: TabularMDP, policy: np.ndarray, num_terms: int) -> np.ndarray:
    """(1 − γ) Σ_t γ^t Pr(s_t = s, a_t = a), summed term by term."""
    dense, states, total = kernel(mdp), mdp.initial, np.zeros(policy.shape)
    for t in range(num_terms):
        total += (1 - mdp.discount) * mdp.discount**t * states[:, None] * policy
        states = np.einsum("s,sa,sat->t", states, policy, dense)
    return total


def soft_return(mdp: TabularMDP, policy: np.ndarray, reward: np.ndarray, entropy_weight: float) -> float:
    """J_τ(π) by inverting I − γP^π."""
    transition = np.einsum("sa,sat->st", policy, kernel(mdp))
    state_rewards = (policy * reward).sum(-1) + entropy_weight * entropies(mdp, policy)
    values = np.linalg.inv(np.eye(mdp.num_states) - mdp.discount * transition) @ state_rewards
    return (1 - mdp.discount) * mdp.initial @ values


def soft_value_iteration(
    mdp: TabularMDP, reward: np.ndarray, entropy_weight: float, num_sweeps: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Policy and values of V ← τ logsumexp((r + γPV)/τ), V = 0 in terminal states."""
    dense, values = kernel(mdp), np.zeros(mdp.num_states)
    for _ in range(num_sweeps):
        action_values = reward + mdp.discount * dense @ values
        top = action_values.max(-1)
        weights = np.exp((action_values - top[:, None]) / entropy_weight)
        values = np.where(mdp.terminal, 0.0, top + entropy_weight * np.log(weights.sum(-1)))
    return weights / weights.sum(-1, keepdims=True), values


def value_iteration(mdp: TabularMDP, reward: np.ndarray, num_sweeps: int = 1000) -> np.ndarray:
    """Values of V ← max_a (r + γPV)."""
    dense, values = kernel(mdp), np.zeros(mdp.num_states)
    for _ in range(num_sweeps):
        values = (reward + mdp.discount * dense @ values).max(-1)
    return values
