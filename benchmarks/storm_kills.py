"""Kills: a run that is killed again and again ends with the bits of one that never was.

    python -m benchmarks.storm_kills --kills 100

A run is started in a process of its own and killed (SIGKILL) once it has written some more rows, or while it starts; it
is resumed and killed again until it is done, and then the next run is. In every second run two processes work at the
folder at the same time: one must be refused, or take over what the other left, and is killed at random as well.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = [
    *("goal-position", "--size", "4", "--target", "3", "0", "--initial-x", "0", "3", "--walls", "--width", "2"),
    *("--num-seeds", "2", "--num-iterations", "1500000", "--log-every", "50000", "--checkpoint-every", "0"),
]

ROWS_OF_RUN = 63

Child = subprocess.Popen[str]


def start(*arguments: str) -> Child:
    """A process of `bilevel-rl`."""
    command = [sys.executable, "-m", "bilevel_rl", *arguments, "--no-progress"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(child: Child, folder: Path, rows: int, seconds: float) -> bool:
    """Kills it so many seconds after the folder has so many rows. Whether it was still running then."""
    while child.poll() is None and rows_of(folder) < rows:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    if child.poll() is not None:
        return False
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    return True


def rows_of(folder: Path) -> int:
    """Complete lines of its table, so far."""
    path = folder / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main():
    """Prints each run's outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, kills, runs, wrong, refused = random.Random(arguments.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        text, _ = start("run", *OPTIONS, "--folder", str(whole)).communicate()
        expected = (whole / "metrics.csv").read_bytes()
        print(f"never interrupted: {len(expected)} bytes of rows; {text.splitlines()[-1]}", flush=True)
        while kills < arguments.kills:
            runs += 1
            folder, killed, said = Path(root) / f"run-{runs}", 0, []
            while not said or said[-1][0] != 0:
                goes_on = (folder / "config.json").exists()
                child = start("resume", str(folder)) if goes_on else start("run", *OPTIONS, "--folder", str(folder))
                children = [child, start("resume", str(folder))] if runs % 2 == 0 and goes_on else [child]
                for process in children:
                    rows = rows_of(folder) + generator.choice([-ROWS_OF_RUN, 1, 2, 5, 9, 14])
                    killed += kill_when(process, folder, rows, generator.uniform(0, 0.3))
                    said.append((process.returncode, process.communicate()[0]))
            kills += killed
            refused += sum(code == 2 for code, _ in said)
            broken = [text for code, text in said if code not in (0, 2, -signal.SIGKILL) or "Traceback" in text]
            same = (folder / "metrics.csv").read_bytes() == expected
            wrong += bool(broken) or not same
            print(f"run {runs}: {killed} kills, {rows_of(folder)} rows, same bits: {same}", *broken, flush=True)
    print(f"{kills} kills of {runs} runs, {refused} processes refused, {wrong} runs wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
