"""Random problems without symmetries, so that no swapped axis, sign or factor goes unseen."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from bilevel_rl import BilevelProblem, OccupancyCost, TabularMDP
from bilevel_rl.formulation import OccupancyFunctional, PolicyLoss, TrajectoryLoss


def garnet(
    seed: int,
    num_states: int = 5,
    num_actions: int = 3,
    num_successors: int = 3,
    discount: float = 0.9,
    num_terminal: int = 0,
) -> TabularMDP:
    """Every pair leads to `num_successors` distinct random states; the last `num_terminal` states are terminal."""
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions
    successors = np.argsort(rng.random((*shape, num_states)), axis=-1)[..., :num_successors]
    probabilities = rng.dirichlet(np.ones(num_successors), size=shape)
    initial = rng.dirichlet(np.ones(num_states))
    terminal = np.arange(num_states) >= num_states - num_terminal
    return TabularMDP.from_successors(
        successors, probabilities, initial=initial, discount=discount, terminal=terminal if num_terminal else None
    )


SHARED = {
    "successors over actions": ((5, 1, 3), (5, 3, 3)),
    "successors over actions, probabilities over states": ((5, 1, 3), (1, 3, 3)),
    "probabilities over states": ((5, 3, 3), (1, 3, 3)),
    "probabilities over actions": ((5, 3, 3), (5, 1, 3)),
    "probabilities over both": ((5, 3, 3), (1, 1, 3)),
}
"""Shapes of successors and probabilities of tables that 5 states or 3 actions share."""


def shared_garnet(sharing: str, num_terminal: int = 0) -> tuple[TabularMDP, TabularMDP]:
    """A garnet whose states or actions share an entry of a table, and the same MDP with every entry written out."""
    rng = np.random.default_rng(20)
    of_successors, of_probabilities = SHARED[sharing]
    successors = np.argsort(rng.random((*of_successors[:2], 5)), axis=-1)[..., :3]
    probabilities = rng.dirichlet(np.ones(3), size=of_probabilities[:2])
    rest = {
        "initial": rng.dirichlet(np.ones(5)),
        "discount": 0.9,
        "terminal": np.arange(5) >= 5 - num_terminal if num_terminal else None,
    }
    full = (np.broadcast_to(table, (5, 3, 3)) for table in (successors, probabilities))
    return TabularMDP.from_successors(successors, probabilities, **rest), TabularMDP.from_successors(*full, **rest)


def random_policy(seed: int, num_states: int = 5, num_actions: int = 3) -> np.ndarray:
    return np.random.default_rng([seed, 2]).dirichlet(np.ones(num_actions), size=num_states)


def _flat(x):
    return jnp.concatenate([jnp.atleast_1d(x["shift"]), x["tilt"]]) if isinstance(x, dict) else x


class Ripple(eqx.Module):
    """base(s, a) + wave(features(s, a) · x). Its tables are leaves: problems of one shape share their compilation."""

    base: np.ndarray
    features: np.ndarray
    wave: Callable

    def __call__(self, x, state, action):
        return jnp.asarray(self.base)[state, action] + self.wave(jnp.asarray(self.features)[state, action] @ _flat(x))


class Bowl(eqx.Module):
    """A rippled bowl around `center`."""

    center: np.ndarray

    def __call__(self, x):
        y = _flat(x) - self.center
        return 0.1 * y @ y + 0.2 * jnp.cos(y[0] - 2 * y[2])


def random_problem(
    seed: int,
    num_states: int = 5,
    num_actions: int = 3,
    num_successors: int = 3,
    discount: float = 0.9,
    num_terminal: int = 0,
    as_dict: bool = False,
    upper=None,
) -> BilevelProblem:
    """A garnet whose reward and cost both depend on x, not linearly; |r| <= 2 and |c| <= 2 for every x.

    x is an array of shape (3,), or with `as_dict` the dict {"shift": (), "tilt": (2,)} of the same three numbers.
    """
    rng = np.random.default_rng([seed, 1])
    shape = num_states, num_actions
    start = rng.normal(size=3)
    return BilevelProblem(
        environment=garnet(seed, num_states, num_actions, num_successors, discount, num_terminal),
        reward=Ripple(rng.uniform(-1, 1, shape), rng.normal(size=(*shape, 3)), jnp.tanh),
        upper=upper
        or OccupancyCost(
            cost=Ripple(rng.uniform(-1, 1, shape), rng.normal(size=(*shape, 3)), jnp.sin),
            regularizer=Bowl(rng.normal(size=3)),
            cost_bound=2.0,
        ),
        initial_x={"shift": start[0], "tilt": start[1:]} if as_dict else start,
        reward_bound=2.0,
    )


class Skew(eqx.Module):
    """A function of x and the occupancy that is neither linear nor symmetric in its pairs."""

    tilt: np.ndarray

    def __call__(self, x, d):
        visits = d.sum(1) + 0.05
        return jnp.sum(visits * jnp.log(visits)) + jnp.sum(jnp.asarray(self.tilt) * d**2) * (1 + 0.3 * _flat(x)[0] ** 2)


class Leaning(eqx.Module):
    """A loss of trajectories in which x, the order of the two and every step count for themselves."""

    base: np.ndarray
    features: np.ndarray

    def __call__(self, x, states, actions):
        y = _flat(x)
        worths = jnp.asarray(self.base)[states, actions] + jnp.asarray(self.features)[states, actions] @ y
        totals = worths @ jnp.arange(1.0, states.shape[1] + 1)
        return jnp.tanh(totals[0] - 0.5 * totals[-1]) + 0.2 * totals[0] * y[1]


def _demonstrated_loss(x, log_policy, state, action):
    return -log_policy[action] * (1 + 0.1 * _flat(x)[1] ** 2) + 0.05 * jnp.exp(log_policy[0]) * state


UPPERS = ("functional", "policy", "one trajectory", "two trajectories")


def upper_objective(kind: str, seed: int = 0, num_states: int = 5, num_actions: int = 3):
    """An upper objective of each kind that is not an `OccupancyCost`, for problems of that size."""
    rng = np.random.default_rng([seed, 5])
    shape, bowl = (num_states, num_actions), Bowl(rng.normal(size=3))
    if kind == "functional":
        return OccupancyFunctional(Skew(rng.uniform(0.5, 2.0, shape)), regularizer=bowl, tracking_step=0.01)
    if kind == "policy":
        states, actions = rng.integers(num_states, size=11), rng.integers(num_actions, size=11)
        return PolicyLoss(states, actions, _demonstrated_loss, regularizer=bowl)
    loss = Leaning(rng.normal(size=shape), rng.normal(size=(*shape, 3)))
    return TrajectoryLoss(loss, num_steps=2, num_trajectories=1 if kind == "one trajectory" else 2, regularizer=bowl)
