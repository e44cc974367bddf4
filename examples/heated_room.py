"""Two shaping weights for a plain gymnasium.Env: how should a thermostat weigh comfort against the price of power?

    bilevel-rl run examples/heated_room.py:problem

`Room` is an environment as anybody writes one: a room loses heat, and a thermostat turns the heating on or off every
half hour. Its owner minds two things: cold while somebody is at home, and the bill. The thermostat learns with a reward
that has two weights, and the owner looks for those that teach it what he wants.

    upper variable      x ∈ [0, 3]², the weights of comfort and of the bill
    follower's reward   −0.1 (x_0 · (degrees below 20)² / 4 + x_1 · price · heating)
    leader's cost       1 if somebody is at home and it is colder than 19 degrees, and 0.5 · price · heating
"""

import gymnasium
import jax.numpy as jnp
import numpy as np

import bilevel_rl as brl

WANTED, OUTSIDE, STEPS_A_DAY = 20.0, 5.0, 48


class Room(gymnasium.Env):
    """Observation: degrees below 20, sine and cosine of the time, price of power, whether somebody is at home."""

    observation_space = gymnasium.spaces.Box(-20.0, 20.0, (5,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        """A random time and temperature."""
        super().reset(seed=seed)
        self._step, self._degrees = int(self.np_random.integers(STEPS_A_DAY)), self.np_random.uniform(15.0, 22.0)
        return self._seen(), {}

    def step(self, action):
        """Half an hour."""
        self._degrees += 1.5 * action - 0.05 * (self._degrees - OUTSIDE) + 0.1 * self.np_random.normal()
        self._step = (self._step + 1) % STEPS_A_DAY
        return self._seen(), 0.0, False, False, {}

    def _seen(self):
        angle, is_evening = 2 * np.pi * self._step / STEPS_A_DAY, 36 <= self._step < 46
        below = np.clip(WANTED - self._degrees, -20, 20)
        price = 1.0 if is_evening else 0.5
        at_home = float(self._step < 16 or self._step >= 34)
        return np.array([below, np.sin(angle), np.cos(angle), price, at_home], np.float32)


def problem(comfort: float = 1.0, thrift: float = 0.5) -> brl.BilevelProblem:
    """The owner counts an hour in the cold `comfort`, and a unit of power `thrift`."""

    def reward(x, seen, heats):
        return -0.1 * (x[0] * jnp.maximum(seen[0], 0.0) ** 2 / 4 + x[1] * seen[3] * heats)

    return brl.BilevelProblem(
        brl.HostEnvironment.from_env(Room, discount=0.95),
        reward,
        brl.OccupancyCost(lambda x, seen, heats: comfort * seen[4] * (seen[0] > 1.0) + thrift * seen[3] * heats),
        initial_x=[0.2, 1.0],
        project=brl.projections.Box(0.0, 3.0),
        names=brl.Names("How should a thermostat weigh comfort against the bill?", x=("comfort", "bill")),
    )
