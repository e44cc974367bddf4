"""Four Rooms: exact descent with an annealed entropy weight, then transfers, in nine settings of a benchmark."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bilevel_rl import checks
from bilevel_rl.algorithms import Algorithm, ExactDescent
from bilevel_rl.algorithms.step_sizes import GeometricDecay, StepSizes
from bilevel_rl.comparison.tables import markdown
from bilevel_rl.figures.grids import draw_cells
from bilevel_rl.figures.style import COLOURS, Style, save_figure
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import four_rooms
from bilevel_rl.problems.four_rooms import FREE_CELLS, GOALS, ROOMS, START, TARGET, four_rooms_value, penalties
from bilevel_rl.problems.four_rooms_transfers import improved_by_transfers
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.runs.statistics import mean_and_error
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.experiment import Experiment, Finished
from bilevel_rl.studies.reference import visits

METHODS = ("HPGD", "AMD", "Zero-Order")
PUBLISHED: dict[tuple[float, float], tuple[tuple[float, float | None], ...]] = {
    (0.001, 1.0): ((0.91, 0.088), (0.58, None), (0.59, 0.059)),
    (0.001, 3.0): ((0.51, 0.006), (0.51, None), (0.50, 0.005)),
    (0.001, 5.0): ((0.46, 0.006), (0.46, None), (0.46, 0.007)),
    (0.003, 1.0): ((0.95, 0.002), (1.00, None), (0.91, 0.048)),
    (0.003, 3.0): ((0.73, 0.001), (0.39, None), (0.40, 0.028)),
    (0.003, 5.0): ((0.29, 0.003), (0.32, None), (0.32, 0.002)),
    (0.005, 1.0): ((1.17, 0.011), (1.28, None), (1.15, 0.026)),
    (0.005, 3.0): ((1.01, 0.002), (1.13, None), (1.02, 0.027)),
    (0.005, 5.0): ((0.87, 0.003), (0.97, None), (0.79, 0.027)),
}
"""F by (λ, β): each method's mean, and its standard error where it was given, of Thoma et al., NeurIPS 2024.

