"""CartPole reward design: does the leader draw a reward whose follower stands where a hidden cost wants it?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from PIL import Image

from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.figures.animations import Canvas
from bilevel_rl.figures.style import COLOURS, LIGHT, Style
from bilevel_rl.problems import CartpoleDesign
from bilevel_rl.problems.control import PLACES, observe_cartpole
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig, of_networks
from bilevel_rl.studies.reward_design import COLOUR_OF, WHENS, RewardDesign

TRACK_END = 2.4
"""Farther from the middle the cart has left the track."""

FALLING_ANGLE = np.pi / 15
"""A pole that leans more has fallen."""

WIDTH, HEIGHT = 480, 130
"""Pixels of a picture in the animation."""

FRAME_EVERY = 2
"""Steps; a GIF cannot show more than 50 pictures a second everywhere."""


@dataclass(frozen=True)
class CartpoleDesignStudy(RewardDesign, CartpoleDesign):
    """Draw a reward along CartPole's track until the follower stands where it should (3 minutes; extra [control])."""

    name: ClassVar[str] = "cartpole-design"
    widths: ClassVar[Sequence[float]] = (4.3, 4.3, 4.3)
    time_step: ClassVar[float] = 0.02

    judging_transitions: float = 960_000
    run: RunConfig = RunConfig(num_seeds=5, num_iterations=30_000, log_every=1_000)
    schedule: ScheduleConfig = of_networks(upper=3e-4)

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs; building it checks every option."""
        return self.schedule.neural_loop(self.problem(), width=self.width, observe=observe_cartpole)

    def draw(self, panels: Sequence[Axes], data: Mapping[str, np.ndarray], style: Style):
        """The reward before and after, and positions of both followers over time, until their poles fall."""
        reward, motion = panels
        dashed = {"color": style.accent, "linestyle": "--", "linewidth": 1.2}
        reward.plot(PLACES, data["first_x"], "o:", color=COLOUR_OF["before"], label="first")
        look = {"color": COLOUR_OF["after"], "alpha": 0.6, "markersize": 3}
        reward.plot(PLACES, data["last_x"].T, "o-", **look)[0].set_label("last, each seed")
        reward.axvline(self.target, label="where it should stand", **dashed)
        reward.set(xlabel="position", ylabel="height of the reward x", title="The reward along the track")
        for when in WHENS:
            states = data[f"states_{when}"]
            positions = np.where(is_fallen(states), np.nan, states[..., 0])
            self.draw_over_time(motion, positions, when, linewidth=0.6, alpha=0.7)
        motion.axhline(self.target, **dashed)
        motion.set(ylabel="position", ylim=(-TRACK_END, TRACK_END), title="32 episodes of seed 0, retrained")

    def animate(self, folder: RunFolder):
        """The follower under the first reward above, under the last below."""
        self.save_follower(folder, lambda state, _, x, title: _picture(state, x, self.target, title), every=FRAME_EVERY)


def is_fallen(states: Float[np.ndarray, "*batch 4"]) -> Bool[np.ndarray, "*batch"]:
    """Whether the pole has fallen or the cart has left the track."""
    return np.asarray((np.abs(states[..., 0]) > TRACK_END) | (np.abs(states[..., 2]) > FALLING_ANGLE))


def _picture(state: Float[np.ndarray, "4"], x: Float[np.ndarray, "9"], target: float, title: str) -> Image.Image:
    """Cart and pole on the track, with the reward as a shaded hill and the leader's target as a mark."""
    canvas, ground = Canvas(WIDTH, HEIGHT), HEIGHT - 22

    def column_of(position: float) -> float:
        return (0.5 + position / (2.2 * TRACK_END)) * WIDTH

    hill = [(column_of(place), ground - 60 * height) for place, height in zip(PLACES, x, strict=True)]
    canvas.polygon([(column_of(PLACES[0]), ground), *hill, (column_of(PLACES[-1]), ground)], "#dcebf2")
    canvas.line([(column_of(-TRACK_END), ground), (column_of(TRACK_END), ground)], "#5c677d")
    mark = column_of(target)
    canvas.polygon([(mark, ground + 3), (mark - 6, ground + 13), (mark + 6, ground + 13)], LIGHT.accent)
    column, angle = column_of(float(state[0])), float(state[2])
    left, right, above, below = column - 16, column + 16, ground - 16, ground - 2
    cart = [(left, above), (right, above), (right, below), (left, below)]
    canvas.polygon(cart, "#b0b0b0" if is_fallen(state) else LIGHT.path)
    tip = column + 60 * np.sin(angle), ground - 14 - 60 * np.cos(angle)
    canvas.line([(column, ground - 14), tip], COLOURS[1], 5)
    canvas.text(title)
    return canvas.picture()
