"""The documentation holds together: pages, links, pictures and public names. Reads files only; needs no mkdocs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.glob("tutorials/*.py")])
"""Tutorials are scripts, whose comments are pages."""
REPORTS = sorted((DOCS / "reports").rglob("*.md"))
PUBLIC = (
    "algorithms",
    "congestion",
    "environments",
    "exact",
    "followers",
    "formulation",
    "lm",
    "outcome",
    "policies",
    "problems",
    "rating",
    "results",
)
"""Modules all of whose names are documented, beside those of the package itself."""

FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Of headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in plain}


def broken(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(FENCED.sub("", text)):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


def exported(module: str) -> set[str]:
    """Names that a module exports, `import … as …` of the same name, read off its source."""
    tree = ast.parse((ROOT / "src/bilevel_rl" / module / "__init__.py").read_text("utf-8"))
    names = (alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names)
    return {alias.name for alias in names if alias.asname == alias.name}


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Names with an entry in the Python reference, `exact.confidence` for `exact.confidence.confidence`.

    A function that is called as its module has its full path there, or the entry would be that of the module.
    """
    text = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference/api").glob("*.md")))
    entries = re.findall(r"^::: bilevel_rl\.([\w.]+)$", text, re.MULTILINE)
    return {re.sub(r"\b(\w+)\.\1$", r"\1", entry) for entry in entries}


def last(name: str) -> str:
    return name.rpartition(".")[2]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", DOCS / "llms.txt", *PAGES], ids=str
)
def test_relative_links_and_pictures_resolve(page: Path):
    assert broken(page, page.read_text("utf-8")) == []


def test_links_to_nowhere_are_found():
    method = "explanation/method.md"
    text = f"[a](no.md) ![b](images/no.png) [c]({method}#no) [d](#no) [e]({method}#1-problem) [f](../README.md)"
    assert broken(DOCS / "index.md", text) == ["no.md", "images/no.png", f"{method}#no", "#no"]


@pytest.mark.parametrize("index", ["mkdocs.yml", "docs/llms.txt"])
def test_every_page_is_listed(index: str):
    text = (ROOT / index).read_text("utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES if page.name != "index.md" or page.parent != DOCS]
    pages = [re.sub(r"\.py$", ".md", page) for page in pages]  # Which tutorials are in the site.
    text = re.sub(r"(tutorials/\w+)\.py", r"\1.md", text)
    listed = re.findall(r"(?:: |- |\()([\w/]+\.md)\b", text)
    assert sorted(page for page in listed if not page.startswith("project/") and page != "index.md") == sorted(pages)


def test_every_public_name_is_in_the_reference(documented: set[str]):
    modules = {path.name for path in (ROOT / "src/bilevel_rl").iterdir() if (path / "__init__.py").exists()}
    names = exported(".") - modules - {"projections"}
    assert names >= {"BilevelProblem", "run", "untuned"}
    assert names - {last(name) for name in documented} == set()


@pytest.mark.parametrize("module", PUBLIC)
def test_every_name_of_a_public_module_is_in_the_reference(documented: set[str], module: str):
    entries = documented | {f"{module}.{name}" for name in documented}  # Those of the package need no second entry.
    assert {f"{module}.{name}" for name in exported(module)} - entries == set()


def test_every_entry_of_the_reference_is_in_its_index(documented: set[str]):
    index = (DOCS / "reference/api/index.md").read_text("utf-8")
    assert {name for name in documented if f"`{name}`" not in index and f"`{last(name)}`" not in index} == set()


def test_every_public_name_is_either_stable_or_experimental(documented: set[str]):
    text = (DOCS / "reference/stability.md").read_text("utf-8")
    _, stable, experimental = re.split(r"^## (?:Stable|Experimental) names$", text, flags=re.MULTILINE)
    lists = [
        re.findall(r"`([\w.]+)`", "\n".join(re.findall(r"^\|.*$", part, re.MULTILINE)))
        for part in (stable, experimental)
    ]
    names = [name for part in lists for name in part]
    assert sorted(names) == sorted(set(names)), "in both lists, or twice in one"
    at_top = exported(".")
    assert set(names) == {last(name) if last(name) in at_top else name for name in documented}


@pytest.mark.parametrize("page", REPORTS, ids=lambda page: page.stem)
def test_reports_say_how_and_when_they_were_measured(page: Path):
    title, _, *head = page.read_text("utf-8").splitlines()[:5]
    assert title.startswith("# ")
    assert re.fullmatch(r"- \*\*Command\*\*: .+", head[0])
    assert re.fullmatch(r"- \*\*Date of the numbers\*\*: (\d+ to )?\d+ [A-Z][a-z]+ 20\d\d", head[1])
    assert re.fullmatch(r"- \*\*Version\*\*: \d+\.\d+\.\d+.*", head[2])
