"""CartPole reward design: does the leader draw a reward whose follower stands where a hidden cost wants it?"""

from dataclasses import dataclass, field

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import cartpole_design
from bilevel_rl.problems.control import observe_cartpole
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import reward_design
from bilevel_rl.studies.cartpole_design_figures import animate_cartpole, draw_cartpole_design
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.followers import single_loop


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
    run: RunConfig = field(default_factory=lambda: RunConfig(num_seeds=5, num_iterations=30_000, log_every=1_000))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(
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
        reward_design.check(self)
        return single_loop(self.problem(), self.schedule, width=self.width, observe=observe_cartpole)


def main(config: CartpoleDesign, folder: RunFolder, *, progress: bool = True):
    """Runs the experiment, judges the first and the last x of every seed, and draws the figures."""
    if reward_design.run_and_judge(config, folder, progress=progress):
        plot(folder)


def plot(folder: RunFolder):
    """Draws the figures of a run folder, and the animation."""
    reward_design.plot_curves(folder)
    draw_cartpole_design(folder)
    animate_cartpole(folder)


summarize = reward_design.summarize
