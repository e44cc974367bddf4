"""Mountain car: the dynamics against Gymnasium's."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from bilevel_rl.problems import mountain_car


def test_the_dynamics_are_gymnasiums():
    environment = gymnasium.make("MountainCar-v0").unwrapped
    rng = np.random.default_rng(0)
    states = rng.uniform([-1.2, -0.07], [0.5, 0.07], (500, 2))  # Where an episode has not ended yet.
    states[:20] = np.stack([np.full(20, -1.19), np.linspace(-0.07, 0.0, 20)], axis=1)
    actions = rng.integers(3, size=500)
    expected = []
    for state, action in zip(states, actions, strict=True):
        environment.reset(seed=0)
        environment.state = state  # pyright: ignore[reportAttributeAccessIssue]
        following, _, is_end, _, _ = environment.step(action)
        expected.append([*following, is_end])
    following = jax.vmap(mountain_car.drive)(jnp.asarray(states, float), jnp.asarray(actions))
    expected = np.array(expected)
    np.testing.assert_allclose(following, expected[:, :2], atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(mountain_car.is_at_goal)(following), expected[:, 2] == 1)
    assert 0 < expected[:, 2].mean() < 1
    assert np.any((expected[:, 0] <= -1.2) & (expected[:, 1] == 0))


def test_cars_start_in_the_valley_at_rest_and_are_seen_scaled():
    environment = mountain_car.mountain_car_environment(0.99, 200)
    start = environment.reset(jax.random.uniform(jax.random.key(0), (1_000,))).state
    assert -0.6 <= np.min(start[:, 0]) < -0.59
    assert -0.41 < np.max(start[:, 0]) <= -0.4
    np.testing.assert_array_equal(start[:, 1], 0.0)
    corners = jnp.array([[-1.2, -0.07], [0.6, 0.07]])
    np.testing.assert_allclose(jax.vmap(environment.observe)(corners), [[-1, -1], [1, 1]], atol=1e-6)
