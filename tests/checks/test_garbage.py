"""Garbage never passes silently. In processes of their own: type checking at test time would catch what users meet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def output_of(*arguments, folder, seconds):
    """What a Python process prints, and its exit code."""
    paths = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=seconds, cwd=folder, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_a_storm_of_malformed_calls_and_lines(tmp_path):
    storm = "-m", "benchmarks.storm_api", "--calls", "1000", "--lines", "20"
    code, output = output_of(*storm, folder=tmp_path, seconds=300)
    assert code == 0, output
    assert int(output.splitlines()[-1].split("|")[1]) > 1000


@pytest.mark.long
def test_a_storm_of_all_calls_and_many_lines(tmp_path):
    code, output = output_of("-m", "benchmarks.storm_api", "--lines", "300", folder=tmp_path, seconds=1200)
    assert code == 0, output


@pytest.mark.slow
def test_properties_of_garbage(tmp_path):
    properties = str(ROOT / "tests" / "checks" / "garbage_properties.py")
    command = "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", properties
    code, output = output_of(*command, folder=tmp_path, seconds=1200)
    assert code == 0, output
