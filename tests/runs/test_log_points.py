"""Log points: evenly, and more of them early where that is asked for."""

import jax
import pytest

import bilevel_rl as brl
from bilevel_rl.runs.log_points import LogPoints


def points(log_points, last):
    k, found = 0, []
    while k < last:
        k = min(log_points.after(k), last)
        found.append(k)
    return found


@pytest.mark.parametrize(
    ("log_points", "expected"),
    [
        (LogPoints(100), [100, 200, 250]),
        (LogPoints(100, 3), [12, 25, 50, 100, 200, 250]),
        (LogPoints(3, 8), [1, *range(3, 250, 3), 250]),
        (LogPoints(1, 2), list(range(1, 251))),
        (LogPoints(1_000, 1), [250]),
    ],
)
def test_log_points_by_hand(log_points, expected):
    assert points(log_points, 250) == expected


@pytest.mark.parametrize(
    ("fields", "message"), [((0,), "log_every must be at least 1"), ((5, -1), "num_halvings must")]
)
def test_what_is_no_count_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LogPoints(*fields)


@pytest.mark.slow
def test_a_run_with_early_log_points_is_measured_there_and_resumes(tmp_path):
    problem = brl.problems.goal_position(size=3, target=(2, 0), initial_x=(0, 2), width=2.0)
    algorithm, log_points = brl.SingleLoopActorCritic(problem), LogPoints(40, 2)

    def run(num_iterations, folder):
        return brl.run(algorithm, jax.random.key(0), 1, num_iterations, log_points, folder=folder, progress=False)

    run(30, tmp_path / "cut")
    ends = run(90, tmp_path / "whole"), run(90, tmp_path / "cut")
    assert ends[0].metrics["num_iterations"].tolist() == [0, 10, 20, 40, 80, 90]
    assert ends[1].metrics["num_iterations"].tolist() == [0, 10, 20, 30, 40, 80, 90]
    assert ends[0].x.tobytes() == ends[1].x.tobytes()
    with pytest.raises(brl.RunFolderError, match="num_halvings"):
        brl.run(algorithm, jax.random.key(0), 1, 90, 40, folder=tmp_path / "whole", progress=False)
