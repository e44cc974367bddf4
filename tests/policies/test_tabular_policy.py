"""Tables as policies: what a batch of states reads, and where a batch of steps is added."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel_rl.policies import TabularActorCritic

POLICY = TabularActorCritic(num_states=4, num_actions=3)


def test_init_is_the_uniform_policy_with_zero_values():
    table = POLICY.init()
    logits, values = POLICY.read(table, jnp.arange(4))
    np.testing.assert_allclose(jax.nn.softmax(logits), np.full((4, 3), 1 / 3), rtol=1e-6)
    np.testing.assert_array_equal(values, np.zeros(4))


def test_read_returns_the_rows_of_the_states_in_their_order():
    table = jnp.arange(16.0).reshape(4, 4)
    logits, values = POLICY.read(table, jnp.array([3, 0, 3]))
    np.testing.assert_array_equal(logits, [[12, 13, 14], [0, 1, 2], [12, 13, 14]])
    np.testing.assert_array_equal(values, [15, 3, 15])


def test_steps_of_one_state_add_up_and_other_rows_stay():
    table = jnp.arange(16.0).reshape(4, 4)
    logit_steps = jnp.array([[1.0, 0.0, -1.0], [0.5, 0.0, 0.0], [0.0, 2.0, 0.0]])
    ascended = POLICY.ascend(table, jnp.array([2, 0, 2]), logit_steps, jnp.array([10.0, -3.0, 0.25]))
    expected = np.arange(16.0).reshape(4, 4)
    expected[0] += [0.5, 0.0, 0.0, -3.0]
    expected[2] += [1.0, 2.0, -1.0, 10.25]
    np.testing.assert_array_equal(ascended, expected)
    np.testing.assert_array_equal(table, np.arange(16.0).reshape(4, 4))


def test_what_is_added_is_what_is_read():
    states, rng = jnp.array([1, 3]), np.random.default_rng(0)
    logit_steps, value_steps = jnp.asarray(rng.normal(size=(2, 3)), float), jnp.asarray(rng.normal(size=2), float)
    logits, values = POLICY.read(POLICY.ascend(POLICY.init(), states, logit_steps, value_steps), states)
    np.testing.assert_array_equal(logits, logit_steps)
    np.testing.assert_array_equal(values, value_steps)
