"""What an iteration does in the mean, in plain NumPy, and samples of iterations to compare it with."""

import dataclasses
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel_rl import TabularMDP
from dense_reference import kernel
from garnets import random_problem

PROBLEMS = {
    "garnet": {"seed": 0},
    "terminal": {"seed": 15, "num_terminal": 1},
    "dict": {"seed": 2, "num_states": 4, "num_actions": 2, "num_successors": 2, "as_dict": True},
}

NUM_ITERATIONS_BEFORE = 7
"""Sampled steps are taken at this k, where all sequences that decay have left their initial values."""


def unbounded(problem):
    """The same problem without a-priori bounds, so that no clip distorts a mean."""
    return dataclasses.replace(
        problem, reward_bound=np.inf, upper=dataclasses.replace(problem.upper, cost_bound=np.inf)
    )


def actions_of_chains(algorithm, parameters, chain_states, uniforms):
    """What both followers of a single loop do in an iteration."""
    followers, environment = algorithm.followers, algorithm.problem.environment
    return followers.act(environment, parameters, chain_states, followers.uniforms(uniforms))[0].actions


def one_draw(algorithm, key):
    """The randomness of one iteration."""
    return jax.tree.map(lambda leaf: leaf[0], algorithm.draw(key, 1))


class Model(NamedTuple):
    """A problem at one x as dense tables. Gradients are with respect to the flattened x, of d entries."""

    kernel: np.ndarray  # (S, A, S)
    initial: np.ndarray  # (S,)
    terminal: np.ndarray  # (S,)
    discount: float
    reward: np.ndarray  # (S, A)
    cost: np.ndarray  # (S, A)
    reward_gradient: np.ndarray  # (S, A, d)
    cost_gradient: np.ndarray  # (S, A, d)
    regularizer_gradient: np.ndarray  # (d,)


@eqx.filter_jit
def _tables(problem, x):
    """Reward, cost and regularizer gradient tables of a problem, gradients by autodiff."""
    flat_x, unflatten = ravel_pytree(x)
    mdp = problem.environment

    def table(function):
        def at(flat_x):
            pairs = jax.vmap(jax.vmap(function, (None, None, 0)), (None, 0, None))
            values = pairs(unflatten(flat_x), jnp.arange(mdp.num_states), jnp.arange(mdp.num_actions))
            return jnp.where(mdp.terminal[:, None], 0.0, values)

        return at(flat_x), jax.jacobian(at)(flat_x)

    (reward, reward_gradient), (cost, cost_gradient) = table(problem.reward), table(problem.upper.cost)
    regularizer_gradient = ravel_pytree(jax.grad(problem.upper.regularizer)(x))[0]
    return reward, cost, reward_gradient, cost_gradient, regularizer_gradient


def model_of(problem, x):
    mdp = problem.environment
    x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), x)
    with jax.enable_x64(True):
        tables = [np.asarray(table) for table in _tables(problem, x)]
    return Model(kernel(mdp), mdp.initial, mdp.terminal, mdp.discount, *tables)


def values_at(step_sizes, k):
    """ζ, α, β, w, τ at iteration k."""
    sequences = (getattr(step_sizes, name) for name in ("upper", "actor", "critic", "penalty", "entropy"))
    return [float(s.initial) * (1 + k / float(s.offset)) ** -float(s.exponent) for s in sequences]


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def entropy(policy):
    return -(policy * np.log(policy)).sum(-1)


def entropy_gradient(logits, h=1e-5):
    """∇_θ H(softmax(θ)), one row a state, by central differences."""
    moves = h * np.eye(logits.shape[-1])[:, None]
    return ((entropy(softmax(logits + moves)) - entropy(softmax(logits - moves))) / (2 * h)).T


def state_occupancy(model, policy):
    """The stationary law of a chain that restarts from ρ with probability 1 − γ."""
    chain = np.einsum("sa,sat->st", policy, model.kernel)
    return (1 - model.discount) * np.linalg.solve((np.eye(len(chain)) - model.discount * chain).T, model.initial)


