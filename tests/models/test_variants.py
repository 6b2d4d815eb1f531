"""The variants change the one model as they say: no defence is unnamed, none is named in vain."""

import pytest

from tests.models.variants import (
    CHANNEL,
    REMOVALS,
    THEFTS,
    Removal,
    asking,
    queries,
    removable,
    without,
)

SOURCE = CHANNEL.read_text()


def test_every_defence_of_the_model_is_taken_out_by_a_variant() -> None:
    taken = {name for removal in REMOVALS for name in removal.defences}
    stolen = {name for theft in THEFTS for name in theft.stolen}
    assert taken | stolen | {"reachable"} == removable(SOURCE)


def test_every_property_is_broken_by_some_variant() -> None:
    """A query that no variant breaks may hold because it asks nothing.

    Parameters and outputs travel like inputs, and an attack on those is an attack on all three.
    """
    broken = {removal.query for removal in REMOVALS}
    of_the_model = {name for name in queries(SOURCE) if not name.startswith("Some")}
    assert of_the_model - broken == {"ParametersSecret", "OutputsSecret"}


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.name)
def test_a_variant_differs_from_the_protocol_in_its_own_lines_only(removal: Removal) -> None:
    before, after = SOURCE.splitlines(), without(SOURCE, *removal.defences).splitlines()
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert {new for _, new in changed} <= {"", "(* *)"}


def test_a_defence_that_the_model_does_not_have_cannot_be_taken_out() -> None:
    with pytest.raises(KeyError, match="a-moat"):
        without(SOURCE, "a-moat")


def test_a_query_that_the_model_does_not_have_cannot_be_asked() -> None:
    with pytest.raises(KeyError, match="WorldPeace"):
        asking(SOURCE, "WorldPeace")
