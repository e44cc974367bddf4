"""Compiled programs of the command line are shared by the processes of a test session, and not kept."""

import os
import tempfile

import pytest

os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="bilevel-rl-tests-"))


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
