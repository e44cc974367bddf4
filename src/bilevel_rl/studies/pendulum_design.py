"""Pendulum reward design: does the leader find a reward whose follower swings up with little torque?"""

from dataclasses import dataclass, field

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import pendulum_design
from bilevel_rl.problems.control import observe_pendulum
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import reward_design
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.followers import single_loop
from bilevel_rl.studies.pendulum_design_figures import animate_pendulum, draw_pendulum_design


@dataclass(frozen=True)
class PendulumDesign:
    """Find a reward under which a pendulum is swung up with little torque (minutes; extra [control])."""

    tolerance: float = 0.5
    """how far from upright still counts, in radians"""
    torque_price: float = 0.1
    """that the leader pays for the largest torque"""
    price: float = 0.05
    """that the leader pays for a reward as high as can be everywhere"""
    discount: float = 0.99
    """discount factor"""
    width: int = 64
    """of both hidden layers of every network"""
    num_steps: int = 16
    """transitions of every chain in an iteration"""
    gae_lambda: float = 0.95
    """how far advantages look ahead, from 0 to 1"""
    averaging: float = 3.0
    """the answer is the mean of all x_k, weighted as k to this power"""
    judging_transitions: float = 3_072_000
    """of followers trained from scratch at the first and the last x, to judge these; the run's own has as many"""
    run: RunConfig = field(default_factory=lambda: RunConfig(num_seeds=5, num_iterations=6_000, log_every=200))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
            schedule="constant-entropy",
            upper=1e-3,
            actor=1e-3,
            critic=3e-3,
            penalty=0.2,
            entropy_weight=0.005,
            offset=2_000.0,
            num_chains=32,
        )
    )

    def problem(self) -> BilevelProblem:
        """What is solved."""
        return pendulum_design(self.tolerance, self.torque_price, self.price, self.discount)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        reward_design.check(self)
        return single_loop(
            self.problem(),
            self.schedule,
            width=self.width,
            observe=observe_pendulum,
            averaging=self.averaging,
            num_steps=self.num_steps,
            gae_lambda=self.gae_lambda,
        )


def main(config: PendulumDesign, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment, judges the first and the last x of every seed, and draws the figures."""
    if reward_design.run_and_judge(config, folder, progress=progress):
        plot(folder)


def plot(folder: RunFolder):
    """Draws the figures of a run folder, and the animation."""
    reward_design.plot_curves(folder)
    draw_pendulum_design(folder)
    animate_pendulum(folder)


summarize = reward_design.summarize
