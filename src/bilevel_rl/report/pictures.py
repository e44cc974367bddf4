"""Geometry of the follower's picture on a grid or a graph, for the SVG in the template. All lengths are in units."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bilevel_rl.figures.grids import RESTS
from bilevel_rl.figures.maps import has_shared_cells, moves_of, on_grid
from bilevel_rl.figures.tables import seeds_of
from bilevel_rl.formulation import GridLayout
from bilevel_rl.formulation.names import Layout
from bilevel_rl.outcome import Answer, Exact, Outcome
from bilevel_rl.report.sentences import number

CELL = 40.0
"""Side of a grid's cell, and mean distance of a graph's neighbours, in units."""

MOST_STATES = 1_500
MOST_LABELS = 40
SECONDS_PER_STEP = 0.45
STEPS_AT_REST = 4


@dataclass(frozen=True)
class Place:
    """A cell or a node: where, how dark (0 to 1), and what it says."""

    x: float
    y: float
    shade: float
    title: str
    label: str = ""
    is_end: bool = False


@dataclass(frozen=True)
class Line:
    """An arrow of the policy, or an edge that is taken; of edges `width` says how often."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: float = 0.0


@dataclass(frozen=True)
class Walk:
    """Where a walker is after each step: percent of the time, x, y, and whether it is to be seen."""

    frames: tuple[tuple[float, float, float, int], ...]
    trail: str


@dataclass(frozen=True)
class Picture:
    """All that is drawn of one answer."""

    name: str
    caption: str
    is_grid: bool
    box: tuple[float, float, float, float]
    places: tuple[Place, ...]
    edges: tuple[Line, ...]
    arrows: tuple[Line, ...]
    walks: tuple[Walk, ...]
    seconds: float


def pictures_of(outcome: Outcome) -> tuple[Picture, ...]:
    """Before and after, in the same shades; none without a layout or exact answers."""
    layout, exact = outcome.names.layout, outcome.exact
    if layout is None or exact is None or layout.num_states > MOST_STATES:
        return ()
    most = max(exact.visits(answer).max() for answer in (exact.before, exact.after)) or 1.0
    return tuple(
        _picture(outcome, layout, exact, answer, most, name)
        for name, answer in (("before", exact.before), ("after", exact.after))
    )


def x_pictures_of(outcome: Outcome) -> tuple[Picture, ...]:
    """x itself on a grid, before and after, where it has an entry for each cell."""
    layout = outcome.names.layout
    if not isinstance(layout, GridLayout) or layout.num_states != len(outcome.initial_x) or has_shared_cells(layout):
        return ()
    ends = {"before": outcome.initial_x, "after": np.median(outcome.final_x, axis=0)}
    low, high = (float(pick([pick(values) for values in ends.values()])) for pick in (np.min, np.max))
    points, box = _points(layout)
    names = outcome.names.of_states(layout.num_states)
    return tuple(
        Picture(
            f"x-{name}",
            "x at the start" if name == "before" else f"x at the end, median of {seeds_of(len(outcome.final_x))}",
            True,
            box,
            tuple(
                Place(float(x), float(y), (v - low) / ((high - low) or 1.0), f"{names[s]}: x = {number(v)}", _short(v))
                for s, ((x, y), v) in enumerate(zip(points, values, strict=True))
                if np.isfinite(x)
            ),
            (),
            (),
            (),
            0.0,
        )
        for name, values in ends.items()
    )


def _short(value: float) -> str:
    """Few characters, for a cell; nothing for what is nearly nothing."""
    return "" if abs(value) < 5e-3 else f"{value:.2g}".replace("-", "−").replace("0.", ".", 1)


