"""`/sys/kernel/config/tsm/report` as the kernel serves it, with a plan of what goes wrong.

The rules are those of drivers/virt/coco/guest/report.c and fs/configfs/file.c of Linux 6.7 and
later: an entry's attributes appear with mkdir; `inblob` takes at most 64 bytes, of which the driver
learns when the file is *closed*, so that it has no way to say what it thinks of them; `generation`
counts writes; a read of `outblob` makes a new report when something was written since the last one;
blobs above their maximum are EFBIG; write-only attributes are EACCES to read; without a driver
everything is ENXIO.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from tests.simulators.fuse import Directory, Path_

ROOT: Final = ("tsm", "report")
INBLOB_MAX: Final = 64
OUTBLOB_MAX: Final = 32 * 1024
PRIVILEGE_MAX: Final = 3

_READ_ONLY = {"outblob", "auxblob", "provider", "generation", "privlevel_floor"}
_WRITE_ONLY = {"inblob", "privlevel"}
_BINARY = {"inblob", "outblob", "auxblob"}
_SNP_ONLY = {"privlevel", "privlevel_floor"}

Fault = int | Callable[["Entry"], None] | None
MakeReport = Callable[[bytes, int], tuple[bytes, bytes]]


@define(kw_only=True)
class Entry:
    """One requester's directory."""

    inblob: bytes = b""
    privilege: int = 0
    write_generation: int = 0
    read_generation: int | None = None
    outblob: bytes = b""
    auxblob: bytes = b""


@define(kw_only=True)
class FaultPlan:
    """What happens to the next operations of a name, one fault for each; None lets one pass.

    Names: `mkdir`, `rmdir`, `open inblob`, `read outblob`, `write privlevel`, `close inblob`, ...
    A fault is an errno, or a function that does something to the entry behind everybody's back.
    """

    planned: dict[str, list[Fault]] = field(factory=dict)

    def then(self, operation: str, *faults: Fault) -> "FaultPlan":
        self.planned.setdefault(operation, []).extend(faults)
        return self

    def strike(self, operation: str, entry: Entry | None = None) -> None:
        faults = self.planned.get(operation)
        fault = faults.pop(0) if faults else None
        if callable(fault):
            assert entry is not None
            fault(entry)
        elif fault is not None:
            raise OSError(fault, f"planned for {operation}")

    @property
    def spent(self) -> bool:
        """Whether everything planned has happened."""
        return not any(self.planned.values())


@define(kw_only=True, eq=False)
class _Handle:
    entry: Entry
    name: str
    snapshot: bytes | None = None
    written: bytearray | None = None


def another_writer(entry: Entry) -> None:
    """Somebody else writes into our entry: the generation moves, the report is theirs."""
    entry.inblob = b"\x5a" * INBLOB_MAX
    entry.write_generation += 1


