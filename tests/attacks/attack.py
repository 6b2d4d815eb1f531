"""What an attack is: a row of the table, and a function that tries it and says who refused it.

The function is the test itself, named for the promise. It raises `DamageError` when the attacker
got what he wanted, and otherwise returns the code that refused him. So the same function shows that
a defence works and, run by `test_mutations` without that defence, that this is what works.
"""

import importlib
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from attrs import frozen

from tests.attacks.stage import Stage

P = ParamSpec("P")

GUARANTEES = {
    "G1": "confidential",
    "G2": "bound",
    "G3": "fresh",
    "G4": "whole",
    "G5": "right program",
    "G6": "accountable",
    "G7": "nothing accepted is lost",
    "G8": "recorded today, safe later",
    "G9": "absent means no",
    "G10": "no residue",
    "G11": "one bad part does not stop the rest",
}

DROPPED = "dropped"
"""In place of a code: the message gets no answer, because nothing that it says is acted on."""

HARMLESS = "harmless"
"""In place of a code: it is allowed, and there is nothing in it for the attacker."""

WINDOW = "window"
"""In place of a code: no more than a window of segments is held, whatever is granted."""

REVOKED = "REVOKE"
"""In place of a code: the coordinator answers a worker that holds no lease with this message."""


@frozen(kw_only=True)
class Row:
    """One line of docs/attacks.md. `refused` is the stable code, or one of the words above."""

    id: str
    attack: str
    guarantee: str
    refused: str
    test: str

    @property
    def file(self) -> str:
        return self.test.partition("::")[0]

    def __attrs_post_init__(self) -> None:
        assert self.guarantee in GUARANTEES, self.guarantee


@frozen(kw_only=True)
class Attack(Row):
    """A row whose test can be run with a defence removed."""

    run: Callable[..., str]


MODULES = ("test_evidence", "test_sessions", "test_jobs", "test_results", "test_routing")
"""Where the attacks of this folder are, in the order in which they are listed."""

_ENTERED: dict[str, Attack] = {}


@cache
def attacks() -> dict[str, Attack]:
    """Return every attack of this folder by its id, in the order of the modules."""
    for module in MODULES:
        importlib.import_module(f"tests.attacks.{module}")
    return dict(sorted(_ENTERED.items(), key=lambda entry: MODULES.index(Path(entry[1].file).stem)))


def attack(
    name: str, sentence: str, guarantee: str, *, refused: str
) -> Callable[[Callable[Concatenate[Stage, P], str]], Callable[Concatenate[Stage, P], None]]:
    """Make a test of a function that returns the code by which it was refused."""

    def enter(function: Callable[Concatenate[Stage, P], str]) -> Any:
        @wraps(function)
        def test(stage: Stage, *args: P.args, **kwargs: P.kwargs) -> None:
            assert function(stage, *args, **kwargs) == refused

        path = function.__module__.replace(".", "/") + ".py"
        row = Attack(
            id=name,
            attack=sentence,
            guarantee=guarantee,
            refused=refused,
            test=f"{path}::{function.__name__}",
            run=function,
        )
        known = _ENTERED.setdefault(name, row)
        assert known.test == row.test, f"two attacks are called {name}"
        return test

    return enter