10 seeds of 10⁸ environment steps each; AMD uses the exact model.
"""


class Setting(NamedTuple):
    """One setting of the benchmark."""

    entropy_weight: float
    beta: float

    @property
    def name(self) -> str:
        """For folders."""
        return f"lambda-{self.entropy_weight:g}-beta-{self.beta:g}"

    @property
    def label(self) -> str:
        """For figures."""
        return f"λ = {self.entropy_weight:g}, β = {self.beta:g}"


@dataclass(frozen=True)
class FourRooms(Experiment):
    """Lead a follower astray in four rooms: exact descent and transfers beside published results (about 6 min)."""

    name: ClassVar[str] = "four-rooms"
    results: ClassVar[str] = "four_rooms"

    run: RunConfig = RunConfig(num_seeds=10, num_iterations=300, log_every=100)
    entropy_weights: tuple[float, ...] = (0.001, 0.003, 0.005)
    """the follower's entropy weights λ; each is its own evaluation entropy weight, whatever the option of that name"""
    betas: tuple[float, ...] = (1.0, 3.0, 5.0)
    """prices β of the penalties; every λ is combined with every β"""
    anneal_from: float = 0.01
    """entropy weight that descent begins with, the same for every λ"""
    annealing_share: float = 0.8
    """share of the iterations after which λ is reached"""
    first_step: float = 0.2
    """first step size of Adam"""
    last_step: float = 0.05
    """last step size of Adam; they fall geometrically"""
    transfer_rounds: int = 10
    """how often all transfers of penalties are measured after descent, at most; 0 for descent alone"""

    def each_setting(self) -> list[Setting]:
        """Every pair (λ, β)."""
        return [Setting(weight, beta) for weight in self.entropy_weights for beta in self.betas]

    def algorithms(self) -> dict[str, ExactDescent]:
        """Exact descent for every setting; building it checks every option."""
        for name in ("entropy_weights", "betas"):
            if not len(checks.instance(name, getattr(self, name), tuple, list)):
                raise ValueError(f"{name} must hold at least one number, got none")
        for name in ("anneal_from", "first_step", "last_step"):
            checks.number(name, getattr(self, name), above=0)
        checks.number("annealing_share", self.annealing_share, above=0, at_most=1)
        checks.integer("transfer_rounds", self.transfer_rounds, at_least=0)
        return {setting.name: self.algorithm_of(four_rooms(*setting)) for setting in self.each_setting()}

    def algorithm_of(self, problem: BilevelProblem) -> ExactDescent:
        """Exact descent on one setting's problem."""
        num_iterations, weight = self.run.num_iterations, float(problem.entropy_weight or np.nan)
        step_sizes = dataclasses.replace(
            StepSizes.constant_entropy(),
            upper=GeometricDecay(self.first_step, self.last_step, num_iterations),
            entropy=GeometricDecay(self.anneal_from, weight, self.annealing_share * num_iterations),
        )
        return ExactDescent(problem, step_sizes)

    def settings(self, algorithm: Algorithm) -> RunConfig:
        """Φ is measured at the follower's own entropy weight."""
        return dataclasses.replace(self.run, evaluation_entropy_weight=algorithm.problem.entropy_weight)

    def measure(self, finished: Mapping[str, Finished]) -> dict[str, np.ndarray]:
        """F of all ends, before and after transfers; penalties and visits at the best end of every setting."""
        arrays: dict[str, list[np.ndarray]] = {"descended": [], "values": [], "penalties": [], "visits": []}
        for setting in self.each_setting():
            run = finished[setting.name]
            problem, ends = run.algorithm.problem, np.asarray(run.result.x)
            improved = [improved_by_transfers(problem, x, max_rounds=self.transfer_rounds) for x in ends]
            best = improved[int(np.argmax(values := _values(problem, improved)))]
            arrays["descended"].append(_values(problem, ends))
            arrays["values"].append(values)
            arrays["penalties"].append(np.asarray(penalties(best)))
            arrays["visits"].append(_visits(problem, best, setting.entropy_weight))
        return {name: np.stack(entries) for name, entries in arrays.items()}

    def plot(self, folder: RunFolder):
        """Draws the figures of a run folder, and writes its table."""
        self._draw_maps(folder)
        self._draw_values(folder)
        folder.write_text("table.md", self.table(folder))

    def table(self, folder: RunFolder) -> str:
        """F of every setting, with the published values beside it, in Markdown."""
        rows, data = [], folder.read_arrays(self.results)
        for setting, values, descended in zip(self.each_setting(), data["values"], data["descended"], strict=True):
            published = ["–"] * len(METHODS)
            if setting in PUBLISHED:
                published = [f"{mean:.2f}" + (f" ± {error:.3f}" if error else "") for mean, error in PUBLISHED[setting]]
            ours = [f"{mean:.3f} ± {error:.3f}" for mean, error in map(mean_and_error, (values, descended))]
            pair = f"{setting.entropy_weight:g}", f"{setting.beta:g}"
            rows.append([*pair, ours[0], f"{values.max():.3f}", ours[1], *published])
        return markdown(("λ", "β", "Exact, transfers", "best seed", "without transfers", *METHODS), rows)

    def summarize(self, folder: RunFolder) -> str:
        """One line about the outcome."""
        better = [
            mean_and_error(of_seeds)[0] >= max(mean for mean, _ in PUBLISHED[setting])
            for setting, of_seeds in zip(self.each_setting(), folder.read_arrays(self.results)["values"], strict=True)
            if setting in PUBLISHED
        ]
        return f"mean F is at least the best published mean in {sum(better)} of {len(better)} cells; table.md has them"

    def _draw_maps(self, folder: RunFolder):
        """Of the first β: the penalties of the best seed above, and below where the follower then walks."""
        data, settings = folder.read_arrays(self.results), self.each_setting()
        shown = [i for i, setting in enumerate(settings) if setting.beta == settings[0].beta]

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(4.2 * len(shown), 7.6))
            rows = figure.subplots(2, len(shown), squeeze=False)
            for row, (name, label) in enumerate((("penalties", "penalty per step"), ("visits", "discounted visits"))):
                for axes, i in zip(rows[row], shown, strict=True):
                    _draw_map(axes, data[name][i], label, style)
                    value = f", F = {data['values'][i].max():.2f}" if row == 0 else ""
                    axes.set_title(settings[i].label + value)
                    axes.set(xlabel="S start   G goals   × the leader's cell" if row == 1 else "", ylabel="")
            return figure

        save_figure(folder, "four_rooms", draw)

    def _draw_values(self, folder: RunFolder):
        """Mean F of every setting with its standard error, ours and published, and our single seeds."""
        values, settings = folder.read_arrays(self.results)["values"], self.each_setting()

        def draw(style: Style) -> Figure:
            figure = Figure(figsize=(11, 4.2))
            axes = figure.subplots()
            width = 0.7 / len(METHODS)
            for i, (setting, of_seeds) in enumerate(zip(settings, values, strict=True)):
                axes.plot(np.full(len(of_seeds), i - 0.34), of_seeds, ".", color="#9aa3ad", markersize=4)
                bars = [mean_and_error(of_seeds), *PUBLISHED.get(setting, ())]
                for k, (mean, error) in enumerate(bars):
                    colour = style.accent if k == 0 else COLOURS[k - 1]
                    place = i - 0.25 + width * k
                    axes.errorbar(place, mean, error, fmt="os^D"[k], capsize=3, color=colour, markersize=5)
            for k, label in enumerate(("Exact, transfers (ours)", *METHODS)):
                axes.plot([], [], "os^D"[k], color=style.accent if k == 0 else COLOURS[k - 1], label=label)
            axes.set_xticks(np.arange(len(settings)), [setting.label.replace(", ", "\n") for setting in settings])
            axes.set(ylabel="F: the leader's return")
            axes.set_title(f"Mean ± standard error ({values.shape[1]} seeds); grey: our single seeds")
            axes.legend(ncols=4, loc="upper left")
            axes.set_ylim(0, 1.15 * max(axes.get_ylim()[1], 0.1))
            return figure

        save_figure(folder, "comparison", draw)


