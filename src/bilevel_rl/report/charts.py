"""Vega-Lite specifications as plain dicts, without colours: those are the theme's, light or dark, in `report.js`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bilevel_rl.figures.outcomes import ranked_entries
from bilevel_rl.figures.tables import Curves
from bilevel_rl.outcome import Exact, Outcome

Spec = dict[str, Any]

FEW = {"tickCount": 4, "format": "~g", "labelOverlap": True}
"""Ticks that fit a small screen."""

MOST_BARS = 20

SMALLEST_SHOWN = 1e-6
"""Smaller values are rounding error; logarithmic axes end here."""


def curves_chart(
    curves: Mapping[str, Curves], description: str, optimum: float | None = None, *, log: bool = False
) -> Spec:
    """Medians over the seeds with the range of all and of the middle half, against transitions; hover for values."""
    rows = [row for label, curve in curves.items() for row in _rows(label, curve, log)]
    scale = {"type": "log"} if log else {"zero": False}
    axis = {"format": "~e" if log else "~g", "tickCount": 5}
    x = {
        "field": "t",
        "type": "quantitative",
        "title": "environment transitions per seed",
        "axis": {"format": "~s", "tickCount": 5},
    }
    colour = {
        "field": "series",
        "type": "nominal",
        "sort": list(curves),
        "legend": {"orient": "top", "title": None, "labelLimit": 300, "columns": 1} if len(curves) > 1 else None,
    }

    def band(low: str, high: str, opacity: float) -> Spec:
        y = {"field": low, "type": "quantitative", "scale": scale, "title": None, "axis": axis}
        return {
            "mark": {"type": "area", "opacity": opacity},
            "encoding": {"x": x, "y": y, "y2": {"field": high}, "color": colour},
        }

    y = {"field": "median", "type": "quantitative", "scale": scale, "title": None, "axis": axis}
    tooltip = [
        {"field": "series", "type": "nominal", "title": "curve"},
        {"field": "t", "type": "quantitative", "title": "transitions", "format": ",d"},
        *({"field": name, "type": "quantitative", "format": ".4~g"} for name in ("median", "low", "high")),
    ]
    hover = {"name": "hover", "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}}
    layers = [
        band("low", "high", 0.13),
        band("q1", "q3", 0.22),
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": y, "color": colour}},
        {
            "params": [hover],
            "mark": {"type": "point", "filled": True, "size": 60},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "tooltip": tooltip,
                "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
            },
        },
    ]
    if optimum is not None:
        layers += [
            {
                "data": {"values": [{"best": optimum, "name": "best known"}]},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5, "style": "accent"},
                "encoding": {
                    "y": {"field": "best", "type": "quantitative"},
                    "tooltip": [
                        {"field": "name", "type": "nominal", "title": "line"},
                        {"field": "best", "type": "quantitative", "format": ".4~g", "title": "Φ*"},
                    ],
                },
            }
        ]
    return _chart(description, {"values": rows}, layers, height=260)


def _rows(label: str, curve: Curves, log: bool) -> list[dict[str, Any]]:
    values = np.maximum(curve.values, SMALLEST_SHOWN) if log else curve.values
    percentiles = np.percentile(values, [0, 25, 50, 75, 100], axis=0)
    return [
        {
            "series": label,
            "t": int(t),
            **dict(zip(("low", "q1", "median", "q3", "high"), map(float, column), strict=True)),
        }
        for t, column in zip(curve.num_transitions, percentiles.T, strict=True)
        if np.isfinite(column).all()
    ]


def x_chart(outcomes: Mapping[str, Outcome], description: str) -> Spec:
    """A dumbbell for each entry of x: start, median end, range of the seeds, and the optimum; several runs abreast."""
    first = next(iter(outcomes.values()))
    shown = ranked_entries(first, MOST_BARS)
    rows = []
    for run, outcome in outcomes.items():
        best = None if outcome.optimum is None or outcome.optimum.x is None else np.asarray(outcome.optimum.x)
        for i in shown:
            ends = outcome.final_x[:, i]
            row = {"entry": outcome.x_names[i], "run": run, "start": float(outcome.initial_x[i])}
            row |= {"end": float(np.median(ends)), "low": float(ends.min()), "high": float(ends.max())}
            rows.append(row if best is None else row | {"best": float(best[i])})
    order = [first.x_names[i] for i in shown]
    y = {"field": "entry", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 150, "grid": False}}
    names = {
        "start": "start",
        "end": "end, median of seeds",
        "low": "lowest seed",
        "high": "highest seed",
        "best": "best known",
    }
    tooltip = [{"field": "entry", "type": "nominal", "title": "entry of x"}] + [
        {"field": name, "type": "quantitative", "title": title, "format": ".4~g"} for name, title in names.items()
    ]
    several: Spec = {}
    if len(outcomes) > 1:
        y_offset = {"yOffset": {"field": "run", "type": "nominal"}}
        legend = {"orient": "top", "title": None}
        several = y_offset | {"color": {"field": "run", "type": "nominal", "sort": list(outcomes), "legend": legend}}

    def at(field: str, to: str | None = None) -> Spec:
        span = {} if to is None else {"x2": {"field": to}}
        return {
            "x": {"field": field, "type": "quantitative", "title": "x", "scale": {"zero": False}, "axis": FEW},
            "y": y,
            "tooltip": tooltip,
            **span,
        }

    layers = [
        {"mark": {"type": "rule", "strokeWidth": 2, "style": "muted"}, "encoding": at("start", "end")},
        {"mark": {"type": "rule", "strokeWidth": 9, "opacity": 0.35}, "encoding": at("low", "high") | several},
        {"mark": {"type": "point", "size": 70, "style": "hollow"}, "encoding": at("start")},
        {"mark": {"type": "point", "filled": True, "size": 80}, "encoding": at("end") | several},
    ]
    if any("best" in row for row in rows):
        layers.append(
            {"mark": {"type": "tick", "thickness": 2.5, "size": 18, "style": "accent"}, "encoding": at("best")}
        )
    return _chart(
        description,
        {"values": rows},
        layers,
        height=len(shown) * (26 if len(outcomes) == 1 else 18 + 14 * len(outcomes)),
    )


def bars_chart(
    names: Sequence[str], columns: Mapping[str, Float[np.ndarray, " n"]], description: str, title: str
) -> Spec:
    """Bars of one or two numbers for each name, in the order that is given."""
    rows = [
        {"name": name, "series": series, "value": float(values[i])}
        for i, name in enumerate(names)
        for series, values in columns.items()
    ]
    several = len(columns) > 1
    encoding = {
        "y": {
            "field": "name",
            "type": "nominal",
            "sort": list(names),
            "title": None,
            "axis": {"labelLimit": 150, "grid": False},
        },
        "x": {"field": "value", "type": "quantitative", "title": title, "axis": FEW},
        "tooltip": [
            {"field": "name", "type": "nominal", "title": "of"},
            *([{"field": "series", "type": "nominal", "title": "when"}] if several else []),
            {"field": "value", "type": "quantitative", "title": title, "format": ".4~g"},
        ],
    }
    if several:
        legend = {"orient": "top", "title": None}
        encoding |= {
            "yOffset": {"field": "series", "type": "nominal", "sort": list(columns)},
            "color": {
                "field": "series",
                "type": "nominal",
                "sort": list(columns),
                "legend": legend,
                "scale": {"range": "ordinal"},
            },
        }
    layer = {"mark": {"type": "bar"}, "encoding": encoding}
    return _chart(description, {"values": rows}, [layer], height=len(names) * (30 if several else 22))


def parts_chart(exact: Exact, optimum: float | None, description: str) -> Spec:
    """Φ before and after, in its parts."""
    points = {"before": 0, "after": 1 + exact.shown_seed}
    parts = {"for what the follower does": exact.costs.expected, "for x itself": exact.costs.regularizer}
    rows = [
        {"when": when, "part": part, "value": float(values[point])}
        for when, point in points.items()
        for part, values in parts.items()
        if np.any(values != 0)
    ]
    legend = {"orient": "top", "title": None, "labelLimit": 260, "columns": 1}
    encoding = {
        "y": {"field": "when", "type": "nominal", "sort": list(points), "title": None},
        "x": {"field": "value", "type": "quantitative", "title": "cost per step", "axis": FEW},
        "color": {"field": "part", "type": "nominal", "sort": list(parts), "legend": legend},
        "tooltip": [
            {"field": "when", "type": "nominal"},
            {"field": "part", "type": "nominal"},
            {"field": "value", "type": "quantitative", "format": ".4~g"},
        ],
    }
    layers: list[Spec] = [{"mark": {"type": "bar"}, "encoding": encoding}]
    if optimum is not None:
        mark = {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5, "style": "accent"}
        layers.append(
            {
                "data": {"values": [{"best": optimum}]},
                "mark": mark,
                "encoding": {"x": {"field": "best", "type": "quantitative"}},
            }
        )
    return _chart(description, {"values": rows}, layers, height=80)


def _chart(description: str, data: Spec, layers: Sequence[Spec], height: int) -> Spec:
    return {"description": description, "width": "container", "height": height, "data": data, "layer": list(layers)}
