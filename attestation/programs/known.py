"""The programs that a catalogue implies: for each kernel the one that is nothing but that kernel.

Most jobs run one of them. A worker makes them once, from its own catalogue, and need not parse and
check them in each job. Nothing of a job is kept for that: who knows the catalogue knows them all.
"""

from collections.abc import Mapping
from typing import Final

from attestation.identifiers import Digest
from attestation.programs.catalogue import Catalogue
from attestation.programs.program import Program


class KnownPrograms:
    """Programs by their digest."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Make the program of each kernel, without the inputs that may be left out."""
        programs = (Program.single(entry.signature) for entry in catalogue.entries)
        self._programs: Final[Mapping[Digest, Program]] = {each.digest(): each for each in programs}

    def read(self, data: bytes, digest: Digest) -> Program:
        """Return the program that `data` encodes, whose digest is known to be `digest`.

        Raises `DecodeError` like `Program.from_bytes`.
        """
        return self._programs.get(digest) or Program.from_bytes(data)
