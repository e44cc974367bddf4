"""Damage to run folders: every command gives the right bits, or refuses by name.

    python -m benchmarks.storm_damage --trials 200

One file of a folder, chosen at random, loses its end, is removed, or has a byte flipped; then `resume`, `plot`, `list`
and `diagnose` are run on copies of it. The folder is that of a run that was interrupted: the rest of it is to be done.

Outcomes: *same bits* (`resume` ends with the rows of a run that was never interrupted; `plot` draws the same pictures,
and the other commands print what they print for an undamaged folder), *refused* (exit 2, one line, which names a file
or the folder), *told* (exit 0 with a warning, or with a table that names the damage). Anything else is wrong: a
traceback, a hang, other numbers, another picture, an exit without a word.
"""

import argparse
import collections
import contextlib
import io
import itertools
import multiprocessing
import os
import random
import shutil
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120
"""After which a command counts as hanging."""

COMMANDS = ("resume", "plot", "list", "diagnose")

OPTIONS = [
    *("goal-position", "--size", "3", "--target", "2", "0", "--initial-x", "0", "2", "--walls", "--width", "2"),
    *("--num-seeds", "2", "--log-every", "100", "--checkpoint-every", "0"),
]
NUM_ITERATIONS, INTERRUPTED_AT = 500, 300

COMMANDS_PER_CACHE = 40
"""After which compiled programs are forgotten."""

WRONG = ("traceback", "hang", "other numbers", "other picture", "silent")


@dataclass(frozen=True)
class Said:
    """What a command did.

    Attributes:
        status: its exit status; None where it ended in a traceback or not at all.
        text: what it printed, warnings included.
    """

    status: int | None
    text: str


def serve(pipe: Any):
    """Runs commands of `bilevel-rl` in this process, one after the other, as often as asked."""
    import jax

    from bilevel_rl.cli import main

    for number in itertools.count(1):
        if number % COMMANDS_PER_CACHE == 0:
            jax.clear_caches()  # Programs map memory, and a process may have so many regions of it.
        arguments, folder = pipe.recv()
        os.chdir(folder)
        out = io.StringIO()
        status: int | None = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                main(arguments)
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code)
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            except BaseException:
                status = None
                traceback.print_exc()
        pipe.send(Said(status, out.getvalue()))


class Shell:
    """Commands of `bilevel-rl` in a process that is replaced where it hangs or dies."""

    def __init__(self):
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def __call__(self, *arguments: str, folder: Path) -> Said:
        """Runs one command in a folder."""
        self._pipe.send((list(arguments), str(folder)))
        try:
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            said = Said(None, "hang")
        except EOFError:
            said = Said(None, "the process died")
        self.close()
        self._start()
        return said

    def close(self):
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _start(self):
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def damage(folder: Path, generator: random.Random) -> str:
    """Spoils one file of a folder, and says how."""
    path = generator.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = bytearray(path.read_bytes())
    kind = generator.choice(("flipped", "flipped", "flipped", "cut", "cut", "removed"))
    if kind == "removed" or not content:
        path.unlink()
        return f"{path.relative_to(folder)} removed"
    where = generator.randrange(len(content))
    if kind == "flipped":
        content[where] ^= 1 << generator.randrange(8)
    else:
        del content[where:]
    path.write_bytes(content)
    return f"{path.relative_to(folder)} {kind} at byte {where}"


def pictures(folder: Path) -> dict[str, bytes]:
    """What was drawn."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("figures/*.png"))}


def judge(command: str, said: Said, sound: tuple[Said, Path], folder: Path, rows: list[bytes]) -> str:
    """Which outcome this is."""
    if said.text == "hang":
        return "hang"
    if said.status is None or "Traceback" in said.text:
        return "traceback"
    if said.status != 0:
        return "refused" if said.status == 2 and said.text.strip() else "silent"
    if command == "resume":
        found = (folder / "metrics.csv").read_bytes().splitlines() if (folder / "metrics.csv").exists() else []
        # A flipped digit of `num_iterations` asks for a shorter or longer run, whose common rows must be the same.
        common = min(len(found), len(rows))
        return "same bits" if common > 1 and found[:common] == rows[:common] else "other numbers"
    if command == "plot":
        if pictures(folder) == pictures(sound[1]):
            return "same bits"
        return "told" if "warning: " in said.text else "other picture"
    if said.text == sound[0].text:
        return "same bits"
    return "told" if said.text.strip() else "silent"


def main():
    """Prints a table of outcomes, and every wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, shell = random.Random(arguments.seed), Shell()
    counts: dict[str, collections.Counter[str]] = {command: collections.Counter() for command in COMMANDS}
    wrong = []
    with tempfile.TemporaryDirectory() as root:
        home = Path(root)

        def run(name: str, num_iterations: int) -> Path:
            options = ["--folder", f"{name}/run", "--no-progress", "--num-iterations", str(num_iterations)]
            (home / name).mkdir()
            said = shell("run", *OPTIONS, *options, folder=home)
            assert said.status == 0, said.text
            return home / name / "run"

        rows = (run("whole", NUM_ITERATIONS) / "metrics.csv").read_bytes().splitlines()
        interrupted = run("interrupted", INTERRUPTED_AT)
        config = (interrupted / "config.json").read_text()
        longer = config.replace(f'"num_iterations": {INTERRUPTED_AT}', f'"num_iterations": {NUM_ITERATIONS}')
        (interrupted / "config.json").write_text(longer)

        def tried(command: str, source: Path, where: str = "tried") -> tuple[Said, Path]:
            place = home / where
            shutil.rmtree(place, ignore_errors=True)
            copy = Path(shutil.copytree(source, place / "run"))
            progress = ["--no-progress"] if command == "resume" else []
            return shell(command, "." if command == "list" else "run", *progress, folder=place), copy

        sound = {command: tried(command, interrupted, f"sound-{command}") for command in COMMANDS}
        for trial in range(arguments.trials):
            shutil.rmtree(home / "damaged", ignore_errors=True)
            shutil.copytree(interrupted, home / "damaged")
            done = damage(home / "damaged", generator)
            for command in COMMANDS:
                said, folder = tried(command, home / "damaged")
                outcome = judge(command, said, sound[command], folder, rows)
                counts[command][outcome] += 1
                if outcome in WRONG:
                    wrong.append((command, done, outcome, said.text))
                    print(f"trial {trial}: {command} after {done}: {outcome}: {said.text[-400:]}", flush=True)
    shell.close()
    names = sorted({outcome for counter in counts.values() for outcome in counter})
    print("| command | " + " | ".join(names) + " |")
    for command, counter in counts.items():
        print(f"| {command} | " + " | ".join(str(counter[name]) for name in names) + " |")
    print(f"{len(wrong)} wrong of {arguments.trials * len(COMMANDS)}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
