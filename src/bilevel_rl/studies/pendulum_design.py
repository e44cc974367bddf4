"""Pendulum reward design: does the leader find a reward whose follower swings up with little torque?"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.animations import OVERSAMPLING, save_animation
from bilevel_rl.figures.style import COLOURS, LIGHT, Style, save_figure
from bilevel_rl.problems import PendulumDesign
from bilevel_rl.problems.control import NUM_ANGLES, from_upright, observe_pendulum
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reward_design import TITLES, WHENS, RewardDesign, draw_costs

TIME_STEP = 0.05
"""Seconds of a transition."""

COLOUR_OF: dict[str, str] = dict(zip(WHENS, COLOURS[1::-1], strict=True))

SIZE = 240
"""Pixels along a side of a picture in the animation."""

SECONDS_SHOWN = 6.0


@dataclass(frozen=True)
class PendulumDesignStudy(RewardDesign, PendulumDesign):
    """Find a reward under which a pendulum is swung up with little torque (minutes; extra [control])."""

    name: ClassVar[str] = "pendulum-design"

    judging_transitions: float = 3_072_000  # As many as the run's own follower has.
    num_steps: int = 16
    """transitions of every chain in an iteration"""
    gae_lambda: float = 0.95
    """how far advantages look ahead, from 0 to 1"""
    averaging: float = 3.0
    """the answer is the mean of all x_k, weighted as k to this power"""
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

    def draw(self, folder: RunFolder):
        """The reward, angle and torque over time, the designer's cost; and the animation."""
        self._draw_figure(folder)
        self._animate(folder)

    def _draw_figure(self, folder: RunFolder):
        """The reward before and after, angle and torque over time, and the designer's cost of every seed."""
        data = folder.read_arrays(self.results)

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(16, 3.9))
            reward, motion, torque, cost = figure.subplots(1, 4, width_ratios=(1.35, 1, 1, 1))
            _draw_x(reward, data["first_x"], "o:", "before", "first")
            for seed, x in enumerate(data["last_x"]):
                _draw_x(reward, x, "o-", "after", None if seed else "last, each seed")
            names = [f"{360 * i // NUM_ANGLES}°" for i in range(NUM_ANGLES)] + ["speed", "torque"]
            reward.set_xticks(_columns(), names, fontsize="small")
            reward.set(
                ylim=(-0.05, 1.05),
                xlabel="heights at angles from upright  |  prices",
                ylabel="x",
                title="The follower's reward",
            )
            reward.legend(fontsize="small")
            for when in WHENS:
                _draw_episodes(motion, np.cos(data[f"states_{when}"][..., 0]), when)
                exerted = np.clip(data[f"actions_{when}"][..., 0], -1, 1) ** 2
                seconds = TIME_STEP * np.arange(len(exerted))
                torque.plot(seconds, exerted.mean(1), color=COLOUR_OF[when], linewidth=1.2, label=f"reward {when}")
            until = {"xlim": (0, SECONDS_SHOWN), "xlabel": "seconds"}
            motion.set(**until, ylabel="cos(angle from upright)", title="32 episodes of seed 0, retrained")
            torque.set(**until, ylabel="squared torque, mean", ylim=(0, None), title="Torque of the same episodes")
            for axes in (motion, torque):
                axes.legend(fontsize="small")
            draw_costs(cost, data, style)
            return figure

        save_figure(folder, "pendulum_design", draw)

    def _animate(self, folder: RunFolder):
        """`figures/follower.gif`: the follower under the first reward, left, and under the last, right, in real time.

        The episode is the one of those kept that starts closest to hanging, alike for both.
        """
        data = folder.read_arrays(self.results)
        starts = data["states_before"][0, :, 0]
        episode = int(np.argmin(np.cos(starts)))
        steps = slice(0, round(SECONDS_SHOWN / TIME_STEP))
        followers = [
            zip(data[f"states_{when}"][steps, episode], data[f"actions_{when}"][steps, episode], strict=True)
            for when in WHENS
        ]
        rewards = data["first_x"], data["last_x"][0]
        pictures = (
            [_picture(s, a, x, title) for (s, a), x, title in zip(moments, rewards, TITLES, strict=True)]
            for moments in zip(*followers, strict=True)
        )
        save_animation(folder, "follower", pictures, round(1_000 * TIME_STEP), abreast=True)


