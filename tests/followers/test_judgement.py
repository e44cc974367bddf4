"""Whether a reward teaches others: what is trained, what is kept, and what is said of it."""

import json

import jax
import numpy as np
import pytest

import bilevel_rl as brl
from bilevel_rl.followers import Judgement, read_judgement, write_judgement
from bilevel_rl.runs.folder import DamagedFileError, RunFolder
from garnets import random_problem


def test_the_share_is_that_of_the_gain_with_the_own_follower():
    judgement = Judgement(1_000, before=(1.0, 0.9, 2.0), after=(0.4, 0.6, 0.5), own=0.2)
    assert judgement.share == pytest.approx(0.5 / 0.8)
    assert judgement.sentence() == "f of 3 fresh followers 1 → 0.5, of the run's own 0.2"
    assert Judgement(1_000, before=(0.1,), after=(0.4,), own=0.2).share is None
    assert Judgement(1_000, before=(1.0,), after=(0.4,), own=0.2).sentence().startswith("f of a fresh follower 1 → ")
    # One that diverged counts as the worst.
    assert Judgement(1_000, before=(1.0,), after=(0.4, np.inf, 0.6), own=0.2).share == pytest.approx(0.5)
    assert Judgement(1_000, before=(1.0,), after=(0.4, np.inf, np.inf), own=0.2).share is None


@pytest.mark.slow
def test_fresh_followers_are_trained_at_both_x_and_kept(tmp_path):
    problem, folder = random_problem(seed=2), RunFolder(tmp_path)
    x, key = np.asarray(problem.initial_x) + 0.5, jax.random.key(0)
    step_sizes = brl.StepSizes.constant_entropy(actor=0.5, critic=1.0, entropy=0.1)
    algorithm = brl.SingleLoopActorCritic(problem, step_sizes, brl.Followers(8))
    own = brl.exact.lower_policy(problem, x, entropy_weight=0.1)
    assert read_judgement(folder) is None
    found = write_judgement(folder, problem, x, own, key, 20_003, num_followers=2, algorithm=algorithm)
    assert found.num_transitions == 20_000
    assert found.own == brl.exact.upper_value(problem, x, own)
    for costs, point in ((found.before, problem.initial_x), (found.after, x)):
        best = brl.exact.hyper_objective(problem, point, entropy_weight=0.1)
        chance = brl.exact.upper_value(problem, point, np.full((5, 3), 1 / 3))
        assert len(set(costs)) == 2
        assert np.abs(np.array(costs) - best).max() < 0.25 * abs(chance - best)
    assert read_judgement(folder) == found


def test_what_diverged_is_kept_and_what_is_damaged_is_named(tmp_path):
    path = tmp_path / "fresh_followers.json"
    written = {"num_transitions": 9, "before": [1.0], "after": [float("inf")], "own": 0.5}
    path.write_text(json.dumps(written))
    assert read_judgement(RunFolder(tmp_path)).after == (np.inf,)
    path.write_text(json.dumps(written | {"own": "half"}))
    with pytest.raises(DamagedFileError, match=r"fresh_followers\.json is damaged: own must be a number"):
        read_judgement(RunFolder(tmp_path))
