"""From a log of what people did to a better incentive, and how sure of it one can be.

Couriers wait for orders. Every half hour each of them chooses a district to go to, and an order may carry him away. The
platform has a log of it, `examples/data/couriers.csv`, and wants more couriers on the hill and on the campus, where
customers wait longest. It may pay a bonus x_s for every half hour that a courier begins in district s. What the
couriers want is not known, nor where orders carry them.

    what people did       3,000 choices of 60 couriers → how often each district followed each choice
    their wishes          r_w(s, a) = w · (fees, distance, shelter): the weights w under which soft-optimal couriers
                          would most likely have made these choices (maximum-entropy inverse reinforcement learning)
    a better incentive    min over x ∈ [0, 5]^6 of E[x_s − worth_s], where a bonus is worth w_fees x_s to the couriers
    an interval           of that cost, with dynamics and wishes drawn anew

Exact command, 21 s of processor time, and what it prints:

    .venv/bin/python examples/logged_data.py --figure couriers.png

    3,000 transitions of 6 states and 6 actions; each pair was tried 1 to 707 times.
    Every pair was tried.

                       fitted     true
    a euro of fees       0.67     0.70
    a kilometre         -0.50    -0.50
    shelter              0.60     0.60

    bonuses: campus 2.63, hill 4.36

    cost per half hour   by the log (90 % interval)      true
    no bonus              -1.46 (-1.51 to -1.43)          -1.49
    best bonus            -1.99 (-2.10 to -1.67)          -1.95
    best, if all known                                     -1.96

Weights are in units of the couriers' entropy weight τ = 1, the noise of their choices. Since the log is simulated
(`write_log`), the truth is known, and printed beside what the log says.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float
from matplotlib.figure import Figure

import bilevel_rl as brl

LOG = Path(__file__).parent / "data" / "couriers.csv"
DISTRICTS = ["campus", "harbour", "hill", "market", "park", "station"]
FEES = np.array([1.1, 2.0, 0.8, 3.0, 1.0, 2.6])
"""Euros that a courier earns on average in half an hour of waiting there."""
PLACES = np.array([[0.0, 3.0], [4.0, 0.0], [1.0, 5.0], [2.5, 2.0], [1.0, 1.0], [3.0, 1.0]])
SHELTER = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
WORTH = np.array([6.0, 1.0, 7.0, 1.0, 1.0, 1.0])
"""Euros that half an hour of a courier's time is worth to the platform."""
DISTANCES = np.linalg.norm(PLACES[:, None] - PLACES, axis=-1)
FEATURES = np.stack(np.broadcast_arrays(FEES, DISTANCES, SHELTER), axis=-1)
"""Of every choice (s, a): fees, kilometres and shelter."""
WISHES = "a euro of fees", "a kilometre", "shelter"
DISCOUNT, ENTROPY_WEIGHT, LARGEST_BONUS = 0.9, 1.0, 5.0
TRUE_WISHES = np.array([0.7, -0.5, 0.6])


class Reward(eqx.Module):
    """w · features, and the bonus at what a euro is worth.

    The weights are numbers of the module, not code, so problems of other weights share their compiled programs.
    """

    weights: Float[np.ndarray, "3"]
    features: Float[np.ndarray, "S A 3"]

    def __call__(self, x, s, a):
        """r_x(s, a)."""
        weights = jnp.asarray(self.weights)
        return jnp.asarray(self.features)[s, a] @ weights + weights[0] * x[s]


class Choices(eqx.Module):
    """−log π(a|s) of a choice, as often as it was made."""

    shares: Float[np.ndarray, "S A"]

    def __call__(self, x, log_policy, s, a):
        """Loss of one pair."""
        return -jnp.asarray(self.shares)[s, a] * log_policy[a]


def wishes_problem(mdp: brl.TabularMDP) -> brl.BilevelProblem:
    """Inverse reinforcement learning: x is w, and what is lowered is the mean surprise at the couriers' choices."""
    states, actions = np.indices((mdp.num_states, mdp.num_actions))
    return brl.BilevelProblem(
        environment=mdp,
        reward=lambda w, s, a: jnp.asarray(FEATURES)[s, a] @ w,
        upper=brl.PolicyLoss(states, actions, Choices(np.ones(states.shape))),
        initial_x=np.zeros(3),
        entropy_weight=ENTROPY_WEIGHT,
    )


def fitted_wishes(
    problem: brl.BilevelProblem, mdp: brl.TabularMDP, visits: Float[np.ndarray, "S A"]
) -> Float[np.ndarray, "3"]:
    """The w that makes choices as frequent as `visits` most likely."""
    shares = visits / visits.mean()
    problem = eqx.tree_at(lambda p: (p.environment, p.upper.loss.shares), problem, (mdp, shares))
    return brl.exact.solve(problem, entropy_weight=ENTROPY_WEIGHT, tolerance=1e-6).x


def bonus_problem(mdp: brl.TabularMDP, wishes: Float[np.ndarray, "3"]) -> brl.BilevelProblem:
    """The platform's problem, of couriers with these wishes: a bonus is paid, a courier's time is gained."""
    return brl.BilevelProblem(
        environment=mdp,
        reward=Reward(wishes, FEATURES),
        upper=brl.OccupancyCost(lambda x, s, a: x[s] - jnp.asarray(WORTH)[s]),
        initial_x=np.zeros(mdp.num_states),
        project=brl.projections.Box(0.0, LARGEST_BONUS),
        entropy_weight=ENTROPY_WEIGHT,
    )


