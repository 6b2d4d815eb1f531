"""The log of a measured boot, parsed and not yet believed: PCR values say whether it is true.

TCG PC Client Platform Firmware Profile, section 10. Two formats exist. The old one is a list of
TCG_PCR_EVENT with SHA-1 digests (TCG 1.2; Windows still writes it). The crypto-agile one is a list
of TCG_PCR_EVENT2 with a digest per bank, behind one old event that says which banks there are
(TCG_EfiSpecIDEvent). Both are little-endian.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError
from attestation.evidence.tpm import PcrBank

NO_ACTION: Final = 3
"""EV_NO_ACTION: says something, and extends nothing."""

_AGILE_MARK: Final = b"Spec ID Event03\0"
_LOCALITY_MARK: Final = b"StartupLocality\0"
_SHA1_BYTES: Final = 20
_PADDING_HEAD: Final = 28
_BANKS: Final = {
    0x0004: PcrBank.SHA1,
    0x000B: PcrBank.SHA256,
    0x000C: PcrBank.SHA384,
    0x000D: PcrBank.SHA512,
}
_CONSTRUCTORS: Final = {
    PcrBank.SHA1: hashlib.sha1,
    PcrBank.SHA256: hashlib.sha256,
    PcrBank.SHA384: hashlib.sha384,
    PcrBank.SHA512: hashlib.sha512,
}
_ALGORITHMS: Final = 16
_PCRS: Final = 24
_NO_PCR: Final = 0xFFFFFFFF  # an EV_NO_ACTION event may belong to no PCR
# Part 2 of the PC Client TPM profile: 17 to 22 start with ones, until a dynamic launch resets them.
_DYNAMIC: Final = range(17, 23)


@frozen(kw_only=True)
class Event:
    """One entry: what was measured into which PCR, with its digest in each bank of the log."""

    pcr: int
    kind: int
    digests: Mapping[PcrBank, bytes]
    data: bytes = field(repr=False)


@frozen(kw_only=True)
class EventLog:
    """All entries in order, and the banks that each entry has a digest for."""

    events: tuple[Event, ...]
    banks: frozenset[PcrBank]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse either format, or raise `DecodeError`.

        Behind the last event the memory that the firmware reserved may follow, all zeros or ones.
        """
        reader = _LogReader(data)
        first = reader.old_event()
        if first.kind == NO_ACTION and first.data.startswith(_AGILE_MARK):
            sizes = _read_algorithms(first.data)
            known = [_BANKS[algorithm] for algorithm in sizes if algorithm in _BANKS]
            events = reader.rest(lambda: reader.agile_event(sizes))
            return cls(events=tuple(events), banks=frozenset(known))
        events = [first, *reader.rest(reader.old_event)]
        return cls(events=tuple(events), banks=frozenset({PcrBank.SHA1}))

    def replay(self, bank: PcrBank) -> dict[int, bytes]:
        """Return what the log makes of each PCR of `bank` that it measures something into."""
        extend = _CONSTRUCTORS[bank]
        values: dict[int, bytes] = {}
        for event in self.events:
            if event.kind == NO_ACTION:
                continue
            pcr = event.pcr
            old = values[pcr] if pcr in values else self._start(pcr, bank)
            values[pcr] = extend(old + event.digests[bank], usedforsecurity=False).digest()
        return values

    def digests(self, bank: PcrBank, pcr: int) -> tuple[bytes, ...]:
        """Return the digests that were measured into one PCR, in order."""
        return tuple(
            event.digests[bank]
            for event in self.events
            if event.pcr == pcr and event.kind != NO_ACTION
        )

    def _start(self, pcr: int, bank: PcrBank) -> bytes:
        if pcr in _DYNAMIC:
            return b"\xff" * bank.digest_bytes
        locality = self._startup_locality() if pcr == 0 else 0
        return locality.to_bytes(bank.digest_bytes, "big")

    def _startup_locality(self) -> int:
        """Return the locality that PCR 0 starts with: 3 or 4 when something measured before."""
        size = len(_LOCALITY_MARK) + 1
        for event in self.events:
            if event.kind != NO_ACTION:
                continue
            if event.pcr == 0 and len(event.data) == size and event.data.startswith(_LOCALITY_MARK):
                return event.data[-1]
        return 0


class _LogReader:
    """Takes events off the front; counts them, and knows padding when it sees it."""

    def __init__(self, data: bytes) -> None:
        self._reader = Reader(data, limit=limits.EVENT_LOG_BYTES)
        self._data = data

    def rest(self, take: Callable[[], Event]) -> list[Event]:
        events: list[Event] = []
        while self._reader.remaining and not self._padding():
            if len(events) == limits.EVENT_LOG_EVENTS:
                raise DecodeError(f"more than {limits.EVENT_LOG_EVENTS} events")
            events.append(take())
        return events

    def old_event(self) -> Event:
        """TCG_PCR_EVENT."""
        pcr, kind = self._uint(), self._uint()
        digests = {PcrBank.SHA1: self._reader.take(_SHA1_BYTES)}
        return _event(pcr, kind, digests, self._reader.take(self._uint()))

    def agile_event(self, sizes: Mapping[int, int]) -> Event:
        """TCG_PCR_EVENT2, with exactly one digest for each algorithm of the header."""
        pcr, kind, count = self._uint(), self._uint(), self._uint()
        if count != len(sizes):
            raise DecodeError("an event with another number of digests than the log has banks")
        digests: dict[int, bytes] = {}
        for _ in range(count):
            algorithm = int.from_bytes(self._reader.take(2), "little")
            if algorithm not in sizes or algorithm in digests:
                raise DecodeError("a digest that the log's header does not announce, or a second")
            digests[algorithm] = self._reader.take(sizes[algorithm])
        known = {_BANKS[name]: value for name, value in digests.items() if name in _BANKS}
        return _event(pcr, kind, known, self._reader.take(self._uint()))

    def _uint(self) -> int:
        return int.from_bytes(self._reader.take(4), "little")

    def _padding(self) -> bool:
        # No event begins like this: the old format has a digest there, the new a number of them.
        # So a log is looked through to its end only once.
        left = self._reader.remaining
        offset = len(self._data) - left
        head = self._data[offset : offset + _PADDING_HEAD]
        if head not in (b"\0" * len(head), b"\xff" * len(head)):
            return False
        if self._data.count(head[:1], offset) != left:
            raise DecodeError("padding in the middle of a log")
        return True


def _event(pcr: int, kind: int, digests: Mapping[PcrBank, bytes], data: bytes) -> Event:
    if pcr >= _PCRS and not (kind == NO_ACTION and pcr == _NO_PCR):
        raise DecodeError(f"an event of PCR {pcr}")
    return Event(pcr=pcr, kind=kind, digests=digests, data=data)


def _read_algorithms(data: bytes) -> dict[int, int]:
    """TCG_EfiSpecIDEvent: digest sizes by algorithm."""
    reader = Reader(data, limit=limits.EVENT_LOG_BYTES)
    reader.take(len(_AGILE_MARK) + 8)  # platform class, version, size of UINTN
    count = int.from_bytes(reader.take(4), "little")
    if not 1 <= count <= _ALGORITHMS:
        raise DecodeError(f"a log of {count} banks")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = (int.from_bytes(reader.take(2), "little") for _ in range(2))
        bank = _BANKS.get(algorithm)
        if algorithm in sizes or not 1 <= size <= 64 or (bank and bank.digest_bytes != size):
            raise DecodeError("a bank that is named twice, or of another size")
        sizes[algorithm] = size
    reader.take_prefixed(1, limit=255)  # vendor information
    reader.finish()
    return sizes
