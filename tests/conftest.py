"""Compiled programs are shared by the tests and processes of a session, and not kept."""

import os
import tempfile

import pytest

os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="bilevel-rl-tests-"))
# Tests define their functions anew, and would compile the same program as often.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["XDG_CACHE_HOME"], "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")


@pytest.fixture(scope="session")
def finished_comparison(tmp_path_factory):
    """Run in this process alone, without interruption. To be copied, not to be changed."""
    from bilevel_rl.experiments import comparison
    from bilevel_rl.experiments.settings import to_json
    from bilevel_rl.results import RunFolder
    from comparison.small_comparison import CONFIG

    folder = RunFolder(tmp_path_factory.mktemp("comparison") / "run")
    folder.write_config(to_json("compare-goal-position", CONFIG))
    comparison.main(CONFIG, folder, progress=False)
    return folder
