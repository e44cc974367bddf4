"""The comparison that others are held against."""

import pytest

from bilevel_rl.experiments import comparison
from bilevel_rl.experiments.settings import to_json
from bilevel_rl.results import RunFolder
from comparison.small_comparison import CONFIG


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Run in this process alone, without interruption. To be copied, not to be changed."""
    folder = RunFolder(tmp_path_factory.mktemp("comparison") / "run")
    folder.write_config(to_json("compare-goal-position", CONFIG))
    comparison.main(CONFIG, folder, progress=False)
    return folder
