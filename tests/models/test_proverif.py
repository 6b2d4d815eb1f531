"""The channel's design under an attacker who owns the network, proved by ProVerif.

Without `ENCLAVE_MODELS=full` only a part is asked, so that a machine that has ProVerif spends less
than a minute here. What a full run said is in docs/models/results.md.
"""

import os
from pathlib import Path

import pytest

from tests.models.proverif import FALSE, TRUE, verdicts
from tests.models.variants import CHANNEL, REMOVALS, THEFTS, Removal, Theft, queries, without

SOURCE = CHANNEL.read_text()
PROPERTIES = tuple(name for name in queries(SOURCE) if not name.startswith("Some"))
REACHABLE = tuple(name for name in queries(SOURCE) if name.startswith("Some"))

FULL = os.environ.get("ENCLAVE_MODELS") == "full"
QUICK = frozenset(
    {
        "challenge",
        "gpu-nonce",
        "transcript",
        "replay-cache",
        "session-signature",
        "receipt-request",
    }
)
"""Variants that take two or three seconds."""

only_in_full = pytest.mark.skipif(not FULL, reason="takes minutes: set ENCLAVE_MODELS=full")


def test_every_property_holds_with_all_defences(tmp_path: Path) -> None:
    """Secrecy, agreement, freshness and honest receipts, for any number of parties and jobs."""
    asked = PROPERTIES if FULL else ("InputsSecret", "ResultIsTheJobs")
    said = verdicts(SOURCE, *asked, folder=tmp_path)
    assert said == dict.fromkeys(asked, TRUE)


def test_the_properties_are_not_true_because_nothing_happens(tmp_path: Path) -> None:
    """ProVerif finds an honest run to a session, to a result and to an audited receipt."""
    asked = REACHABLE if FULL else ("SomeResultArrives",)
    # It is asked whether that is unreachable, and says no.
    said = verdicts(without(SOURCE, "reachable"), *asked, folder=tmp_path)
    assert said == dict.fromkeys(asked, FALSE)


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.name)
def test_a_removed_defence_gives_the_attack(removal: Removal, tmp_path: Path) -> None:
    if not FULL and removal.name not in QUICK:
        pytest.skip("set ENCLAVE_MODELS=full")
    source = without(SOURCE, *removal.defences)
    assert verdicts(source, removal.query, folder=tmp_path)[removal.query] == FALSE


_OVERLAPPING = [
    (removal, kept)
    for removal in REMOVALS
    if len(removal.defences) > 1
    for kept in removal.defences
]


@only_in_full
@pytest.mark.parametrize(
    ("removal", "kept"), _OVERLAPPING, ids=lambda value: getattr(value, "name", value)
)
def test_one_of_several_overlapping_defences_is_enough(
    removal: Removal, kept: str, tmp_path: Path
) -> None:
    gone = [name for name in removal.defences if name != kept]
    said = verdicts(without(SOURCE, *gone), removal.query, folder=tmp_path)
    assert said[removal.query] == TRUE


@only_in_full
@pytest.mark.parametrize("theft", THEFTS, ids=lambda theft: theft.name)
def test_a_stolen_key_costs_what_is_written(theft: Theft, tmp_path: Path) -> None:
    source = without(SOURCE, *theft.stolen)
    said = verdicts(source, *theft.breaks, *theft.keeps, folder=tmp_path)
    assert said == dict.fromkeys(theft.breaks, FALSE) | dict.fromkeys(theft.keeps, TRUE)
