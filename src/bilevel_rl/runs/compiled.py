"""The compiled loop: iterations of many seeds, with no word from the host in between.

Seeds are spread over devices; on a device they run in groups, one group after the other, and the seeds of a group side
by side under `vmap`. A group is compiled on its own, so what a seed computes does not depend on how many groups a
device has: the same bits on any number of devices.

Iteration k of seed i draws from the key `fold_in(fold_in(key, i), k // block)`, entry `k % block`, so a seed's path
depends neither on the other seeds nor on where a run was interrupted.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Bool, PyTree

from bilevel_rl.algorithms import Algorithm
from bilevel_rl.runs import processes
from bilevel_rl.runs.compiler import loop_options
from bilevel_rl.runs.divergence import Health, healthy
from bilevel_rl.runs.sums import ITERATIONS_PER_SUM, Sums

TRANSITIONS_PER_GROUP = 64
"""Seeds of a group take this many transitions an iteration together: enough to fill vector units."""

NUMBERS_PER_BLOCK = 2048
"""Random numbers that a seed draws at a time: enough to make a call of the generator cheap, few enough for a cache."""

SEEDS = "seeds"
"""The axis of the mesh along which devices have seeds of their own."""


@dataclass(frozen=True)
class Layout:
    """How seeds lie on devices and iterations in blocks.

    Attributes:
        mesh: devices, each with seeds of its own.
        num_seeds: seeds on all devices.
        seeds_per_group: seeds that run side by side; they decide the last bits.
        iterations_per_block: iterations whose randomness is drawn at once.
    """

    mesh: Mesh
    num_seeds: int
    seeds_per_group: int
    iterations_per_block: int

    @classmethod
    def plan(cls, algorithm: Algorithm, num_seeds: int, seeds_per_group: int | None = None) -> "Layout":
        """A layout over all devices of all processes.

        Raises:
            ValueError: `seeds_per_group` does not divide `num_seeds`, or the devices cannot share the groups evenly.
        """
        if seeds_per_group is None:
            # Without transitions there are no vectors to fill, and linear systems are solved one by one anyway.
            transitions = algorithm.num_transitions_per_iteration or TRANSITIONS_PER_GROUP
            limit = max(1, TRANSITIONS_PER_GROUP // transitions)
            seeds_per_group = max(size for size in range(1, limit + 1) if num_seeds % size == 0)
        if seeds_per_group < 1 or num_seeds % seeds_per_group:
            raise ValueError(f"seeds_per_group must divide num_seeds, {num_seeds}, got {seeds_per_group}")
        num_devices = jax.device_count()
        if num_seeds // seeds_per_group % num_devices:
            raise ValueError(
                f"{num_seeds} seeds in groups of {seeds_per_group} cannot be shared evenly by {num_devices} devices; "
                f"run a multiple of {seeds_per_group * num_devices} seeds, or set seeds_per_group"
            )
        mesh = jax.make_mesh((num_devices,), (SEEDS,), axis_types=(AxisType.Auto,))
        return cls(mesh, num_seeds, seeds_per_group, length_of_block(algorithm))

    def put(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm with its arrays on every device, in working precision."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        is_array = eqx.is_array_like
        arrays, rest = eqx.partition(
            algorithm, lambda leaf: is_array(leaf) and not isinstance(leaf, bool | int | float)
        )
        return eqx.combine(jax.tree.map(lambda leaf: jax.device_put(jnp.asarray(leaf), everywhere), arrays), rest)


class Stretch(NamedTuple):
    """Where iterations led to. Leading axis of every leaf: the seed.

    Attributes:
        states: of the algorithm.
        sums: of the Infos.
        health: which leaves of both are numbers that can be gone on with.
    """

    states: PyTree
    sums: Sums
    health: Health


class Loop:
    """An algorithm with its seeds' keys on the devices of a layout.

    Args:
        algorithm: what runs.
        key: root of all randomness; its implementation generates it.
        layout: where the seeds lie.
    """

    def __init__(self, algorithm: Algorithm, key: Array, layout: Layout):
        if str(jax.random.key_impl(key)) == "unsafe_rbg":
            raise ValueError(
                "key must not be of unsafe_rbg, whose fold_in commutes: seeds would share random numbers; use rbg"
            )
        self.layout = layout
        self._algorithm = layout.put(algorithm)
        self._seed_keys = jnp.stack([jax.random.fold_in(key, seed) for seed in range(layout.num_seeds)])

    def start(self) -> PyTree:
        """The states of all seeds at iteration 0. Leading axis of every leaf: the seed."""
        return _start(self.layout, self._algorithm, self._seed_keys)

    @functools.cached_property
    def no_sums(self) -> Sums:
        """Of no iterations. Leading axis of every leaf: the seed."""
        by_seed = NamedSharding(self.layout.mesh, PartitionSpec(SEEDS))

        def zeros(leaf: jax.ShapeDtypeStruct) -> Array:
            shape = (self.layout.num_seeds, *leaf.shape)
            return jax.make_array_from_callback(shape, by_seed, lambda piece: np.zeros(shape, leaf.dtype)[piece])

        return Sums.of(jax.tree.map(zeros, _info_of(self._algorithm)))

    def stretch(self, states: PyTree, sums: Sums, since: int, first: int, last: int) -> "Stretch":
        """Iterations first … last−1 of all seeds.

        Args:
            states: their buffers are given to the result, which is computed there.
            sums: of the Infos of iterations since … first−1.
            since: where the sums begin.
            first: iterations done.
            last: iterations to be done.
        """
        numbers = (jnp.int32(number) for number in (since, first, last))
        return Stretch(*_compiled_advance()((self.layout, self._algorithm, self._seed_keys, sums, *numbers), states))

    def advance(self, states: PyTree, first: int, last: int) -> tuple[PyTree, PyTree, PyTree[Bool[Array, " seeds"]]]:
        """All seeds' states after iterations first … last−1, the sums of their Infos, and which leaves are finite.

        The buffers of `states` are given to the result, which is computed there.
        """
        done = self.stretch(states, self.no_sums, first, first, last)
        return done.states, done.sums.total(), done.health.state

    def reserved_bytes(self, states: PyTree) -> int:
        """Memory of `advance` on one device: arguments, results that do not take their place, and temporaries."""
        numbers = (jnp.int32(number) for number in (0, 0, 1))
        fixed = self.layout, self._algorithm, self._seed_keys, self.no_sums, *numbers
        memory = _compiled_advance().lower(fixed, states).compile().compiled.memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes

    def gather(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All seeds of columns of which every process has those of its own devices."""
        return processes.gather(columns, self.layout.mesh, SEEDS)


