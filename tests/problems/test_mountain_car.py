"""Mountain car: the dynamics against Gymnasium's; what is rewarded where the state is known, and what is refused."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.problems import mountain_car, mountain_car_shaping


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


def car(position, velocity):
    return jnp.array([position, velocity], jnp.float32)


ARRIVING, PUSH_RIGHT = car(0.49, 0.05), 2


def test_the_shaping_is_linear_between_its_places_and_arriving_adds_ten():
    problem = mountain_car_shaping(num_positions=3, num_velocities=2)  # Places −1.2, −0.35, 0.5 and −0.04, 0.04.
    x = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.9]])
    assert problem.reward(x, car(-0.35, -0.04), 0) == pytest.approx(0.1 * 0.3, rel=1e-4)
    # A quarter of the way to the next place, and half-way between the two velocities.
    expected = 0.1 * (0.75 * (0.3 + 0.4) / 2 + 0.25 * (0.5 + 0.9) / 2)
    assert problem.reward(x, car(-0.35 + 0.25 * 0.85, 0.0), 1) == pytest.approx(expected, rel=1e-4)
    assert problem.reward(x, car(-1.2, 0.07), 2) == pytest.approx(0.1 * 0.2, rel=1e-4)  # Level beyond the places.
    arriving = 10 + 0.1 * (0.84 * 0.9 + 0.01 * 0.4) / 0.85
    assert problem.reward(x, ARRIVING, PUSH_RIGHT) == pytest.approx(arriving, rel=1e-4)


@pytest.mark.slow
def test_the_gradient_of_the_reward_is_the_hats_which_sum_to_one():
    problem = mountain_car_shaping()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-1, 1, (4, 3)))
    for state in jnp.asarray(rng.uniform([-1.2, -0.07], [0.5, 0.07], (20, 2)), float):
        slope = jax.grad(lambda x, state=state: problem.reward(x, state, 1))(x)
        np.testing.assert_allclose(slope, 0.1 * mountain_car.hats(state, 4, 3), atol=1e-7)
        assert jnp.sum(slope) == pytest.approx(0.1, rel=1e-5)
    corners = jax.vmap(lambda state: mountain_car.hats(state, 4, 3))(jnp.array([[-1.2, -0.04], [0.5, 0.04]]))
    np.testing.assert_allclose(corners[0], np.eye(12)[0].reshape(4, 3), atol=1e-5)
    np.testing.assert_allclose(corners[1], np.eye(12)[11].reshape(4, 3), atol=1e-5)


@pytest.mark.slow
def test_nothing_accrues_at_the_goal_and_a_leader_of_time_pays_one_elsewhere():
    problem = mountain_car_shaping(leader="time", price=0.3)
    states = jnp.stack([car(0.5, 0.0), car(0.55, 0.03), car(-0.5, 0.0), ARRIVING])
    episodes = problem.environment.reset(jnp.zeros(4))._replace(state=states)
    actions = jnp.full(4, PUSH_RIGHT)
    np.testing.assert_array_equal(problem.costs(problem.initial_x, episodes, actions), [0, 0, 1, 1])
    rewards = problem.rewards(np.ones((4, 3)), episodes, actions)
    np.testing.assert_allclose(rewards, [0, 0, 0.1, 10.1], rtol=1e-5)
    assert problem.upper.regularizer(jnp.full((4, 3), -0.5)) == pytest.approx(0.3 * 0.25)


def test_a_leader_of_energy_pays_for_what_is_missing():
    problem = mountain_car_shaping(leader="energy")
    # At the bottom of the valley, half as high as the goal, at the goal, and near it but fast.
    states = (-np.pi / 6, 0.0), (0.0, 0.0), (0.5, 0.0), (0.4, 0.07)
    costs = [problem.upper.cost(problem.initial_x, car(*state), 0) for state in states]
    np.testing.assert_allclose(costs, [1.0, 0.5, 0.0, 0.0], atol=1e-5)


def test_x_starts_as_noise_of_its_own_and_stays_in_its_box():
    problem = mountain_car_shaping(initial_spread=0.5)
    starts = jax.vmap(problem.start)(jax.random.split(jax.random.key(0), 500))
    assert starts.shape == (500, 4, 3)
    # Of normal noise with standard deviation 0.5 a share of 4.55 % lies outside of [−1, 1] and ends on its edges.
    assert np.mean(np.abs(starts) == 1) == pytest.approx(0.0455, abs=4 * np.sqrt(0.0455 / 6_000))
    np.testing.assert_array_equal(problem.project(jnp.full((4, 3), -2.0)), -1.0)


@pytest.mark.parametrize("potential", [mountain_car.height, mountain_car.energy])
def test_shaping_by_a_potential_adds_the_potential_of_the_start_and_nothing_else(potential):
    discount = 0.99
    shaping = jax.jit(mountain_car.potential_shaping(potential, discount))
    state, total, weight = car(-0.5, 0.0), 0.0, 1.0
    first = float(potential(state)) - 1
    for _ in range(200):  # Pushing along arrives in some 110 steps.
        action = jnp.where(state[1] >= 0, 2, 0)
        total, weight = total + weight * float(shaping(state, action)), weight * discount
        state = jax.jit(mountain_car.drive)(state, action)
        if mountain_car.is_at_goal(state):
            break
    assert mountain_car.is_at_goal(state)
    assert total == pytest.approx(-first, rel=1e-4)


def test_energy_is_kept_between_pushes_and_height_is_that_of_a_car_at_rest():
    state = car(-0.9, 0.0)
    energies = []
    for _ in range(60):
        energies.append(float(mountain_car.energy(state)))
        state = mountain_car.drive(state, 1)
    assert np.ptp(energies) < 0.05  # Steps of time are finite.
    assert float(mountain_car.height(car(0.5, 0.0))) == pytest.approx(1.0)
    at_rest, moving = car(-0.9, 0.0), car(-0.9, 0.03)
    assert float(mountain_car.energy(at_rest)) == pytest.approx(float(mountain_car.height(moving)))


def test_known_shapings_are_added_with_their_weights():
    problem = mountain_car.known_shapings(0.99)
    for velocity, action, expected in ((0.02, 2, 0.1), (0.02, 0, -0.1), (-0.02, 0, 0.1), (0.02, 1, 0.0)):
        assert problem.reward(np.array([1.0, 0.0, 0.0]), car(-0.5, velocity), action) == pytest.approx(expected)
    assert problem.reward(np.zeros(3), car(-0.5, 0.02), 2) == 0.0
    assert problem.reward(np.zeros(3), ARRIVING, PUSH_RIGHT) == 10.0
    state, following = car(-0.9, 0.01), mountain_car.drive(car(-0.9, 0.01), 2)
    for index, potential in ((1, mountain_car.height), (2, mountain_car.energy)):
        expected = 3.0 * (0.99 * (potential(following) - 1) - (potential(state) - 1))
        assert problem.reward(3.0 * np.eye(3)[index], state, 2) == pytest.approx(float(expected), abs=1e-5)
    height = float(mountain_car.height(ARRIVING))
    assert problem.reward(np.eye(3)[1], ARRIVING, PUSH_RIGHT) == pytest.approx(10 - (height - 1), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_positions": 1}, "num_positions must be at least 2"),
        ({"num_velocities": 0}, "num_velocities must be at least 2"),
        ({"leader": "speed"}, "leader must be one of energy, time, got 'speed'"),
        ({"price": -0.1}, "price must be finite and not negative"),
        ({"initial_spread": float("nan")}, "initial_spread must be finite"),
        ({"discount": 1.0}, "discount must lie in"),
        ({"time_limit": 0}, "time_limit must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mountain_car_shaping(**options)
