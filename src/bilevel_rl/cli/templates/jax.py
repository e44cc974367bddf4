"""How strong should a spring be? A follower moves on a line, in an environment of a few JAX functions.

bilevel-rl run my_problem.py                 # followers are networks, compiled together with the environment
bilevel-rl run my_problem.py --target 0.2    # parameters of `problem` are flags
"""

import jax
import jax.numpy as jnp

import bilevel_rl as brl

STEP, NOISE = 0.1, 0.02


def initial(key):
    """A start state, here a position; any pytree of arrays."""
    return jax.random.uniform(key, minval=-1.0, maxval=1.0)


def transition(state, action, key):
    """The next state. Action 0 goes left, 1 stays, 2 goes right."""
    return jnp.clip(state + STEP * (action - 1) + NOISE * jax.random.normal(key), -1.0, 1.0)


def problem(target: float = 0.5, price: float = 0.05) -> brl.BilevelProblem:
    """The leader wants the follower at a target, and pays for what draws it there.

    Args:
        target: where the leader wants the follower.
        price: what a unit of squared reward costs the leader.
    """
    line = brl.FunctionalEnvironment(
        initial=initial,
        transition=transition,
        observe=lambda state: state[None],  # what the networks see, an array
        num_actions=3,
        discount=0.95,
        time_limit=200,
    )

    def reward(x, state, action):
        """x = (slope to the right, cost of leaving the middle)."""
        return x[0] * state - x[1] * state**2

    return brl.BilevelProblem(
        environment=line,
        reward=reward,
        upper=brl.OccupancyCost(
            lambda x, state, action: (state - target) ** 2, regularizer=lambda x: price * jnp.sum(x**2)
        ),
        initial_x=[0.0, 0.5],
        project=brl.projections.Box(-1.0, 1.0),  # which x are allowed
    )
