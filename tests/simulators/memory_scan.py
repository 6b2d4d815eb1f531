"""Search the memory of another process, as somebody who owns its machine can.

Everything that the process could write is searched: heap, stacks, anonymous mappings, the data of
libraries. Pages that were never touched hold zeros and are left out, which makes a search of a
worker take a fraction of a second.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from attrs import frozen

from tests.simulators.markers import Forms

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT_OR_SWAPPED = np.uint64(3 << 62)
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)")
_CHUNK = 64 << 20


@frozen(kw_only=True)
class Sighting:
    """One form of a secret, where it is, and what lies around it."""

    form: str
    address: int
    mapping: str
    count: int

    def __str__(self) -> str:
        return f"{self.form}: {self.count} times, first at {self.address:#x} in {self.mapping}"


def needs_root() -> pytest.MarkDecorator:
    """Skip where nobody but the kernel may look into a process that is not dumpable."""
    return pytest.mark.skipif(
        os.geteuid() != 0, reason="only root may read the memory of a hardened process"
    )


def scan(pid: int, forms: Forms) -> list[Sighting]:
    """Return every form that is in the memory of process `pid`, with its first place."""
    finder = Finder(forms)
    seen: dict[str, Sighting] = {}
    for address, mapping, data in memory_of(pid):
        for name, offset in finder.find(data).items():
            first = seen.get(name)
            seen[name] = Sighting(
                form=name,
                address=first.address if first else address + offset,
                mapping=first.mapping if first else mapping,
                count=data.count(forms[name]) + (first.count if first else 0),
            )
    return list(seen.values())


class Finder:
    """Looks for a hundred byte strings at once.

    Two table look-ups leave the few places whose first four bytes begin one of them; `bytes.find`
    once per string takes ten times as long.
    """

    def __init__(self, forms: Forms) -> None:
        self._pairs = np.zeros(1 << 16, dtype=bool)
        self._by_prefix: dict[int, list[tuple[str, bytes]]] = {}
        for name, form in forms.items():
            self._pairs[int.from_bytes(form[:2], "little")] = True
            prefix = int.from_bytes(form[:4], "little")
            self._by_prefix.setdefault(prefix, []).append((name, form))
        self._prefixes = np.array(sorted(self._by_prefix), dtype=np.uint32)

    def find(self, data: bytes) -> dict[str, int]:
        """Return the first place of every form that is in `data`."""
        found: dict[str, int] = {}
        for place, prefix in self._candidates(data):
            for name, form in self._by_prefix[prefix]:
                if name not in found and data.startswith(form, place):
                    found[name] = data.find(form)
        return found

    def _candidates(self, data: bytes) -> Iterator[tuple[int, int]]:
        octets = np.frombuffer(data, dtype=np.uint8)
        if len(data) < 4:
            return
        for shift in (0, 1):
            pairs = np.frombuffer(data, "<u2", count=(len(data) - shift) // 2, offset=shift)
            places = np.flatnonzero(self._pairs[pairs]) * 2 + shift
            places = places[places + 4 <= len(data)]
            prefixes = sum(octets[places + byte].astype(np.uint32) << 8 * byte for byte in range(4))
            wanted = np.isin(prefixes, self._prefixes)
            yield from zip(places[wanted].tolist(), prefixes[wanted].tolist(), strict=True)


def memory_of(pid: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield address, mapping and bytes of all that `pid` could write and has touched."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    pages = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = _MAPPING.match(line)
            if match is None or "w" not in match[3] or match[4] == "[vvar]":
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            for first, last in _touched(pages, start, end):
                for place in range(first, last, _CHUNK):
                    # A mapping that goes away while we look is no longer the process's.
                    try:
                        data = os.pread(memory, min(_CHUNK, last - place), place)
                    except OSError:
                        continue
                    yield place, match[4] or "anonymous", data
    finally:
        os.close(memory)
        os.close(pages)


def _touched(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs of pages that are in memory or in swap."""
    data = os.pread(pagemap, (end - start) // _PAGE * 8, start // _PAGE * 8)
    there = (np.frombuffer(data, dtype=np.uint64) & _PRESENT_OR_SWAPPED) != 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], there, [False])).astype(np.int8)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        yield start + int(first) * _PAGE, start + int(last) * _PAGE