def length_of_block(algorithm: Algorithm) -> int:
    """Iterations whose randomness a seed draws at once."""
    noise = jax.eval_shape(lambda key: algorithm.draw(key, 1), jax.random.key(0))
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(noise))
    return 2 ** max(0, int(math.log2(NUMBERS_PER_BLOCK / max(1, numbers))))


def key_of_start(seed_key: Array) -> Array:
    """What a seed begins from. Blocks fold in 0, 1, 2, …, so the last value that can be folded in is free."""
    return jax.random.fold_in(seed_key, np.uint32(2**32 - 1))


@jax.jit
def choose(which: Bool[ArrayLike, " seeds"], ours: PyTree, others: PyTree) -> PyTree:
    """The states `ours` of some seeds and `others` of the rest."""
    return jax.vmap(lambda own, a, b: jax.tree.map(lambda a, b: jnp.where(own, a, b), a, b))(which, ours, others)


@eqx.filter_jit
def _start(layout: Layout, algorithm: Algorithm, seed_keys: Array) -> PyTree:
    def start(algorithm: Algorithm, seed_keys: Array) -> PyTree:
        return _over_keys(lambda key: algorithm.init(key_of_start(key)), seed_keys)

    return _on_devices(layout, start, algorithm, seed_keys)


@functools.cache
def _compiled_advance() -> Any:
    # "all-except-first" changes the process-wide warning filters during each call, and calls come from several threads.
    options: dict[str, Any] = {"donate": "warn-except-first", "compiler_options": loop_options()}
    return eqx.filter_jit(_advance, **options)


def _advance(fixed: tuple, states: PyTree) -> tuple[PyTree, Sums, Health]:
    layout, algorithm, seed_keys, sums, *numbers = fixed

    def advance(everywhere: tuple, by_seed: tuple) -> tuple[PyTree, Sums, Health]:
        algorithm, *numbers = everywhere

        def run_group(seed_keys: Array, carry: tuple[PyTree, Sums]) -> tuple[PyTree, Sums]:
            return _run_group(algorithm, layout.iterations_per_block, seed_keys, numbers, *carry)

        states, sums = _in_groups(run_group, layout.seeds_per_group, *by_seed)
        is_finite = jax.vmap(lambda leaf: jnp.all(jnp.isfinite(leaf)))
        return states, sums, Health(healthy(states, jax.vmap), jax.tree.map(is_finite, sums.total()))

    return _on_devices(layout, advance, (algorithm, *numbers), (seed_keys, (states, sums)))


