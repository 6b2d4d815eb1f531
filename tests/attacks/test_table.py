"""docs/attacks.md says what the tests do."""

import ast
from functools import cache
from pathlib import Path

import pytest

from attestation.wire.control import RefusalCode
from tests.architecture.test_errors_and_labels import every_error
from tests.attacks.attack import GUARANTEES, HARMLESS, REVOKED, Row
from tests.attacks.bad_input import BAD_INPUT, BadInput
from tests.attacks.write_table import PAGE, page, rows


@cache
def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_is_the_one_that_the_tests_make() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.attacks.write_table"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_every_attack_has_a_test_that_exists(repository: Path, row: Row) -> None:
    file, _, name = row.test.partition("::")
    assert name in defined_in(repository / file)


def test_no_two_attacks_share_a_name_or_a_test() -> None:
    every = rows()
    assert len({row.id for row in every}) == len({row.test for row in every}) == len(every)


def test_there_are_at_least_sixty_attacks_on_all_guarantees() -> None:
    every = rows()
    assert len(every) >= 60
    assert {row.guarantee for row in every} == GUARANTEES.keys()


@pytest.mark.parametrize("bad", BAD_INPUT, ids=lambda bad: bad.what)
def test_every_bad_input_has_a_code_and_a_test_that_exist(repository: Path, bad: BadInput) -> None:
    file, _, name = bad.test.partition("[")[0].partition("::")
    assert name in defined_in(repository / file)
    codes = {str(error.code) for error in every_error()} | {str(code) for code in RefusalCode}
    assert bad.code in codes | {HARMLESS, REVOKED}


def test_no_line_is_broken_by_its_words() -> None:
    for row in rows():
        assert "|" not in row.attack + row.refused
        assert not row.attack.endswith(".")
    for bad in BAD_INPUT:
        assert "|" not in bad.what + bad.code + bad.test
