"""The package as a user meets it: a light import, types for type checkers, and a docstring on every public name."""

import importlib
import importlib.resources
import inspect
import json
import subprocess
import sys

import pytest

import bilevel_rl

MODULES = [bilevel_rl] + [
    importlib.import_module(f"bilevel_rl.{name}")
    for name in [
        "algorithms",
        "congestion",
        "environments",
        "exact",
        "figures",
        "followers",
        "formulation",
        "outcome",
        "policies",
        "problems",
        "report",
        "results",
    ]
]
"""Whose names are public."""

HEAVY = ("torch", "orbax", "matplotlib", "gymnasium", "tensorboardX", "tyro", "pandas", "scipy.stats")


def modules_after(statement):
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return set(json.loads(output.stdout))


def test_importing_the_package_imports_nothing_heavy():
    loaded = modules_after("import bilevel_rl")
    assert {"bilevel_rl.runs.run", "bilevel_rl.exact", "jax", "equinox"} <= loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_the_command_line_reads_no_checkpoint_library_before_it_runs():
    loaded = modules_after("import bilevel_rl.cli")
    assert "matplotlib" in loaded
    assert [
        name for name in ("torch", "orbax", "gymnasium", "tensorboardX", "matplotlib.pyplot") if name in loaded
    ] == []


def test_the_package_is_marked_as_typed():
    assert importlib.resources.files("bilevel_rl").joinpath("py.typed").is_file()


def public_names(module):
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def test_the_public_names():
    objects = {name for name, value in public_names(bilevel_rl).items() if not inspect.ismodule(value)}
    assert objects >= {
        "BilevelProblem",
        "OccupancyCost",
        "PowerDecay",
        "RunResult",
        "Followers",
        "SingleLoopActorCritic",
        "StepSizes",
        "TabularMDP",
        "run",
    }
    assert inspect.isfunction(bilevel_rl.run)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module):
    assert module.__doc__
    missing = []
    for name, value in public_names(module).items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert value.__module__.startswith("bilevel_rl"), f"{name} is not ours"
        if not value.__doc__ or value.__doc__.startswith(f"{name}("):  # what dataclasses write by themselves
            missing.append(name)
        if inspect.isclass(value):
            # Defaults of fields are described by the class; methods speak for themselves.
            fields = getattr(value, "__dataclass_fields__", {})
            own = [method for method in vars(value) if not method.startswith("_") and method not in fields]
            members = {f"{name}.{method}": getattr(value, method) for method in own}
            missing += [path for path, member in members.items() if inspect.isroutine(member) and not member.__doc__]
    assert missing == []
