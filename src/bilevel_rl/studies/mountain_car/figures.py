"""The shaping that the leader learned for MountainCar, who arrives under which shaping, and two followers in motion."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bilevel_rl.figures.animations import Canvas, save_animation
from bilevel_rl.figures.curves import draw_band
from bilevel_rl.figures.style import COLOURS, LIGHT, Style, label_transitions, save_figure
from bilevel_rl.figures.tables import read_curves
from bilevel_rl.problems.mountain_car import GOAL, LEFT_END, MAX_SPEED, RIGHT_END, SHAPING_SCALE, hats
from bilevel_rl.runs.folder import RunFolder

EPISODE = 0
"""Which one of those that are kept is drawn."""

PIXELS = 90
"""Of the map of the shaping, along each axis."""

FEW, MANY = 0.2, 0.8
"""Shares of the episodes between which shapings are told apart."""


def draw_mountain_car_shaping(folder: RunFolder, labels: Mapping[str, str]):
    """The first seed's shaping with an episode on it, who arrives under every shaping, and what the leader paid.

    Args:
        folder: of the run.
        labels: names of the shapings in the arrays, and how they are called, from top to bottom.
    """
    data, value = folder.read_arrays("followers"), read_curves(folder, "upper_value")

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(14.5, 4.2))
        shaping, arrived, paid = figure.subplots(1, 3, width_ratios=(1.15, 1, 0.9))
        _draw_shaping(figure, shaping, data["last_x"][0], data["learned_states"][:, EPISODE], style)
        _draw_arrivals(arrived, {label: data[f"{name}_arrived"] for name, label in labels.items()}, style)
        draw_band(paid, value, "median, half and all of the seeds")
        paid.set(ylim=(0, 1.03), ylabel="f", title="What the leader pays, sampled")
        paid.legend(loc="lower left")
        label_transitions(paid)
        return figure

    save_figure(folder, "mountain_car_shaping", draw)


def _draw_shaping(
    figure: Figure, axes: Axes, x: Float[np.ndarray, "P V"], states: Float[np.ndarray, "steps 2"], style: Style
):
    positions, velocities = np.linspace(LEFT_END, GOAL, PIXELS), np.linspace(-MAX_SPEED, MAX_SPEED, PIXELS)
    points = jnp.asarray(np.stack(np.meshgrid(positions, velocities), axis=-1))
    rewards = SHAPING_SCALE * jax.vmap(jax.vmap(lambda state: jnp.sum(x * hats(state, *x.shape))))(points)
    shades = {"cmap": style.placement, "vmin": -SHAPING_SCALE, "vmax": SHAPING_SCALE, "rasterized": True}
    image = axes.pcolormesh(positions, velocities, np.asarray(rewards), **shades)
    figure.colorbar(image, ax=axes, label="reward of a step")
    axes.plot(*_until_arrival(states).T, color=style.path, linewidth=1.2, linestyle="-")
    axes.axvline(GOAL, color=style.accent, linestyle="--", linewidth=1.2)
    axes.set(xlabel="position", ylabel="velocity", title="Shaping of seed 0, an episode of a fresh follower")
    axes.set_xlim(LEFT_END, RIGHT_END)
    axes.grid(visible=False)


def _draw_arrivals(axes: Axes, arrived: Mapping[str, Float[np.ndarray, " seeds"]], style: Style):
    rows = range(len(arrived))
    for row, shares in zip(rows, arrived.values(), strict=True):
        axes.plot([np.median(shares)] * 2, [row - 0.3, row + 0.3], color=style.accent, linewidth=2, linestyle="-")
        offsets = np.linspace(-0.18, 0.18, len(shares)) if len(shares) > 1 else np.zeros(1)
        axes.plot(shares, row + offsets, "o", color=style.path, markersize=4.5, alpha=0.75, linestyle="none")
    for share in (FEW, MANY):
        axes.axvline(share, color=COLOURS[4], linestyle=":", linewidth=1)
    num_seeds = len(next(iter(arrived.values())))
    axes.set(xlim=(-0.03, 1.03), xlabel="episodes that arrive in 200 steps", title=f"{num_seeds} seeds, and medians")
    axes.set_yticks(rows, arrived)
    axes.invert_yaxis()


def _until_arrival(states: Float[np.ndarray, "steps 2"]) -> Float[np.ndarray, "shown 2"]:
    is_there = states[:, 0] >= GOAL
    return states[: np.argmax(is_there) + 1] if is_there.any() else states


WIDTH, HEIGHT = 480, 190
"""Pixels of a picture in the animation."""

FRAME_EVERY = 2
"""Steps; Gymnasium shows 30 a second."""

MILLISECONDS = 70

TITLES = {"none": "before: the goal's reward alone", "learned": "after: with the shaping that the leader learned"}


def animate_mountain_car(folder: RunFolder):
    """`figures/follower.gif`: an episode of a follower without shaping above, under the learned one below."""
    data = folder.read_arrays("followers")
    episodes = {name: data[f"{name}_states"][::FRAME_EVERY, EPISODE] for name in TITLES}
    pictures = (
        [_picture(states[i], FRAME_EVERY * i, TITLES[name]) for name, states in episodes.items()]
        for i in range(len(episodes["none"]))
    )
    save_animation(folder, "follower", pictures, MILLISECONDS)


def _picture(state: Float[np.ndarray, "2"], step: int, title: str) -> Image.Image:
    """The car on its hill."""
    canvas = Canvas(WIDTH, HEIGHT)

    def at(position: float, above: float = 0.0) -> tuple[float, float]:
        """Pixel of a point so many pixels above the road."""
        column = 12 + (position - LEFT_END) / (RIGHT_END - LEFT_END) * (WIDTH - 24)
        return column, HEIGHT - 14 - (np.sin(3 * position) + 1) / 2 * (HEIGHT - 70) - above

    road = [at(position) for position in np.linspace(LEFT_END, RIGHT_END, 120).tolist()]
    canvas.polygon([(road[0][0], HEIGHT), *road, (road[-1][0], HEIGHT)], "#dcebf2")
    canvas.line(road, "#5c677d", 2)
    foot, top = at(GOAL), at(GOAL, 34)
    canvas.line([foot, top], "#5c677d", 2)
    canvas.polygon([top, (top[0] + 16, top[1] + 6), (top[0], top[1] + 12)], LIGHT.accent)
    position, is_there = float(state[0]), bool(state[0] >= GOAL)
    canvas.disc(at(position, 9), 9, COLOURS[2] if is_there else LIGHT.path)
    canvas.text(title)
    canvas.text("arrived" if is_there else f"step {step}", 20)
    return canvas.picture()
