"""A comparison small enough for tests: two methods on nine cells."""

import dataclasses

from bilevel_rl.comparison.compare import CompareGoalPosition, ComparisonConfig
from bilevel_rl.problems import GoalPosition

PROBLEM = GoalPosition(size=3, target=(2.0, 0.0), initial_x=(0.0, 2.0), width=2.0, installation_cost=0.1)
SETTINGS = ComparisonConfig(
    methods=("single-loop", "partial-sgd"), budget=6_400.0, num_seeds=3, trials=3, tuning_seeds=1, num_log_points=4
)
CONFIG = CompareGoalPosition(PROBLEM, SETTINGS)
FLAGS = ["goal-position", "--size=3", "--target", "2", "0", "--initial-x", "0", "2", "--width=2"]
FLAGS += ["--installation-cost=0.1", "--methods", "single-loop", "partial-sgd", "--budget=6400", "--num-seeds=3"]
FLAGS += ["--trials=3", "--tuning-seeds=1", "--num-log-points=4"]
RESULTS = ("protocol.json", "table.md", "table.tex")
"""Files that are the same bytes however the work was shared."""


def with_settings(**settings):
    return dataclasses.replace(CONFIG, comparison=dataclasses.replace(SETTINGS, **settings))
