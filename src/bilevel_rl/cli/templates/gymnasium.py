"""Where should a cart stand? The reward of any gymnasium.Env is shaped until its follower does what the leader wants.

    bilevel-rl run my_problem.py                 # learn x and the policy together
    bilevel-rl run my_problem.py --target -0.3   # parameters of `problem` are flags

The environment is stepped by Python; its own reward is not used. Several seeds are several runs (--seed).
"""

import gymnasium
import jax.numpy as jnp

import bilevel_rl as brl


def make() -> gymnasium.Env:
    """One environment: yours, with its wrappers. Observations must be arrays or numbers."""
    return gymnasium.make("CartPole-v1")


def problem(target: float = 0.5, price: float = 0.01) -> brl.BilevelProblem:
    """Two shaping weights, x = (place where standing pays most, how much it pays).

    Args:
        target: where the leader wants the cart.
        price: what a unit of squared weight costs the leader.
    """

    def reward(x, observation, action):
        """What the follower earns per step. A plain JAX function of x, the observation and the action."""
        return 0.1 * (1.0 - x[1] * (observation[0] - x[0]) ** 2)

    def cost(x, observation, action):
        """What the leader pays per step: below 0 everywhere, so that it does not gain by a fallen pole."""
        return jnp.minimum((observation[0] - target) ** 2, 1.0) - 1.0

    return brl.BilevelProblem(
        environment=brl.HostEnvironment.from_env(make, discount=0.99),
        reward=reward,
        upper=brl.OccupancyCost(cost, regularizer=lambda x: price * x[1] ** 2),
        initial_x=[0.0, 0.5],
        project=brl.projections.Box([-1.0, 0.0], [1.0, 2.0]),  # which x are allowed
    )
