"""Every defence is taken out once, and the attack that it stops then succeeds.

So no attack fails by accident: for want of a message, by a typo in the test, or because something
else refuses it first. A defence that survives here is either not needed or not tested.
"""

import pytest

from tests.attacks.attack import attacks
from tests.attacks.defences import MUTATIONS
from tests.attacks.mutations import Mutation, Removal, Replaced, Set, Unraised
from tests.attacks.stage import DamageError, Stage

EACH = [(mutation, name) for mutation in MUTATIONS for name in mutation.attacks]
OVERLAPPING = [
    (mutation, name, left)
    for mutation, name in EACH
    if len(mutation.removes) > 1
    for left in range(len(mutation.removes))
]


@pytest.mark.parametrize(("mutation", "name"), EACH, ids=[name for _, name in EACH])
def test_without_its_defence_the_attack_succeeds(
    stage: Stage, mutation: Mutation, name: str
) -> None:
    with mutation.applied(), pytest.raises(DamageError):
        attacks()[name].run(stage)


@pytest.mark.parametrize(
    ("mutation", "name", "left"),
    OVERLAPPING,
    ids=[f"{name}-{left}" for _, name, left in OVERLAPPING],
)
def test_of_overlapping_defences_each_one_is_enough(
    stage: Stage, mutation: Mutation, name: str, left: int
) -> None:
    """Whatever the code: the attacker does not get what he wants."""
    with mutation.applied(but=left):
        assert attacks()[name].run(stage)


def test_every_attack_is_tried_without_its_defence() -> None:
    assert {name for _, name in EACH} == set(attacks())


def test_no_defence_is_listed_twice() -> None:
    names = [mutation.defence for mutation in MUTATIONS]
    assert len(set(names)) == len(names)


# -- the tool itself ------------------------------------------------------------------------------


def checked(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number


@pytest.mark.parametrize(
    "removal",
    [Unraised(checked, "ValueError"), Replaced(checked, lambda number: number)],
    ids=["unraised", "replaced"],
)
def test_a_check_is_gone_while_it_is_removed_and_back_afterwards(removal: Removal) -> None:
    with removal.applied():
        assert checked(-1) == -1
    with pytest.raises(ValueError, match="negative"):
        checked(-1)


def test_a_check_that_is_no_longer_there_is_reported() -> None:
    """A defence that moved must be found again: removing nothing shows nothing."""
    with pytest.raises(AssertionError, match="where is the defence"):  # noqa: SIM117
        with Unraised(checked, "KeyError").applied():
            pass


def test_a_value_is_put_back() -> None:
    table = {"there": 1}
    with Set(table, "there", 2).applied(), Set(table, "new", 3).applied():
        assert table == {"there": 2, "new": 3}
    assert table == {"there": 1}
