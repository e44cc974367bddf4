"""Compiled programs are shared by the tests and processes of a session, and not kept."""

import dataclasses
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest

os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="bilevel-rl-tests-"))
# Tests define their functions anew, and would compile the same program as often.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["XDG_CACHE_HOME"], "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")


MAPPED_REGIONS = 15_000
"""A process may have 65,530 (Linux, `vm.max_map_count`), and every program that JAX loads takes some of them."""


LONG_EXAMPLES = {
    "bilevel_rl.algorithms.exact_descent.ExactDescent",
    "bilevel_rl.algorithms.model_based.ModelBased",
    "bilevel_rl.policies.neural.NeuralActorCritic",
    "bilevel_rl.results.loaded.load",
    "bilevel_rl.results.opened.open_run",
    "bilevel_rl.runs.host.run_host",
    "bilevel_rl.runs.run.run",
}
"""Doctests that run for seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked `variants` all cases but the first are slow, or what `rest` says; long tests are slow too."""
    seen = set()
    for item in items:
        if "finished_comparison" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
        if "finished_search" in getattr(item, "fixturenames", ()):
            item.add_marker("long")
        if item.name in LONG_EXAMPLES:
            item.add_marker("long")
        if marker := item.get_closest_marker("variants"):
            function = item.path, item.originalname
            if function in seen:
                item.add_marker(marker.kwargs.get("rest", "slow"))
            seen.add(function)
        if item.get_closest_marker("slow") and item.path.parent.name == "studies":
            item.add_marker("long")  # Whole runs of shipped experiments, most with networks.
        if item.get_closest_marker("long"):
            item.add_marker("slow")


@pytest.fixture(scope="module", autouse=True)
def _programs_are_unloaded():
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAPPED_REGIONS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def finished_comparison(tmp_path_factory):
    """Run in this process alone, without interruption. To be copied, not to be changed."""
    from bilevel_rl.runs.folder import RunFolder
    from comparison.small_comparison import CONFIG

    folder = RunFolder(tmp_path_factory.mktemp("comparison") / "run")
    folder.write_config(CONFIG.to_json())
    CONFIG.main(folder, progress=False)
    return folder


def _struct_dataclass(cls):
    """What `flax.struct.dataclass` does, where flax is not installed: Gymnasium uses nothing else of it."""
    import jax

    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@pytest.fixture
def phys2d(monkeypatch):
    """Gymnasium's functional CartPole and Pendulum."""
    try:
        import flax
    except ImportError:
        flax = types.ModuleType("flax")
        flax.struct = types.ModuleType("flax.struct")  # pyright: ignore
        flax.struct.dataclass = _struct_dataclass  # pyright: ignore
        monkeypatch.setitem(sys.modules, "flax", flax)
        monkeypatch.setitem(sys.modules, "flax.struct", flax.struct)  # pyright: ignore
    from gymnasium.envs.phys2d import cartpole, pendulum

    return types.SimpleNamespace(CartPole=cartpole.CartPoleFunctional, Pendulum=pendulum.PendulumFunctional)