def _values(problem: BilevelProblem, ends: Iterable[Float[np.ndarray, " 105"]]) -> Float[np.ndarray, " seeds"]:
    """F, in double precision."""
    return np.array([four_rooms_value(problem, np.asarray(x, np.float64)) for x in ends])


def _visits(problem: BilevelProblem, x: Float[np.ndarray, " 105"], entropy_weight: float) -> Float[np.ndarray, " 104"]:
    """Expected discounted visits of the follower to each cell, the mean over the goals."""
    expected = visits(problem, x, entropy_weight) / (1 - problem.mdp.discount)
    return expected[:-1].reshape(-1, len(FREE_CELLS)).sum(0)


def _draw_map(axes: Axes, values: Float[np.ndarray, " 104"], label: str, style: Style):
    size = len(ROOMS)
    walls = [(row, column) for row in range(size) for column in range(size) if (row, column) not in FREE_CELLS]
    picture = np.full((size, size), np.nan)
    picture[tuple(np.transpose(FREE_CELLS))] = values
    draw_cells(axes, picture, label, walls=walls, cmap=style.placement, vmin=0)
    axes.set_xticks(range(0, size, 2))
    axes.set_yticks(range(0, size, 2))
    paper = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    letter: dict[str, Any] = {"ha": "center", "va": "center", "color": style.path, "fontweight": "bold", "bbox": paper}
    for text, (row, column) in (("S", START), *(("G", goal) for goal in GOALS)):
        axes.text(column, row, text, **letter)
    for width, colour in ((5, "white"), (2.2, style.accent)):
        axes.plot(TARGET[1], TARGET[0], "x", markersize=9, markeredgewidth=width, color=colour)
