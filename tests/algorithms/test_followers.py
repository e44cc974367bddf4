"""Any number of followers: their inner loop against a loop by hand, their chains against their law.

The steps themselves, (A) and (C), are tested where two followers take them: test_single_loop.py.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.algorithms import Followers
from bilevel_rl.algorithms.sampled import Visits, learn_for
from bilevel_rl.algorithms.step_sizes import StepSizeValues
from garnets import garnet
from mean_steps import entropy, policies_of, softmax, z_scores

NUM_FOLLOWERS = 3


def step_size(actor=0.7, critic=1.5, entropy=0.3):
    values = {"upper": 0.0, "actor": actor, "critic": critic, "penalty": 1.0, "entropy": entropy}
    return StepSizeValues(**{name: jnp.float32(value) for name, value in values.items()})


def rewards_of(table):
    """Rewards of followers with tables (F, S, A) of their own."""
    table = jnp.asarray(table, float)
    return lambda s, a: jax.vmap(lambda own, s, a: own[s, a])(table, s, a)


@pytest.fixture(scope="module")
def mdp():
    return garnet(seed=4, num_states=6, num_terminal=1, discount=0.8)


@pytest.fixture(scope="module")
def followers(mdp):
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal(size=(NUM_FOLLOWERS, mdp.num_states, mdp.num_actions + 1)), float)


def uniforms_of(seed, num_steps, num_chains):
    return jax.random.uniform(jax.random.key(seed), (num_steps, 4, NUM_FOLLOWERS, num_chains))


def test_the_inner_loop_acts_learns_and_restarts_one_step_after_the_other(mdp, followers):
    kind, num_steps = Followers(5, coupled=False), 6
    table = np.where(mdp.terminal[:, None], 0.0, np.random.default_rng(6).normal(size=(NUM_FOLLOWERS, 6, 3)))
    rewards, uniforms = rewards_of(table), uniforms_of(7, num_steps, 5)
    states = mdp.reset(uniforms_of(8, 1, 5)[0, 0])
    rest = step_size(), jnp.float32(jnp.inf)
    learned, end, visits = eqx.filter_jit(learn_for)(kind, mdp, followers, states, uniforms, rewards, *rest)

    @jax.jit
    def one_step(followers, states, uniforms):
        sample, _ = kind.act(mdp, followers, states, kind.uniforms(uniforms))
        return sample, *kind.learn(mdp, followers, sample, rewards(states, sample.actions), *rest)

    expected = followers
    for t in range(num_steps):
        sample, expected, δ = one_step(expected, states, uniforms[t])
        np.testing.assert_array_equal(visits.states[t], states)
        np.testing.assert_array_equal(visits.actions[t], sample.actions)
        np.testing.assert_allclose(visits.entropy[t], np.where(mdp.terminal[states], 0.0, sample.entropy), rtol=1e-5)
        np.testing.assert_allclose(visits.td_errors[t], δ, rtol=1e-4, atol=1e-5)
        is_afresh = np.asarray(uniforms[t, 2]) >= mdp.discount
        states = jnp.where(is_afresh, mdp.reset(uniforms[t, 3]), sample.next_states)
    np.testing.assert_allclose(learned, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(end, states)
    assert np.abs(np.asarray(learned) - np.asarray(followers)).max() > 0.1
    assert visits.states.shape == (num_steps, NUM_FOLLOWERS, 5)


@pytest.mark.parametrize(("num_steps", "kept"), [(1, [0]), (2, [1]), (5, [2, 3, 4]), (6, [3, 4, 5])])
def test_the_later_half_of_an_odd_number_holds_the_step_in_the_middle(num_steps, kept):
    times = np.arange(num_steps)[:, None, None]
    visits = Visits(times, times + 100, times + 0.25, times + 0.5).later_half()
    for array, offset in zip(visits, (0, 100, 0.25, 0.5), strict=True):
        np.testing.assert_array_equal(array.ravel(), np.array(kept) + offset)


@pytest.mark.long
def test_chains_of_the_inner_loop_have_the_occupancy_of_their_policies_as_law(mdp, followers):
    num_chains, num_burn_in, num_steps = 400, 30, 150
    kind = Followers(num_chains, coupled=False)
    uniforms = uniforms_of(9, num_burn_in + num_steps, num_chains)
    states = mdp.reset(jnp.zeros((NUM_FOLLOWERS, num_chains)))
    frozen, bound = step_size(actor=0.0, critic=0.0), jnp.float32(jnp.inf)
    learned, _, visits = eqx.filter_jit(learn_for)(
        kind, mdp, followers, states, uniforms, lambda s, a: jnp.ones(s.shape), frozen, bound
    )
    np.testing.assert_array_equal(learned, followers)
    pairs = np.asarray(visits.states * 3 + visits.actions)[num_burn_in:]
    policies = policies_of(followers)
    for i, policy in enumerate(policies):
        # One estimate a chain: chains are independent of each other, their steps are not.
        frequencies = np.stack([np.bincount(chain, minlength=18) for chain in pairs[:, i].T]) / num_steps
        expected = occupancy(mdp, policy).ravel()
        assert z_scores(frequencies, expected).max() < 4
        assert z_scores(frequencies, occupancy(mdp, policies[i - 1]).ravel()).max() > 10
        unvisited_entropy = np.where(mdp.terminal[visits.states], 0.0, entropy(policy)[visits.states])[:, i]
        np.testing.assert_allclose(visits.entropy[:, i], unvisited_entropy, rtol=1e-5)


def occupancy(mdp, policy, num_terms=300):
    """d^π of every pair, summed over time."""
    states, total = mdp.initial, np.zeros(policy.shape)
    for t in range(num_terms):
        total += (1 - mdp.discount) * mdp.discount**t * states[:, None] * policy
        next_states = np.zeros(mdp.num_states)
        np.add.at(next_states, mdp.successors, (states[:, None] * policy)[..., None] * mdp.probabilities)
        states = next_states
    return total


@pytest.mark.parametrize(("reward_bound", "entropy_weight"), [(2.0, 0.0), (0.5, 0.3), (np.inf, 0.3)])
def test_the_bound_of_the_critics_is_that_of_the_largest_return(mdp, reward_bound, entropy_weight):
    bound = Followers(1, coupled=False).value_bound(mdp, reward_bound, entropy_weight)
    expected = sum(0.8**t * (reward_bound + entropy_weight * np.log(3)) for t in range(200))
    np.testing.assert_allclose(bound, expected, rtol=1e-6)


@pytest.mark.slow
def test_no_critic_leaves_the_bound_that_the_inner_loop_is_given(mdp, followers):
    kind, bound = Followers(4, coupled=False), 0.3
    start = followers.at[..., -1].set(jnp.clip(followers[..., -1], -bound, bound))
    states, uniforms = mdp.reset(uniforms_of(8, 1, 4)[0, 0]), uniforms_of(10, 20, 4)
    signs = np.array([1.0, -1.0, 1.0])[:, None]

    @jax.jit
    def critics(bound):
        rewards, sizes = lambda s, a: signs * jnp.ones(s.shape), step_size(critic=4.0, entropy=0.0)
        learned, _, _ = learn_for(kind, mdp, start, states, uniforms, rewards, sizes, bound * (1 - mdp.discount))
        return learned[..., -1]

    assert np.abs(critics(bound)).max() <= bound * (1 + 1e-5)
    assert critics(bound)[0].max() > 0.99 * bound
    assert critics(bound)[1].min() < -0.99 * bound
    assert np.abs(critics(np.inf)).max() > 2 * bound


def test_any_number_of_followers_starts_uniform_with_critics_at_zero_and_chains_from_rho(mdp):
    kind = Followers(20_000, coupled=False)
    assert kind.init(mdp, NUM_FOLLOWERS).shape == (NUM_FOLLOWERS, 6, 4)
    np.testing.assert_array_equal(kind.init(mdp, NUM_FOLLOWERS), 0.0)
    np.testing.assert_allclose(softmax(np.asarray(kind.init(mdp, 1)[..., :-1])), 1 / 3)
    for states in np.asarray(mdp.reset(uniforms_of(11, 1, 20_000)[0, 0])):
        assert z_scores(np.eye(6)[states], mdp.initial).max() < 4
