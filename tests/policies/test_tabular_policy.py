"""Tables as policies: what a batch of states reads, and where a batch of steps is added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl.policies import TabularActorCritic, over_samples

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


# Under vmap tables of several seeds become one taller table, and batches of samples one longer batch.


def random_batch(seed, *leading):
    """Tables, states with duplicates, and steps."""
    rng = np.random.default_rng(seed)
    tables = jnp.asarray(rng.normal(size=(*leading, 4, 4)), float)
    states = jnp.asarray(rng.choice([0, 2, 2, 3], size=(*leading, 5)), jnp.int32)
    steps = rng.normal(size=(*leading, 5, 4))
    return tables, states, jnp.asarray(steps[..., :-1], float), jnp.asarray(steps[..., -1], float)


CALLS = {
    "read": lambda table, states, *_: POLICY.read(table, states),
    "values": lambda table, states, *_: POLICY.values(table, states),
    "ascend": lambda *arguments: POLICY.ascend(*arguments),
}


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, expected)


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["as it is", "compiled"])
@pytest.mark.parametrize("name", CALLS)
def test_tables_side_by_side_are_used_like_one_at_a_time(name, wrap):
    call, arguments = CALLS[name], random_batch(1, 2, 3)
    assert any(len(set(row)) < 5 for row in np.asarray(arguments[1]).reshape(-1, 5).tolist())

    got = wrap(jax.vmap(jax.vmap(call)))(*arguments)

    expected = [[call(*(leaf[i, j] for leaf in arguments)) for j in range(3)] for i in range(2)]
    expected = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in expected]
    assert_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


@pytest.mark.parametrize("shared", [(0,), (1,), (2, 3), (0, 2), (1, 2, 3)])
@pytest.mark.parametrize("name", CALLS)
def test_what_tables_side_by_side_share_needs_no_axis(name, shared):
    call, arguments = CALLS[name], random_batch(2, 3)
    arguments = [leaf[0] if i in shared else leaf for i, leaf in enumerate(arguments)]
    axes = tuple(None if i in shared else 0 for i in range(4))

    got = jax.vmap(call, in_axes=axes)(*arguments)

    rows = ([leaf if i in shared else leaf[j] for i, leaf in enumerate(arguments)] for j in range(3))
    assert_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(call(*row) for row in rows)))


def test_another_axis_than_the_first_may_be_the_batch():
    table, states, *_ = random_batch(3, 3)
    got = jax.vmap(POLICY.values, in_axes=(2, 1), out_axes=1)(jnp.moveaxis(table, 0, 2), states.T)
    np.testing.assert_array_equal(got, jax.vmap(POLICY.values)(table, states).T)


def test_steps_of_one_state_add_up_in_the_own_table_only():
    states = jnp.array([[2, 0, 2], [0, 0, 0]])
    steps = jnp.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    got = jax.vmap(POLICY.ascend)(jnp.zeros((2, 4, 4)), states, jnp.stack([steps, -steps, 0 * steps], -1), 3 * steps)
    expected = np.zeros((2, 4, 4))
    expected[0, 2], expected[0, 0] = [101, -101, 0, 303], [10, -10, 0, 30]
    expected[1, 0] = [222, -222, 0, 666]
    np.testing.assert_array_equal(got, expected)


def plain(x, y, shift):
    """Of samples alone: a matrix product, a comparison and an integer."""
    total = jnp.cumsum(x, axis=-1) * y[:, None] + shift[:, None]
    return {"total": total, "largest": (jnp.argmax(x, axis=-1), total[:, -1] > 0)}


def samples(seed, *leading):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(*leading, 5, *shape)), float) for shape in ((4,), (), ()))


def merged(function):
    """The function, which notes the shapes that it is called with."""
    shapes = []

    def noted(*arrays):
        shapes.append(arrays[0].shape)
        return function(*arrays)

    return over_samples(noted), shapes


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["as it is", "compiled"])
def test_a_function_of_samples_stays_one_under_nested_batches(wrap):
    batched, shapes = merged(plain)
    assert_close(batched(*samples(4)), plain(*samples(4)))
    arguments = samples(5, 2, 3)

    got = wrap(jax.vmap(jax.vmap(batched)))(*arguments)

    assert_close(got, jax.vmap(jax.vmap(plain))(*arguments))
    assert shapes[-1] == (2 * 3 * 5, 4)  # one long axis, which is what the decorator is for


@pytest.mark.parametrize("outer", [(0, 0, None), (None, 0, 0), (0, None, None), (None, None, 1)])
@pytest.mark.parametrize("inner", [(0, 0, 0), (0, None, 0), (None, 0, None)])
def test_arguments_that_batches_share_need_no_axis(outer, inner):
    arguments = list(samples(6))
    for axes, size in ((inner, 3), (outer, 2)):
        for i, axis in enumerate(axes):
            if axis is not None:
                stack = [arguments[i] + 10 * j for j in range(size)]
                arguments[i] = jnp.stack(stack, axis=axis)

    got = jax.vmap(jax.vmap(over_samples(plain), in_axes=inner), in_axes=outer)(*arguments)

    assert_close(got, jax.vmap(jax.vmap(plain, in_axes=inner), in_axes=outer)(*arguments))
