"""Rewrite docs/attacks.md from the tests: `python -m tests.attacks.write_table`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.attacks.attack import (
    DROPPED,
    GUARANTEES,
    HARMLESS,
    REVOKED,
    WINDOW,
    Attack,
    Row,
    attacks,
)
from tests.attacks.bad_input import BAD_INPUT
from tests.attacks.defences import MUTATIONS
from tests.attacks.referenced import REFERENCED
from tests.attacks.test_over_sockets import OVER_SOCKETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"

INTRODUCTION = f"""\
# Attacks

Every attack that the tests try, the guarantee ([threat model](threat-model.md)) that it aims at,
and what stops it. Generated from the tests: `python -m tests.attacks.write_table`.

The coordinator in these tests lies: the
[hostile coordinator](../tests/simulators/hostile_coordinator.py) stands in its place, in memory and
on a socket, or as a man in the middle on the way to a real one. The clients and workers around it
are the real ones, and the TPMs are simulated byte for byte.

**Refused with** is the stable code that the attacker, or the user, gets. `{DROPPED}` means that
there is no answer, because nothing that the message says is acted on; `{HARMLESS}` that it is
allowed and gains nothing; `{REVOKED}` is the message that a worker without a lease is answered
with; a number, and the word `{WINDOW}`, is a bound that holds.
"""

BAD = f"""\
## Bad input

What goes wrong without anybody meaning it, and who is told what. `{HARMLESS}`: it works, or goes on
where it was.

| what | code | shown by |
|---|---|---|
"""

SEEN_TO_FAIL = """\
## Seen to fail

A test can pass by accident. So each defence below is taken out of the running program, and the
attack then succeeds: the client takes a wrong result, the worker runs a job twice, the coordinator
reads the input. Where several checks are named, the defences overlap: any one of them stops the
attack, which is tested too, and only without all of them does it succeed.
"""


def rows() -> list[Row]:
    """Every attack, those of this folder first."""
    return [*attacks().values(), *REFERENCED]


def page() -> str:
    """The whole page."""
    every = rows()
    own = [row for row in every if isinstance(row, Attack)]
    counted = (
        f"{len(every)} attacks: {len(own)} by the hostile parties of `tests/attacks`, of which "
        f"{len(OVER_SOCKETS)} are repeated\nover real sockets, and {len(REFERENCED)} beside the "
        f"parts that refuse them. {len(MUTATIONS)} defences are\n[seen to fail](#seen-to-fail). "
        f"{len(BAD_INPUT)} kinds of [bad input](#bad-input) that is no attack\nhave their code and "
        "their test."
    )
    parts = [INTRODUCTION, counted + "\n"]
    for guarantee, name in GUARANTEES.items():
        of_it = [row for row in every if row.guarantee == guarantee]
        if of_it:
            parts.append("\n".join(_table(f"{guarantee}: {name}", of_it)) + "\n")
    bad = [f"| {each.what} | `{each.code}` | `{each.test}` |" for each in BAD_INPUT]
    parts.append(BAD + "\n".join(bad) + "\n")
    parts.append(SEEN_TO_FAIL)
    parts.append("\n".join(_defences()) + "\n")
    return "\n".join(parts)


def _table(title: str, of_it: Sequence[Row]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| name | attack | refused with | shown by |"
    yield "|---|---|---|---|"
    for row in of_it:
        yield f"| {row.id} | {row.attack} | `{row.refused}` | `{row.test}` |"


def _defences() -> Iterator[str]:
    yield "| defence | checks removed | attacks that then succeed |"
    yield "|---|---|---|"
    for mutation in MUTATIONS:
        names = ", ".join(mutation.attacks)
        yield f"| {mutation.defence} | {len(mutation.removes)} | {names} |"


if __name__ == "__main__":
    PAGE.write_text(page())
