"""Documentation that rots is worse than none: links, test names and the diagram are checked."""

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.architecture import diagram
from tests.architecture.sources import REPOSITORY

PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("tests/**/*.md")]
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES]
)


@cache
def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    plain = (
        re.sub(r"[^\w\- ]", "", title.strip().lower()) for title in _HEADING.findall(prose(page))
    )
    return {title.replace(" ", "-") for title in plain}


@cache
def defined_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link} leads nowhere"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{link}: no such heading"


@each_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for file, name in _TEST.findall(page.read_text()):
        path = REPOSITORY / file
        assert path.is_file(), f"{file} does not exist"
        assert name in defined_in(path), f"{file} has no {name}"


def test_every_page_is_in_the_index() -> None:
    """From the README to the one page that a reader needs: two steps."""
    index = prose(REPOSITORY / "docs" / "README.md")
    linked = {(REPOSITORY / "docs" / link.split("#")[0]).resolve() for link in _LINK.findall(index)}
    for page in (REPOSITORY / "docs").rglob("*.md"):
        if page.name != "README.md" or page.parent.name != "docs":
            assert page.resolve() in linked, f"docs/README.md does not link {page}"
    assert "(docs/README.md)" in (REPOSITORY / "README.md").read_text()


def test_the_import_diagram_is_drawn_from_the_code() -> None:
    page = diagram.PAGE.read_text()
    assert diagram.update(page) == page, "run: make docs"
