"""The tutorial of a language model runs, where PyTorch is; the others are run in tests/tutorials."""

from pathlib import Path

import pytest

from tutorials.tutorial_runs import check_run


@pytest.mark.long
def test_tutorial_runs(tmp_path: Path):
    check_run("07_language_model", tmp_path)