def _on_devices(layout: Layout, function: Callable, everywhere: PyTree, by_seed: PyTree) -> PyTree:
    """Calls a function on every device, with all of `everywhere` and the device's seeds of `by_seed`."""
    arrays, static = eqx.partition(everywhere, eqx.is_array)
    seeds = PartitionSpec(SEEDS)
    on_device = jax.shard_map(
        lambda arrays, by_seed: function(eqx.combine(arrays, static), by_seed),
        mesh=layout.mesh,
        in_specs=(PartitionSpec(), seeds),
        out_specs=seeds,
        check_vma=False,
    )
    return on_device(arrays, by_seed)


def _in_groups(run_group: Any, size: int, seed_keys: Array, carry: PyTree) -> Any:
    """Runs the groups one after the other, each in its place among all seeds."""
    num_groups = len(seed_keys) // size
    if num_groups == 1:
        return run_group(seed_keys, carry)
    group_keys = seed_keys.reshape(num_groups, size)

    def run(group: Array, carry: PyTree) -> PyTree:
        own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, group * size, size), carry)
        own = run_group(group_keys[group], own)
        put = lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, group * size, 0)  # noqa: E731
        return jax.tree.map(put, carry, own)

    return jax.lax.scan(lambda carry, group: (run(group, carry), None), carry, jnp.arange(num_groups))[0]


def _run_group(
    algorithm: Algorithm, length: int, seed_keys: Array, numbers: Sequence[Array], states: PyTree, sums: Sums
) -> tuple[PyTree, Sums]:
    """Iterations first … last−1 of the seeds of one group, in blocks of `length`, added to the sums since … first−1."""
    since, first, last = numbers
    side_by_side = jax.tree.map(lambda _: 0, states)._replace(num_iterations=None)
    step = jax.vmap(algorithm.step, in_axes=(0, side_by_side), out_axes=(side_by_side, 0))

    def run_block(block: Array, carry: tuple[PyTree, Sums]) -> tuple[PyTree, Sums]:
        noise = _draw(algorithm, seed_keys, block, length)

        def iterate(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            states, totals = carry
            states, info = step(jax.tree.map(lambda leaf: leaf[:, i], noise), states)
            return states, jax.tree.map(jnp.add, totals, info)

        begin, end = jnp.maximum(first - block * length, 0), jnp.minimum(last - block * length, length)
        states, sums = carry
        states, recent = jax.lax.fori_loop(begin, end, iterate, (states, sums.recent))
        # At the ends of blocks alone, which are the same wherever a run was interrupted.
        done = block * length + end - since
        is_full = (end == length) & (done // ITERATIONS_PER_SUM > jnp.maximum(done - length, 0) // ITERATIONS_PER_SUM)
        return states, sums.with_recent(recent, is_full)

    begun = states._replace(num_iterations=first), sums
    states, sums = jax.lax.fori_loop(first // length, -(-last // length), run_block, begun)
    return states._replace(num_iterations=jnp.full(len(seed_keys), states.num_iterations)), sums


def _info_of(algorithm: Algorithm) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of what an iteration of one seed says of itself."""

    def one(key: Array) -> PyTree:
        noise = jax.tree.map(lambda leaf: leaf[0], algorithm.draw(key, 1))
        return algorithm.step(noise, algorithm.init(key))[1]

    return jax.eval_shape(one, jax.random.key(0))


def _draw(algorithm: Algorithm, seed_keys: Array, block: ArrayLike, length: int) -> PyTree:
    """A block's randomness of every seed. Leading axes: seed, iteration."""

    def draw(key: Array) -> PyTree:
        return algorithm.draw(jax.random.fold_in(key, block), length)

    return _over_keys(draw, seed_keys)


def _over_keys(draw: Callable[[Array], PyTree], keys: Array) -> PyTree:
    """What is drawn with each key. Under vmap only threefry gives every key the numbers that it would get alone."""
    is_threefry = "fry" in str(jax.random.key_impl(keys))
    return jax.vmap(draw)(keys) if is_threefry else jax.lax.map(draw, keys)
