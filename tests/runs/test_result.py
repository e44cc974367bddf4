"""A result as data: few lines, a table, a file, and the policies that were learned."""

import sys

import numpy as np
import pytest

from bilevel_rl import RunResult
from bilevel_rl.runs.divergence import Divergence
from small_runs import small_algorithm, small_run

STOPPED = Divergence(seed=1, num_iterations=170, quantity="x", likely_cause="a cause")


@pytest.fixture(scope="module")
def result():
    return small_run(num_iterations=100)


def test_a_result_prints_in_at_most_five_lines(result):
    lines = str(result).splitlines()
    assert len(lines) <= 5
    assert lines[0] == "RunResult of SingleLoopActorCritic: 3 seeds, 100 iterations"
    before, after = (np.median(result.metrics["upper_objective"][part]) for part in (slice(3), slice(-3, None)))
    assert lines[1] == f"upper_objective: {before:.4g} → {after:.4g} (median of the seeds)"
    assert lines[2].startswith("x of seed 0: [")
    assert lines[3] == "divergences: none"
    wide = RunResult({"a": np.ones((2, 30, 40)), "b": np.ones(2)}, None, {}, [STOPPED])
    assert len(str(wide).splitlines()) <= 5
    assert "seed 1 after iteration 170" in str(wide)
    assert repr(RunResult(None, None, {}, ())).startswith("RunResult: 0 seeds")


def test_policies_are_those_of_the_lower_followers(result):
    for seed in range(3):
        table = result.states.parameters[seed, 0]
        weights = np.exp(table[:, :-1] - table[:, :-1].max(1, keepdims=True))
        expected = weights / weights.sum(1, keepdims=True)
        np.testing.assert_allclose(result.policy(seed), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="seed must be at most 2, got 3"):
        result.policy(3)
    with pytest.raises(ValueError, match="policy is not known"):
        RunResult({"x": np.ones(1)}, None, {}, ()).policy()


def test_what_was_saved_is_loaded(tmp_path, result):
    stopped = RunResult(
        {"tolls": result.x, "fee": np.arange(3.0)}, result.states, result.metrics, [STOPPED], algorithm=result.algorithm
    )
    stopped.save(tmp_path / "result.npz")
    found = RunResult.load(tmp_path / "result.npz")
    assert list(found.metrics) == list(result.metrics)
    for name, column in result.metrics.items():
        assert found.metrics[name].dtype == column.dtype
        np.testing.assert_array_equal(found.metrics[name], column)
    np.testing.assert_array_equal(found.x["tolls"], result.x)
    assert list(found.divergences) == [STOPPED]
    assert (found.states, found.algorithm) == (None, None)
    for seed in range(3):
        np.testing.assert_array_equal(found.policy(seed), result.policy(seed))
    found.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "result.npz").read_bytes()


def test_another_file_is_refused(tmp_path):
    from bilevel_rl import policies

    policies.save(tmp_path / "policy.npz", np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"policy\.npz holds no result of a run"):
        RunResult.load(tmp_path / "policy.npz")


def test_metrics_become_a_table_of_pandas(result, monkeypatch):
    pytest.importorskip("pandas")
    table = result.to_pandas()
    assert list(table.columns) == list(result.metrics)
    last = table[table.num_iterations == 100].set_index("seed").x0
    np.testing.assert_array_equal(last.to_numpy(), result.metrics["x0"][-3:])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs pandas.*pip install 'bilevel-rl\[data\]'"):
        result.to_pandas()


def test_a_run_leaves_its_result_in_the_folder(tmp_path):
    result = small_run(small_algorithm(), folder=tmp_path, num_iterations=50)
    found = RunResult.load(tmp_path / "result.npz")
    np.testing.assert_array_equal(found.x, result.x)
    np.testing.assert_array_equal(found.policy(2), result.policy(2))
