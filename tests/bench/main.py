"""`make bench`: every system in one run, measured in turn; tables, charts and JSON of it.

python -m tests.bench.main --output bench-output [--quick] [--only limit,grpc] [--write-docs]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from attestation.cli.demo_processes import DemoProcessError, ended_like_ctrl_c
from tests.bench import giant, machine, report, sections
from tests.bench.appraisal import measure as appraisals
from tests.bench.certificates import write_certificates
from tests.bench.effort import FULL, GIANT_MEMORY, HUGE_MEMORY, QUICK, Effort
from tests.bench.instructions import instructions
from tests.bench.peers.catalogue import PEERS, Peer
from tests.bench.peers.install import NotInstalledError, install, version
from tests.bench.stopwatch import ClientFailedError
from tests.bench.systems import System, peer, plaintext, sealed

SECTIONS: Final = (
    *("limit", "cores"),
    *(each.name for each in PEERS),
    *("giant", "appraisal", "instructions"),
)


@define(kw_only=True)
class Run:
    """One run, and what it has found so far."""

    effort: Effort
    only: Sequence[str]
    folder: Path
    document: dict[str, Any] = field(factory=dict)
    _begun: float = field(factory=time.monotonic)

    def everything(self) -> dict[str, Any]:
        """Measure what was asked for."""
        self.document = {"machine": machine.machine(), "skipped": {}, "measurements": []}
        peers = self._installed()
        self._say("AES-256-GCM on this machine")
        self.document["aead"] = machine.aead_rates()
        if {"limit", "cores", *(each.name for each in peers)} & set(self.only):
            self._heats(peers)
        if "giant" in self.only:
            self._giant()
        if "appraisal" in self.only:
            self._appraisals()
        if "instructions" in self.only:
            self._instructions()
        self.document["machine"]["load_after"] = machine.load()
        self.document["machine"]["seconds"] = round(time.monotonic() - self._begun)
        return self.document

    def _installed(self) -> list[Peer]:
        found = []
        self.document["peers"] = {}
        for each in PEERS:
            if each.name not in self.only:
                continue
            try:
                self._say(f"{each.name}: its environment")
                install(each)
                self.document["peers"][each.name] = f"{each.requirements[0]} {version(each)}"
                found.append(each)
            except NotInstalledError as error:
                self._skip(each.name, f"cannot be installed: {error}")
        return found

    def _heats(self, peers: Sequence[Peer]) -> None:
        with ExitStack() as stack:
            stack.enter_context(ended_like_ctrl_c())
            ours = stack.enter_context(sealed(self.folder))
            bare = stack.enter_context(plaintext(self.folder, "plaintext"))
            if "limit" in self.only:
                self._limit(ours, bare)
            if "cores" in self.only:
                self._say("one core and two")
                self._keep(sections.cores(ours, bare, self.effort))
            tls = write_certificates(self.folder / "tls")
            for each in peers:
                self._say(f"sealed and plaintext beside {each.title}")
                self._against(each, ours, bare, tls)

    def _limit(self, ours: System, bare: System) -> None:
        self._say("sealed, plaintext, naive plaintext, CurveZMQ")
        huge = machine.available_memory() > HUGE_MEMORY
        if not huge:
            self._skip("512 MiB", "less than 8 GiB of memory are free")
        with plaintext(self.folder, "naive") as naive, plaintext(self.folder, "curve") as curve:
            self._keep(sections.limit(ours, bare, naive, curve, self.effort, huge=huge))

    def _against(self, which: Peer, ours: System, bare: System, tls: Path) -> None:
        try:
            with peer(self.folder, tls, which) as theirs:
                self._keep(sections.against(which, theirs, ours, bare, self.effort))
        except (ClientFailedError, DemoProcessError) as error:
            self._skip(which.name, str(error))

    def _giant(self) -> None:
        if not self.effort.giant_gib:
            self._skip("giant", "left out of quick runs")
        elif machine.available_memory() < GIANT_MEMORY * self.effort.giant_gib:
            self._skip("giant", "less memory is free than its arrays take")
        else:
            self._say(f"a tensor of {self.effort.giant_gib} GiB")
            try:
                self.document["giant"] = giant.measure(self.effort.giant_gib)
            except (ClientFailedError, DemoProcessError) as error:
                self._skip("giant", str(error))

    def _appraisals(self) -> None:
        self._say("appraisals")
        try:
            self.document["appraisal"] = appraisals(self.effort.appraisals)
        except Exception as error:  # noqa: BLE001 - the other figures are not lost for it
            self._skip("appraisal", f"{type(error).__name__}: {error}")

    def _instructions(self) -> None:
        if not self.effort.instructions:
            self._skip("instructions", "left out of quick runs")
            return
        self._say("instruction counts")
        found = instructions()
        if isinstance(found, str):
            self._skip("instructions", found)
        else:
            self.document["instructions"] = found

    def _keep(self, measured: list[dict[str, Any]]) -> None:
        self.document["measurements"] += measured

    def _skip(self, what: str, reason: str) -> None:
        self.document["skipped"][what] = " ".join(reason.split())[:300]
        self._say(f"{what} is skipped: {self.document['skipped'][what]}")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"bench {time.monotonic() - self._begun:4.0f} s: {text}\n")


def main() -> None:
    """Run the benchmarks as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--quick", action="store_true", help="minutes less, wider spread")
    parser.add_argument("--only", type=_names, default=SECTIONS, help=",".join(SECTIONS))
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    parser.add_argument("--again", action="store_true", help="only write anew what OUTPUT holds")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    saved = arguments.output / "bench.json"
    if arguments.again:
        document = json.loads(saved.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="enclave-bench-") as name:
            effort = QUICK if arguments.quick else FULL
            run = Run(effort=effort, only=arguments.only, folder=Path(name))
            document = run.everything() | {"quick": arguments.quick}
        saved.write_text(json.dumps(document, indent=1) + "\n")
    report.write(document, arguments.output)
    if arguments.write_docs:
        report.write_docs(document)
    sys.stdout.write((arguments.output / "bench.md").read_text())
    sys.stderr.write(f"written to {arguments.output}: bench.json, bench.md, figures\n")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(SECTIONS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