def soft_optimal(model, reward, τ):
    """log π and V of the soft-optimal policy, by value iteration."""
    values = np.zeros(len(reward))
    for _ in range(2_000):
        action_values = reward + model.discount * model.kernel @ values
        values = τ * np.log(np.exp(action_values / τ).sum(-1))
        values[model.terminal] = 0.0
    action_values[model.terminal] = 0.0
    return np.log(softmax(action_values / τ)), values


def mean_follower_step(model, follower, reward, τ, *, gradient_weight=1.0, bonus_weight=1.0, next_weight=1.0):
    """Mean of (A) and (C) under d^π without their step sizes, shape (S, A + 1). Weights other than 1 are mistakes."""
    θ, V = follower[:, :-1], follower[:, -1]
    π, accrues = softmax(θ), ~model.terminal
    d = state_occupancy(model, π)
    bonus = bonus_weight * τ * accrues * entropy(π)
    δ = reward + bonus[:, None] + next_weight * model.discount * model.kernel @ V - V[:, None]
    actor = π * (δ - (π * δ).sum(-1, keepdims=True))  # Σ_a π(a) δ(a) (1_a − π)
    actor += gradient_weight * τ * accrues[:, None] * entropy_gradient(θ)
    return d[:, None] * np.concatenate([actor, (π * δ).sum(-1, keepdims=True)], axis=1)


def mean_upper_gradient(model, policies, w, *, direct_from=1, penalty_sign=1.0):
    """Mean of (U)'s bracket, over flattened x. Other values than the defaults are mistakes."""
    d, d_penalized = (state_occupancy(model, π)[:, None] * π for π in policies)
    direct = np.einsum("sa,sad->d", (d, d_penalized)[direct_from], model.cost_gradient) + model.regularizer_gradient
    return direct + penalty_sign / w * np.einsum("sa,sad->d", d - d_penalized, model.reward_gradient)


class Sample(NamedTuple):
    """Independent estimates along the first axis, each a mean over many chains drawn from d^π."""

    upper_gradient: np.ndarray  # (N, d)
    follower_steps: np.ndarray  # (N, 2, S, A + 1)
    info: np.ndarray  # (N, 4, policies)


def sample_steps(algorithm_of, step_sizes, x, followers, chains_of=None, num_samples=150, num_chains=8_000):
    """Steps of an algorithm divided by their step sizes, from chains in their stationary laws.

    In double precision: the sum of 8,000 small steps, rounded one by one, is off by more than its standard error.

    Args:
        algorithm_of: from a number of chains to the algorithm, with these step sizes.
        followers: tables, one a follower, kept for every sample.
        chains_of: from a NumPy generator to the fields of the state that describe the chains; by default every
            follower's chains are drawn from the occupancy of its policy.
    """
    rng = np.random.default_rng(1)
    samples = []
    with jax.enable_x64(True):
        algorithm = algorithm_of(num_chains)
        if chains_of is None:
            chains_of = stationary([state_occupancy(model_of(algorithm.problem, x), p) for p in policies_of(followers)])
        x, followers = jax.tree.map(jnp.asarray, (x, followers))
        start = algorithm.init(jax.random.key(0))
        start = start._replace(num_iterations=jnp.int32(NUM_ITERATIONS_BEFORE), x=x, parameters=followers)
        step = eqx.filter_jit(algorithm.step)
        for i in range(num_samples):
            noise = one_draw(algorithm, jax.random.key(i))
            chains = jax.tree.map(jnp.asarray, chains_of(rng, num_chains))
            state, info = step(noise, start._replace(**chains))
            upper_step = ravel_pytree(x)[0] - ravel_pytree(state.x)[0]
            samples.append((upper_step, state.parameters - followers, jnp.stack(info[:4])))
    upper_steps, follower_steps, infos = (np.asarray(leaves) for leaves in zip(*samples, strict=True))
    assert follower_steps.dtype == np.float64
    ζ, α, β, _, _ = values_at(step_sizes, NUM_ITERATIONS_BEFORE)
    scale = np.r_[np.full(followers.shape[-1] - 1, α), β]
    return Sample(upper_steps / ζ, follower_steps / np.where(scale > 0, scale, 1.0), infos)