@dataclass(frozen=True)
class Findings:
    """What the log says, each with the truth that only the simulator knows.

    Attributes:
        wishes: w, fitted; the true ones are `TRUE_WISHES`.
        bonuses: x that is best for the fitted wishes and dynamics.
        costs: Φ without and with these bonuses, over models and wishes that the log allows.
        true_costs: the same of the simulator.
        optimum: Φ of the bonuses that would be best, had one known the simulator.
    """

    wishes: Float[np.ndarray, "3"]
    bonuses: Float[np.ndarray, "6"]
    costs: dict[str, brl.exact.Confidence]
    true_costs: dict[str, float]
    optimum: float


def findings(log: brl.TransitionLog, num_models: int) -> Findings:
    """The whole way from the log to the intervals."""
    mdp = log.mdp(discount=DISCOUNT)
    of_wishes = wishes_problem(mdp)
    wishes = fitted_wishes(of_wishes, mdp, log.visits())
    problem = bonus_problem(mdp, wishes)
    best = brl.exact.solve(problem, entropy_weight=ENTROPY_WEIGHT)

    def refit(model: brl.BilevelProblem, visits: np.ndarray) -> brl.BilevelProblem:
        weights = fitted_wishes(of_wishes, model.mdp, visits)
        return eqx.tree_at(lambda p: p.reward.weights, model, weights)

    truth = bonus_problem(true_couriers(), TRUE_WISHES)
    choices = {"no bonus": np.zeros_like(best.x), "best bonus": best.x}
    return Findings(
        wishes=wishes,
        bonuses=best.x,
        costs={
            name: brl.exact.confidence(
                problem, log, x, entropy_weight=ENTROPY_WEIGHT, num_models=num_models, refit=refit
            )
            for name, x in choices.items()
        },
        true_costs={
            name: float(brl.exact.hyper_objective(truth, x, entropy_weight=ENTROPY_WEIGHT))
            for name, x in choices.items()
        },
        optimum=brl.exact.solve(truth, entropy_weight=ENTROPY_WEIGHT).objective,
    )


def true_couriers() -> brl.TabularMDP:
    """Where couriers really are half an hour later: orders carry them off, more often where there are more fees."""
    carried = np.exp(-DISTANCES / 2) * [1.0, 2.0, 0.5, 3.0, 1.0, 2.0]
    carried /= carried.sum(1, keepdims=True)
    chance = 0.2 * FEES / FEES.max() + 0.2
    kernel = (1 - chance)[:, None] * np.eye(6) + chance[:, None] * carried  # By the district that they went to.
    return brl.TabularMDP.from_dense(np.stack([kernel] * 6), initial=np.full(6, 1 / 6), discount=DISCOUNT)


def write_log(path: Path, num_couriers: int = 60, num_steps: int = 50, seed: int = 0):
    """Simulates the log: couriers who choose soft-optimally for `TRUE_WISHES`, without bonuses."""
    rng, mdp = np.random.default_rng(seed), true_couriers()
    problem = bonus_problem(mdp, TRUE_WISHES)
    policy = brl.exact.lower_policy(problem, np.zeros(6), entropy_weight=ENTROPY_WEIGHT)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["courier", "district", "goes_to", "is_next_in"])
        for courier in range(num_couriers):
            state = rng.integers(6)
            for _ in range(num_steps):
                action = rng.choice(6, p=policy[state] / policy[state].sum())
                reached = int(mdp.step(state, action, rng.random()))
                table.writerow([courier, *(DISTRICTS[place] for place in (state, action, reached))])
                state = reached


def read_log(path: Path = LOG) -> brl.TransitionLog:
    """The log, with its districts numbered as here."""
    columns = {"state": "district", "action": "goes_to", "next_state": "is_next_in", "episode": "courier"}
    return brl.TransitionLog.read(path, **columns, all_states=DISTRICTS, all_actions=DISTRICTS)


def main(num_models: int = 50, figure: Path | None = None) -> Findings:
    """Prints what the log says, and the truth.

    Args:
        num_models: models that the intervals are made of.
        figure: where to save a picture; none by default.
    """
    log = read_log()
    print(log)
    found = findings(log, num_models)
    print("\n                   fitted     true")
    for name, fitted, true in zip(WISHES, found.wishes, TRUE_WISHES, strict=True):
        print(f"{name:16} {fitted:8.2f} {true:8.2f}")
    bonuses = ", ".join(
        f"{name} {bonus:.2f}" for name, bonus in zip(DISTRICTS, found.bonuses, strict=True) if bonus > 0
    )
    print(f"\nbonuses: {bonuses}\n\ncost per half hour   by the log (90 % interval)      true")
    for name, cost in found.costs.items():
        low, high = cost.interval()
        print(f"{name:20} {cost.estimate:6.2f} ({low:.2f} to {high:.2f}) {found.true_costs[name]:14.2f}")
    print(f"{'best, if all known':55}{found.optimum:.2f}")
    if figure is not None:
        draw(found, figure)
    return found


def draw(found: Findings, path: Path):
    """Bonuses by district, and what the log says about the cost with and without them."""
    canvas = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    left.bar(DISTRICTS, found.bonuses, color="#4c9f70")
    left.set(title="a better incentive", ylabel="bonus in euros per half hour")
    left.tick_params(axis="x", rotation=30)
    for (name, cost), color in zip(found.costs.items(), ("#999999", "#4c9f70"), strict=True):
        right.hist(cost.samples, bins=12, color=color, alpha=0.7, label=name)
        right.axvspan(*map(float, cost.interval()), color=color, alpha=0.2)
        right.axvline(found.true_costs[name], color=color, linestyle="--")
    right.set(title="its cost: models, interval, truth (dashed)", xlabel="euros per half hour", yticks=[])
    right.legend()
    canvas.savefig(path, dpi=150)


if __name__ == "__main__":
    tyro.cli(main)
