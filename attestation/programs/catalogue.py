"""A worker's kernel catalogue: which kernels it has, and a digest of each one's source.

The catalogue's digest is in the key set that the hardware signs, so a client that accepts it knows
which code gives meaning to every kernel name.
"""

import bisect
import itertools
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, Self

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, array, item, octets, record
from attestation.errors import DecodeError
from attestation.identifiers import DIGEST_BYTES, Digest
from attestation.programs.errors import UnknownKernelError
from attestation.programs.signature import KernelSignature

_ENTRIES: Final = 4096
_BY_NAME: Final = attrgetter("name")


@frozen(kw_only=True)
class CatalogueEntry(Record):
    """One kernel: what it promises, and the digest of the source that keeps the promise."""

    signature: KernelSignature = item(record(KernelSignature))
    source_digest: Digest = item(octets(exactly=DIGEST_BYTES))

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.signature.name


@frozen(kw_only=True)
class Catalogue(Record):
    """Kernels in the order of their names, each once."""

    VERSION = 1
    LIMIT = limits.CATALOGUE_BYTES

    entries: tuple[CatalogueEntry, ...] = item(array(record(CatalogueEntry), limit=_ENTRIES))

    def __attrs_post_init__(self) -> None:
        """Refuse, with `DecodeError`, a second encoding of the same catalogue."""
        if any(first >= second for first, second in itertools.pairwise(self.names)):
            raise DecodeError("kernels are not in the order of their names, or one repeats")

    @classmethod
    def of(cls, entries: Iterable[CatalogueEntry]) -> Self:
        """Make the catalogue of `entries`, given in any order."""
        return cls(entries=tuple(sorted(entries, key=_BY_NAME)))

    @property
    def names(self) -> tuple[str, ...]:
        """Every kernel's name, in order."""
        return tuple(entry.name for entry in self.entries)

    def entry(self, name: str) -> CatalogueEntry:
        """Return the kernel `name`, or raise `UnknownKernelError`."""
        place = bisect.bisect_left(self.entries, name, key=_BY_NAME)
        if place == len(self.entries) or self.entries[place].name != name:
            raise UnknownKernelError(f"the catalogue has no kernel {name!r}")
        return self.entries[place]

    def signature(self, name: str) -> KernelSignature:
        """Return the signature of kernel `name`, or raise `UnknownKernelError`."""
        return self.entry(name).signature

    def digest(self) -> Digest:
        """Return the digest that the key set and every receipt carry."""
        return digest(Label.CATALOGUE, self.to_bytes())
