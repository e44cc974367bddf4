"""CartPole reward design: does the leader draw a reward whose follower stands where a hidden cost wants it?"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from bilevel_rl import plots, processes
from bilevel_rl.algorithms import SingleLoopActorCritic, UpperSteps
from bilevel_rl.experiments.followers import train, watch
from bilevel_rl.experiments.settings import RunSettings, ScheduleSettings
from bilevel_rl.policies import NeuralActorCritic
from bilevel_rl.problems import BilevelProblem, cartpole_design
from bilevel_rl.problems.control import observe_cartpole
from bilevel_rl.results import RunFolder

NUM_EPISODES, NUM_STEPS = 256, 800
"""By which a follower is judged at the end; γ^800 = 0.0003 of the time is later."""

SHOWN = 32
"""Episodes of the first seed whose states are kept."""


@dataclass(frozen=True)
class CartpoleDesign:
    """Draw a reward along CartPole's track until the follower stands where it should (3 minutes; extra [control])."""

    target: float = 1.0
    """position where the leader wants the cart to stand"""
    tolerance: float = 0.7
    """how far off still counts as there"""
    initial_target: float = -1.0
    """position where the reward of the start makes it stand"""
    price: float = 0.02
    """that the leader pays for a reward as high as can be everywhere"""
    discount: float = 0.99
    """discount factor"""
    width: int = 64
    """of both hidden layers of every network"""
    judging_transitions: float = 960_000
    """for which followers are trained from scratch at the first and the last x, to judge these"""
    run: RunSettings = field(default_factory=lambda: RunSettings(num_seeds=5, num_iterations=30_000, log_every=1_000))
    schedule: ScheduleSettings = field(
        default_factory=lambda: ScheduleSettings(
            schedule="constant-entropy",
            upper=3e-4,
            actor=1e-3,
            critic=3e-3,
            penalty=0.3,
            entropy_weight=0.1,
            offset=3_000.0,
            num_chains=32,
        )
    )

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return cartpole_design(self.target, self.tolerance, self.initial_target, self.price, self.discount)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        if not (self.judging_transitions >= self.schedule.num_chains and math.isfinite(self.judging_transitions)):
            raise ValueError(
                "judging_transitions must be finite and at least one for each of num_chains, got "
                f"{self.judging_transitions:g}"
            )
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        problem = self.problem()
        return SingleLoopActorCritic(
            problem,
            self.schedule.step_sizes(),
            self.schedule.num_chains,
            upper_steps=UpperSteps(optax.adam(1.0), averaging=3.0),
            policies=NeuralActorCritic.mlp(problem.environment, observe_cartpole, width=self.width),
        )

    def judge(self, algorithm: SingleLoopActorCritic, x: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
        """f of a follower that is trained at x from scratch, and the states of its episodes (steps, episodes, 4)."""
        key = jax.random.key(self.run.seed, impl=self.run.generator)
        learning, watching = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, seed), 2**31))
        follower = train(algorithm, x, learning, int(self.judging_transitions))
        watched = watch(algorithm, x, follower, watching, NUM_EPISODES, NUM_STEPS)
        return float(watched.objective), np.asarray(watched.states)


def main(config: CartpoleDesign, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment, judges the first and the last x of every seed, and draws the figures."""
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return
    first, last = np.asarray(algorithm.problem.initial_x, np.float32), np.asarray(result.x)
    before = [config.judge(algorithm, first, seed) for seed in range(config.run.num_seeds)]
    after = [config.judge(algorithm, x, seed) for seed, x in enumerate(last)]
    learned = [
        float(watch(algorithm, x, _lower(result.states, seed), jax.random.key(seed), NUM_EPISODES, NUM_STEPS).objective)
        for seed, x in enumerate(last)
    ]
    folder.write_arrays(
        "followers",
        first_x=first,
        last_x=last,
        before=np.array([objective for objective, _ in before]),
        after=np.array([objective for objective, _ in after]),
        learned=np.array(learned),
        states_before=before[0][1][:, :SHOWN],
        states_after=after[0][1][:, :SHOWN],
    )
    plot(folder)


def _lower(states: Any, seed: int) -> PyTree:
    """The lower follower of a seed."""
    return jax.tree.map(lambda leaf: leaf[seed, 0], states.followers)


def plot(folder: RunFolder):
    """Draws the figures of a run folder, and the animation."""
    plots.draw_step_sizes(folder)
    plots.draw_sampled_curves(folder)
    plots.draw_cartpole_design(folder)
    plots.animate_cartpole(folder)


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    data = folder.read_arrays("followers")
    before, after, learned = (np.median(data[name]) for name in ("before", "after", "learned"))
    least = 100 * (1 - data["after"] / data["before"]).min()
    return (
        f"designer's cost of followers trained from scratch, median of {len(data['after'])} seeds: {before:.3f} with "
        f"the first reward, {after:.3f} with the last, at least {least:.0f} % less; its own policies {learned:.3f}"
    )
