"""Every tutorial runs from top to bottom, prints what its page says, and draws its pictures."""

from pathlib import Path

import pytest

from tutorials.tutorial_runs import PICTURE, ROOT, TUTORIALS, check_run, is_printed, shown

PICTURES = ROOT / "docs/images/tutorials"
QUICK = {"01_first_problem", "03_log_to_incentive"}
"""The others are long."""
LM = {"07_language_model"}
"""Run by tests/lm/test_lm_tutorial.py, where PyTorch is."""


def test_lines_are_told_apart():
    printed = ["best 0.451, the leader pays 0.65"]
    assert is_printed("best 0.450,  the leader pays 0.66", printed)
    assert not is_printed("best 0.450, the leader pays 0.75", printed)
    assert not is_printed("worst 0.450, the leader pays 0.65", printed)


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_a_page_shows_is_there(name: str):
    script = TUTORIALS[name].read_text("utf-8")
    assert script.startswith("# %% [markdown]\n# # ")
    assert shown(script)
    pictures = PICTURE.findall(script)
    assert pictures
    for picture in pictures:
        assert f'savefig("{picture}"' in script
        assert 10_000 < (PICTURES / picture).stat().st_size <= 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in TUTORIALS if name not in LM],
)
def test_tutorial_runs(name: str, tmp_path: Path):
    check_run(name, tmp_path)
