"""Followers in each other's way: congestion games of mean field, their equilibria, and tolls (experimental)."""

from bilevel_rl.congestion.equilibrium import (
    Equilibrium as Equilibrium,
    NoEquilibriumError as NoEquilibriumError,
    equilibrium as equilibrium,
)
from bilevel_rl.congestion.game import CongestionGame as CongestionGame, Latency as Latency
from bilevel_rl.congestion.leader import (
    TollDesign as TollDesign,
    hyper_gradient as hyper_gradient,
    hyper_objective as hyper_objective,
    penalty_gradient as penalty_gradient,
    penalty_objective as penalty_objective,
    solve as solve,
)
from bilevel_rl.congestion.networks import RoadNetwork as RoadNetwork
from bilevel_rl.congestion.single_loop import CongestionLoop as CongestionLoop
