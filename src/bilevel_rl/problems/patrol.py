"""Patrol: a ranger commits to a way of going round, and a poacher who knows it chooses where and when to act."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from bilevel_rl import checks
from bilevel_rl.exact.solver import Solution, solve
from bilevel_rl.formulation.games import LeaderPolicy, MarkovGame
from bilevel_rl.formulation.names import Names
from bilevel_rl.formulation.problem import BilevelProblem
from bilevel_rl.problems.worked import as_function

Sight = Literal["everything", "position", "nothing"]

LARGEST_LOGIT = 6.0


@dataclass(frozen=True)
class Patrol:
    """x are the logits of a ranger's policy: to which of k sites he goes next, given what he sees.

    A poacher first sets a trap at a site and then waits there for game. In each step both choose at the same time. The
    ranger, at site i, heads for site b and arrives with probability `exp(−(distance/reach)²)`; otherwise he stays at i.
    The poacher works at site a, or lies low (a = k). Where his trap is set he succeeds with probability `speed`;
    elsewhere he sets one there and gives up the other. If the ranger is at the site at the end of the step, the poacher
    is first caught with probability `detection`: he pays `fine`, and the trap is gone.

    The poacher earns `gains[a]` for a success, the ranger loses `damages[a]`, and `price` for every unit of way that he
    sets out for. State `i · (k + 1) + o`: the ranger is at site i and the trap at site o; o = k for none.

    Args:
        positions: (x, y) of the k sites.
        gains: of a success at each site, the poacher's.
        damages: of a success at each site, the ranger's.
        fine: for being caught.
        detection: probability to catch a poacher at the same site.
        reach: how far the ranger gets in a step, in units of `positions`.
        speed: probability that a trap that is set catches game in a step.
        price: of a unit of way.
        discount: γ.
        sees: what the ranger's policy may depend on: position and trap (an alarm tells him), his position, or nothing.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there are no two sites, arguments differ in length, or a number is out of its range.

    Example:
        >>> import bilevel_rl as brl
        >>> problem = brl.problems.patrol()
        >>> problem.initial_x.shape, problem.environment.num_states, problem.environment.num_actions
        ((42, 6), 42, 7)
    """

    positions: tuple[tuple[float, float], ...] = ((0, 0), (2, 0.3), (4, 0), (4.3, 2.2), (2.2, 2.6), (0.2, 2.4))
    gains: tuple[float, ...] = (0.7, 1.0, 0.6, 0.9, 0.5, 0.8)
    damages: tuple[float, ...] = (1.0, 0.6, 0.9, 0.5, 0.8, 0.7)
    fine: float = 1.0
    detection: float = 0.9
    reach: float = 3.0
    speed: float = 0.7
    price: float = 0.02
    discount: float = 0.9
    sees: Sight = "everything"

    @property
    def num_sites(self) -> int:
        """k."""
        return len(self.positions)

    def game(self) -> MarkovGame:
        """Who moves where, earns what and pays what."""
        self._check()
        k, places = self.num_sites, np.array(self.positions, float)
        ways = np.linalg.norm(places[:, None] - places, axis=-1)
        arrives = np.exp(-((ways / self.reach) ** 2))[..., None]
        site, working = np.eye(k), np.eye(k + 1, k)
        # Axes: ranger's site, trap, poacher's choice, ranger's choice, ranger's next site.
        ends = arrives * site + (1 - arrives) * site[:, None]
        caught = self.detection * ends[:, None, None] * site[:, None]
        escapes = ends[:, None, None] - caught
        succeeds = self.speed * working[:, :, None, None] * escapes
        transition = np.zeros((k, k + 1, k + 1, k, k, k + 1))
        transition[:, :, :k, :, :, k] = caught + succeeds
        for a in range(k):
            transition[:, :, a, :, :, a] = (escapes - succeeds)[:, :, a]
        transition[:, :, k, :, :, k] = ends[:, None]
        rewards, costs = np.zeros((2, k, k + 1, k + 1, k))
        successes = succeeds.sum(-1)
        rewards[:, :, :k] = np.array(self.gains)[:, None] * successes - self.fine * caught.sum(-1)
        costs[:, :, :k] = np.array(self.damages)[:, None] * successes
        costs += self.price * ways[:, None, None]
        num_states = k * (k + 1)
        return MarkovGame(
            transition.reshape(num_states, k + 1, k, num_states),
            rewards.reshape(num_states, k + 1, k),
            costs.reshape(num_states, k + 1, k),
            initial=np.repeat(np.eye(k + 1)[k][None] / k, k, axis=0).ravel(),
            discount=self.discount,
        )

    def policy(self) -> LeaderPolicy:
        """A row of logits for whatever the ranger can tell apart."""
        k = self.num_sites
        return LeaderPolicy.table(k * (k + 1), k, sees=self.rows(), largest=LARGEST_LOGIT)

    def problem(self) -> BilevelProblem:
        """What is solved."""
        k = self.num_sites
        game = self.game()
        seen = {
            "everything": [f"{state}: " for state in self._states()],
            "position": [f"at {i}: " for i in range(k)],
            "nothing": [""],
        }
        return game.problem(
            self.policy(),
            names=Names(
                "How should a ranger go round so that a poacher who knows it does least harm?",
                states=self._states(),
                actions=(*(f"site {a}" for a in range(k)), "lies low"),
                x=[f"{state}to {b}" for state in seen[self.sees] for b in range(k)],
            ),
        )

    def optimum(self, problem: BilevelProblem, entropy_weight: float) -> Solution:
        """Where exact descent from even chances ends; at the defaults that is the best of 32 starts."""
        return solve(problem, entropy_weight=entropy_weight)

    def rows(self) -> Int[np.ndarray, " S"]:
        """Which row of x each state has."""
        states = np.arange(self.num_sites * (self.num_sites + 1))
        return {"everything": states, "position": states // (self.num_sites + 1), "nothing": 0 * states}[self.sees]

    def harm(self, occupancy: Float[np.ndarray, "S A"], chances: Float[np.ndarray, "S B"]) -> Float[np.ndarray, " k"]:
        """Damage a step at each site, for the poacher's occupancy and the ranger's policy."""
        costs = self.game().leader_cost
        damages = costs - costs[:, -1:]  # Where the poacher lies low there is only the ranger's way to pay.
        return np.einsum("sa,sb,sab->a", occupancy, chances, damages)[:-1]

    def _states(self) -> tuple[str, ...]:
        k = self.num_sites
        traps = [*(f"trap at {o}" for o in range(k)), "no trap"]
        return tuple(f"ranger at {i}, {trap}" for i in range(k) for trap in traps)

    def _check(self):
        for name in ("positions", "gains", "damages"):
            checks.instance(name, getattr(self, name), tuple, list, np.ndarray)
            checks.finite(name, getattr(self, name))
        lengths = {name: len(getattr(self, name)) for name in ("positions", "gains", "damages")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"positions, gains and damages must be equally many, one for each site, got {lengths}")
        if self.num_sites < 2:
            raise ValueError(f"positions must hold at least two sites, got {self.num_sites}")
        checks.shape("positions", self.positions, (self.num_sites, 2))
        for name in ("fine", "price"):
            checks.number(name, getattr(self, name), at_least=0)
        for name in ("detection", "speed"):
            checks.number(name, getattr(self, name), at_least=0, at_most=1)
        checks.number("reach", self.reach, above=0)
        checks.one_of("sees", self.sees, get_args(Sight))


patrol = as_function(Patrol)
"""The problem that `Patrol` describes, from the same arguments."""
