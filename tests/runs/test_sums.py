"""Long sums keep their precision, short ones are plain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bilevel_rl.runs.sums import ITERATIONS_PER_SUM, Sums


@functools.partial(jax.jit, static_argnums=1)
def summed(value, number):
    """Of one number, so many times, folded after every `ITERATIONS_PER_SUM`."""

    def block(_, sums):
        recent = jax.lax.fori_loop(0, ITERATIONS_PER_SUM, lambda _, total: total + value, sums.recent)
        return sums.with_recent(recent, jnp.array(True))

    return jax.lax.fori_loop(0, number // ITERATIONS_PER_SUM, block, Sums.of(jnp.float32(0))).total()


def test_a_sum_of_forty_million_equal_numbers_is_right():
    number = 40_000_000 // ITERATIONS_PER_SUM * ITERATIONS_PER_SUM
    for value in (np.float32(0.946), np.float32(1.0)):
        assert abs(float(summed(value, number)) / number / float(value) - 1) < 1e-4


def test_a_sum_that_is_not_full_is_a_plain_one():
    sums = Sums.of(jnp.zeros(3)).with_recent(jnp.array([0.1, -1.0, 3.0]), jnp.array(False))
    np.testing.assert_array_equal(sums.total(), np.array([0.1, -1.0, 3.0], np.float32))
    np.testing.assert_array_equal(sums.earlier, np.zeros(3))
