"""Pendulum reward design: does the leader find a reward whose follower swings up with little torque?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from PIL import Image

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.animations import Canvas
from bilevel_rl.figures.style import COLOURS, LIGHT, Style
from bilevel_rl.problems import PendulumDesign
from bilevel_rl.problems.control import NUM_ANGLES, from_upright, observe_pendulum
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig, of_networks
from bilevel_rl.studies.reward_design import COLOUR_OF, SECONDS_SHOWN, WHENS, RewardDesign

SIZE = 240
"""Pixels along a side of a picture in the animation."""

COLUMNS = np.append(np.arange(NUM_ANGLES), [NUM_ANGLES + 0.7, NUM_ANGLES + 1.9])
"""Where the numbers of x stand: the angles, and then the two prices after a gap."""


@dataclass(frozen=True)
class PendulumDesignStudy(RewardDesign, PendulumDesign):
    """Find a reward under which a pendulum is swung up with little torque (minutes; extra [control])."""

    name: ClassVar[str] = "pendulum-design"
    widths: ClassVar[Sequence[float]] = (5.0, 3.7, 3.7, 3.7)
    time_step: ClassVar[float] = 0.05

    judging_transitions: float = 3_072_000  # As many as the run's own follower has.
    num_steps: int = 16
    """transitions of every chain in an iteration"""
    gae_lambda: float = 0.95
    """how far advantages look ahead, from 0 to 1"""
    averaging: float = 3.0
    """the answer is the mean of all x_k, weighted as k to this power"""
    run: RunConfig = RunConfig(num_seeds=5, num_iterations=6_000, log_every=200)
    schedule: ScheduleConfig = of_networks(penalty=0.2, entropy_weight=0.005, offset=2_000.0)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return self.schedule.neural_loop(
            self.problem(),
            width=self.width,
            observe=observe_pendulum,
            averaging=self.averaging,
            num_steps=self.num_steps,
            gae_lambda=self.gae_lambda,
        )

    def draw(self, panels: Sequence[Axes], data: Mapping[str, np.ndarray], style: Style):
        """The reward before and after, and angle and torque over time."""
        reward, motion, torque = panels
        _draw_x(reward, data["first_x"], "o:", "before", label="first")
        for seed, x in enumerate(data["last_x"]):
            _draw_x(reward, x, "o-", "after", label=None if seed else "last, each seed")
        names = [f"{360 * i // NUM_ANGLES}°" for i in range(NUM_ANGLES)] + ["speed", "torque"]
        reward.set_xticks(COLUMNS, names, fontsize="small")
        reward.set(ylim=(-0.05, 1.05), ylabel="x", title="The follower's reward")
        reward.set_xlabel("heights at angles from upright  |  prices")
        for when in WHENS:
            self.draw_over_time(motion, np.cos(data[f"states_{when}"][..., 0]), when, linewidth=0.6, alpha=0.7)
            exerted = np.clip(data[f"actions_{when}"][..., 0], -1, 1) ** 2
            self.draw_over_time(torque, exerted.mean(1, keepdims=True), when, linewidth=1.2)
        for axes in (motion, torque):
            axes.set_xlim(0, SECONDS_SHOWN)
        motion.set(ylabel="cos(angle from upright)", title="32 episodes of seed 0, retrained")
        torque.set(ylabel="squared torque, mean", ylim=(0, None), title="Torque of the same episodes")

    def animate(self, folder: RunFolder):
        """The follower under the first reward left, under the last right.

        The episode is the one of those kept that starts closest to hanging, alike for both.
        """
        starts = folder.read_arrays(self.results)["states_before"][0, :, 0]
        self.save_follower(folder, _picture, episode=int(np.argmin(np.cos(starts))), abreast=True)


def _draw_x(axes: Axes, x: Float[np.ndarray, " 10"], line: str, when: str, **named: Any):
    look = {"color": COLOUR_OF[when], "alpha": 0.7, "markersize": 4}
    axes.plot(COLUMNS[:NUM_ANGLES], x[:NUM_ANGLES], line, **look, **named)
    axes.plot(COLUMNS[NUM_ANGLES:], x[NUM_ANGLES:], "o", **look)


def _picture(
    state: Float[np.ndarray, "2"], action: Float[np.ndarray, "1"], x: Float[np.ndarray, "10"], title: str
) -> Image.Image:
    """The pendulum, a ring whose blue is the height of the reward, and the torque as an arc."""
    canvas, middle = Canvas(SIZE, SIZE), (SIZE / 2, SIZE / 2 + 10)
    around = np.append(x[:NUM_ANGLES], x[0])
    for degree in range(0, 360, 5):
        height = np.interp(degree / 360 * NUM_ANGLES, np.arange(NUM_ANGLES + 1), around)
        shade = tuple(round(255 - height * (255 - full)) for full in (0x0B, 0x6E, 0x99))
        # Angles of the pendulum are counter-clockwise from upright.
        canvas.arc(middle, 104, (270 - degree - 2.5, 270 - degree + 3), shade, 9)
    angle, torque = float(state[0]), float(np.clip(action[0], -1, 1))
    tip = middle[0] - 78 * np.sin(angle), middle[1] - 78 * np.cos(angle)
    is_up = abs(float(from_upright(angle))) < 0.5
    canvas.line([middle, tip], COLOURS[2] if is_up else COLOURS[1], 9)
    canvas.disc(tip, 7, LIGHT.path)
    if abs(torque) > 0.02:
        start, end = sorted((270.0, 270.0 - 150 * torque))
        canvas.arc(middle, 24, (start, end), LIGHT.accent, 4)
    canvas.disc(middle, 4, LIGHT.path)
    canvas.text(title)
    return canvas.picture()
