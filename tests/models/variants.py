"""docs/models/channel.pv with a defence taken out, or a key stolen: rewritten from the one source.

A line that ends in `(*+ name *)` belongs to a defence, and goes when the defence does. What stands
between `(*- name` and a line with `*)` alone comes in its place. `(*? Name *)` stands over a query.
A name that the source does not know is an error: a defence that moved must be looked for.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

CHANNEL: Final = Path(__file__).resolve().parents[2] / "docs" / "models" / "channel.pv"

_DEFENCE: Final = re.compile(r"\(\*\+ ([a-z0-9, -]+) \*\)$")
_INSTEAD: Final = re.compile(r"\s*\(\*- ([a-z0-9-]+)$")
_OPENED: Final = "(* *)"
_QUERY: Final = re.compile(r"\(\*\? (\w+) \*\)$")


def queries(source: str) -> tuple[str, ...]:
    """Return the names of all queries, in the order in which ProVerif answers them."""
    return tuple(match[1] for line in source.splitlines() if (match := _QUERY.match(line)))


def removable(source: str) -> frozenset[str]:
    """Return every name that `without` takes."""
    names: set[str] = set()
    for line in source.splitlines():
        if match := _DEFENCE.search(line):
            names.update(match[1].split(", "))
        elif match := _INSTEAD.match(line):
            names.add(match[1])
    return frozenset(names)


def without(source: str, *removed: str) -> str:
    """Return the model without these defences, line for line where nothing changed."""
    unknown = set(removed) - removable(source)
    if unknown:
        raise KeyError(f"the model has no defence called {', '.join(sorted(unknown))}")
    return "\n".join(_rewritten(source, frozenset(removed))) + "\n"


def _rewritten(source: str, removed: frozenset[str]) -> Iterator[str]:
    instead: str | None = None
    for line in source.splitlines():
        if match := _INSTEAD.match(line):
            instead = match[1]
            yield _OPENED if instead in removed else line
        elif instead is not None and line.strip() == "*)":
            yield _OPENED if instead in removed else line
            instead = None
        elif (match := _DEFENCE.search(line)) and removed & set(match[1].split(", ")):
            yield ""
        else:
            yield line


def asking(source: str, *names: str) -> str:
    """Return the model with these queries only: each costs ProVerif its own saturation."""
    unknown = set(names) - set(queries(source))
    if unknown:
        raise KeyError(f"the model has no query called {', '.join(sorted(unknown))}")
    kept: list[str] = []
    wanted = True
    for line in source.splitlines():
        if match := _QUERY.match(line):
            wanted = match[1] in names
        elif not line.strip():
            wanted = True
        kept.append(line if wanted else "")
    return "\n".join(kept) + "\n"


@frozen(kw_only=True)
class Removal:
    """Defences without which ProVerif finds an attack on `query`.

    Several `defences` overlap: any one of them alone still proves it.
    """

    defences: tuple[str, ...]
    query: str
    attack: str

    @property
    def name(self) -> str:
        """What tests and the record call it."""
        return " + ".join(self.defences)


@frozen(kw_only=True)
class Theft:
    """What an attacker is given, the queries that then fail, and those that must not."""

    stolen: tuple[str, ...]
    breaks: tuple[str, ...]
    keeps: tuple[str, ...]
    lesson: str

    @property
    def name(self) -> str:
        """What tests and the record call it."""
        return " + ".join(self.stolen)


def _removal(defences: str, query: str, attack: str) -> Removal:
    return Removal(defences=tuple(defences.split()), query=query, attack=attack)


REMOVALS: Final = (
    # -- evidence -------------------------------------------------------------------------------
    _removal("keys-in-report", "InputsSecret", "genuine evidence is shown beside foreign keys"),
    _removal("allow-list", "InputsSecret", "one stolen key of a genuine machine breaks everybody"),
    _removal("challenge", "EvidenceIsFresh", "yesterday's evidence answers today's Challenge"),
    _removal("keys-after-challenge", "InputsSecret", "keys that leaked are attested once more"),
    _removal("gpu-in-report", "GpuIsTheWorkers", "another machine's GPU is shown as this worker's"),
    _removal("gpu-nonce", "GpuIsFresh", "what a GPU said once is shown for ever"),
    # -- session --------------------------------------------------------------------------------
    _removal("session-signature", "SessionIsTheClients", "a session is opened in a client's name"),
    _removal("transcript", "SessionIsConfirmed", "an opening is signed again by another client"),
    _removal("confirmation", "SessionIsConfirmed", "a client goes on though no worker has opened"),
    # -- job ------------------------------------------------------------------------------------
    _removal("job-signature session-owner", "JobIsTheClients", "a job is billed to somebody else"),
    _removal("replay-cache", "OneRun", "a job runs, and is billed, twice"),
    _removal(
        "content-key body-request parameters-commitment",
        "JobIsTheClients",
        "a job runs what another job of its client asked for",
    ),
    _removal(
        "content-key tensor-job input-headers",
        "JobIsTheClients",
        "a job runs on the input of another job of its client",
    ),
    _removal("tensor-index input-headers", "JobIsTheClients", "a job's two inputs change places"),
    # -- result and receipt ---------------------------------------------------------------------
    _removal("receipt output-place", "ResultIsTheJobs", "a client's own input is its result"),
    _removal("receipt tensor-attempt", "ResultIsTheJobs", "two attempts' results change places"),
    _removal(
        "content-key tensor-job receipt", "ResultIsTheJobs", "two jobs' results change places"
    ),
    _removal("program-digest", "ReceiptIsTrue", "a receipt names a program that did not run"),
    _removal("parameters-commitment", "ReceiptIsTrue", "a receipt names parameters of another run"),
    _removal("receipt-request", "ReceiptIsTrue", "a receipt is shown for another request"),
    _removal("receipt-result", "ReceiptIsTrue", "a receipt is shown for another result"),
    # -- the hybrid key exchange ----------------------------------------------------------------
    _removal("mlkem-broken x25519-broken", "InputsSecret", "both halves of the key exchange fall"),
)

_SECRETS: Final = ("InputsSecret", "ParametersSecret", "OutputsSecret")

THEFTS: Final = (
    Theft(
        stolen=("all-keys-stolen-later",),
        breaks=(),
        keeps=_SECRETS,
        lesson="what was recorded stays closed when every signing and hardware key leaks later",
    ),
    Theft(
        stolen=("client-key-stolen",),
        breaks=("SessionIsTheClients",),
        keeps=(*_SECRETS, "ReceiptIsTrue"),
        lesson="whoever has a client's key can spend in its name, and read nothing of its jobs",
    ),
    Theft(
        stolen=("receipt-key-stolen",),
        breaks=("ReceiptIsTrue",),
        keeps=("InputsSecret", "OutputsSecret", "ResultIsTheJobs"),
        lesson="auditors are deceived; the client is not, since it also has the AEAD",
    ),
    Theft(
        stolen=("keyset-stolen-later",),
        breaks=("InputsSecret",),
        keeps=(),
        lesson="sessions that were recorded open: a key set must be destroyed when its life ends",
    ),
    Theft(
        stolen=("hardware-key-stolen",),
        breaks=("InputsSecret",),
        keeps=(),
        lesson="all trust is in the hardware that the policy names",
    ),
)
