"""What a tutorial shows and what it prints, and a run of one in an empty folder."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIALS = {path.stem: path for path in sorted((ROOT / "docs/tutorials").glob("*.py"))}
PICTURE = re.compile(r"images/tutorials/(\w+\.png)")

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


def check_run(name: str, folder: Path):
    """Runs a tutorial in an empty folder: it prints what its page says, and draws its pictures."""
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(TUTORIALS[name])]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    printed, script = ran.stdout.splitlines(), TUTORIALS[name].read_text("utf-8")
    assert [line for line in shown(script) if not is_printed(line, printed)] == []
    for picture in PICTURE.findall(script):
        assert (folder / picture).stat().st_size > 10_000
