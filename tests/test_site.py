"""The documentation as a site in a real Chromium: nothing goes wrong, search, maths, dark mode, a phone's width."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
SEEN = (
    "index",
    "gallery",
    "tutorials/01_first_problem",
    "explanation/penalty",
    "explanation/method",
    "reference/api/problem",
    "reference/commands",
)
"""Pages of every kind, opened at both widths; the other pages at the width of a phone."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.is_file(), reason="no Chromium")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object):
        """Nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The site, built strictly: a warning is an error."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("jupytext")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return site


@pytest.fixture(scope="module")
def address(folder):
    """Where the site is served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, address):
    """Makes pages of a width that note in a list what goes wrong: errors, and requests that leave the site."""
    wrong: list[str] = []

    def new(width: int, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else wrong.append(asked.url),
        )
        page.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        return page

    yield new
    assert wrong == []


@pytest.mark.parametrize("width", [1440, 390])
def test_pages_open_without_errors_and_fit_the_screen(opened, address, folder, width):
    page = opened(width)
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.html"))
    everything = sorted(name for name in names if not name.endswith(".py"))  # Listings of files look alike.
    assert set(SEEN) <= set(everything)
    wide = []
    for name in everything if width == 390 else SEEN:
        page.goto(f"{address}{name}.html")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
        broken = "[...document.images].filter(i => i.loading != 'lazy' && i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0, name
    assert wide == []


def test_options_of_every_command_are_there(folder):
    text = (folder / "reference/commands.html").read_text("utf-8")
    commands = ("solve", "resume", "plot", "report", "diagnose", "list", "runs", "init", "compare-goal-position")
    assert [name for name in (*commands, "run-goal-position") if f'<h2 id="{name}">' not in text] == []
    assert "--installation-cost" in text


def test_search_finds_the_penalty(opened, address):
    page = opened(1440)
    page.goto(f"{address}index.html")
    page.keyboard.press("f")
    page.keyboard.type("penalty")
    page.wait_for_selector(".md-search-result__item")
    titles = page.locator(".md-search-result__link h1, .md-search-result__link h2").all_inner_texts()
    assert any("penalty" in title.lower() for title in titles[:5]), titles


def test_equations_are_drawn_by_the_browser(opened, address):
    page = opened(1440)
    page.goto(f"{address}explanation/method.html")
    assert page.locator("math").count() >= 8
    assert page.locator("math mfrac").first.bounding_box()["height"] > 20  # One above the other, not side by side.
    assert "\\" not in "".join(page.locator("math").all_text_contents())


def test_dark_mode_is_a_click_and_stays(opened, address):
    page = opened(1440)
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    page.goto(f"{address}index.html")
    assert page.evaluate(scheme) == "default"
    page.locator("label[for=__palette_1]").first.click()
    assert page.evaluate(scheme) == "slate"
    page.goto(f"{address}gallery.html")
    assert page.evaluate(scheme) == "slate"


def test_the_site_works_from_disk(browser, folder):
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    page.keyboard.press("f")
    page.keyboard.type("penalty")
    page.wait_for_selector(".md-search-result__item")
    assert "penalty" in page.locator(".md-search-result__item").first.inner_text().lower()
