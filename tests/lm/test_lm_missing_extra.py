"""Without the extra the library works, and its part for language models says what to install."""

import subprocess
import sys

import pytest

CODE = """
import sys


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in missing else self.finder.find_spec(name, path, target)


missing = {"torch", "transformers", "peft", "accelerate", "safetensors"}
packages = sorted(missing)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import bilevel_rl, bilevel_rl.cli

print("works", bilevel_rl.SingleLoopActorCritic.__name__)
for package in packages:
    missing = {package}
    try:
        import bilevel_rl.lm
    except ModuleNotFoundError as error:
        print(error.name, "|", error)
print(*(package for package in packages if package in sys.modules))
"""


@pytest.fixture(scope="module")
def lines():
    finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_the_library_and_its_command_line_work_without_the_extra(lines):
    assert lines[0] == "works SingleLoopActorCritic"


@pytest.mark.parametrize("package", ["torch", "transformers", "peft", "accelerate", "safetensors"])
def test_each_missing_package_is_named_with_the_command_that_installs_it(lines, package):
    (line,) = [line for line in lines if line.startswith(f"{package} | ")]
    assert line.startswith(f"{package} | bilevel_rl.lm needs {package}, which is not installed: run `make lm`")
    assert "bilevel-rl[lm]" in line


def test_nothing_of_the_extra_is_imported_on_the_way(lines):
    assert lines[-1] == ""
