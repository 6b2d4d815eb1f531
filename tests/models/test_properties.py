"""docs/properties.md names what exists, and forgets no query and no invariant."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from attrs import frozen

from tests.models.tlc import MODELS
from tests.models.variants import CHANNEL, queries, removable

REPOSITORY = MODELS.parents[1]
PAGE = REPOSITORY / "docs" / "properties.md"
COLUMNS = 8
NOTHING = "\N{EN DASH}"
GUARANTEES = {f"G{number}" for number in range(1, 12)}


@frozen(kw_only=True)
class Line:
    """One property and the names beside it."""

    property: str
    guarantee: str
    query: tuple[str, ...]
    invariant: tuple[str, ...]
    searched: tuple[str, ...]
    attacks: tuple[str, ...]
    test: tuple[str, ...]
    defences: tuple[str, ...]


def _names(cell: str) -> tuple[str, ...]:
    return () if cell == NOTHING else tuple(name.strip("`") for name in cell.split(", "))


@cache
def lines() -> tuple[Line, ...]:
    """Return the table's rows."""
    found = []
    for text in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if text.startswith("|") and len(cells) == COLUMNS and re.fullmatch(r"G\d+", cells[1]):
            rest = [_names(cell) for cell in cells[2:]]
            found.append(
                Line(
                    property=cells[0],
                    guarantee=cells[1],
                    query=rest[0],
                    invariant=rest[1],
                    searched=rest[2],
                    attacks=rest[3],
                    test=rest[4],
                    defences=rest[5],
                )
            )
    return tuple(found)


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of all functions and methods in a file, without importing it."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def invariants() -> set[str]:
    """Return what the configurations ask TLC to check."""
    asked: set[str] = set()
    for config in MODELS.glob("*.cfg"):
        after = re.split(r"^(?:INVARIANTS|PROPERTY)$", config.read_text(), flags=re.MULTILINE)[1:]
        asked.update(name for part in after for name in part.split())
    return asked


def constants() -> set[str]:
    """Return the defences that a configuration can switch off."""
    texts = [config.read_text() for config in MODELS.glob("*.cfg")]
    return {name for text in texts for name in re.findall(r"(\w+) = TRUE", text)}


def attack_names() -> set[str]:
    page = (REPOSITORY / "docs" / "attacks.md").read_text()
    return set(re.findall(r"^\| ([a-z0-9-]+) \|", page, flags=re.MULTILINE))


EACH = pytest.mark.parametrize("line", lines(), ids=lambda line: line.property)


def test_every_guarantee_has_a_property() -> None:
    assert {line.guarantee for line in lines()} == GUARANTEES


@EACH
def test_queries_and_invariants_are_in_the_models(line: Line) -> None:
    assert set(line.query) <= set(queries(CHANNEL.read_text()))
    assert set(line.invariant) <= invariants()
    for name in line.invariant:
        assert any(
            re.search(rf"^{name} +==", model.read_text(), flags=re.MULTILINE)
            for model in MODELS.glob("*.tla")
        )


@EACH
def test_what_is_searched_is_in_the_code(line: Line) -> None:
    searched = (REPOSITORY / "tests" / "properties").glob("*.py")
    assert set(line.searched) <= {name for path in searched for name in functions(path)}


@EACH
def test_attacks_and_tests_exist(line: Line) -> None:
    assert set(line.attacks) <= attack_names()
    assert line.test
    for test in line.test:
        file, _, name = test.partition("::")
        assert name in functions(REPOSITORY / file)


@EACH
def test_defences_can_be_taken_out(line: Line) -> None:
    assert set(line.defences) <= removable(CHANNEL.read_text()) | constants()


def test_no_query_no_invariant_and_no_defence_is_left_out() -> None:
    asked = {name for name in queries(CHANNEL.read_text()) if not name.startswith("Some")}
    assert asked == {name for line in lines() for name in line.query}
    assert invariants() == {name for line in lines() for name in line.invariant}
    stolen = {name for name in removable(CHANNEL.read_text()) if "stolen" in name}
    taken = removable(CHANNEL.read_text()) - stolen - {"reachable"}
    assert taken | constants() == {name for line in lines() for name in line.defences}


def test_what_the_threat_model_names_exists() -> None:
    """Its tables say what is shown by which test, and which query or invariant states it."""
    page = (REPOSITORY / "docs" / "threat-model.md").read_text()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page):
        assert name in functions(REPOSITORY / file), f"{file}::{name}"
    summary = page.partition("### What is not promised")[2].partition("\n## ")[0]
    stated = set(re.findall(r"`([A-Z]\w+)`", summary))
    assert stated <= invariants() | set(queries(CHANNEL.read_text()))
    assert set(re.findall(r"^\| (G\d+) \|", summary, flags=re.MULTILINE)) == GUARANTEES
