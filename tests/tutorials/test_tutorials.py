"""Every tutorial runs from top to bottom, prints what its page says, and draws its pictures."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = {path.stem: path for path in sorted((ROOT / "docs/tutorials").glob("*.py"))}
PICTURES = ROOT / "docs/images/tutorials"
QUICK = {"01_first_problem", "03_log_to_incentive"}
"""The others are long."""

NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
OUTPUT = re.compile(r"^# ```text\n(.*?)^# ```$", re.DOTALL | re.MULTILINE)


def shown(script: str) -> list[str]:
    """Lines of output that the comments of a script show."""
    blocks = (re.sub(r"^# ?", "", block, flags=re.MULTILINE) for block in OUTPUT.findall(script))
    return [line for block in blocks for line in block.splitlines()]


def is_printed(line: str, printed: list[str]) -> bool:
    """Whether a line was printed: its words exactly, its numbers up to 10 %, or two units of their last digit."""

    def numbers(text: str) -> list[tuple[float, float]]:
        found = (number.replace(",", "") for number in NUMBER.findall(text))
        return [(float(number), 2 * 10.0 ** -len(number.partition(".")[2])) for number in found]

    def agree(one: str, other: str) -> bool:
        if NUMBER.sub("", one).split() != NUMBER.sub("", other).split():
            return False
        pairs = zip(numbers(one), numbers(other), strict=False)
        return all(math.isclose(a, b, rel_tol=0.1, abs_tol=unit + 1e-12) for (a, unit), (b, _) in pairs)

    return any(agree(line, other) for other in printed)


def test_lines_are_told_apart():
    printed = ["best 0.451, the leader pays 0.65"]
    assert is_printed("best 0.450,  the leader pays 0.66", printed)
    assert not is_printed("best 0.450, the leader pays 0.75", printed)
    assert not is_printed("worst 0.450, the leader pays 0.65", printed)


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_a_page_shows_is_there(name: str):
    script = TUTORIALS[name].read_text("utf-8")
    assert script.startswith("# %% [markdown]\n# # ")
    assert shown(script)
    pictures = re.findall(r"images/tutorials/(\w+\.png)", script)
    assert pictures
    for picture in pictures:
        assert f'savefig("{picture}"' in script
        assert 10_000 < (PICTURES / picture).stat().st_size <= 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in TUTORIALS],
)
def test_tutorial_runs(name: str, tmp_path: Path):
    """In an empty folder: it prints what its page says, and draws its pictures."""
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(TUTORIALS[name])]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    printed, script = ran.stdout.splitlines(), TUTORIALS[name].read_text("utf-8")
    assert [line for line in shown(script) if not is_printed(line, printed)] == []
    for picture in re.findall(r"images/tutorials/(\w+\.png)", script):
        assert (tmp_path / picture).stat().st_size > 10_000
