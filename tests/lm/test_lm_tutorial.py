"""The tutorial on language models runs, and shows what its page says."""

from pathlib import Path

import pytest

from tutorials.test_tutorials import run_tutorial


@pytest.mark.slow
@pytest.mark.long
def test_language_model_tutorial_runs(tmp_path: Path):
    run_tutorial("06_language_model", tmp_path)
