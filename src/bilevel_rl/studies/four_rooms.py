"""Four Rooms: exact descent with an annealed entropy weight, in the nine cells of a published benchmark."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from bilevel_rl import exact, figures
from bilevel_rl.algorithms import ExactDescent
from bilevel_rl.algorithms.step_sizes import GeometricDecay, StepSizes
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.problems import four_rooms
from bilevel_rl.problems.four_rooms import FREE_CELLS, penalties
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, from_json
from bilevel_rl.studies.four_rooms_figures import (
    Cell,
    best_values,
    draw_four_rooms,
    draw_four_rooms_comparison,
    mean_and_error,
)

UNIT_STEPS = optax.chain(optax.normalize_by_update_norm(eps=1e-20), optax.scale(-1.0))
"""Against the gradient, with the length of the step size. The offset keeps a gradient of 0 from becoming NaN."""


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


@dataclass(frozen=True)
class FourRooms:
    """Lead a follower astray in four rooms: exact descent beside published results (about 4 min)."""

    run: RunConfig = field(default_factory=lambda: RunConfig(num_seeds=10, num_iterations=300, log_every=100))
    entropy_weights: tuple[float, ...] = (0.001, 0.003, 0.005)
    """the follower's entropy weights λ; each is its own evaluation entropy weight, whatever the option of that name"""
    betas: tuple[float, ...] = (1.0, 3.0, 5.0)
    """prices β of the penalties; every λ is combined with every β"""
    anneal_from: tuple[float, ...] = (1.0, 1.2, 1.5, 3.0)
    """entropy weights to anneal from, in multiples of λ; a seed runs once from each and keeps its best end"""
    annealing_share: float = 0.8
    """share of the iterations after which λ is reached"""
    first_step: float = 6.0
    """length of the first step of x"""
    last_step: float = 0.18
    """length of the last step of x; the lengths fall geometrically"""

    def cells(self) -> Iterator[Cell]:
        """Every pair (λ, β)."""
        return (Cell(weight, beta) for weight in self.entropy_weights for beta in self.betas)

    def algorithm(self) -> ExactDescent:
        """That of the first cell and the first start; building it checks every option."""
        for name in ("entropy_weights", "betas", "anneal_from"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one number, got none")
        for name in ("anneal_from", "annealing_share", "first_step", "last_step"):
            value = getattr(self, name)
            if not np.all((np.asarray(value) > 0) & np.isfinite(value)):
                raise ValueError(f"{name} must be finite and positive, got {value}")
        if self.annealing_share > 1:
            raise ValueError(f"annealing_share must lie in (0, 1], got {self.annealing_share}")
        every = [self.algorithm_of(four_rooms(*cell), start) for start in self.anneal_from for cell in self.cells()]
        return every[0]

    def algorithm_of(self, problem: BilevelProblem, start: float) -> ExactDescent:
        """Exact descent on one cell's problem, annealed from `start` times λ."""
        weight, num_iterations = float(problem.entropy_weight or np.nan), self.run.num_iterations
        step_sizes = dataclasses.replace(
            StepSizes.constant_entropy(),
            upper=GeometricDecay(self.first_step, self.last_step, num_iterations),
            entropy=GeometricDecay(start * weight, weight, self.annealing_share * num_iterations),
        )
        return ExactDescent(problem, step_sizes, UNIT_STEPS)


def main(config: FourRooms, folder: RunFolder, *, progress: bool = True):
    """Runs every cell from every start, and draws the figures."""
    arrays: dict[str, list[np.ndarray]] = {"values": [], "penalties": [], "visits": []}
    for cell in config.cells():
        problem = four_rooms(*cell)
        settings = dataclasses.replace(config.run, evaluation_entropy_weight=cell.entropy_weight)
        values, ends = [], []
        for start in config.anneal_from:
            run_folder = RunFolder(folder.path / cell.name / f"from-{start:g}", tensorboard=config.run.tensorboard)
            result = settings.run(config.algorithm_of(problem, start), run_folder, progress=progress)
            objectives = figures.final_values(run_folder, "upper_objective")
            values.append(-objectives / (1 - problem.environment.discount))
            ends.append(np.asarray(result.x, np.float64))
        best_start, best_seed = np.unravel_index(np.argmax(values), np.shape(values))
        x = ends[best_start][best_seed]
        arrays["values"].append(np.array(values))
        arrays["penalties"].append(np.asarray(penalties(x)))
        arrays["visits"].append(_visits(problem, x, cell.entropy_weight))
    if processes.is_writer():
        folder.write_arrays("four_rooms", **{name: np.stack(entries) for name, entries in arrays.items()})
        plot(folder)


def _visits(problem: BilevelProblem, x: Float[np.ndarray, " 105"], entropy_weight: float) -> Float[np.ndarray, " 104"]:
    """Expected discounted visits of the follower to each cell, the mean over the goals."""
    mdp, policy = problem.mdp, exact.lower_policy(problem, x, entropy_weight=entropy_weight)
    visits = np.asarray(exact.occupancy(mdp, jnp.asarray(policy))).sum(-1) / (1 - mdp.discount)
    return visits[:-1].reshape(-1, len(FREE_CELLS)).sum(0)


def plot(folder: RunFolder):
    """Draws the figures of a run folder, and writes its table."""
    draw_four_rooms(folder, cells_of(folder))
    draw_four_rooms_comparison(folder, cells_of(folder), METHODS, PUBLISHED)
    (folder.path / "table.md").write_text(table(folder))


def cells_of(folder: RunFolder) -> list[Cell]:
    """The cells of a run."""
    return list(from_json(FourRooms, folder.config()["options"]).cells())


def table(folder: RunFolder) -> str:
    """F of every cell, with the published values beside it, in Markdown."""
    lines = [
        "| λ | β | Exact, annealed | best seed | " + " | ".join(METHODS) + " |",
        "|---|---|---|---|" + "---|" * len(METHODS),
    ]
    for cell, values in zip(cells_of(folder), best_values(folder), strict=True):
        published = ["–"] * len(METHODS)
        if cell in PUBLISHED:
            published = [f"{mean:.2f}" + (f" ± {error:.3f}" if error else "") for mean, error in PUBLISHED[cell]]
        mean, error = mean_and_error(values)
        entries = [f"{mean:.3f} ± {error:.3f}", f"{values.max():.3f}", *published]
        lines.append(f"| {cell.entropy_weight:g} | {cell.beta:g} | " + " | ".join(entries) + " |")
    return "\n".join(lines) + "\n"


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    cells, values = cells_of(folder), best_values(folder)
    compared = [
        mean_and_error(of_seeds)[0] >= max(mean for mean, _ in PUBLISHED[cell])
        for cell, of_seeds in zip(cells, values, strict=True)
        if cell in PUBLISHED
    ]
    return f"mean F is at least the best published mean in {sum(compared)} of {len(compared)} cells; table.md has them"
