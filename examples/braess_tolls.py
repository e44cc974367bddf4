"""Braess' paradox, and a toll that undoes it: a new bridge makes every drive longer.

    python examples/braess_tolls.py

One unit of drivers goes from west to east. Two roads take as many minutes as they have drivers, two take 1 minute
whatever happens, and a bridge between the two ways takes none. Drivers choose the fastest way, and so make each other
late. The leader sets tolls and minimizes the mean minutes of a drive; tolls are given back, and cost nobody time.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from bilevel_rl.congestion import Latency, RoadNetwork, equilibrium, solve

PLACES = np.array([(0.0, 0.0), (1.0, 0.7), (1.0, -0.7), (2.0, 0.0)])  # west, north, south, east
ROADS = [(0, 1), (0, 2), (1, 3), (2, 3), (1, 2)]
BRIDGE = 4
CLOSED = 50.0  # minutes: nobody takes it
VARIETY = 0.01  # the entropy weight: drivers of this size tell ways apart that differ by some hundredths of a minute


class Traffic(NamedTuple):
    """Drivers on each road, and the tolls there."""

    flow: np.ndarray
    tolls: np.ndarray
    minutes: float


def network(bridge: float = 0.0) -> RoadNetwork:
    """The four crossings, with a bridge that takes `bridge` minutes."""
    latency = Latency([0.0, 1.0, 1.0, 0.0, bridge], [1.0, 0.0, 0.0, 1.0, 0.0])
    trips = np.zeros((4, 4))
    trips[0, 3] = 1.0
    return RoadNetwork(ROADS, latency, trips)


def traffic(roads: RoadNetwork, tolls: np.ndarray) -> Traffic:
    """What drivers do at these tolls."""
    found = equilibrium(roads.game(), tolls, entropy_weight=(0.1, 0.03, VARIETY))
    return Traffic(found.flow, tolls, float(found.flow @ found.latency))


def main(figure: Path = Path("braess_tolls.png")) -> dict[str, Traffic]:
    """Solves the three cases, prints their minutes and draws them."""
    tolls = solve(network().game(tolled=[BRIDGE], largest_toll=2.0), entropy_weight=VARIETY).x
    cases = {
        "before the bridge": traffic(network(CLOSED), np.zeros(5)),
        "with the bridge": traffic(network(), np.zeros(5)),
        "with the bridge and its best toll": traffic(network(), np.append(np.zeros(4), tolls)),
    }
    for name, case in cases.items():
        print(f"{name}: {case.minutes:.3f} minutes, {case.flow[BRIDGE]:.0%} of the drivers take it")
    drawn, all_axes = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    for axes, (name, case) in zip(all_axes, cases.items(), strict=True):
        draw(axes, case, has_bridge=name != "before the bridge")
        axes.set_title(f"{name}: {case.minutes:.2f} minutes", loc="left")
    drawn.savefig(figure, dpi=160)
    plt.close(drawn)
    return cases


def draw(axes: plt.Axes, case: Traffic, *, has_bridge: bool) -> None:
    """Roads as wide as they are full."""
    for road, (start, end) in enumerate(ROADS):
        if road == BRIDGE and not has_bridge:
            continue
        (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
        axes.plot([x, to_x], [y, to_y], color="#0b6e99", linewidth=1 + 12 * case.flow[road], solid_capstyle="round")
        toll = f"\ntoll {case.tolls[road]:.2f}" if case.tolls[road] > 0 else ""
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
        label = f"{case.flow[road]:.0%}{toll}"
        axes.text((x + to_x) / 2, (y + to_y) / 2, label, ha="center", va="center", bbox=box)
    axes.plot(*PLACES.T, "o", color="#333333", markersize=10)
    axes.set(xlim=(-0.3, 2.3), ylim=(-1.0, 1.0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
