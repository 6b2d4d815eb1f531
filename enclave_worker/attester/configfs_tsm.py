"""The Attester of SEV-SNP and TDX guests on Linux 6.7 and later: configfs-tsm.

Documentation/ABI/testing/configfs-tsm-report and drivers/virt/coco/guest/report.c. Every report has
a directory of its own, made with a random name and removed afterwards, so that nobody else's
request gets between ours. `generation` counts the writes to a directory; we compare it with our own
count before we believe what we read, for two reasons: the driver hears of `inblob` only when the
file is closed and cannot say that it refused, and a directory can be written to by others.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.logging import get_logger
from enclave_worker.attester.patience import (
    AttesterFailedError,
    explained,
    persist,
)

log: Final = get_logger(__name__)

DEFAULT_ROOT: Final = Path("/sys/kernel/config/tsm/report")

_NUMBER_BYTES: Final = 64
_NAME_BYTES: Final = 256
_AUXBLOB_BYTES: Final = limits.SNP_CERTIFICATE_TABLE_BYTES
_OUTBLOB_BYTES: Final = limits.INTEL_QUOTE_BYTES
_CHUNK: Final = 64 * limits.KIB
_ATTEMPTS: Final = 5

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV})
_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOENT: "it needs Linux 6.7 with CONFIG_TSM_REPORTS and configfs mounted there",
    errno.ENXIO: "no TEE driver is loaded: try `modprobe sev-guest` or `modprobe tdx_guest`",
    errno.EACCES: "run the worker as root, or give it CAP_DAC_OVERRIDE",
    errno.EPERM: "run the worker as root, or give it CAP_DAC_OVERRIDE",
    errno.EROFS: "it is mounted read-only, as systemd's ProtectKernelTunables=yes does",
    errno.EINVAL: "the firmware refuses the request, or this guest's privilege level",
    errno.ENOTTY: "the driver has lost its key to the firmware: restart the machine",
    errno.EIO: "the firmware or the host did not serve the request",
    errno.ETIMEDOUT: "the host's quoting service does not answer",
    errno.EBUSY: "an earlier request of this machine has not ended",
    errno.EFBIG: "the host hands out more than the kernel takes",
}


@frozen(kw_only=True)
class TsmReport:
    """What the kernel gave for one request."""

    provider: str
    outblob: bytes = field(repr=False)
    auxblob: bytes = field(repr=False)


class _RacedError(AttesterFailedError):
    """Somebody else wrote into our directory, or a write of ours was lost. Tried again here."""


class ConfigfsTsm:
    """Reports from the directory `root`. Safe to use from several threads."""

    def __init__(
        self, root: Path = DEFAULT_ROOT, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Use `root`; nothing is opened before the first request."""
        self._root = root
        self._sleep = sleep

    def provider(self) -> str:
        """Return the name of the driver; raises `AttesterMissingError`, `AttesterFailedError`."""
        with explained(str(self._root), _ADVICE, absent=_ABSENT), self._entry() as entry:
            return self._text(entry / "provider")

    def report(self, inblob: bytes) -> TsmReport:
        """Return a report over `inblob`; raises `AttesterMissingError`, `AttesterFailedError`."""
        with explained(str(self._root), _ADVICE, absent=_ABSENT):
            for _ in range(_ATTEMPTS):
                try:
                    with self._entry() as entry:
                        return self._report(entry, inblob)
                except _RacedError:
                    continue
        raise AttesterFailedError(f"{self._root}: others write into the requests of this worker")

    def _report(self, entry: Path, inblob: bytes) -> TsmReport:
        expected = self._generation(entry) + self._choose_privilege(entry) + 1
        self._write(entry / "inblob", inblob)
        self._require_generation(entry, expected)
        report = TsmReport(
            outblob=self._read(entry / "outblob", limit=_OUTBLOB_BYTES),
            auxblob=self._read_auxiliary(entry),
            provider=self._text(entry / "provider"),
        )
        self._require_generation(entry, expected)
        return report

    def _choose_privilege(self, entry: Path) -> int:
        # Where levels exist (SNP's VMPL), the kernel asks for level 0 unless told otherwise, and
        # the firmware refuses any below our own. Returns the number of writes.
        try:
            floor = self._text(entry / "privlevel_floor")
        except FileNotFoundError:
            return 0
        self._write(entry / "privlevel", floor.encode())
        return 1

    def _require_generation(self, entry: Path, expected: int) -> None:
        if self._generation(entry) != expected:
            raise _RacedError

    def _generation(self, entry: Path) -> int:
        text = self._text(entry / "generation", limit=_NUMBER_BYTES)
        if not (text.isascii() and text.isdecimal()):
            raise AttesterFailedError(f"{self._root}: a generation that is not a number")
        return int(text)

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._root / f"enclave-{secrets.token_hex(16)}"
        persist(lambda: entry.mkdir(mode=0o700), sleep=self._sleep)
        try:
            yield entry
        finally:
            try:
                persist(entry.rmdir, sleep=self._sleep)
            except OSError as error:
                # The report is as good as it was; an operator may want to remove what is left.
                log.warning("attester.entry_left", errno=errno.errorcode.get(error.errno or 0, ""))

    def _text(self, path: Path, *, limit: int = _NAME_BYTES) -> str:
        return self._read(path, limit=limit).decode("ascii", errors="replace").strip()

    def _read_auxiliary(self, entry: Path) -> bytes:
        try:
            return self._read(entry / "auxblob", limit=_AUXBLOB_BYTES)
        except FileNotFoundError:  # "visibility of this attribute depends on TSM"
            return b""

    def _read(self, path: Path, *, limit: int) -> bytes:
        return persist(lambda: _read_whole(path, limit), sleep=self._sleep)

    def _write(self, path: Path, data: bytes) -> None:
        persist(lambda: _write_once(path, data), sleep=self._sleep)


def _read_whole(path: Path, limit: int) -> bytes:
    # Read until the kernel says that it is all: a read may return less than there is.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while piece := os.read(descriptor, _CHUNK):
            data += piece
            if len(data) > limit:
                raise AttesterFailedError(f"{path.name} holds more than {limit} bytes")
    finally:
        os.close(descriptor)
    return bytes(data)


def _write_once(path: Path, data: bytes) -> None:
    # An attribute takes one write; there is no second half to send.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(descriptor, data) != len(data):
            raise AttesterFailedError(f"{path.name} took only a part of what was written")
    finally:
        os.close(descriptor)
