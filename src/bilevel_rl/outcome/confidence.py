"""`confidence.json`: how sure of Φ the logged data make one that a problem was made of."""

import json

from jaxtyping import PyTree

from bilevel_rl import exact
from bilevel_rl.environments import TransitionLog
from bilevel_rl.formulation import BilevelProblem
from bilevel_rl.runs.folder import RunFolder


def write_confidence(folder: RunFolder, problem: BilevelProblem, log: TransitionLog, x: PyTree, entropy_weight: float):
    """Writes `confidence.json`: how sure of Φ the log makes one, before and at x."""
    found = {}
    for name, point in (("Φ at the start", problem.initial_x), ("Φ at the x of the best seed", x)):
        told = exact.confidence(problem, log, point, entropy_weight=entropy_weight)
        low, high = told.interval()
        found[name] = f"{float(told.estimate):.5g}, 90 % interval {float(low):.5g} to {float(high):.5g}"
    found["models drawn"] = str(len(told.samples))
    found["an x that was chosen on the same log"] = "looks better than it is: split the log to be sure"
    folder.write_text("confidence.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
