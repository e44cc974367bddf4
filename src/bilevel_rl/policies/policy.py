"""What the actor-critic asks of a policy with its critic."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree


@runtime_checkable
class Policy(Protocol):
    """Knows how a follower's parameters, a pytree of arrays, are read and moved."""

    @property
    def law(self) -> Any:
        """What the numbers that are read for a state are parameters of: `Categorical` or `Gaussian`."""
        ...

    def init(self, key: Any, /) -> PyTree[Array]:
        """Parameters of a follower that has learned nothing."""
        ...

    def read(self, follower: Any, states: Any, /) -> tuple[Float[Array, "B parameters"], Float[Array, " B"]]:
        """Parameters of the laws, and values, of a batch of states."""
        ...

    def values(self, follower: Any, states: Any, /) -> Float[Array, " B"]:
        """Values of a batch of states."""
        ...

    def update(
        self,
        follower: Any,
        states: Any,
        directions: Float[Array, "B parameters"],
        value_moves: Float[Array, " B"],
        actor_step: Float[Array, ""],
        critic_step: Float[Array, ""],
        /,
    ) -> Any:
        """The follower after one step (A) and (C), the means over the batch of what the samples ask for.

        Args:
            follower: its parameters.
            states: of the samples.
            directions: in which each sample wants the law's parameters to go, not yet times α.
            value_moves: by how much each sample moves the value of its state, β already in it.
            actor_step: α.
            critic_step: β.
        """
        ...
