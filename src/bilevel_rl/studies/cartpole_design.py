"""CartPole reward design: does the leader draw a reward whose follower stands where a hidden cost wants it?"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.animations import OVERSAMPLING, save_animation
from bilevel_rl.figures.style import COLOURS, LIGHT, Style, save_figure
from bilevel_rl.problems import CartpoleDesign
from bilevel_rl.problems.control import PLACES, observe_cartpole
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.reward_design import TITLES, WHENS, RewardDesign, draw_costs

TIME_STEP = 0.02
"""Seconds of a transition."""

TRACK_END = 2.4
"""Farther from the middle the cart has left the track."""

FALLING_ANGLE = np.pi / 15
"""A pole that leans more has fallen."""

WIDTH, HEIGHT = 480, 130
"""Pixels of a picture in the animation."""

FRAME_EVERY = 2
"""Steps; a GIF cannot show more than 50 pictures a second everywhere."""

SECONDS_SHOWN = 6.0


@dataclass(frozen=True)
class CartpoleDesignStudy(RewardDesign, CartpoleDesign):
    """Draw a reward along CartPole's track until the follower stands where it should (3 minutes; extra [control])."""

    name: ClassVar[str] = "cartpole-design"

    judging_transitions: float = 960_000
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

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return self.schedule.neural_loop(self.problem(), width=self.width, observe=observe_cartpole)

    def draw(self, folder: RunFolder):
        """The reward, positions of both followers over time, the designer's cost; and the animation."""
        self._draw_figure(folder)
        self._animate(folder)

    def _draw_figure(self, folder: RunFolder):
        """The reward before and after, positions of both followers over time, and the designer's cost of every seed."""
        data = folder.read_arrays(self.results)
        colours = dict(zip(WHENS, COLOURS[1::-1], strict=True))

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(13, 3.9))
            reward, motion, cost = figure.subplots(1, 3)
            dashed = {"color": style.accent, "linestyle": "--", "linewidth": 1.2}
            reward.plot(PLACES, data["first_x"], "o:", color=colours["before"], label="first")
            for seed, x in enumerate(data["last_x"]):
                reward.plot(
                    PLACES,
                    x,
                    "o-",
                    color=colours["after"],
                    alpha=0.6,
                    markersize=3,
                    label=None if seed else "last, each seed",
                )
            reward.axvline(self.target, label="where it should stand", **dashed)
            reward.set(xlabel="position", ylabel="height of the reward x", title="The reward along the track")
            reward.legend(fontsize="small")
            for when in WHENS:
                _draw_positions(motion, data[f"states_{when}"], colours[when], f"reward {when}")
            motion.axhline(self.target, **dashed)
            motion.set(
                xlabel="seconds",
                ylabel="position",
                ylim=(-TRACK_END, TRACK_END),
                title="32 episodes of seed 0, retrained",
            )
            motion.legend(fontsize="small", loc="lower right")
            draw_costs(cost, data, style)
            return figure

        save_figure(folder, "cartpole_design", draw)

    def _animate(self, folder: RunFolder):
        """`figures/follower.gif`: the follower under the first reward above, under the last below, in real time."""
        data = folder.read_arrays(self.results)
        steps = slice(0, round(SECONDS_SHOWN / TIME_STEP), FRAME_EVERY)
        episodes = [data[f"states_{when}"][steps, 0] for when in WHENS]
        heights = data["first_x"], data["last_x"][0]
        pictures = (
            [_picture(state, x, self.target, title) for state, x, title in zip(states, heights, TITLES, strict=True)]
            for states in zip(*episodes, strict=True)
        )
        save_animation(folder, "follower", pictures, round(1_000 * TIME_STEP * FRAME_EVERY))


def _draw_positions(axes: Axes, states: Float[np.ndarray, "steps episodes 4"], colour: str, label: str):
    """Until the pole falls."""
    positions = np.where(is_fallen(states), np.nan, states[..., 0])
    seconds = TIME_STEP * np.arange(len(positions))
    for episode in range(positions.shape[1]):
        axes.plot(
            seconds,
            positions[:, episode],
            color=colour,
            linewidth=0.6,
            alpha=0.7,
            linestyle="-",
            label=None if episode else label,
        )


def is_fallen(states: Float[np.ndarray, "*batch 4"]) -> Bool[np.ndarray, "*batch"]:
    """Whether the pole has fallen or the cart has left the track."""
    return np.asarray((np.abs(states[..., 0]) > TRACK_END) | (np.abs(states[..., 2]) > FALLING_ANGLE))


def _picture(state: Float[np.ndarray, "4"], x: Float[np.ndarray, "9"], target: float, title: str) -> Image.Image:
    """Cart and pole on the track, with the reward as a shaded hill and the leader's target as a mark."""
    image = Image.new("RGB", (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING), "white")
    draw, ground = ImageDraw.Draw(image), HEIGHT - 22

    def at(column: float, row: float) -> tuple[float, float]:
        return column * OVERSAMPLING, row * OVERSAMPLING

    def column_of(position: float) -> float:
        return (0.5 + position / (2.2 * TRACK_END)) * WIDTH

    hill = [at(column_of(place), ground - 60 * height) for place, height in zip(PLACES, x.tolist(), strict=True)]
    draw.polygon([at(column_of(PLACES[0]), ground), *hill, at(column_of(PLACES[-1]), ground)], fill="#dcebf2")
    ends = [at(column_of(-TRACK_END), ground), at(column_of(TRACK_END), ground)]
    draw.line(ends, fill="#5c677d", width=OVERSAMPLING)
    mark = column_of(target)
    draw.polygon([at(mark, ground + 3), at(mark - 6, ground + 13), at(mark + 6, ground + 13)], fill=LIGHT.accent)
    column, angle = column_of(float(state[0])), float(state[2])
    colour = "#b0b0b0" if is_fallen(state) else LIGHT.path
    draw.rectangle([at(column - 16, ground - 16), at(column + 16, ground - 2)], fill=colour)
    tip = at(column + 60 * np.sin(angle), ground - 14 - 60 * np.cos(angle))
    draw.line([at(column, ground - 14), tip], fill=COLOURS[1], width=5 * OVERSAMPLING)
    draw.text(at(8, 4), title, fill=LIGHT.path, font_size=12 * OVERSAMPLING)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
