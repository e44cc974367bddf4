"""Reports in a real Chromium: nothing goes wrong, everything is drawn, small screens and keyboards are enough."""

from pathlib import Path

import pytest
from hand_outcomes import GRAPH, GRID, hand_folder, hand_outcome

from bilevel_rl.report import write_report

CHROMIUM = Path("/usr/bin/chromium")
EVIL = "<img src=x onerror=console.error(1)>"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.is_file(), reason="no Chromium")
def test_reports_open_without_errors_on_all_screens(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    layouts = {"grid": GRID, "graph": GRAPH, "plain": None}
    pages = {
        name: write_report([hand_folder(tmp_path / name, hand_outcome(layout, states=(EVIL, "park", "office"))).path])
        for name, layout in layouts.items()
    }
    pages["all"] = write_report([page.parent for page in pages.values()], tmp_path / "all.html")
    assert max(page.stat().st_size for page in pages.values()) < 5_000_000
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        for scheme, width in (("light", 1440), ("dark", 390)):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            for path in pages.values():
                _check(context, path, scheme, width)
        _check_keyboard_and_motion(browser, pages["grid"])
        browser.close()


def _check(context, path, scheme, width):
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(box => box.hasAttribute('data-drawn'))")
    charts = page.locator(".chart")
    assert charts.count() >= 6
    # Marks with a size, within the chart's own box.
    assert page.evaluate("""[...document.querySelectorAll('.chart')].every(box => {
        const svg = box.querySelector('svg'), marks = box.querySelectorAll('.mark-line path, .mark-rect path, .mark-symbol path, .mark-rule line');
        return svg && svg.clientWidth > 100 && svg.clientWidth <= box.clientWidth + 1 && marks.length > 0;
    })""")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A hover shows numbers as text.
    charts.first.scroll_into_view_if_needed()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 247)"
    assert light == (scheme == "light")
    titles = page.evaluate(
        "[...document.querySelectorAll('.chart .role-axis-label text, .chart text')].map(t => t.getAttribute('fill'))"
    )
    assert ("#9aa6b2" in titles) == (scheme == "dark")
    other = "dark" if scheme == "light" else "light"
    page.emulate_media(color_scheme=other)
    page.wait_for_function(
        "colour => document.querySelector('.chart text[fill=\"' + colour + '\"]')",
        arg="#9aa6b2" if other == "dark" else "#5c6873",
    )
    assert wrong == []
    page.close()


def _check_keyboard_and_motion(browser, path):
    page = browser.new_page()
    page.goto(path.as_uri())
    walker = "getComputedStyle(document.querySelector('.walker'))"
    assert page.evaluate(f"{walker}.animationPlayState") == "running"
    page.keyboard.press("Tab")  # The link to the content, then the button.
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "pause"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate(f"{walker}.animationPlayState") == "paused"
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(f"{walker}.display") == "none"
    page.close()