def _columns() -> Float[np.ndarray, " 10"]:
    """Where the numbers of x stand: the angles, and then the two prices after a gap."""
    return np.append(np.arange(NUM_ANGLES), [NUM_ANGLES + 0.7, NUM_ANGLES + 1.9])


def _draw_x(axes: Axes, x: Float[np.ndarray, " 10"], line: str, when: str, label: str | None):
    columns, look = _columns(), {"color": COLOUR_OF[when], "alpha": 0.7, "markersize": 4}
    axes.plot(columns[:NUM_ANGLES], x[:NUM_ANGLES], line, label=label, **look)
    axes.plot(columns[NUM_ANGLES:], x[NUM_ANGLES:], "o", **look)


def _draw_episodes(axes: Axes, values: Float[np.ndarray, "steps episodes"], when: str):
    seconds = TIME_STEP * np.arange(len(values))
    for episode in range(values.shape[1]):
        label = None if episode else f"reward {when}"
        axes.plot(seconds, values[:, episode], "-", color=COLOUR_OF[when], linewidth=0.6, alpha=0.7, label=label)


def _picture(
    state: Float[np.ndarray, "2"], action: Float[np.ndarray, "1"], x: Float[np.ndarray, "10"], title: str
) -> Image.Image:
    """The pendulum, a ring whose blue is the height of the reward, and the torque as an arc."""
    image = Image.new("RGB", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), "white")
    draw, middle = ImageDraw.Draw(image), (SIZE / 2, SIZE / 2 + 10)

    def at(angle: float, radius: float) -> tuple[float, float]:
        """A point at an angle from upright, counter-clockwise as Gymnasium counts."""
        column, row = middle
        return (column - radius * np.sin(angle)) * OVERSAMPLING, (row - radius * np.cos(angle)) * OVERSAMPLING

    def box(radius: float) -> list[float]:
        column, row = middle
        return [OVERSAMPLING * edge for edge in (column - radius, row - radius, column + radius, row + radius)]

    around = np.append(x[:NUM_ANGLES], x[0])
    for degree in range(0, 360, 5):
        height = np.interp(degree / 360 * NUM_ANGLES, np.arange(NUM_ANGLES + 1), around)
        shade = tuple(round(255 - height * (255 - full)) for full in (0x0B, 0x6E, 0x99))
        # Pillow counts degrees clockwise from three o'clock.
        draw.arc(box(104), 270 - degree - 2.5, 270 - degree + 3, fill=shade, width=9 * OVERSAMPLING)
    angle, torque = float(state[0]), float(np.clip(action[0], -1, 1))
    is_up = abs(float(from_upright(angle))) < 0.5
    draw.line([at(0, 0), at(angle, 78)], fill=COLOURS[2] if is_up else COLOURS[1], width=9 * OVERSAMPLING)
    draw.ellipse(
        [at(angle, 78)[0] - 14, at(angle, 78)[1] - 14, at(angle, 78)[0] + 14, at(angle, 78)[1] + 14], LIGHT.path
    )
    if abs(torque) > 0.02:
        ends = sorted((270.0, 270.0 - 150 * torque))
        draw.arc(box(24), *ends, fill=LIGHT.accent, width=4 * OVERSAMPLING)
    draw.ellipse(box(4), fill=LIGHT.path)
    draw.text((8 * OVERSAMPLING, 4 * OVERSAMPLING), title, fill=LIGHT.path, font_size=12 * OVERSAMPLING)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
