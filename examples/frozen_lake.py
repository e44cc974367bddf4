"""Paying for help on a frozen lake: which squares should carry a bonus, and how large?

The follower walks Gymnasium's slippery 4×4 FrozenLake. Its own reward is 1 for reaching the goal, and it prefers to act
at random a little (entropy weight 0.05), so that it misses the goal on three walks out of four. The leader earns
`GOAL_VALUE` whenever the follower arrives. It may promise a bonus x_s ≥ 0 for every step that the follower takes on
square s, and has to pay what it promised. Too large a bonus on a safe square is a trap: the follower stays there and
collects it.

    upper variable      x ∈ [0, 0.5]^16, one bonus a square
    follower's reward   r_x(s, a) = r_lake(s, a) + x_s
    leader's cost       c_x(s, a) = x_s − GOAL_VALUE · r_lake(s, a)

Exact command, 10 s on two cores, and what it prints (progress left out):

    .venv/bin/python examples/frozen_lake.py --figure frozen_lake.png

                   success   bonuses paid   leader's profit
    no bonuses       0.267          0.000             4.173
    learned          0.610          0.824             5.865
    exact optimum    0.604          0.822             6.030
    profits of the 5 seeds: 5.84 5.85 5.86 5.88 5.89

Success is the probability of ever reaching the goal; bonuses and profit are discounted sums from the start. All numbers
of a row are exact for its x and the follower's optimal answer to it; only the x of the second row comes from samples.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure

import bilevel_rl as brl
from bilevel_rl.environments import gymnasium_reward

LAKE = "FrozenLake-v1"
DISCOUNT = 0.95
ENTROPY_WEIGHT = 0.05
GOAL_VALUE = 50.0
LARGEST_BONUS = 0.5
ALMOST_ONE = 1 - 1e-6


@dataclass(frozen=True)
class Outcome:
    """What one vector of bonuses leads to, once the follower has answered it.

    Attributes:
        bonuses: x, one number a square.
        success: probability that the follower ever reaches the goal.
        payment: discounted sum of the bonuses paid, per walk.
        profit: −Φ_τ(x) / (1 − γ), the leader's discounted earnings less the payment, per walk.
    """

    bonuses: Float[np.ndarray, " squares"]
    success: float
    payment: float
    profit: float


@functools.cache  # One object a setting, so that its oracles compile once.
def frozen_lake(discount: float = DISCOUNT, goal_value: float = GOAL_VALUE, price: float = 1.0) -> brl.BilevelProblem:
    """The bi-level problem of the module's docstring; the leader pays `price` for each unit of bonus."""
    table = gymnasium_reward(LAKE, is_slippery=True)

    def lake_reward(s, a):
        return jnp.asarray(table, float)[s, a]

    return brl.BilevelProblem(
        environment=brl.TabularMDP.from_gymnasium(LAKE, discount=discount, is_slippery=True),
        reward=lambda x, s, a: lake_reward(s, a) + x[s],
        upper=brl.OccupancyCost(
            cost=lambda x, s, a: price * x[s] - goal_value * lake_reward(s, a),
            cost_bound=goal_value * float(table.max()) + price * LARGEST_BONUS,
        ),
        initial_x=np.zeros(len(table)),
        project=lambda x: jnp.clip(x, 0.0, LARGEST_BONUS),
        reward_bound=float(table.max()) + LARGEST_BONUS,
    )


def outcome(bonuses: Float[np.ndarray, " squares"]) -> Outcome:
    """Exact consequences of a vector of bonuses."""
    problem = frozen_lake()
    policy = brl.exact.lower_policy(problem, bonuses, entropy_weight=ENTROPY_WEIGHT)
    undiscounted = frozen_lake(discount=ALMOST_ONE, goal_value=1.0, price=0.0)
    payments = frozen_lake(goal_value=0.0)
    return Outcome(
        bonuses=bonuses,
        success=-float(brl.exact.upper_value(undiscounted, bonuses, policy)) / (1 - ALMOST_ONE),
        payment=float(brl.exact.upper_value(payments, bonuses, policy)) / (1 - DISCOUNT),
        profit=-float(brl.exact.upper_value(problem, bonuses, policy)) / (1 - DISCOUNT),
    )


def learned_bonuses(num_iterations: int, num_seeds: int, *, progress: bool) -> Float[np.ndarray, "seeds squares"]:
    """Bonuses found by Algorithm 1, from samples only."""
    # The leader counts in units 50 times as large as the follower's, so the penalty parameter is 1/50: w·c is then of
    # the size of r. The goal is rarely seen, so x has to move slowly.
    step_sizes = brl.StepSizes.constant_entropy(
        upper=3e-5, actor=2.0, critic=16.0, penalty=0.02, entropy=ENTROPY_WEIGHT, offset=20_000.0
    )
    result = brl.run(
        brl.SingleLoopActorCritic(frozen_lake(), step_sizes, brl.Followers(32)),
        jax.random.key(0),
        num_seeds,
        num_iterations,
        log_every=max(1, num_iterations // 10),
        evaluation_entropy_weight=ENTROPY_WEIGHT,
        progress=progress,
    )
    return np.asarray(result.x, np.float64)


def main(
    num_iterations: int = 200_000, num_seeds: int = 5, figure: Path | None = None, progress: bool = True
) -> dict[str, Outcome]:
    """Prints what no bonuses, learned bonuses and the exact optimum lead to.

    Args:
        num_iterations: iterations of Algorithm 1; 64 environment transitions each.
        num_seeds: independent runs; the learned bonuses shown are those of the seed with the median profit.
        figure: where to save a picture of the bonuses; none by default.
        progress: show a progress bar.
    """
    seeds = [outcome(bonuses) for bonuses in learned_bonuses(num_iterations, num_seeds, progress=progress)]
    optimum = brl.exact.solve(frozen_lake(), entropy_weight=ENTROPY_WEIGHT)
    seeds.sort(key=lambda seed: seed.profit)
    outcomes = {
        "no bonuses": outcome(np.zeros_like(optimum.x)),
        "learned": seeds[num_seeds // 2],
        "exact optimum": outcome(optimum.x),
    }
    print(f"{'':14} success   bonuses paid   leader's profit")
    for name, row in outcomes.items():
        print(f"{name:14} {row.success:7.3f}   {row.payment:12.3f}   {row.profit:15.3f}")
    print(f"profits of the {num_seeds} seeds: " + " ".join(f"{seed.profit:.2f}" for seed in seeds))
    if figure is not None:
        draw(outcomes, figure)
    return outcomes


def draw(outcomes: dict[str, Outcome], path: Path):
    """The lake with its bonuses, learned and optimal side by side."""
    lake = "SFFFFHFHFFFHHFFG"
    canvas = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, name in zip(canvas.subplots(1, 2), ("learned", "exact optimum"), strict=True):
        bonuses = outcomes[name].bonuses.reshape(4, 4)
        image = axes.imshow(bonuses, cmap="YlGn", vmin=0, vmax=0.3)
        for square, letter in enumerate(lake):
            row, column = divmod(square, 4)
            bonus = f"\n{bonuses[row, column]:.2f}" if bonuses[row, column] >= 0.005 else ""
            axes.text(column, row, letter + bonus, ha="center", va="center", color="#a33" if letter == "H" else "black")
        axes.set(title=f"{name}: profit {outcomes[name].profit:.2f}", xticks=[], yticks=[])
        canvas.colorbar(image, ax=axes, label="bonus per step", shrink=0.85)
    canvas.savefig(path, dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
