"""Episodes against what is worked out by hand, and against exact values, in every kind of environment."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.environments import FunctionalEnvironment, HostEnvironment, TabularMDP
from garnets import random_policy, random_problem

KEY = jax.random.key(0)
X = 3.0


def pays(x, s, a):
    return x * (s == 1)


def costs(x, s, a):
    return 1.0 + s


def solves(environment, state=lambda s: s):
    return brl.BilevelProblem(
        environment,
        lambda x, s, a: pays(x, state(s), a),
        brl.OccupancyCost(lambda x, s, a: costs(x, state(s), a), regularizer=lambda x: 0.5 * x),
        initial_x=1.0,
    )


class Line(gymnasium.Env):
    """0 → 1 → 2, the end."""

    observation_space, action_space = gymnasium.spaces.Box(0, 9, (1,)), gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.float32([0]), {}

    def step(self, action):
        assert action in (5, 6)
        self.place += 1
        return np.float32([self.place]), 0.0, self.place == 2, False, {}


def line(kind):
    """0 → 1 → 2, the end, in a table, in JAX or on the host: the problem, a policy, and what the host steps."""
    if kind == "table":
        kernel = np.array([[[0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]], float)
        mdp = TabularMDP.from_dense(kernel, initial=[1, 0, 0], discount=0.8, terminal=[False, False, True])
        return solves(mdp), np.ones((3, 1)), {}
    if kind == "JAX":
        environment = FunctionalEnvironment(
            initial=lambda key: jnp.int32(0),
            transition=lambda s, a, key: s + 1,
            observe=lambda s: s[None],
            discount=0.8,
            num_actions=2,
            is_end=lambda s: s == 2,
        )
        return solves(environment), lambda observation, key: jax.random.randint(key, (), 0, 2), {}
    environment = HostEnvironment(jax.ShapeDtypeStruct((1,), jnp.float32), lambda s: s, 0.8, num_actions=2)
    return solves(environment, lambda s: s[0]), lambda observation, key: 1, {"env": Line()}


@pytest.mark.parametrize("kind", ["table", "JAX", "host"])
def test_an_episode_by_hand(kind):
    problem, policy, options = line(kind)
    found = brl.rollout(problem, policy, X, KEY, num_episodes=3, num_steps=5, **options)
    np.testing.assert_array_equal(found.num_steps, [2, 2, 2])
    np.testing.assert_array_equal(np.squeeze(found.states)[:2, 0], [0, 1])
    np.testing.assert_array_equal(np.squeeze(found.next_states)[:2, 1], [1, 2])
    np.testing.assert_allclose(found.returns, 0.8 * X, rtol=1e-6)
    np.testing.assert_allclose(found.cost_returns, 1 + 0.8 * 2, rtol=1e-6)
    assert found.is_over[2:].all()
    assert found.actions.shape == (5, 3)
    share = (1 - 0.8) / (1 - 0.8**5)
    assert found.upper_value == pytest.approx(share * (1 + 0.8 * 2) + 0.5 * X, rel=1e-6)


def test_a_time_limit_ends_the_return_and_not_the_walk():
    environment = FunctionalEnvironment(
        initial=lambda key: jnp.float32(0),
        transition=lambda s, a, key: s + a[0],
        observe=lambda s: s[None],
        discount=0.5,
        num_action_dimensions=1,
        time_limit=2,
    )
    found = brl.rollout(solves(environment), lambda o, key: jnp.ones(1), X, KEY, num_steps=4)
    np.testing.assert_array_equal(found.states[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(found.is_over[:, 0], [False, False, True, True])
    assert found.cost_returns[0] == pytest.approx(1 + 0.5 * 2)
    assert found.returns[0] == pytest.approx(0.5 * X)


def test_means_over_episodes_are_the_exact_values():
    problem, policy = random_problem(seed=5, num_terminal=1), random_policy(seed=5)
    x = np.asarray(problem.initial_x) + 0.1
    exact = brl.exact.evaluate(problem, x, policy)
    found = brl.rollout(problem, policy, x, KEY, num_episodes=4_000, num_steps=80)
    per_step = (1 - problem.environment.discount) * found.returns
    error = 4 * per_step.std() / np.sqrt(len(per_step))
    assert error < 0.03 * np.ptp(per_step)
    assert per_step.mean() == pytest.approx(exact.lower_return, abs=error)
    cost = (1 - problem.environment.discount) * found.cost_returns
    expected = exact.upper_value - problem.upper.regularizer(x)
    assert cost.mean() == pytest.approx(expected, abs=4 * cost.std() / np.sqrt(len(cost)))


def test_bad_arguments_are_refused_before_anything_runs():
    problem, policy, _ = line("table")
    of_host, act, _ = line("host")
    for arguments, options, message in [
        ((problem, np.ones((2, 1)), X, KEY), {}, r"policy must have shape \(3, 1\)"),
        ((problem, policy, [1.0, 2.0], KEY), {}, "x must have the structure and shapes"),
        ((problem, policy, X, KEY), {"num_episodes": 0}, "num_episodes must be at least 1"),
        ((problem, policy, X, KEY), {"env": Line()}, "env must be given where.* and only there"),
        ((of_host, act, X, KEY), {}, "env must be given where"),
    ]:
        with pytest.raises(ValueError, match=message):
            brl.rollout(*arguments, **options)
    with pytest.raises(TypeError, match="policy must be a NetworkPolicy or a function in a HostEnvironment"):
        brl.rollout(of_host, policy, X, KEY, env=Line())