def _points(layout: Layout) -> tuple[Float[np.ndarray, "S 2"], tuple[float, float, float, float]]:
    """Places in units, and the box around them."""
    places = layout.places()
    if not isinstance(layout, GridLayout):
        lies = np.isfinite(places[:, 0])
        extent = np.ptp(places[lies], axis=0).max() or 1.0
        places = places * CELL * max(3.0, 1.9 * np.sqrt(lies.sum())) / extent / CELL
    points = places * CELL
    margin = CELL / 2 if isinstance(layout, GridLayout) else 0.7 * CELL
    low, high = np.nanmin(points, axis=0) - margin, np.nanmax(points, axis=0) + margin
    return points, (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


def _picture(outcome: Outcome, layout: Layout, exact: Exact, answer: Answer, most: float, name: str) -> Picture:
    points, box = _points(layout)
    walks = _until_all_rest(answer.walks)
    is_grid = isinstance(layout, GridLayout)
    caption = "Before: answer to the first x" if name == "before" else "After: answer to the last x"
    return Picture(
        name,
        caption,
        is_grid,
        box,
        _grid_places(outcome, layout, exact, answer, most)
        if isinstance(layout, GridLayout)
        else _nodes(outcome, points, exact, answer, most),
        () if is_grid else _edges(points, exact, answer),
        _arrows(layout, exact, answer) if is_grid else (),
        _walks(points, walks),
        SECONDS_PER_STEP * walks.shape[1],
    )


def _grid_places(outcome: Outcome, layout: GridLayout, exact: Exact, answer: Answer, most: float) -> tuple[Place, ...]:
    """One for each cell, whose states are taken together."""
    visits, ends = on_grid(layout, exact.visits(answer)), on_grid(layout, exact.terminal.astype(float))
    taken = on_grid(layout, answer.occupancy.sum(1))
    names: dict[tuple[int, int], str] = {}
    for cell, name in zip(layout.cells, outcome.state_names, strict=True):
        if cell is not None:
            names.setdefault((cell[0], cell[1]), name)
    return tuple(
        Place(
            column * CELL,
            row * CELL,
            float(visits[row, column] / most),
            f"{name}: {taken[row, column]:.1%} of the time",
            is_end=bool(ends[row, column]),
        )
        for (row, column), name in sorted(names.items())
    )


def _nodes(outcome: Outcome, points: np.ndarray, exact: Exact, answer: Answer, most: float) -> tuple[Place, ...]:
    visits, taken = exact.visits(answer), answer.occupancy.sum(1)
    lies = np.isfinite(points[:, 0])
    is_labelled = lies.sum() <= MOST_LABELS
    return tuple(
        Place(
            float(x),
            float(y),
            float(visits[s] / most),
            f"{name}: {taken[s]:.1%} of the time",
            name if is_labelled else "",
            bool(exact.terminal[s]),
        )
        for s, ((x, y), name) in enumerate(zip(points, outcome.state_names, strict=True))
        if lies[s]
    )


def _edges(points: np.ndarray, exact: Exact, answer: Answer) -> tuple[Line, ...]:
    """Edges of both directions are one line."""
    widths: dict[tuple[int, int], float] = {}
    for (a, b), flow in zip(exact.edges.tolist(), answer.flows, strict=True):
        if np.isfinite(points[[a, b], 0]).all():
            key = min(a, b), max(a, b)
            widths[key] = widths.get(key, 0.0) + float(flow)
    most = max(widths.values(), default=0.0) or 1.0
    return tuple(_line(points[a], points[b], 8 * flow / most) for (a, b), flow in widths.items())


def _line(start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], width: float = 0.0) -> Line:
    return Line(float(start[0]), float(start[1]), float(end[0]), float(end[1]), width)


def _arrows(layout: Layout, exact: Exact, answer: Answer) -> tuple[Line, ...]:
    places, moves = moves_of(layout, exact, answer)
    lengths = np.hypot(*moves.T)
    longest = lengths.max(initial=0.0)
    lines = []
    for place, move, length in zip(places * CELL, moves, lengths, strict=True):
        if longest > 0 and length > RESTS * longest:
            half = 0.3 * CELL * move / longest
            lines.append(_line(place - half, place + half))
    return tuple(lines)


def _until_all_rest(walks: Int[np.ndarray, "walks T"]) -> Int[np.ndarray, "walks t"]:
    """Walks without the time in which nobody moves any more, but for a moment to see where they are."""
    moves = np.flatnonzero((walks[:, 1:] != walks[:, :-1]).any(axis=0))
    return walks[:, : (moves[-1] if len(moves) else 0) + 1 + STEPS_AT_REST]


def _walks(points: np.ndarray, walks: Int[np.ndarray, "walks T"]) -> tuple[Walk, ...]:
    """Walkers a little beside each other, so that all are seen; a state that lies nowhere hides them."""
    shown, count = [], len(walks)
    for i, states in enumerate(walks):
        angle = 2 * np.pi * i / count
        path = points[states] + 0.13 * CELL * np.array([np.cos(angle), np.sin(angle)])
        seen = np.isfinite(path[:, 0])
        if not seen.any():
            continue
        # Hidden walkers wait at the last place where they were seen, before that at the first.
        last = np.maximum.accumulate(np.where(seen, np.arange(len(path)), 0))
        path = np.where(np.isfinite(path[last]), path[last], path[seen][0])
        percents = np.linspace(0, 96, len(path))
        frames = tuple(
            (round(float(p), 2), round(float(x), 1), round(float(y), 1), int(is_seen))
            for p, (x, y), is_seen in zip(percents, path, seen, strict=True)
        )
        shown.append(Walk(frames, " ".join(f"{x},{y}" for _, x, y, _ in frames)))
    return tuple(shown)
