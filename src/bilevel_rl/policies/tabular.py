"""Tables as policies: a softmax policy and its critic, one row a state."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TabularActorCritic(eqx.Module):
    """A softmax policy θ and a critic V in one table: row s holds the A logits θ(s, ·) and then the value V(s).

    Only visited rows are read and written, so a step costs the same however many states there are. Parameters are the
    table, of shape (S, A + 1); this object only knows how to use them.
    """

    num_states: int = eqx.field(static=True)
    num_actions: int = eqx.field(static=True)

    def init(self) -> Float[Array, "S columns"]:
        """The uniform policy and V = 0."""
        return jnp.zeros((self.num_states, self.num_actions + 1))

    def read(
        self, table: Float[Array, "S columns"], states: Int[Array, " B"]
    ) -> tuple[Float[Array, "B A"], Float[Array, " B"]]:
        """Logits and values of a batch of states."""
        rows = table[states]
        return rows[:, :-1], rows[:, -1]

    def ascend(
        self,
        table: Float[Array, "S columns"],
        states: Int[Array, " B"],
        logit_steps: Float[Array, "B A"],
        value_steps: Float[Array, " B"],
    ) -> Float[Array, "S columns"]:
        """Adds each sample's step to the row of its state; samples of one state add up."""
        return table.at[states].add(jnp.concatenate([logit_steps, value_steps[:, None]], axis=1))
