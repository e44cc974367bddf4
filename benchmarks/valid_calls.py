"""Calls of the public API that work, and which other values of their arguments are right."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel_rl as brl
from benchmarks.malformed import (
    BOUND,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Call,
    between,
    count,
    flag,
    is_number,
    leaf,
    nothing,
    numbers_of,
    optional,
)
from bilevel_rl.algorithms import CertaintyEquivalence
from bilevel_rl.algorithms.step_sizes import PowerDecay
from bilevel_rl.comparison.compare import ComparisonConfig
from bilevel_rl.comparison.methods import METHODS
from bilevel_rl.comparison.tune import TuningConfig
from bilevel_rl.formulation import ProblemScales
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.studies.config import RunConfig, ScheduleConfig


def environment() -> brl.TabularMDP:
    go = 0.9 * np.eye(3) + 0.1 / 3
    return brl.TabularMDP.from_dense(np.stack([go] * 3), initial=[1, 0, 0], discount=0.9)


def reward(x: Any, s: Any, a: Any) -> Any:
    return jnp.where(s == 2, x[0], 0.5)


def cost(x: Any, s: Any, a: Any) -> Any:
    return jnp.where(s == 2, x[1], 1.0)


def regularizer(x: Any) -> Any:
    return 0.1 * jnp.sum(x**2)


def problem() -> brl.BilevelProblem:
    return brl.BilevelProblem(environment(), reward, brl.OccupancyCost(cost, regularizer=regularizer), np.zeros(2))


def _arrays_of_x(value: Any) -> bool:
    """Only what reward and cost above can read: two numbers or more along the first axis."""
    is_row = isinstance(value, np.ndarray) and value.dtype.kind in "if" and value.ndim == 1 and len(value) >= 2
    return is_row and bool(np.all(np.isfinite(value)))


def of_formulation() -> list[Call]:
    def bounds(value: Any) -> bool:
        """Anything that is made of numbers, at least one, and of no NaN."""
        if isinstance(value, dict):
            return bool(value) and all(bounds(entry) for entry in value.values())
        if isinstance(value, list | tuple) and not all(is_number(entry) for entry in value):
            return all(bounds(entry) for entry in value)
        array = numbers_of(value)
        return array is not None and array.size > 0 and not bool(np.isnan(array).any())

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    def are_texts(value: Any) -> bool:
        return isinstance(value, list | tuple | np.ndarray) and all(map(is_text, value))

    nodes = brl.GraphLayout([(0, 0), (1, 2)])
    steps = {"initial": leaf(zero=True), "exponent": leaf(zero=True), "offset": leaf(zero=False)}
    sizes = {"upper": 0.03, "actor": 1.0, "critic": 4.0, "penalty": 1.0, "entropy": 0.1, "offset": 2e4}
    of_sizes = {name: leaf(zero=name in ("upper", "actor", "critic")) for name in sizes}
    exponents = {"exponents": (0.9, 0.5, 0.5, 0.15, 0.05)}
    decay = {name: PowerDecay(0.1, 0.0) for name in ("upper", "actor", "critic", "penalty", "entropy")}
    outcomes = {"outcome_probabilities": lambda x, s, a: jnp.ones(3) / 3}
    calls = [
        Call(
            "BilevelProblem",
            brl.BilevelProblem,
            {
                "environment": environment(),
                "reward": reward,
                "upper": brl.OccupancyCost(cost),
                "initial_x": np.zeros(2),
                "project": brl.projections.Box(-1.0, 1.0),
                "reward_bound": 1.0,
                "initial_spread": 0.1,
                "entropy_weight": 0.1,
                **outcomes,
                "names": brl.Names("How much?", x=("bonus", "toll")),
            },
            {
                "initial_x": _arrays_of_x,
                "reward_bound": BOUND,
                "initial_spread": NOT_NEGATIVE,
                "entropy_weight": optional(POSITIVE),
                "outcome_probabilities": lambda value: value is None,
            },
            {"initial_x": "reward"},
        ),
        Call(
            "OccupancyCost",
            brl.OccupancyCost,
            {"cost": cost, "regularizer": regularizer, "cost_bound": 1.0},
            {"cost_bound": BOUND},
        ),
        Call(
            "OccupancyFunctional",
            brl.OccupancyFunctional,
            {"functional": lambda x, d: jnp.sum(d**2), "cost_bound": 2.0, "tracking_step": 0.1},
            {"cost_bound": BOUND, "tracking_step": between(0, 1, open_low=True)},
        ),
        Call("PolicyLoss", brl.PolicyLoss, {"states": [0, 1], "actions": [1, 1], "loss": lambda x, p, s, a: -p[a]}),
        Call(
            "TrajectoryLoss",
            brl.TrajectoryLoss,
            {"loss": lambda x, s, a: x[0], "num_steps": 2, "num_trajectories": 2},
            {"num_steps": COUNT, "num_trajectories": count(1, 2)},
        ),
        Call(
            "Names",
            brl.Names,
            {"question": "How much?", "states": ("a", "b"), "actions": ["c"], "x": ("d",), "layout": nodes},
            {
                "question": is_text,
                **{name: are_texts for name in ("states", "actions", "x")},
                "layout": optional(nothing),
            },
        ),
        Call("GridLayout", brl.GridLayout, {"cells": [(0, 0), (0, 1), None]}),
        Call("GraphLayout", brl.GraphLayout, {"positions": [(0, 0), (0.5, 1), None]}),
        Call("Box", brl.projections.Box, {"lower": 0.0, "upper": 1.0}, {"lower": bounds, "upper": bounds}),
        Call(
            "Simplex",
            brl.projections.Simplex,
            {"total": 1.0, "axis": -1},
            {"total": POSITIVE, "axis": optional(count(-(10**40)))},
        ),
        Call("Ball", brl.projections.Ball, {"radius": 1.0, "center": 0.0}, {"radius": POSITIVE, "center": bounds}),
        Call("measure_scales", brl.formulation.measure_scales, {"problem": problem()}),
        Call("PowerDecay", PowerDecay, {"initial": 1.0, "exponent": 0.5, "offset": 1.0}, steps),
        Call(
            "GeometricDecay",
            brl.GeometricDecay,
            {"initial": 1.0, "final": 0.1, "num_iterations": 10},
            {name: leaf(zero=False) for name in ("initial", "final", "num_iterations")},
        ),
        Call("StepSizes", brl.StepSizes, decay),
    ]
    for build in (brl.StepSizes.decaying, brl.StepSizes.constant_entropy, brl.StepSizes.fixed_target):
        calls.append(Call(f"StepSizes.{build.__name__}", build, {**sizes, **exponents}, of_sizes))
    return calls


BUILT_OTHERWISE = (
    *("single-loop", "single-loop-coupled", "single-loop-natural", "untuned", "model-based", "certainty-equivalence"),
    *("exact", "hpgd", "hpgd-planned"),
)
"""Methods whose classes have calls of their own."""


def of_algorithms() -> list[Call]:
    solved, steps = problem(), brl.StepSizes.decaying(actor=0.5, critic=1.0)
    optimizer = optax.sgd(1.0)
    followers = {"num_chains": 4, "coupled": True, "natural": False, "policies": None, "num_steps": 2,
                 "gae_lambda": 0.5}  # fmt: skip
    none = optional(nothing)
    calls = [
        Call("Followers", brl.Followers, followers,
             {"num_chains": COUNT, "coupled": flag, "natural": flag, "policies": none, "num_steps": count(2),
              "gae_lambda": SHARE}),
        Call("UpperSteps", brl.UpperSteps,
             {"optimizer": optimizer, "recursion": PowerDecay(0.5, 0.5), "averaging": 3.0},
             {"recursion": none, "averaging": optional(NOT_NEGATIVE)}),
        Call("untuned", brl.untuned,
             {"problem": solved, "num_chains": 4, "coupled": True, "scales": ProblemScales(1.0, 1.0, 1.0)},
             {"num_chains": COUNT, "coupled": flag, "scales": none}),
        Call("SingleLoopActorCritic", brl.SingleLoopActorCritic,
             {"problem": solved, "step_sizes": steps, "followers": brl.Followers(4), "upper_steps": brl.UpperSteps(),
              "expects_actions": False}, {"expects_actions": flag}),
        Call("ModelBased", brl.ModelBased,
             {"problem": solved, "step_sizes": steps, "num_chains": 4, "num_steps": 2, "max_sweeps": 3,
              "num_tries": 5.0, "upper_steps": brl.UpperSteps()},
             {"num_chains": COUNT, "num_steps": COUNT, "max_sweeps": COUNT, "num_tries": NOT_NEGATIVE}),
        Call("ModelBased.untuned", brl.ModelBased.untuned,
             {"problem": solved, "num_chains": 4, "scales": ProblemScales(1.0, 1.0, 1.0)},
             {"num_chains": COUNT, "scales": none}),
        Call("CertaintyEquivalence", CertaintyEquivalence,
             {"problem": solved, "step_sizes": steps, "num_chains": 4, "num_steps": 2, "num_planning_steps": 3},
             {"num_chains": COUNT, "num_steps": COUNT, "num_planning_steps": COUNT}),
        Call("LogPoints", LogPoints, {"every": 10, "num_halvings": 2}, {"every": COUNT, "num_halvings": count(0, 30)}),
        Call("ExactDescent", brl.ExactDescent, {"problem": solved, "step_sizes": steps, "optimizer": optimizer},
             {"step_sizes": none}),
        Call("NeuralActorCritic.mlp", brl.NeuralActorCritic.mlp,
             {"environment": solved.environment, "observe": lambda s: jax.nn.one_hot(s, 3), "width": 4, "depth": 1,
              "shared": False, "activation": jnp.tanh, "actor_optimizer": optimizer, "critic_optimizer": optimizer,
              "normalizes": False},
             {"observe": none, "width": COUNT, "depth": count(0), "shared": flag, "normalizes": flag}),
    ]  # fmt: skip
    for name, method in METHODS.items():
        if name not in BUILT_OTHERWISE:
            arguments = {"problem": solved, "step_sizes": steps, "num_chains": 4}
            arguments |= {"num_inner_steps": 2} if "num_inner_steps" in method.choices else {}
            arguments |= {"radius": 0.5} if "radius" in method.ranges else {}
            accepts = {"num_chains": COUNT, "num_inner_steps": COUNT, "radius": leaf(zero=False)}
            calls.append(Call(name, method.algorithm, arguments, accepts))
    from bilevel_rl.algorithms import BCHG, HPGD

    hpgd = {"problem": solved, "num_chains": 4, "num_inner_steps": 2, "num_rollout_steps": 3, "estimator": "rollouts",
            "max_global_norm": 1.0}  # fmt: skip
    calls.append(
        Call("HPGD", HPGD, hpgd, {"num_chains": COUNT, "num_inner_steps": COUNT, "num_rollout_steps": COUNT,
                                  "max_global_norm": leaf(zero=False, infinite=True)})
    )  # fmt: skip
    bchg = {"problem": solved, "num_chains": 4, "num_steps": 3, "is_planned": True, "max_global_norm": 1.0}
    calls.append(
        Call("BCHG", BCHG, bchg, {"num_chains": COUNT, "num_steps": COUNT, "is_planned": flag,
                                  "max_global_norm": leaf(zero=False, infinite=True)})
    )  # fmt: skip
    return calls


def of_problems() -> list[Call]:
    p = brl.problems
    grid = {"size": 3, "slip": 0.1, "walls": ()}
    of_grid = {"size": count(3, 3), "slip": SHARE, "walls": lambda value: isinstance(value, list | tuple) and not value}
    likes = np.linspace(-1.0, 1.0, 9)
    return [
        Call("Grid", p.Grid, {**grid, "hazards": ()},
             {**of_grid, "size": count(2, 46_340), "hazards": of_grid["walls"]}),
        Call("frozen_lake", p.frozen_lake,
             {"discount": 0.9, "goal_value": 50.0, "largest_bonus": 0.5, "entropy_weight": 0.05},
             {"discount": between(0, 1 - 1e-9), "goal_value": POSITIVE, "largest_bonus": between(0, 1e6, open_low=True),
              "entropy_weight": POSITIVE}),
        Call("goal_position", p.goal_position,
             {**grid, "target": (2, 0), "initial_x": (0, 2), "home": (0, 0), "width": 2.0, "installation_cost": 0.1},
             {**of_grid, "width": POSITIVE, "installation_cost": NOT_NEGATIVE}),
        Call("goal_placement", p.goal_placement,
             {**grid, "delivery": (2, 1), "home": (0, 2), "hazards": ((1, 1),), "scale": 5.0, "price": 0.1,
              "splitting_fee": 0.1},
             {**of_grid, "scale": POSITIVE, "price": NOT_NEGATIVE, "splitting_fee": NOT_NEGATIVE,
              "hazards": of_grid["walls"]}),
        Call("wind_design", p.wind_design,
             {**grid, "goal": (0, 2), "target": (2, 0), "width": 2.0, "strength": 0.5, "price": 0.1},
             {**of_grid, "width": POSITIVE, "price": NOT_NEGATIVE}),
        Call("patrol", p.patrol,
             {"positions": ((0, 0), (2, 0)), "gains": (1.0, 0.5), "damages": (0.5, 1.0), "fine": 1.0, "detection": 0.9,
              "reach": 3.0, "speed": 0.5, "price": 0.1, "sees": "position"},
             {"fine": NOT_NEGATIVE, "detection": between(0, 1), "reach": POSITIVE, "speed": between(0, 1),
              "price": NOT_NEGATIVE}),
        Call("tax_design", p.tax_design,
             {"preferences": ((0.6, 0.4), (0.1, 0.9)), "weights": (0.5, 0.5), "hours": (0.0, 3.0),
              "spending": (0.5, 2.0), "num_savings": 3, "savings": (-1.0, 3.0), "noise": 1.0, "wage": 2.0,
              "effort": 0.1, "debt": 1.0, "consumption": 15.0, "revenue": 5.0, "largest": 0.4, "initial": 0.3},
             {"num_savings": count(2), "noise": POSITIVE, "wage": NOT_NEGATIVE, "effort": NOT_NEGATIVE,
              "debt": NOT_NEGATIVE, "consumption": NOT_NEGATIVE, "revenue": NOT_NEGATIVE, "largest": POSITIVE}),
        Call("building_control", p.building_control,
             {"outside": -10.0, "effort": 0.3, "comfort": 0.1, "energy": 0.5, "insulation_price": 0.6,
              "airflow_price": 0.3, "discount": 0.9, "transition": "score"},
             {"outside": between(-1e300, 1e300), "effort": POSITIVE, "comfort": NOT_NEGATIVE, "energy": NOT_NEGATIVE,
              "insulation_price": NOT_NEGATIVE, "airflow_price": NOT_NEGATIVE, "discount": between(0, 1 - 1e-9)}),
        Call("shared_goal", p.shared_goal,
             {"size": 3, "homes": ((0, 0), (2, 1)), "slips": (0.1, 0.2), "attachments": (0.1, 0.2),
              "weights": (0.5, 0.5), "target": (2, 2), "width": 2.0, "initial_x": (1, 1)}, {"width": POSITIVE}),
        Call("four_rooms", p.four_rooms,
             {"entropy_weight": 0.1, "beta": 1.0, "budget": 0.2, "slip": 0.4, "goals": ((1, 9),)},
             {"entropy_weight": POSITIVE, "beta": NOT_NEGATIVE, "budget": POSITIVE, "slip": between(0, 1)}),
        Call("mountain_car_shaping", p.mountain_car_shaping,
             {"num_positions": 2, "num_velocities": 2, "initial_spread": 0.1, "price": 0.1, "leader": "energy"},
             {"num_positions": count(2), "num_velocities": count(2), "initial_spread": NOT_NEGATIVE,
              "price": NOT_NEGATIVE}),
        Call("target_visitation", p.target_visitation, {"target": np.arange(9.0), **grid, "price": 0.1},
             {**of_grid, "price": NOT_NEGATIVE}),
        Call("inverse_rl", p.inverse_rl,
             {"states": [0, 1], "actions": [1, 1], **grid, "price": 0.1, "entropy_weight": 0.1},
             {**of_grid, "size": count(2, 1000), "price": NOT_NEGATIVE, "entropy_weight": optional(POSITIVE)}),
        Call("preference_learning", p.preference_learning,
             {"true_reward": likes, "offline_states": np.zeros((1, 2, 2), int), "size": 3, "slip": 0.0, "num_steps": 1,
              "sharpness": 2.0, "price": 0.1},
             {**of_grid, "offline_states": optional(nothing), "num_steps": COUNT, "sharpness": POSITIVE,
              "price": NOT_NEGATIVE}),
    ]  # fmt: skip


def of_runs() -> list[Call]:
    algorithm = brl.SingleLoopActorCritic(problem(), brl.StepSizes.decaying(actor=0.5, critic=1.0), brl.Followers(2))
    accepts = {
        "num_seeds": count(1, 4),
        "num_iterations": COUNT,
        "log_every": COUNT,
        "checkpoint_every": between(0, math.inf, infinite=True),
        "evaluation_entropy_weight": POSITIVE,
        "seeds_per_group": optional(nothing),
        "seed": count(0, 2**32 - 1),
    }
    run = {"algorithm": algorithm, "key": jax.random.key(0), "num_seeds": 1, "num_iterations": 2, "log_every": 1,
           "folder": None, "checkpoint_every": 10.0, "evaluation_entropy_weight": 0.1, "diagnostics": "auto",
           "seeds_per_group": 1, "progress": False}  # fmt: skip

    def path(value: Any) -> bool:
        return value is None or (isinstance(value, str) and value != "")

    def key(value: Any) -> bool:
        return isinstance(value, jax.Array) and value.shape == ()

    def check(kind: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **options: kind(**options).check()

    settings = {"num_seeds": 1, "num_iterations": 2, "log_every": 1, "checkpoint_every": 1.0, "seed": 0,
                "generator": "rbg", "evaluation_entropy_weight": 0.1, "diagnostics": "auto", "seeds_per_group": None,
                "report_to": "none"}  # fmt: skip
    search = {"budget": 100.0, "seed": 0, "evaluation_entropy_weight": 0.1, "trials": 1, "num_seeds": 1}
    few = count(1, 10_000)
    of_search = accepts | {"num_seeds": few, "trials": few, "tuning_seeds": few, "num_log_points": few,
                           "batch_size": few,
                           "budget": lambda value: POSITIVE(value) and value >= 1 and value == int(value)}  # fmt: skip
    schedule = {"schedule": "decaying", "upper": 0.1, "actor": 1.0, "critic": 1.0, "penalty": 1.0,
                "entropy_weight": 0.1, "offset": 10.0}  # fmt: skip
    of_schedule = {name: leaf(zero=name in ("upper", "actor", "critic")) for name in schedule if name != "schedule"}
    of_schedule["entropy_weight"] = POSITIVE
    return [
        Call("run", brl.run, run, {**accepts, "folder": path, "key": key, "progress": flag}),
        Call("rollout", brl.rollout,
             {"problem": problem(), "policy": np.full((3, 3), 1 / 3), "x": np.zeros(2), "key": jax.random.key(0),
              "num_episodes": 1, "num_steps": 2}, {"key": key, "num_episodes": few, "num_steps": optional(few)}),
        Call("followers.train", brl.followers.train,
             {"problem": problem(), "x": np.zeros(2), "key": jax.random.key(0), "num_transitions": None,
              "num_followers": 1}, {"key": key, "num_transitions": optional(few), "num_followers": few}),
        Call("RunConfig", check(RunConfig), settings, {**accepts, "num_seeds": count(1, 2**20)}),
        Call("ScheduleConfig", lambda **options: ScheduleConfig(**options).step_sizes(), schedule, of_schedule),
        Call("ComparisonConfig", check(ComparisonConfig),
             {**search, "methods": ("single-loop",), "tuning_seeds": 1, "num_log_points": 1}, of_search),
        Call("TuningConfig", check(TuningConfig), {**search, "method": "single-loop", "batch_size": 1}, of_search),
    ]  # fmt: skip


def of_logs() -> list[Call]:
    seen = {"states": [0, 0, 1, 2], "actions": [0, 1, 0, 1], "next_states": [1, 2, 0, 0]}
    columns = {"state": [0, 0, 1], "action": [0, 1, 0], "next_state": [1, 2, 0], "end": [0, 1, 0], "trip": [0, 0, 1]}
    of_columns = {name: name for name in ("state", "action", "next_state")} | {"terminated": "end", "episode": "trip"}
    sizes = {"all_states": 3, "all_actions": 2}

    def labels(value: Any) -> bool:
        """A list of labels is right where it holds the log's, which no garbage does."""
        return value is None or count(3, 2**20)(value)

    def of_log(**options: Any) -> Any:
        return brl.TransitionLog.from_arrays(**seen, **sizes).mdp(**options)

    log = brl.TransitionLog.from_arrays(**seen, **sizes)
    logged = brl.BilevelProblem(log.mdp(discount=0.9), reward, brl.OccupancyCost(cost), np.zeros(2))
    of_models = {"problem": logged, "log": log, "x": np.zeros(2), "entropy_weight": 0.1, "num_models": 2, "seed": 0,
                 "method": "dirichlet", "refit": lambda problem, visits: problem}  # fmt: skip
    accepts = {"entropy_weight": POSITIVE, "num_models": count(2, 100), "seed": count(0), "refit": optional(nothing)}
    none = optional(nothing)
    return [
        Call("TabularMDP.from_transitions", brl.TabularMDP.from_transitions,
             {**seen, "num_states": 3, "num_actions": 2, "discount": 0.9, "initial": [1, 0, 0],
              "terminal": [False] * 3, "prior": 0.5, "unseen": "stay"},
             {"num_states": count(3, 2**16), "num_actions": count(2, 2**16), "discount": SHARE, "initial": none,
              "terminal": none, "prior": NOT_NEGATIVE}),
        Call("TransitionLog.from_arrays", brl.TransitionLog.from_arrays,
             {**seen, "terminated": [0, 0, 0, 0], "starts": [0, 0], **sizes},
             {"terminated": none, "starts": none, "all_states": labels, "all_actions": labels}),
        Call("TransitionLog.read", brl.TransitionLog.read, {"source": columns, **of_columns, **sizes},
             {"terminated": none, "episode": none, "all_states": labels, "all_actions": labels}),
        Call("TransitionLog.mdp", of_log, {"discount": 0.9, "initial": [1, 0, 0], "prior": 0.5, "unseen": "prior"},
             {"discount": SHARE, "initial": none, "prior": NOT_NEGATIVE}),
        Call("confidence", brl.exact.confidence, of_models, accepts),
    ]  # fmt: skip


def all_calls() -> list[Call]:
    """Every call; that it works is part of the test."""
    return [*of_logs(), *of_formulation(), *of_algorithms(), *of_problems(), *of_runs()]
