"""JSON with types: what is read is what was meant, or the field is named."""

import dataclasses
import json
from typing import Literal

import pytest

from bilevel_rl.runs.json_files import FieldError, from_json


@dataclasses.dataclass(frozen=True)
class Inner:
    number: float = 1.0


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int
    name: str = "a"
    flag: bool = False
    maybe: int | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[tuple[int, int], ...] = ()
    inner: Inner = Inner()


def test_what_was_written_is_read():
    for value in (Outer(1), Outer(2, "b", True, 3, "b", (2, 0.5), ((1, 2), (3, 4)), Inner(float("inf")))):
        assert from_json(Outer, json.loads(json.dumps(dataclasses.asdict(value)))) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "3"}, 'count must be an integer, got "3"'),
        ({"count": 3.0}, "count must be an integer, got 3.0"),
        ({"count": True}, "count must be an integer, got true"),
        ({"name": 1}, "name must be a string, got 1"),
        ({"flag": 0}, "flag must be true or false, got 0"),
        ({"maybe": "x"}, 'maybe must be an integer or null, got "x"'),
        ({"kind": "c"}, 'kind must be one of a, b, got "c"'),
        ({"pair": [1]}, "pair must have 2 entries, got 1"),
        ({"pair": 1}, "pair must be a list, got 1"),
        ({"many": [[1, 2], [3, "4"]]}, r'many\[1\]\[1\] must be an integer, got "4"'),
        ({"inner": {"number": float("nan")}}, "inner.number must be a number, got NaN"),
        ({"inner": {"numbers": 1}}, "inner.numbers is no option that this version knows"),
        ({"inner": []}, r"inner must be a JSON object, got \[\]"),
    ],
)
def test_what_cannot_be_meant_is_named(change, message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        from_json(Outer, {"count": 1} | change)


def test_what_is_missing_is_named():
    with pytest.raises(FieldError, match=r"^count is missing$"):
        from_json(Outer, {})