def stationary(laws):
    """Chains drawn from laws over the states, one a row."""
    limits = [np.cumsum(law)[:-1] for law in laws]

    def draw(rng, num_chains):
        states = [np.searchsorted(limit, rng.random(num_chains), side="right") for limit in limits]
        return {"chain_states": np.asarray(states, np.int32)}

    return draw


def policies_of(followers):
    """π of every follower's table."""
    return softmax(np.asarray(followers, np.float64)[..., :-1])


def z_scores(estimates, mean):
    """Distance of the average from `mean` in standard errors; 1e-6 is allowed for what is too rare to be sampled."""
    return np.abs(estimates.mean(0) - mean) / (estimates.std(0, ddof=1) / len(estimates) ** 0.5 + 1e-6)


def random_point(problem, seed=3, num_followers=2):
    """Values and policies far from optimal, and an x that is not the problem's start."""
    rng = np.random.default_rng(seed)
    mdp = problem.environment
    followers = rng.normal(size=(num_followers, mdp.num_states, mdp.num_actions + 1))
    return followers, jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), problem.initial_x)


def optimal_follower(model, reward, τ):
    """The table of a soft-optimal policy with its exact critic."""
    log_policy, values = soft_optimal(model, reward, τ)
    return np.concatenate([log_policy, values[:, None]], axis=1)


def optimal_point(problem, w, τ):
    """The fixed point at a given x: both followers soft-optimal, both critics exact."""
    model = model_of(problem, problem.initial_x)
    rewards = model.reward, model.reward - w * model.cost
    return np.stack([optimal_follower(model, reward, τ) for reward in rewards]), problem.initial_x


def flat(x):
    """All numbers of x, in double precision."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(x)])


def moved(x, move):
    """x with `move` added to its numbers, NumPy arrays in double precision."""
    leaves, structure = jax.tree.flatten(x)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    pairs = zip(leaves, np.split(flat(x) + move, ends), strict=True)
    return jax.tree.unflatten(structure, [new.reshape(np.shape(leaf)) for leaf, new in pairs])


def valley():
    """A problem where the leader gains much by foreseeing the follower's answer: Φ_0.3 falls from 0.34 to −0.73 at its
    minimum, and a leader who takes the policy for fixed stops at −0.29, in a distance of 0.56.
    """
    return random_problem(seed=30, num_states=4, num_actions=2, num_successors=2, discount=0.7)


def final_x(algorithm, num_seeds, num_iterations):
    """Where x of independent seeds ends, one a row."""

    @eqx.filter_jit
    def end(algorithm, key, num_iterations):
        def iterate(k, state):
            return algorithm.step(one_draw(algorithm, jax.random.fold_in(key, k)), state)[0]

        return jax.lax.fori_loop(0, num_iterations, iterate, algorithm.init(key)).x

    keys = jax.random.split(jax.random.key(13), num_seeds)
    return [np.asarray(end(algorithm, key, jnp.int32(num_iterations)), np.float64) for key in keys]


def num_simulated(algorithm):
    """Environment transitions that one iteration simulates, counted with its loops written out."""
    transition, counts = TabularMDP.step, []

    def counted(self, states, actions, uniform):
        counts.append(states.size)
        return transition(self, states, actions, uniform)

    def written_out(body, carry, inputs):
        outputs = []
        for t in range(len(jax.tree.leaves(inputs)[0])):
            carry, output = body(carry, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    state, noise = (jax.eval_shape(make, jax.random.key(0)) for make in (algorithm.init, partial(one_draw, algorithm)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TabularMDP, "step", counted)
        patch.setattr(jax.lax, "scan", written_out)
        jax.eval_shape(algorithm.step, noise, state)
    return sum(counts)
