"""What builds, checks and publishes the package holds together. Reads files only; builds nothing."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import bilevel_rl

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def jobs(workflow: Path) -> dict:
    return yaml.safe_load(workflow.read_text("utf-8"))["jobs"]


def commands(job: dict) -> list[str]:
    """What a job runs, once for each target of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    runs = [step["run"] for step in job["steps"] if "run" in step]
    return [run.replace("${{ matrix.target }}", target) for run in runs for target in matrix.get("target", [""])]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_only_call_make_targets_that_exist(workflow: Path):
    called = [run for job in jobs(workflow).values() for run in commands(job)]
    assert called
    assert [run for run in called if not run.startswith("make ") or run.removeprefix("make ") not in TARGETS] == []


def test_each_workflow_is_there():
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "docs.yml", "release.yml"}


def test_the_workflow_tests_the_versions_of_python_that_the_package_names():
    tested = jobs(ROOT / ".github/workflows/ci.yml")["test"]["strategy"]["matrix"]["python-version"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert tested == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_only_the_job_that_publishes_may_ask_for_an_identity():
    identity = {
        (path.name, name)
        for path in WORKFLOWS
        for name, job in jobs(path).items()
        if "id-token" in job.get("permissions", {})
    }
    assert identity == {("docs.yml", "publish"), ("release.yml", "publish")}


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {PROJECT["version"], citation["version"], bilevel_rl.__version__} == {PROJECT["version"]}
    assert citation["license"] == PROJECT["license"]


def test_every_extra_is_in_the_table_of_extras():
    page = (ROOT / "docs/reference/command_line.md").read_text("utf-8")
    table = page.partition("## Extras")[2]
    assert set(PROJECT["optional-dependencies"]) - set(re.findall(r"`([\w-]+)`", table)) == set()


def test_the_image_is_built_from_files_that_it_is_given():
    """`.dockerignore` leaves out everything but these."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    given = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert sorted(copied) == sorted(given)
    assert [name for name in copied if not (ROOT / name).exists()] == []
