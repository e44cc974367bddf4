"""Road networks: drivers from origins to destinations, roads that slow down, and a toll on some of them."""

from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.csgraph
from jaxtyping import Array, Float, Int

from bilevel_rl import checks
from bilevel_rl.congestion.game import NOT_AVAILABLE, CongestionGame, Latency
from bilevel_rl.environments import Contexts, TabularMDP
from bilevel_rl.formulation.projections import Box

DISCOUNT = 1 - 1e-6
"""Trips are not discounted; an MDP needs a γ < 1. A trip of ten roads loses 10⁻⁵ of its flow to it."""


class _Toll(eqx.Module):
    """Reward: minus the toll of the road that a pair uses. Being a module, networks share its programs."""

    toll_of: Int[np.ndarray, "S A"]

    def __call__(self, x: Array, state: Array, action: Array) -> Array:
        return -_with_none(x)[jnp.asarray(self.toll_of)[state, action]]


class _MeanMinutes(eqx.Module):
    """The leader's objective: minutes of all drivers, and their tolls at a weight, by their number."""

    latency: Latency
    toll_of: Int[np.ndarray, " E"]
    burden: Float[np.ndarray, ""]
    weight: Float[np.ndarray, ""]

    def __call__(self, x: Array, flow: Array) -> Array:
        tolls = _with_none(x)[jnp.asarray(self.toll_of)]
        return jnp.sum(flow * (self.weight * self.latency(flow) + self.burden * tolls))


def _with_none(x: Array) -> Array:
    """Tolls, and last that of roads without one."""
    return jnp.append(x, 0.0)