@define(kw_only=True, eq=False)
class ConfigfsTsm(Directory):
    """The file system below the configfs mount point. `make_report` is the TEE."""

    make_report: MakeReport
    provider: bytes = b"sev_guest"
    privilege_floor: int = 0
    read_at_most: int = 1 << 20
    loaded: bool = True
    faults: FaultPlan = field(factory=FaultPlan)
    entries: dict[str, Entry] = field(factory=dict)
    calls: "Counter[str]" = field(factory=Counter)

    @property
    def reports(self) -> int:
        """How many reports the hardware signed."""
        return self.calls["report"]

    def mode(self, path: Path_) -> int:
        if path == ROOT[: len(path)]:
            return stat.S_IFDIR | 0o755
        if path[:2] == ROOT and path[2] in self.entries:
            if len(path) == 3:
                return stat.S_IFDIR | 0o755
            if len(path) == 4 and path[3] in self._attributes():
                return stat.S_IFREG | (0o200 if path[3] in _WRITE_ONLY else 0o444)
        raise OSError(errno.ENOENT, "no such attribute")

    def names(self, path: Path_) -> list[str]:
        if path == ROOT:
            return list(self.entries)
        return [ROOT[len(path)]] if len(path) < 2 else sorted(self._attributes())

    def mkdir(self, path: Path_) -> None:
        self._strike("mkdir")
        if path[:2] != ROOT or len(path) != 3:
            raise OSError(errno.EPERM, "only entries are made")
        if not self.loaded:
            raise OSError(errno.ENXIO, "no driver")
        if path[2] in self.entries:
            raise OSError(errno.EEXIST, "an entry of this name exists")
        self.entries[path[2]] = Entry()

    def rmdir(self, path: Path_) -> None:
        self._strike("rmdir")
        if path[:2] != ROOT or len(path) != 3:
            raise OSError(errno.EPERM, "only entries are removed")
        if self.entries.pop(path[2], None) is None:
            raise OSError(errno.ENOENT, "no such entry")

    def open(self, path: Path_, flags: int) -> _Handle:
        entry, name = self.entries[path[2]], path[3]
        self._strike(f"open {name}", entry)
        access = flags & os.O_ACCMODE
        if access != (os.O_WRONLY if name in _WRITE_ONLY else os.O_RDONLY):
            raise OSError(errno.EACCES, "the attribute has no such method")
        return _Handle(entry=entry, name=name)

    def read(self, handle: Any, offset: int, size: int) -> bytes:
        entry: Entry = handle.entry
        self._strike(f"read {handle.name}", entry)
        if handle.snapshot is None:  # configfs fills its buffer at the first read
            value = self._value(entry, handle.name)
            if handle.name in _BINARY and len(value) > OUTBLOB_MAX:
                raise OSError(errno.EFBIG, "larger than the attribute may be")
            handle.snapshot = value
        piece: bytes = handle.snapshot[offset : offset + min(size, self.read_at_most)]
        return piece

    def write(self, handle: Any, offset: int, data: bytes) -> int:
        entry: Entry = handle.entry
        self._strike(f"write {handle.name}", entry)
        if handle.name == "inblob":
            if offset + len(data) > INBLOB_MAX:
                raise OSError(errno.EFBIG, "larger than the attribute may be")
            handle.written = (handle.written or bytearray()) + data
            return len(data)
        value = int(data)
        if not self.privilege_floor <= value <= PRIVILEGE_MAX:
            raise OSError(errno.EINVAL, "not a privilege level of this guest")
        entry.privilege = value
        entry.write_generation += 1
        return len(data)

    def close(self, handle: Any) -> None:
        if handle.written is None:
            return
        try:
            self._strike(f"close {handle.name}", handle.entry)
        except OSError:
            return  # "result of ->release() is ignored"
        handle.entry.inblob = bytes(handle.written)
        handle.entry.write_generation += 1
        handle.written = None

    def _attributes(self) -> set[str]:
        everything = _READ_ONLY | _WRITE_ONLY
        return everything if self.provider == b"sev_guest" else everything - _SNP_ONLY

    def _value(self, entry: Entry, name: str) -> bytes:
        if not self.loaded:
            raise OSError(errno.ENXIO, "no driver")
        match name:
            case "generation":
                return b"%d\n" % entry.write_generation
            case "provider":
                return self.provider + b"\n"
            case "privlevel_floor":
                return b"%d\n" % self.privilege_floor
        if entry.inblob == b"":
            raise OSError(errno.EINVAL, "nothing to report about")
        if entry.read_generation != entry.write_generation:
            self._make(entry)
        return entry.outblob if name == "outblob" else entry.auxblob

    def _make(self, entry: Entry) -> None:
        if len(entry.inblob) != INBLOB_MAX:  # both drivers of today want all 64 bytes
            raise OSError(errno.EINVAL, "the driver wants 64 bytes")
        self.calls["report"] += 1
        entry.outblob, entry.auxblob = self.make_report(entry.inblob, entry.privilege)
        entry.read_generation = entry.write_generation

    def _strike(self, operation: str, entry: Entry | None = None) -> None:
        self.calls[operation] += 1
        self.faults.strike(operation, entry)
