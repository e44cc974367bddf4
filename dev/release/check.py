"""Build wheel and sdist, look into them, and use the wheel where nothing else is installed: `make release-check`.

Leaves both in dist/. Ends with an error at the first thing that is not as it must be. With TAG in the environment, the
tag of a release, it must be that of this version, and the changelog must have a section for it.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
TOOLS = Path(sys.executable).parent
"""Where build, twine and uv are."""

MEGABYTE = 1e6
LARGEST_WHEEL = 1 * MEGABYTE
LARGEST_SDIST = 2 * MEGABYTE
LONGEST_INSTALL = 60.0
"""Seconds. Slower is said, and no error: it is the network's doing as well."""

IN_WHEEL = (
    "bilevel_rl/py.typed",
    "bilevel_rl/cli/templates/tables.py",
    "bilevel_rl/report/templates/report.html.j2",
    "bilevel_rl/report/templates/report.css",
    "licenses/LICENSE",
)
IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", *IN_WHEEL[:-1])
NOT_WANTED = ("__pycache__", ".pyc", "/tests/", "/docs/", ".png", "/.venv")

WITHOUT_EXTRAS = """
import importlib, pkgutil
import bilevel_rl
needs_extras = (
    "bilevel_rl.lm", "bilevel_rl.studies.happy_tweets", "bilevel_rl.rating.page",
    "bilevel_rl.cli.templates", "bilevel_rl.__main__",
)
names = [module.name for module in pkgutil.walk_packages(bilevel_rl.__path__, "bilevel_rl.", onerror=lambda name: None)]
names = [name for name in names if not name.startswith(needs_extras)]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules import without extras")
"""


def main() -> None:
    """All of it, in order."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if tag := os.environ.get("TAG"):
        check_tag(tag, version)
    wheel, sdist = build(version)
    run(TOOLS / "twine", "check", "--strict", wheel, sdist)
    with zipfile.ZipFile(wheel) as zipped, tarfile.open(sdist) as tarred:
        check_files(wheel, zipped.namelist(), IN_WHEEL, LARGEST_WHEEL)
        check_files(sdist, tarred.getnames(), IN_SDIST, LARGEST_SDIST)
    check_description(wheel)
    with tempfile.TemporaryDirectory() as folder:
        use(wheel, Path(folder))


def check_tag(tag: str, version: str) -> None:
    """A tag is never moved, so that what it says must be right before it is uploaded."""
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, the version in pyproject.toml {version}")
    if not re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no section [{version}]")


def build(version: str) -> tuple[Path, Path]:
    """Wheel and sdist of this version, and nothing else, in dist/. The wheel is made from the sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(TOOLS / "python", "-m", "build", "--installer", "uv", "--outdir", DIST, ROOT)
    return DIST / f"bilevel_rl-{version}-py3-none-any.whl", DIST / f"bilevel_rl-{version}.tar.gz"


def check_files(archive: Path, names: list[str], wanted: tuple[str, ...], largest: float) -> None:
    """What must be in an archive, what must not, and its size."""
    missing = [name for name in wanted if not any(entry.endswith(f"/{name}") or entry == name for entry in names)]
    surplus = [entry for entry in names if any(mark in entry for mark in NOT_WANTED)]
    size = archive.stat().st_size
    if missing or surplus or size > largest:
        sys.exit(f"{archive.name}: missing {missing}; not wanted {surplus}; {size:,} bytes of at most {largest:,.0f}")
    print(f"{archive.name}: {size / MEGABYTE:.2f} MB, {len(names)} files")


def check_description(wheel: Path) -> None:
    """PyPI shows the README alone, so that a link to a file of the repository would be broken there."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode("utf-8")
    if relative := re.findall(r"\]\((?!https?:|#)[^)\s]*\)", description):
        sys.exit(f"the description has relative links, {relative}: see tool.hatch.metadata in pyproject.toml")


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel into an empty environment from nothing, import it, run its command."""
    python = folder / "venv" / "bin" / "python"
    run(TOOLS / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv")
    start = time.monotonic()
    run(TOOLS / "uv", "pip", "install", "--quiet", "--no-cache", "--python", python, wheel)
    seconds = time.monotonic() - start
    print(f"installed from nothing in {seconds:.0f} s" + (", which is long" if seconds > LONGEST_INSTALL else ""))
    run(python, "-c", WITHOUT_EXTRAS, folder=folder)
    run(python.parent / "bilevel-rl", "--version", folder=folder)
    run(python.parent / "bilevel-rl", "run", "goal-position", "--num-iterations", "500", folder=folder)
    if len(list(folder.glob("runs/*/report.html"))) != 1:
        sys.exit("the run left no report")


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """A command with nothing of this checkout on its path but the release tools."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{TOOLS}{os.pathsep}{environment.get('PATH', '')}"
    sys.stdout.flush()
    try:
        subprocess.run([str(part) for part in command], cwd=folder, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed with status {error.returncode}: {' '.join(str(part) for part in command)}")


if __name__ == "__main__":
    main()
