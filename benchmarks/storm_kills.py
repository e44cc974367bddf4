"""Kills: a run that is killed again and again ends with the bits of one that never was.

    python -m benchmarks.storm_kills --kills 100

A run is started in a process of its own and killed (SIGKILL) after a random time, then resumed and killed, until it is
done; then the next run is. In every second run two processes resume the folder at the same time and one of them is
killed at random: the other must be refused, or take over what was left.
"""

import argparse
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

Child = subprocess.Popen[str]


def start(*arguments: str) -> Child:
    """A process of `bilevel-rl`."""
    command = [sys.executable, "-m", "bilevel_rl", *arguments, "--no-progress"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_after(child: Child, seconds: float) -> bool:
    """Whether it was still running then."""
    end = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
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
    parser.add_argument("--longest", type=float, default=12.0, help="seconds that a process lives at most")
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
            child = start("run", *OPTIONS, "--folder", str(folder))
            while True:
                beside = start("resume", str(folder)) if runs % 2 == 0 and (folder / "config.json").exists() else None
                was_running = kill_after(child, generator.uniform(0.2, arguments.longest))
                killed += was_running
                text, _ = child.communicate()
                said.append((child.returncode, text))
                if beside is not None:
                    survivor = generator.random() < 0.5
                    killed += not survivor and kill_after(beside, generator.uniform(0.2, arguments.longest))
                    text, _ = beside.communicate()
                    said.append((beside.returncode, text))
                if not was_running and child.returncode == 0:
                    break
                if killed >= 12:  # Often enough: now it may end.
                    done = start("resume", str(folder))
                    text, _ = done.communicate()
                    said.append((done.returncode, text))
                    break
                child = (
                    start("resume", str(folder))
                    if (folder / "config.json").exists()
                    else start("run", *OPTIONS, "--folder", str(folder))
                )
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
