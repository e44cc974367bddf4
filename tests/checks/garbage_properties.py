"""Garbage never passes silently, whatever garbage: run by `test_garbage.py` in a process without type checking."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks.malformed import Thing
from benchmarks.storm_api import FINE, judge
from benchmarks.valid_calls import all_calls

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 20),  # What lies between is a request: a grid of 20,000 × 20,000 cells takes its time.
    st.integers(10**20, 10**30),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.sampled_from(
        [math.nan, math.inf, -math.inf, -1, 0, 1.5, Thing, Thing(), lambda: 0, len, np.float32(1), np.int8(1)]
    ),
)
garbage = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(scalars, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=2), scalars, max_size=2),
    st.sampled_from([(0,), (2, 3), (1, 1, 1)]).map(np.ones),
    st.sampled_from([np.zeros(0), np.array(["a"]), np.array([None]), np.array([True]), np.array([1 + 2j])]),
)
CALLS = [(call, argument) for call in all_calls() for argument in call.arguments]
UNJUDGED = {"run", "goal_position", "goal_placement", "wind_design", "shared_goal", "mountain_car_shaping"} | {
    "patrol",
    "tax_design",
}
"""Calls whose arguments have more right values than can be told here, such as cells; only crashes count."""


@pytest.mark.parametrize(("call", "argument"), CALLS, ids=[f"{call.name}-{argument}" for call, argument in CALLS])
@hypothesis.settings(
    max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(value=garbage)
def test_garbage_is_refused_by_name_or_right(call, argument, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Text may name a folder.
    outcome = judge(call, argument, value)
    if call.name in UNJUDGED or argument not in call.accepts:
        assert outcome.verdict not in ("raw error", "hang"), outcome
    else:
        assert outcome.verdict == FINE, outcome
