"""What chains ask of an environment. Batches of states are whatever the environment makes them."""

from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


def check_discount(discount: Any) -> float:
    """γ as a number; `ValueError` for anything outside of [0, 1), and for what is no number."""
    is_scalar = np.ndim(discount) == 0 and not isinstance(discount, bool | np.bool_)
    if not is_scalar or not isinstance(discount, SupportsFloat) or not 0 <= discount < 1:  # pyright: ignore
        raise ValueError(f"discount must lie in [0, 1), got {discount!r}; episodic tasks: use e.g. 0.99")
    return float(discount)


def check_spaces(discount: float, num_actions: int | None, num_action_dimensions: int | None):
    """Raises `ValueError` for a discount outside of [0, 1), or not exactly one kind of actions."""
    check_discount(discount)
    if (num_actions is None) == (num_action_dimensions is None):
        raise ValueError(
            "exactly one of num_actions and num_action_dimensions must be given, got "
            f"{num_actions} and {num_action_dimensions}"
        )


@runtime_checkable
class Environment(Protocol):
    """Steps batches of states; all randomness comes in as uniforms in [0, 1), so that two chains can share it."""

    @property
    def discount(self) -> float:
        """γ."""
        ...

    def reset(self, uniform: Float[ArrayLike, "*#batch"], /) -> Any:
        """Start states drawn from ρ, one a uniform."""
        ...

    def step(self, state: Any, action: Any, uniform: Float[ArrayLike, "*#batch"], /) -> Any:
        """Next states drawn from P(·|s, a)."""
        ...

    def is_terminal(self, state: Any, /) -> Bool[Array, "*batch"]:
        """Whether nothing accrues in these states any more; they lead to themselves."""
        ...
