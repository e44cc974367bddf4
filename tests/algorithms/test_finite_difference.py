"""Finite difference: directions, shared random numbers, and the mean of its difference quotient."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost, StepSizes, exact
from bilevel_rl.algorithms import FiniteDifference, PartialSGD
from garnets import garnet, random_problem
from mean_steps import (
    PROBLEMS,
    final_x,
    flat,
    mean_follower_step,
    model_of,
    moved,
    num_simulated,
    one_draw,
    optimal_follower,
    policies_of,
    random_point,
    sample_steps,
    state_occupancy,
    stationary,
    unbounded,
    valley,
    values_at,
    z_scores,
)

pytestmark = pytest.mark.slow  # The contract of every method is in the first tier.

FIXED = StepSizes.fixed_target(upper=0.5, actor=0.8, critic=1.0, entropy=1.0, offset=10.0)
FROZEN = StepSizes.fixed_target(upper=0.5, actor=0.0, critic=0.0, entropy=1.0, offset=10.0)
RADIUS = 0.3


def tried_by(x, radius):
    """x + h u of every coordinate direction u, then x − h u."""
    moves = radius * np.eye(flat(x).size)
    return [moved(x, move) for move in (*moves, *-moves)]


def quotients(values, radius):
    """(f(x + h u) − f(x − h u)) / 2h of every direction."""
    ahead, behind = np.split(np.asarray(values, np.float64), 2)
    return (ahead - behind) / (2 * radius)


# The directions.


def sloped_problem(shape):
    """f(x) = slope · x, whatever the follower does."""
    slope = np.random.default_rng(3).normal(size=shape)
    return BilevelProblem(
        environment=garnet(seed=1),
        reward=lambda x, s, a: 0.1 * s * a,
        upper=OccupancyCost(cost=lambda x, s, a: 0.0, regularizer=lambda x: jnp.sum(slope * x)),
        initial_x=np.zeros(shape),
    ), slope.ravel()


@pytest.mark.long
@pytest.mark.variants
@pytest.mark.parametrize(("shape", "num_directions"), [((), 1), ((2, 2), 4), ((5,), 1)])
def test_few_coordinates_are_all_tried_and_of_many_one_random_direction(shape, num_directions):
    problem, slope = sloped_problem(shape)
    algorithm = FiniteDifference(problem, FIXED, num_chains=2, num_inner_steps=1, radius=RADIUS)
    state = algorithm.init(jax.random.key(0))
    assert len(state.parameters) == 2 * num_directions
    noises = algorithm.draw(jax.random.key(1), 3_000)
    state, _ = jax.jit(jax.vmap(algorithm.step, in_axes=(0, None)))(noises, state)
    gradients = -np.asarray(state.x, np.float64).reshape(3_000, -1) / values_at(FIXED, 0)[0]
    if num_directions == slope.size:
        np.testing.assert_allclose(gradients, np.broadcast_to(slope, gradients.shape), rtol=1e-4, atol=1e-5)
        return
    # (slope · u) u, which has length |slope · u|, along u uniform on the sphere: E[u uᵀ] = 1/d.
    directions = np.asarray(noises["direction"], np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(gradients, (directions @ slope)[:, None] * directions, rtol=1e-3, atol=1e-4)
    products = directions[:, :, None] * directions[:, None, :]
    assert z_scores(directions, 0.0).max() < 4
    assert z_scores(products, np.eye(slope.size) / slope.size).max() < 4


# Shared random numbers.


@pytest.mark.long
def test_both_followers_of_a_pair_see_the_same_random_numbers():
    # Where the reward does not depend on x, both learn the same once their chains have met in a restart.
    problem, _ = sloped_problem((2,))
    algorithm = FiniteDifference(problem, FIXED, num_chains=4, num_inner_steps=5, radius=RADIUS)
    noise = one_draw(algorithm, jax.random.key(1))
    assert noise["uniforms"].shape == (5, 4, 2, 4)
    state = algorithm.init(jax.random.key(0))
    assert np.any(state.chain_states[:2] != state.chain_states[2:])
    step = eqx.filter_jit(algorithm.step)
    together, _ = step(noise, state._replace(chain_states=jnp.tile(state.chain_states[:2], (2, 1))))
    np.testing.assert_array_equal(together.parameters[:2], together.parameters[2:])
    np.testing.assert_array_equal(together.chain_states[:2], together.chain_states[2:])
    assert np.any(together.parameters[0] != together.parameters[1])
    for k in range(20):
        state, _ = step(one_draw(algorithm, jax.random.key(k)), state)
    np.testing.assert_array_equal(state.chain_states[:2], state.chain_states[2:])


@pytest.mark.long
def test_every_chain_has_the_occupancy_of_its_own_policy_as_law():
    problem = random_problem(**PROBLEMS["terminal"] | {"discount": 0.7})
    followers, x = random_point(problem, num_followers=6)
    frozen = StepSizes.fixed_target(upper=0.0, actor=0.0, critic=0.0)
    algorithm = FiniteDifference(problem, frozen, num_chains=400, num_inner_steps=1)
    state = algorithm.init(jax.random.key(0))._replace(parameters=jnp.asarray(followers, float))
    num_burn_in, num_steps = 30, 150

    @eqx.filter_jit
    def visits(algorithm, state):
        def iterate(state, key):
            return algorithm.step(one_draw(algorithm, key), state)[0], state.chain_states

        return jax.lax.scan(iterate, state, jax.random.split(jax.random.key(5), num_burn_in + num_steps))[1]

    states = np.asarray(visits(algorithm, state))[num_burn_in:]
    model = model_of(problem, x)
    laws = [state_occupancy(model, policy) for policy in policies_of(followers)]
    for i, law in enumerate(laws):
        frequencies = np.stack([np.bincount(chain, minlength=5) for chain in states[:, i].T]) / num_steps
        assert z_scores(frequencies, law).max() < 4
        assert z_scores(frequencies, laws[i - 1]).max() > 6


# The mean of a step.


def sampled(problem, step_sizes, x, followers):
    """Steps with chains of every follower from the occupancy of its policy."""

    def algorithm_of(num_chains):
        return FiniteDifference(problem, step_sizes, num_chains, num_inner_steps=1, radius=RADIUS)

    model = model_of(problem, x)  # The kernel is all that is needed of it.
    chains = stationary([state_occupancy(model, policy) for policy in policies_of(followers)])
    return sample_steps(algorithm_of, step_sizes, x, followers, chains, num_samples=100, num_chains=4_000)


@pytest.mark.long
def test_the_mean_step_is_the_difference_quotient_at_fixed_policies():
    problem = unbounded(random_problem(**PROBLEMS["terminal"]))
    followers, x = random_point(problem, num_followers=6)
    sample = sampled(problem, FROZEN, x, followers)
    tried, policies = tried_by(x, RADIUS), policies_of(followers)
    values = [exact.upper_value(problem, *pair) for pair in zip(tried, policies, strict=True)]
    assert z_scores(sample.upper_gradient, quotients(values, RADIUS)).max() < 4
    unregularized = [value - float(problem.upper.regularizer(at)) for value, at in zip(values, tried, strict=True)]
    at_x = [exact.upper_value(problem, x, policy) for policy in policies]
    for mistake in (values[::-1], unregularized, at_x, 2 * np.array(values)):
        assert z_scores(sample.upper_gradient, quotients(mistake, RADIUS)).max() > 6


def test_at_the_exact_answers_it_is_the_central_difference_of_the_hyper_objective():
    problem, τ = unbounded(random_problem(**PROBLEMS["terminal"])), 1.0
    x = problem.initial_x
    tried = tried_by(x, RADIUS)
    followers = np.stack([optimal_follower((model := model_of(problem, at)), model.reward, τ) for at in tried])
    sample = sampled(problem, FIXED, x, followers)

    def central_difference(radius):
        return quotients([exact.hyper_objective(problem, at, entropy_weight=τ) for at in tried_by(x, radius)], radius)

    expected = central_difference(RADIUS)
    assert z_scores(sample.upper_gradient, expected).max() < 4
    assert z_scores(sample.upper_gradient, -expected).max() > 6
    gradient = flat(exact.hyper_gradient(problem, x, entropy_weight=τ))
    errors = [np.linalg.norm(central_difference(radius) - gradient) for radius in (0.02, 0.01)]
    assert 3.9 < errors[0] / errors[1] < 4.1  # O(h²)

    # The fixed point of every follower, for the reward at its own x; the rewards of the pair's other are not.
    for i in range(6):
        assert z_scores(sample.follower_steps[:, i], 0.0).max() < 4
        other = model_of(problem, tried[(i + 3) % 6])
        assert z_scores(sample.follower_steps[:, i], mean_follower_step(other, followers[i], other.reward, τ)).max() > 6


def clip_to_half(x):
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), x)


@pytest.mark.long
def test_every_follower_learns_for_t_steps_at_its_own_x_before_x_is_projected():
    free, num_chains = random_problem(**PROBLEMS["dict"]), 4
    problem = dataclasses.replace(free, initial_x=clip_to_half(free.initial_x), project=clip_to_half)
    algorithm = FiniteDifference(problem, FIXED, num_chains, num_inner_steps=3, radius=RADIUS)
    followers, x = random_point(problem, num_followers=6)
    state = algorithm.init(jax.random.key(1))._replace(
        x=jax.tree.map(jnp.asarray, x), parameters=jnp.asarray(followers, float)
    )
    noise = one_draw(algorithm, jax.random.key(2))
    after, info = eqx.filter_jit(algorithm.step)(noise, state)
    still = dataclasses.replace(FIXED, upper=StepSizes.fixed_target(upper=0.0).upper)
    lone = PartialSGD(free, still, num_chains)
    step, lone_start, infos = eqx.filter_jit(lone.step), lone.init(jax.random.key(1)), []
    for i, at in enumerate(tried_by(x, RADIUS)):
        expected = lone_start._replace(
            x=jax.tree.map(lambda leaf: jnp.asarray(leaf, float), at),
            parameters=state.parameters[i : i + 1],
            chain_states=state.chain_states[i : i + 1],
        )
        for t in range(3):
            expected, lone_info = step(noise["uniforms"][t][:, i % 3 : i % 3 + 1], expected)
            infos.append(np.stack(lone_info[:4]) if t >= 1 else None)
        np.testing.assert_allclose(after.parameters[i], expected.parameters[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(after.chain_states[i], expected.chain_states[0])
    mean_info = np.mean([entry for entry in infos if entry is not None], axis=0)
    np.testing.assert_allclose(np.stack(info[:4]), mean_info, rtol=1e-4, atol=1e-5)
    assert np.abs(flat(x)).max() > 0.5  # so that what is tried lies outside too
    assert np.abs(flat(after.x)).max() == 0.5
    for log_policy in algorithm.log_policies(after):
        np.testing.assert_allclose(np.exp(log_policy), policies_of(after.parameters)[0], rtol=1e-5)


@pytest.mark.long
def test_runs_end_close_to_the_exact_solution():
    problem, τ = valley(), 0.3
    optimum = exact.solve(problem, entropy_weight=τ)
    sizes = StepSizes.fixed_target(upper=0.1, actor=0.3, critic=1.0, entropy=τ, offset=50.0)
    algorithm = FiniteDifference(problem, sizes, num_chains=32, num_inner_steps=20, radius=0.1)
    start = exact.hyper_objective(problem, problem.initial_x, entropy_weight=τ)
    for x in final_x(algorithm, num_seeds=2, num_iterations=600):
        gap = exact.hyper_objective(problem, x, entropy_weight=τ) - optimum.objective
        assert gap < 0.02 * (start - optimum.objective)
        assert np.linalg.norm(x - optimum.x) < 0.1


# Arguments.


@pytest.mark.long
@pytest.mark.parametrize(("shape", "num_directions"), [((3,), 3), ((6,), 1)])
def test_an_iteration_costs_the_transitions_that_it_says(shape, num_directions):
    problem, _ = sloped_problem(shape)
    algorithm = FiniteDifference(problem, num_chains=4, num_inner_steps=3)
    assert num_simulated(algorithm) == algorithm.num_transitions_per_iteration == 2 * num_directions * 3 * 4


@pytest.mark.parametrize("radius", [0.0, -0.5, np.nan, np.array([0.5, 0.0])])
def test_the_radius_must_be_positive(radius):
    with pytest.raises(ValueError, match="radius must be finite and positive"):
        FiniteDifference(random_problem(seed=0), num_chains=4, radius=radius)


def test_there_must_be_chains_and_inner_steps():
    problem = random_problem(seed=0)
    with pytest.raises(ValueError, match="num_inner_steps must be at least 1, got 0"):
        FiniteDifference(problem, num_inner_steps=0)
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        FiniteDifference(problem, num_chains=0)
