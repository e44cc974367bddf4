"""Laws of actions: the directions of their parameters against autodiff and closed forms, and their draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy.stats import kstest

from bilevel_rl.policies import Categorical, Gaussian
from mean_steps import z_scores

NUM_SAMPLES = 40_000
PARAMETERS = {"categorical": [0.3, -1.2, 0.8, 0.1], "gaussian": [0.4, -0.7, -0.5, 0.2]}
LAWS = {"categorical": Categorical(4), "gaussian": Gaussian(2)}


def log_probability(name, parameters, action):
    if name == "categorical":
        return jax.nn.log_softmax(parameters)[action]
    return jnp.sum(norm.logpdf(action, parameters[:2], jnp.exp(parameters[2:])))


def entropy(name, parameters):
    if name == "categorical":
        return -jnp.sum(jax.nn.softmax(parameters) * jax.nn.log_softmax(parameters))
    return jnp.sum(parameters[2:]) + jnp.log(2 * jnp.pi * jnp.e)


def draw(name, seed=0, parameters=None, coupled=False):
    """Actions, law and entropies of F followers with the same number of samples each."""
    rows = jnp.asarray(PARAMETERS[name] if parameters is None else parameters, float).reshape(-1, 4)
    rows = jnp.repeat(rows[:, None], NUM_SAMPLES, axis=1)
    num_uniforms = 1 + LAWS[name].num_extra_uniforms(coupled)
    shared = 1 if coupled else len(rows)
    uniforms = jax.random.uniform(jax.random.key(seed), (num_uniforms, shared, NUM_SAMPLES))
    uniforms = jnp.broadcast_to(uniforms, (num_uniforms, len(rows), NUM_SAMPLES))
    return LAWS[name].draw(rows, uniforms[0], uniforms[1:], coupled)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_a_samples_direction_is_the_gradient_by_autodiff(name):
    actions, law, entropies = draw(name)
    actions, law = jax.tree.map(lambda array: array[0, :50], (actions, law))
    δ, τ = (jnp.asarray(np.random.default_rng(i).normal(size=50), float) for i in range(2))
    parameters = jnp.asarray(PARAMETERS[name], float)

    def gain(parameters, action, δ, τ):
        return δ * log_probability(name, parameters, action) + τ * entropy(name, parameters)

    expected = jax.vmap(jax.grad(gain), (None, 0, 0, 0))(parameters, actions, δ, τ)
    np.testing.assert_allclose(LAWS[name].direction(δ, actions, law, τ), expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(entropies[0], entropy(name, parameters), rtol=1e-5)


def mean_gain(name, parameters, τ):
    """E[q(a)] + τ H in closed form, with q(a) = sin(3a) for numbers and −|a − (1, −1)|² for vectors."""
    if name == "categorical":
        return jnp.sum(jax.nn.softmax(parameters) * jnp.sin(3.0 * jnp.arange(4))) + τ * entropy(name, parameters)
    mean, log_std = parameters[:2], parameters[2:]
    squares = (mean - jnp.array([1.0, -1.0])) ** 2 + jnp.exp(2 * log_std)
    return -jnp.sum(squares) + τ * entropy(name, parameters)


@pytest.mark.parametrize("name", LAWS)
def test_the_mean_of_the_direction_is_the_gradient_of_the_mean_gain(name):
    actions, law, _ = jax.tree.map(lambda array: array[0], draw(name, seed=1))
    τ, baseline = 0.3, 0.5
    q = jnp.sin(3.0 * actions) if name == "categorical" else -jnp.sum((actions - jnp.array([1.0, -1.0])) ** 2, axis=-1)
    directions = np.asarray(LAWS[name].direction(q - baseline, actions, law, jnp.full(NUM_SAMPLES, τ)), np.float64)
    gradient = jax.grad(lambda parameters, τ: mean_gain(name, parameters, τ))
    parameters = jnp.asarray(PARAMETERS[name], float)
    assert z_scores(directions, gradient(parameters, τ)).max() < 4
    for mistake in (gradient(parameters, 0.0), -gradient(parameters, τ), gradient(parameters, 2 * τ)):
        assert z_scores(directions, mistake).max() > 6


def test_gaussian_actions_are_normal_and_their_numbers_independent():
    actions, law, _ = draw("gaussian", seed=2)
    actions = np.asarray(actions[0], np.float64)
    mean, std = PARAMETERS["gaussian"][:2], np.exp(PARAMETERS["gaussian"][2:])
    for i in range(2):
        assert kstest(actions[:, i], "norm", args=(mean[i], std[i])).pvalue > 1e-3
        assert kstest(actions[:, i], "norm", args=(mean[i], 1.05 * std[i])).pvalue < 1e-6
    assert abs(np.corrcoef(actions.T)[0, 1]) < 4 / NUM_SAMPLES**0.5
    np.testing.assert_allclose(law.log_std[0, 0], PARAMETERS["gaussian"][2:])


def test_the_extreme_uniforms_give_finite_actions():
    uniforms = jnp.array([[0.0, np.float32(1 - 2**-23)]])
    actions, _, _ = Gaussian(1).draw(jnp.zeros((1, 2, 2)), uniforms, uniforms[None][:0], False)
    assert np.all(np.isfinite(actions))
    np.testing.assert_allclose(actions[0, 0], -actions[0, 1], rtol=1e-2)


@pytest.mark.slow
def test_coupled_gaussian_actions_share_their_noise_and_keep_their_laws():
    other = [0.5, -0.7, -0.5, 0.3]
    actions, _, _ = draw("gaussian", seed=3, parameters=[PARAMETERS["gaussian"], other], coupled=True)
    noise = [
        (np.asarray(a) - np.array(p[:2])) / np.exp(p[2:])
        for a, p in zip(actions, (PARAMETERS["gaussian"], other), strict=True)
    ]
    np.testing.assert_allclose(*noise, atol=1e-4)
    assert kstest(np.asarray(actions[1, :, 1]), "norm", args=(other[1], np.exp(other[3]))).pvalue > 1e-3
    independent, _, _ = draw("gaussian", seed=3, parameters=[PARAMETERS["gaussian"], other])
    assert np.abs(np.corrcoef(independent[0, :, 0], independent[1, :, 0])[0, 1]) < 0.05


@pytest.mark.slow
def test_coupled_integers_agree_as_often_as_the_laws_allow():
    other = [0.3, -1.2, 0.4, 0.3]
    parameters = [PARAMETERS["categorical"], other]
    actions, law, _ = draw("categorical", seed=4, parameters=parameters, coupled=True)
    policies = np.asarray(law.policy[:, 0], np.float64)
    agreement = np.minimum(*policies).sum()
    assert z_scores(np.asarray(actions[0] == actions[1], float)[:, None], [agreement]).max() < 4
    frequencies = np.asarray(jax.nn.one_hot(actions[1], 4), np.float64)
    assert z_scores(frequencies, policies[1]).max() < 4
    assert z_scores(frequencies, policies[0]).max() > 6
