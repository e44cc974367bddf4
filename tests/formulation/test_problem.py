import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost
from bilevel_rl.exact import upper_value
from garnets import garnet, random_problem


def build(**changes) -> BilevelProblem:
    arguments = {
        "environment": garnet(0, num_terminal=1),
        "reward": lambda x, s, a: x["a"] * s + x["b"][0] * a,
        "upper": OccupancyCost(cost=lambda x, s, a: x["b"][1] * s * s - a),
        "initial_x": {"a": 2, "b": np.array([0.5, 3.0])},
    }
    return BilevelProblem(**(arguments | changes))


def test_initial_x_becomes_double_precision_arrays():
    x = build(initial_x={"a": 2, "b": jnp.array([0.5, 3.0])}).initial_x

    assert {name: (leaf.dtype, leaf.shape) for name, leaf in x.items()} == {"a": (float, ()), "b": (float, (2,))}


def test_rewards_and_costs_of_a_batch_broadcast():
    problem = build()
    states, actions = np.arange(5)[:, None], np.arange(3)

    rewards = problem.rewards(problem.initial_x, states, actions)
    costs = problem.costs(problem.initial_x, states, actions)

    expected_rewards = 2 * states + 0.5 * actions
    expected_costs = 3.0 * states**2 - actions
    expected_rewards[4], expected_costs[4] = 0, 0  # the terminal state
    np.testing.assert_array_equal(rewards, expected_rewards)
    np.testing.assert_array_equal(costs, expected_costs)
    assert problem.rewards(problem.initial_x, 1, 2).shape == ()


def test_functions_may_look_x_up_by_the_state():
    upper = OccupancyCost(cost=lambda x, s, a: x[s])
    problem = build(reward=lambda x, s, a: x[s] + 10.0 * a, upper=upper, initial_x=np.arange(5.0))

    rewards = problem.rewards(np.array([4.0, 1.0, 0.5, 3.0, 2.0]), np.arange(5)[:, None], np.arange(2))

    np.testing.assert_array_equal(rewards, [[4, 14], [1, 11], [0.5, 10.5], [3, 13], [0, 0]])


def test_terminal_states_accrue_nothing_even_where_the_functions_are_not_finite():
    def nan_at_the_end(x, s, a):
        return jnp.where(s == 4, jnp.nan, 1.0)

    problem = build(reward=nan_at_the_end, upper=OccupancyCost(cost=nan_at_the_end))

    states = np.array([3, 4])
    assert problem.rewards(problem.initial_x, states, np.array([0, 1])).tolist() == [1, 0]
    assert problem.costs(problem.initial_x, states, np.array([0, 1])).tolist() == [1, 0]


def test_functions_may_answer_with_integers_and_booleans():
    problem = build(reward=lambda x, s, a: s == a, upper=OccupancyCost(cost=lambda x, s, a: s + a))

    assert problem.rewards(problem.initial_x, np.array([1, 2]), np.array([1, 0])).tolist() == [1.0, 0.0]
    assert problem.costs(problem.initial_x, np.array([1, 2]), np.array([1, 0])).dtype == jnp.float32


def test_gradients_come_from_autodiff_and_vanish_in_terminal_states():
    problem = random_problem(4, num_terminal=2)
    states, actions = np.arange(5), np.array([0, 2, 1, 1, 0])

    jacobian = jax.jit(jax.jacobian(lambda x: problem.rewards(x, states, actions)))(problem.initial_x)

    features = problem.reward.features[states, actions]
    expected = (1 - np.tanh(features @ problem.initial_x) ** 2)[:, None] * features
    expected[3:] = 0
    np.testing.assert_allclose(jacobian, expected, rtol=1e-5)


def test_regularizer_and_projection_default_to_nothing():
    problem = build(upper=OccupancyCost(cost=lambda x, s, a: 0.0))

    assert upper_value(problem, problem.initial_x, np.full((5, 3), 1 / 3)) == 0
    assert problem.project(problem.initial_x) is problem.initial_x
    assert problem.reward_bound == problem.upper.cost_bound == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"initial_x": {"a": 2.0, "b": np.array([0.5, np.nan])}},
            r"^initial_x\['b'\] must be finite, got \[0\.5 nan\]",
        ),
        ({"initial_x": {"a": np.inf, "b": np.array([0.5, 1.0])}}, r"^initial_x\['a'\] must be finite, got inf"),
        ({"reward": lambda x, s, a: x["b"]}, r"^reward must return a scalar .*got shape \(2,\)"),
        ({"upper": OccupancyCost(cost=lambda x, s, a: x["b"])}, r"^upper\.cost must return a scalar .*shape \(2,\)"),
        (
            {"upper": OccupancyCost(cost=lambda x, s, a: 0.0, regularizer=lambda x: x["b"][None])},
            r"^upper\.regularizer must return a scalar .*got shape \(1, 2\)",
        ),
        ({"project": lambda x: {"a": x["a"], "b": x["b"][:1]}}, r"^project must keep the structure and shapes of x"),
        ({"project": lambda x: x["b"]}, r"^project must keep the structure and shapes of x"),
        ({"reward_bound": 0.0}, r"^reward_bound must be positive .*got 0\.0"),
        ({"initial_spread": -0.1}, r"^initial_spread must be finite and not negative, got -0\.1"),
        ({"entropy_weight": 0.0}, r"^entropy_weight must be finite and positive, got 0\.0; None is for"),
        ({"reward_bound": float("nan")}, r"^reward_bound must be positive .*got nan"),
    ],
)
def test_malformed_problems_are_refused(changes, message):
    build()
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_a_bound_of_the_cost_is_positive():
    with pytest.raises(ValueError, match=r"^cost_bound must be positive .*got -1\.0"):
        OccupancyCost(cost=lambda x, s, a: 0.0, cost_bound=-1.0)


def test_every_seed_starts_at_its_own_noisy_and_feasible_x():
    spread, mean = 0.5, {"shift": 1.0, "tilt": np.full(4_000, -2.0)}
    problem = build(
        reward=lambda x, s, a: x["shift"] + x["tilt"][0],
        upper=OccupancyCost(cost=lambda x, s, a: 0.0 * x["shift"]),
        initial_x=mean,
        initial_spread=spread,
        project=lambda x: jax.tree.map(lambda leaf: jnp.minimum(leaf, 1.0), x),
    )
    first, second = (problem.start(jax.random.key(seed)) for seed in (0, 1))
    noise = np.asarray(first["tilt"]) + 2.0
    standard_error = spread / np.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * standard_error
    assert abs(noise.std() - spread) < 4 * standard_error / np.sqrt(2)
    assert not np.any(first["tilt"] == second["tilt"])
    assert max(float(problem.start(jax.random.key(seed))["shift"]) for seed in range(8)) == 1.0


def test_without_noise_every_seed_starts_at_initial_x():
    start = build(initial_x={"a": 0.3, "b": np.array([0.5, -2.0])}).start(jax.random.key(3))
    np.testing.assert_array_equal(start["a"], np.float32(0.3))
    np.testing.assert_array_equal(start["b"], np.float32([0.5, -2.0]))
