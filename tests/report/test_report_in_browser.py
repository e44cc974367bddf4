"""Reports in a real Chromium: nothing goes wrong, everything is drawn, small screens and keyboards are enough."""

from pathlib import Path

import pytest

from bilevel_rl.report import write_report
from hand_outcomes import GRAPH, GRID, hand_folder, hand_outcome

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
        for scheme, width, shown in (("light", 1440, ("graph", "all")), ("dark", 390, ("grid", "all"))):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            for name in shown:
                _check(context, pages[name], scheme)
        _check_keyboard_and_motion(browser, pages["grid"])
        browser.close()


MARKS = ".mark-line path, .mark-rect path, .mark-symbol path, .mark-rule line"
IS_DRAWN = f"""[...document.querySelectorAll('.chart')].every(box => {{
    const svg = box.querySelector('svg'), fits = svg.clientWidth > 100 && svg.clientWidth <= box.clientWidth + 1;
    return fits && box.querySelectorAll('{MARKS}').length > 0;
}})"""
INK = {"light": "#5c6873", "dark": "#9aa6b2"}
PAPER = {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 24, 29)"}


def _check(context, path, scheme):
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(box => box.hasAttribute('data-drawn'))")
    assert page.locator(".chart").count() >= 6
    assert page.evaluate(IS_DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    curve = page.locator(".chart[id*=curve]").first
    curve.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "median" in page.locator("#vg-tooltip-element").inner_text()
    # Charts follow the page from light to dark and back.
    for theme in (scheme, {"light": "dark", "dark": "light"}[scheme]):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("ink => document.querySelector(`.chart text[fill='${ink}']`)", arg=INK[theme])
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == PAPER[theme]
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
