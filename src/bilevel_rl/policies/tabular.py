"""Tables as policies: a softmax policy and its critic, one row a state."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bilevel_rl.policies.categorical import Categorical


class TabularActorCritic(eqx.Module):
    """A softmax policy θ and a critic V in one table: row s holds the A logits θ(s, ·) and then the value V(s).

    Only visited rows are read and written, so a step costs the same however many states there are. Parameters are the
    table, of shape (S, A + 1); this object only knows how to use them. States are trusted to lie in 0…S−1.
    """

    num_states: int = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    @property
    def law(self) -> Categorical:
        """What the logits are parameters of."""
        return Categorical(self.num_actions)

    def init(self, key: Array | None = None) -> Float[Array, "S columns"]:
        """The uniform policy and V = 0, without a key."""
        return jnp.zeros((self.num_states, self.num_actions + 1))

    def read(
        self, table: Float[Array, "S columns"], states: Int[Array, " B"]
    ) -> tuple[Float[Array, "B A"], Float[Array, " B"]]:
        """Logits and values of a batch of states."""
        rows = _rows(table, states)
        return rows[:, :-1], rows[:, -1]

    def values(self, table: Float[Array, "S columns"], states: Int[Array, " B"]) -> Float[Array, " B"]:
        """Values of a batch of states."""
        return _last_column(table, states)

    def ascend(
        self,
        table: Float[Array, "S columns"],
        states: Int[Array, " B"],
        logit_steps: Float[Array, "B A"],
        value_steps: Float[Array, " B"],
    ) -> Float[Array, "S columns"]:
        """Adds each sample's step to the row of its state; samples of one state add up."""
        return _add_rows(table, states, jnp.concatenate([logit_steps, value_steps[:, None]], axis=1))

    def update(
        self,
        table: Float[Array, "S columns"],
        states: Int[Array, " B"],
        directions: Float[Array, "B A"],
        value_moves: Float[Array, " B"],
        actor_step: Float[Array, ""],
        critic_step: Float[Array, ""],
    ) -> Float[Array, "S columns"]:
        """The mean over the batch of the samples' own steps: α times their directions, and their moves of the value."""
        num_samples = value_moves.shape[0]
        return self.ascend(table, states, actor_step / num_samples * directions, value_moves / num_samples)


def _of_one_table(function: Callable) -> Callable:
    """Makes a function of a table and states stay one under `vmap`: tables of several seeds are one taller table."""
    single = jax.custom_batching.custom_vmap(function)

    @single.def_vmap
    def stack(size: int, is_batched: list[bool], table: Array, states: Array, *arrays: Array):
        pairs = zip((table, states, *arrays), is_batched, strict=True)
        table, states, *others = (
            array if has else jnp.broadcast_to(array, (size, *array.shape)) for array, has in pairs
        )
        rows = states + table.shape[1] * jnp.arange(size, dtype=states.dtype)[:, None]
        flat = (array.reshape(-1, *array.shape[2:]) for array in others)
        result = single(table.reshape(-1, table.shape[2]), rows.reshape(-1), *flat)
        return result.reshape(size, -1, *result.shape[1:]), True

    return single


@_of_one_table
def _rows(table: Array, states: Array) -> Array:
    return table.at[states].get(mode="promise_in_bounds")


@_of_one_table
def _last_column(table: Array, states: Array) -> Array:
    return table.at[states, -1].get(mode="promise_in_bounds")


@_of_one_table
def _add_rows(table: Array, states: Array, steps: Array) -> Array:
    return table.at[states].add(steps, mode="promise_in_bounds")
