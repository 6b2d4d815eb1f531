"""docs/models/results.md is what the checkers said of these models, and of all their variants."""

import pytest

from tests.models.test_tla import BROKEN_WITHOUT
from tests.models.variants import CHANNEL, REMOVALS, THEFTS, queries
from tests.models.write_results import CHECKED, PAGE, digest, meaning

SAID = PAGE.read_text()


@pytest.mark.parametrize("name", CHECKED)
def test_the_results_are_of_the_models_that_are_here(name: str) -> None:
    assert f"`{digest(name)}`" in SAID, "run: python -m tests.models.write_results"


def test_every_query_was_proved_and_every_removal_gave_its_attack() -> None:
    assert "cannot be proved" not in SAID
    for name in queries(CHANNEL.read_text()):
        if not name.startswith("Some"):
            assert f"| {name} | true |" in SAID
    for removal in REMOVALS:
        assert f"\n| {removal.name} | {removal.query} | **false** |" in SAID


def test_every_theft_and_every_switched_off_defence_is_written_down() -> None:
    for theft in THEFTS:
        assert f"\n| {theft.name} |" in SAID
    for module, defence in BROKEN_WITHOUT:
        assert f"\n| {defence} | " in SAID.partition(f"## {module}.tla")[2]


def test_a_remark_changes_no_digest_and_a_defence_does() -> None:
    """Else a comment could not be improved without ProVerif, or a defence be left out unnoticed."""
    text = "(* a remark *)\nif x then   (*+ defence *)\n"
    assert meaning(text) == meaning("if x then (*+ defence *) (* another *)")
    assert meaning(text) != meaning("(* a remark *)\n")