class RoadNetwork(eqx.Module):
    """N crossings, E one-way roads, and who drives from where to where.

    Attributes:
        roads: crossings (from, to) of each road, numbered from 0, of shape (E, 2).
        latency: minutes on each road, at its flow.
        trips: drivers for each unit of time from crossing o to crossing d, of shape (N, N). The diagonal is 0.

    Raises:
        TypeError: `roads` holds no whole numbers, or `latency` is none.
        ValueError: shapes disagree, a crossing is out of range, trips are negative, none or on the diagonal, or a
            destination cannot be reached.

    Example:
        >>> import numpy as np
        >>> from bilevel_rl.congestion import Latency, RoadNetwork, equilibrium
        >>> two_roads = RoadNetwork([(0, 1), (0, 1)], Latency([0.0, 1.0], [1.0, 0.0]), np.array([[0, 1], [0, 0]]))
        >>> equilibrium(two_roads.game(), [0.0, 0.0], entropy_weight=0.001).flow.round(1).tolist()
        [1.0, 0.0]
        >>> equilibrium(two_roads.game(), [0.5, 0.0], entropy_weight=0.001).flow.round(2).tolist()
        [0.5, 0.5]
    """

    roads: Int[np.ndarray, "E 2"]
    latency: Latency
    trips: Float[np.ndarray, "N N"]

    def __init__(self, roads: npt.ArrayLike, latency: Latency, trips: npt.ArrayLike):
        roads, trips = np.asarray(roads), np.array(checks.finite("trips", trips))
        self.latency = checks.instance("latency", latency, Latency)
        if roads.dtype.kind not in "iu":
            raise TypeError(f"roads must hold whole numbers, got the type {roads.dtype}; convert it by .astype(int)")
        if trips.ndim != 2 or trips.shape[0] != trips.shape[1]:
            raise ValueError(f"trips must have shape (N, N), got shape {trips.shape}")
        checks.shape("roads", roads, (len(latency.constant), 2))
        if roads.min() < 0 or roads.max() >= len(trips):
            raise ValueError(f"roads must join crossings 0..{len(trips) - 1}, got {roads.min()}..{roads.max()}")
        if trips.min() < 0 or not trips.any() or np.diag(trips).any():
            raise ValueError("trips must not be negative, nor all 0, and a trip must not end where it begins")
        self.roads, self.trips = roads, trips
        cut_off = np.argwhere((trips > 0) & ~self._reaches())
        if len(cut_off):
            raise ValueError(f"trips go from crossing {cut_off[0, 0]} to {cut_off[0, 1]}, and no road leads there")

    @classmethod
    def from_tntp(cls, folder: str | Path, name: str) -> "RoadNetwork":
        """From `NAME_net.tntp` and `NAME_trips.tntp`, the format of Transportation Networks for Research.

        Only networks in which all crossings may be driven through (`<FIRST THRU NODE>` 1). Tolls and lengths in the
        file are left out. The collection's data are for academic research; its terms are at
        https://github.com/bstabler/TransportationNetworks.

        Raises:
            FileNotFoundError: a file is not in the folder.
            ValueError: a file is not of this format, or zones are closed to through traffic.
        """
        links, first = read_tntp_links(Path(folder) / f"{name}_net.tntp")
        if first != 1:
            raise ValueError(f"<FIRST THRU NODE> must be 1, got {first}: zones without through traffic are not known")
        capacity, _, free_flow, b, power = links[:, 2:7].T
        trips = _read_tntp_trips(Path(folder) / f"{name}_trips.tntp", int(links[:, :2].max()))
        return cls(links[:, :2].astype(int) - 1, Latency.bpr(free_flow, capacity, b, power), trips)

    @property
    def total_demand(self) -> float:
        """Drivers for each unit of time."""
        return float(self.trips.sum())

    def game(
        self,
        *,
        tolled: Sequence[int] | None = None,
        largest_toll: float = np.inf,
        burden: float = 0.0,
        latency: Latency | None = None,
    ) -> CongestionGame:
        """The leader sets a toll x ≥ 0, in minutes, on roads, and minimizes the mean minutes of a driver.

        Args:
            tolled: roads with a toll, in the order of x; all by default.
            largest_toll: upper end of the box.
            burden: what a minute paid as toll counts as for the leader; 0: it comes back to the drivers.
            latency: in place of the network's, such as `latency.marginal()`.

        Raises:
            TypeError, ValueError: a road is out of range or twice, `largest_toll` not positive, or `burden` negative.
        """
        num_roads = len(self.roads)
        chosen = np.arange(num_roads) if tolled is None else np.asarray(tolled)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not set(chosen.tolist()) <= set(range(num_roads)):
            raise ValueError(f"tolled must be roads 0..{num_roads - 1}, got {checks.shown(tolled)}")
        if len(set(chosen.tolist())) < len(chosen):
            raise ValueError(f"tolled must name a road once, got {checks.shown(tolled)}")
        checks.number("largest_toll", largest_toll, above=0, allow_infinite=True)
        burden = checks.number("burden", burden, at_least=0)
        latency, total = self.latency if latency is None else latency, self.total_demand
        environment, road_of = self._contexts()
        toll_of = np.full(num_roads + 1, len(chosen))  # The last is that of pairs without a road.
        toll_of[chosen] = np.arange(len(chosen))
        return CongestionGame(
            environment,
            road_of,
            latency,
            demand=total,
            reward=_Toll(toll_of[road_of]),
            upper=_MeanMinutes(latency, toll_of[:-1], np.array(burden / total), np.array(1 / total)),
            initial_x=np.zeros(len(chosen)),
            feasible=Box(0.0, largest_toll),
        )

    def shortest_minutes(self, minutes: npt.ArrayLike) -> Float[np.ndarray, "N N"]:
        """Of all pairs of crossings, at these minutes on the roads; infinite where there is no way."""
        cheapest = np.full(self.trips.shape, np.inf)
        np.minimum.at(cheapest, tuple(self.roads.T), np.asarray(minutes))
        graph = scipy.sparse.csgraph.csgraph_from_dense(cheapest, null_value=np.inf)
        return scipy.sparse.csgraph.shortest_path(graph, method="D")

    def wardrop_gap(self, flow: npt.ArrayLike, toll: npt.ArrayLike | float = 0.0) -> float:
        """Share of all minutes (and tolls) that drivers lose against the shortest ways, at these flows: 0 at τ → 0.

        Wardrop's first principle: no way in use takes longer than another.
        """
        costs = np.asarray(self.latency(np.asarray(flow))) + np.asarray(toll)
        total = float(np.sum(np.asarray(flow) * costs))
        is_used = self.trips > 0
        return 1 - float(np.sum(self.trips[is_used] * self.shortest_minutes(costs)[is_used])) / total

    def _reaches(self) -> np.ndarray:
        """Whether a way leads from o to d."""
        return np.isfinite(self.shortest_minutes(np.ones(len(self.roads))))

    def _contexts(self) -> tuple[TabularMDP, Int[np.ndarray, "S A"]]:
        """The drivers to each destination, one MDP below the other, and the road that each pair uses."""
        num_crossings, reaches = len(self.trips), self._reaches()
        out = [np.flatnonzero(self.roads[:, 0] == crossing) for crossing in range(num_crossings)]
        road_of_pair = np.full((num_crossings, max(map(len, out))), NOT_AVAILABLE)
        for crossing, roads in enumerate(out):
            road_of_pair[crossing, : len(roads)] = roads
        heads = np.where(road_of_pair >= 0, self.roads[road_of_pair, 1], np.arange(num_crossings)[:, None])
        mdps, weights, tables = [], [], []
        for destination in np.flatnonzero(self.trips.sum(axis=0)):
            trips = self.trips[:, destination]
            leads_there = reaches[:, destination]
            # What does not lead there is never entered, and ends at once.
            is_end = ~leads_there | (np.arange(num_crossings) == destination)
            mdp = TabularMDP.from_successors(
                heads[..., None],
                np.ones((*heads.shape, 1)),
                initial=trips / trips.sum(),
                discount=DISCOUNT,
                terminal=is_end,
            )
            mdps.append(mdp)
            weights.append(trips.sum() / self.trips.sum())
            tables.append(np.where(leads_there[heads] & ~is_end[:, None], road_of_pair, NOT_AVAILABLE))
        return Contexts(mdps, weights).environment, np.concatenate(tables)


def read_tntp_links(file: Path) -> tuple[Float[np.ndarray, "E columns"], int]:
    """The columns of a network file in its order, a row for each road, and its first node open to through traffic."""
    head, _, body = file.read_text().partition("<END OF METADATA>")
    if not body:
        raise ValueError(f"{file.name} has no <END OF METADATA>; it must be a network in the TNTP format")
    rows = [
        line.split(";")[0].split() for line in body.splitlines() if line.strip() and not line.lstrip().startswith("~")
    ]
    first = next((line.split(">")[1].split()[0] for line in head.splitlines() if "<FIRST THRU NODE>" in line), "1")
    return np.array(rows, float), int(first)


def _read_tntp_trips(file: Path, num_nodes: int) -> Float[np.ndarray, "N N"]:
    _, _, body = file.read_text().partition("<END OF METADATA>")
    trips = np.zeros((num_nodes, num_nodes))
    for block in body.split("Origin")[1:]:
        origin, _, entries = block.strip().partition("\n")
        for entry in entries.replace("\n", " ").split(";"):
            if entry.strip():
                destination, number = entry.split(":")
                trips[int(origin) - 1, int(destination) - 1] = float(number)
    np.fill_diagonal(trips, 0.0)  # Trips within a zone use no road.
    return trips
