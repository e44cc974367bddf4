"""The natural actor against the softmax's Fisher matrix, by enumeration of all actions."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import Followers, SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import PowerDecay, StepSizes
from bilevel_rl.policies.categorical import FISHER_FLOOR, natural_direction
from garnets import random_problem
from mean_steps import entropy_gradient, one_draw, softmax

τ = 0.3
NUM_ACTIONS = 4
FLOOR = FISHER_FLOOR / NUM_ACTIONS
RARE = np.array([[2.0, 0.3, -9.0, 1.0], [-0.7, 8.0, 0.0, 0.4]])
"""Logits of policies some of whose actions are rarer than the floor."""


def logits_and_values():
    """Logits of five states at moderate distance from uniform, and values of their actions."""
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, size=(5, NUM_ACTIONS)), rng.normal(size=(5, NUM_ACTIONS))


def of_every_action(logits, δ):
    """The sampled direction of every state and action, shape (S, A, A)."""
    with jax.enable_x64(True):
        rows = np.repeat(logits, NUM_ACTIONS, axis=0)
        actions, weights = np.tile(np.arange(NUM_ACTIONS), len(logits)), np.full(len(rows), τ)
        policy, log_policy = jax.nn.softmax(jnp.asarray(rows)), jax.nn.log_softmax(jnp.asarray(rows))
        directions = natural_direction(jnp.asarray(δ.ravel()), jnp.asarray(actions), policy, log_policy, weights)
    return np.asarray(directions).reshape(*logits.shape, NUM_ACTIONS)


def mean_direction(logits, δ):
    return np.einsum("sa,sab->sb", softmax(logits), of_every_action(logits, δ))


def gradient(logits, q):
    """Of Σ_a π(a) q(a) + τ H(π), by the logits."""
    π = softmax(logits)
    return π * (q - (π * q).sum(-1, keepdims=True)) + τ * entropy_gradient(logits)


def fisher(π):
    return np.diag(π) - np.outer(π, π)


def test_the_mean_of_the_sampled_direction_is_the_natural_gradient():
    logits, q = logits_and_values()
    assert softmax(logits).min() > FLOOR
    natural = [np.linalg.pinv(fisher(π)) @ g for π, g in zip(softmax(logits), gradient(logits, q), strict=True)]
    baseline = np.arange(5)[:, None]  # The critic's value, which need not be the right one.
    np.testing.assert_allclose(mean_direction(logits, q - baseline), natural, atol=1e-8)


def test_it_is_mirror_descent_on_the_advantages():
    logits, q = logits_and_values()
    expected = q - τ * np.log(softmax(logits))
    np.testing.assert_allclose(mean_direction(logits, q), expected - expected.mean(-1, keepdims=True), atol=1e-12)


def test_with_rare_actions_it_ascends_still_and_stays_bounded():
    q = np.random.default_rng(4).normal(size=RARE.shape)
    π, g, mean = softmax(RARE), gradient(RARE, q), mean_direction(RARE, q)
    assert (π.min(-1) < FLOOR).all()
    assert (np.einsum("sa,sa->s", g, mean) > 0).all()
    bound = (np.abs(q).max() + τ * np.abs(np.log(π)).max()) ** 2 / FLOOR
    assert np.einsum("sa,sab->sb", π, of_every_action(RARE, q) ** 2).max() < 2 * bound
    # Not the natural gradient any more, which this would be without the floor.
    natural = q - τ * np.log(π)
    assert np.abs(mean - natural + natural.mean(-1, keepdims=True)).max() > 0.5


def test_it_vanishes_at_the_soft_optimal_policy_whatever_the_floor_does():
    q = τ * RARE + np.array([[3.0], [-1.0]])
    np.testing.assert_allclose(mean_direction(RARE, q), 0.0, atol=1e-12)
    assert np.abs(mean_direction(RARE, 1.1 * q)).max() > 1e-3


@pytest.mark.slow
def test_both_followers_take_it_and_critics_and_chains_are_those_of_plain_actors():
    # One chain, so that every visited row holds the step of one sample.
    sizes = dataclasses.replace(StepSizes.decaying(entropy=τ), critic=PowerDecay(1.0, 0.5), actor=PowerDecay(0.2, 0.5))
    plain, natural = (
        SingleLoopActorCritic(random_problem(seed=0), sizes, Followers(1, natural=option)) for option in (False, True)
    )
    start = plain.init(jax.random.key(0))
    table = 0.5 * jax.random.normal(jax.random.key(1), start.parameters.shape)
    start = start._replace(parameters=table)
    noise = one_draw(plain, jax.random.key(2))
    (left, _), (right, _) = (eqx.filter_jit(each.step)(noise, start) for each in (plain, natural))
    for i in range(2):
        s = int(start.chain_states[i, 0])
        π = softmax(np.asarray(table[i, s, :-1], np.float64))
        assert π.min() > FISHER_FLOOR / len(π)
        step = np.asarray(left.parameters - table)[i, s, :-1]
        assert np.abs(step).max() > 1e-3
        taken = np.asarray(right.parameters - table)[i, s, :-1]
        np.testing.assert_allclose(taken, np.linalg.pinv(fisher(π)) @ step, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(left.parameters[..., -1], right.parameters[..., -1])
    np.testing.assert_array_equal(left.chain_states, right.chain_states)
