"""What coupled chains are worth: variance of (U) over the penalty parameter, and gaps over transitions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bilevel_rl.figures.curves import SMALLEST_SHOWN, draw_band
from bilevel_rl.figures.style import Style, label_transitions, save_figure
from bilevel_rl.figures.tables import Curves
from bilevel_rl.runs.folder import RunFolder


def draw_coupling(folder: RunFolder, chains: Sequence[str], exponents: Mapping[str, np.ndarray]):
    """Left: variance of (U) at fixed policies; right: how far x is from the optimum, for the same steps."""
    data = folder.read_arrays("coupling")

    def draw(style: Style) -> Figure:
        figure = Figure(figsize=(10, 3.9))
        left, right = figure.subplots(1, 2)
        for name in chains:
            for i, τ in enumerate(data["entropy weights"]):
                label = f"{name}, τ = {τ:g}: w$^{{−{exponents[name][i]:.2f}}}$"
                left.plot(data["penalties"], data[f"{name} variance"][i], marker="o", markersize=4, label=label)
            gaps = np.maximum(data[f"{name} gap"], SMALLEST_SHOWN)
            draw_band(right, Curves(data["transitions"], data["transitions"], gaps), name)
        left.set(xscale="log", yscale="log", xlabel="penalty parameter w", ylabel="variance of (U)")
        left.set_title("Noise of the upper gradient, one pair of chains")
        right.set(yscale="log", ylabel="Φ(x) − Φ*", title="The same steps on goal position")
        label_transitions(right)
        left.legend(fontsize="small")
        right.legend()
        return figure

    save_figure(folder, "coupling", draw)
