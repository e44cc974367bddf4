"""What a run shows while it is running: a bar on a terminal, a few lines elsewhere, nothing when told so."""

import contextlib
import re
from types import SimpleNamespace

import pytest

from bilevel_rl.runs import progress
from bilevel_rl.runs.progress import NUM_PLAIN_LINES, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def rows(*objectives):
    return [{"upper_objective": objective} for objective in objectives]


def test_lines_name_iterations_rate_and_objective(clock, capsys):
    with Progress(1_000_000, is_shown=True) as bar:
        bar.update(0, 0, rows(0.5, 0.7))
        clock.now += 4.0
        bar.update(500_000, 8_000_000, rows(0.25, 0.75))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "        0 of 1,000,000 iterations  Φ = 0.6000 ± 0.1000",
        "  500,000 of 1,000,000 iterations  2.00 M transitions/s · Φ = 0.5000 ± 0.2500",
    ]


def test_the_rate_leaves_out_what_was_done_before(clock, capsys):
    # A resumed run starts at 6 M transitions; the time until then is compilation.
    with Progress(1_000, is_shown=True) as bar:
        clock.now += 50.0
        bar.update(600, 6_000_000, rows(0.5))
        clock.now += 2.0
        bar.update(1_000, 7_000_000, rows(0.5))
    assert "0.50 M transitions/s" in capsys.readouterr().err.splitlines()[1]


def test_only_about_ten_lines_are_printed(capsys):
    with Progress(1_000, is_shown=True) as bar:
        for k in range(0, 1_001, 5):
            bar.update(k, k, rows(0.5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == NUM_PLAIN_LINES + 1
    assert [line.split()[0] for line in lines] == [f"{k:,}" for k in range(0, 1_001, 100)]


def test_the_last_log_point_is_always_printed(capsys):
    with Progress(1_000, is_shown=True) as bar:
        for k in (*range(0, 1_000, 70), 1_000):
            bar.update(k, k, rows(0.5))
    assert capsys.readouterr().err.splitlines()[-1].startswith("    1,000 of 1,000 iterations")


def test_a_log_point_without_rows_has_no_objective(clock, capsys):
    with Progress(10, is_shown=True) as bar:
        bar.update(0, 0, [])
        clock.now += 1.0
        bar.update(10, 10, [{"seed": 0}])
    shown = capsys.readouterr().err
    assert "Φ" not in shown
    assert "nan" not in shown


def test_two_log_points_at_one_instant_have_no_rate(clock, capsys):
    with Progress(10, is_shown=True) as bar:
        bar.update(0, 0, rows(0.5))
        bar.update(10, 10, rows(0.5))
    assert "transitions/s" not in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_is_shown_when_told_so(is_terminal, monkeypatch, capsys):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(10, is_shown=False) as bar:
        bar.update(0, 0, rows(0.5))
        bar.update(10, 10, rows(0.5))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch, clock, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(1_000, is_shown=True) as bar:
        bar.update(0, 0, rows(0.5))
        clock.now += 1.0
        bar.update(250, 3_000_000, rows(0.125))
    shown = capsys.readouterr()
    assert shown.out == ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.err)
    assert "iterations" in text
    assert "25%" in text
    assert "3.00 M transitions/s · Φ = 0.1250 ± 0.0000" in text
    assert "250 of 1,000" not in text


def test_a_bar_ends_with_the_run_also_when_it_fails(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with contextlib.suppress(KeyboardInterrupt), Progress(10, is_shown=True) as bar:
        bar.update(0, 0, rows(0.5))
        raise KeyboardInterrupt
    assert "\x1b[?25h" in capsys.readouterr().err  # the cursor is back
