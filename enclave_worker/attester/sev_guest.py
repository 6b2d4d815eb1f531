"""The Attester of SEV-SNP guests before Linux 6.7: ioctls of `/dev/sev-guest`.

include/uapi/linux/sev-guest.h and Documentation/virt/coco/sev-guest.rst. The structures hold
addresses, so the buffers behind them are ctypes objects that stay alive during the call.

The driver shares a key and a counter with the firmware, and throws the key away after a failure
that might repeat a counter: from then on every request is ENOTTY until the machine restarts. So
nothing is tried again here except what never reached the firmware, and what the firmware answered
in the response's own status.
"""

import ctypes
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from attrs import field, frozen

from attestation.errors import DecodeError
from attestation.evidence.sev_snp import KIND, REPORT_BYTES, Report, SevSnpEvidence
from enclave_worker.attester.patience import AttesterFailedError, explained, persist

DEFAULT_DEVICE: Final = Path("/dev/sev-guest")

_GET_REPORT: Final = 0xC0205300  # _IOWR('S', 0, struct snp_guest_request_ioctl)
_GET_EXTENDED_REPORT: Final = 0xC0205302  # _IOWR('S', 2, struct snp_guest_request_ioctl)
_GUEST_REQUEST: Final = struct.Struct("<B7xQQQ")  # version, request, response, exitinfo2
_REPORT_REQUEST: Final = struct.Struct("<64sI28x")  # user data, VMPL
_TABLE_REQUEST: Final = struct.Struct("<QI4x")  # and after it certs_address, certs_len
_RESPONSE_BYTES: Final = 4000
_RESPONSE_HEAD: Final = struct.Struct("<II24x")  # MSG_REPORT_RSP: status, report size
_TABLE_BYTES: Final = 0x4000  # SEV_FW_BLOB_MAX_SIZE, the most that the driver takes
_ROW: Final = struct.Struct("<16sII")  # certificate table: GUID, offset, length

_MESSAGE_VERSION: Final = 1
_NO_ERROR_CODE: Final = 0xFF
_LEVELS: Final = 4
_SUCCESS: Final = 0
_INVALID_PARAMETERS: Final = 0x16
_TABLE_TOO_LARGE: Final = 1  # vmm_error SNP_GUEST_VMM_ERR_INVALID_LEN

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})
_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOENT: "it needs an SEV-SNP guest with Linux 5.19 and the module sev-guest",
    errno.EACCES: "run the worker as root, or as a user who may open it",
    errno.EPERM: "run the worker as root, or as a user who may open it",
    errno.ENOTTY: "the driver has lost its key to the firmware: restart the machine",
    errno.EIO: "the firmware did not serve the request",
    errno.ETIMEDOUT: "the host throttles requests to the firmware",
}


@frozen(kw_only=True)
class SnpReport:
    """A report, and the certificate table that the host put beside it."""

    report: bytes = field(repr=False)
    table: bytes = field(repr=False)


class _TableTooLargeError(AttesterFailedError):
    """The host has more certificates than the driver takes. Answered here, by going without."""


class SevGuest:
    """The device at `path`. Safe to use from several threads; calls wait for one another."""

    def __init__(
        self, path: Path = DEFAULT_DEVICE, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Use `path`; it is opened for each request."""
        self._path = path
        self._sleep = sleep
        self._lock = threading.Lock()
        self._level = 0

    def check(self) -> None:
        """Open the device; raises `AttesterMissingError`, `AttesterFailedError`."""
        with self._explained():
            os.close(self._open())

    def report(self, user_data: bytes) -> SnpReport:
        """Return a report over `user_data`; raises `AttesterMissingError`, `AttesterFailedError`.

        A guest may ask for its own privilege level and for those below. Nothing but an answer says
        which is its own, so the first request looks for it.
        """
        status = _INVALID_PARAMETERS
        with self._lock, self._explained():
            descriptor = self._open()
            try:
                while status == _INVALID_PARAMETERS and self._level < _LEVELS:
                    status, found = self._request(descriptor, user_data)
                    if status == _SUCCESS:
                        return found
                    self._level += 1
            finally:
                os.close(descriptor)
            self._level = 0
        raise AttesterFailedError(f"{self._path}: the firmware answers with status {status:#x}")

    def _request(self, descriptor: int, user_data: bytes) -> tuple[int, SnpReport]:
        table = ctypes.create_string_buffer(_TABLE_BYTES)
        head = _REPORT_REQUEST.pack(user_data, self._level)
        extended = head + _TABLE_REQUEST.pack(ctypes.addressof(table), _TABLE_BYTES)
        try:
            status, report = self._ask(descriptor, _GET_EXTENDED_REPORT, extended)
        except _TableTooLargeError:
            # A client can find the certificates elsewhere; the report is what only we can give.
            status, report = self._ask(descriptor, _GET_REPORT, head)
            return status, SnpReport(report=report, table=b"")
        return status, SnpReport(report=report, table=_used(table.raw))

    def _ask(self, descriptor: int, command: int, request: bytes) -> tuple[int, bytes]:
        asked = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(_RESPONSE_BYTES)
        argument = bytearray(
            _GUEST_REQUEST.pack(
                _MESSAGE_VERSION, ctypes.addressof(asked), ctypes.addressof(answer), _NO_ERROR_CODE
            )
        )
        try:
            persist(lambda: fcntl.ioctl(descriptor, command, argument), sleep=self._sleep)
        except OSError as error:
            vmm_error = _GUEST_REQUEST.unpack(argument)[3] >> 32
            if error.errno == errno.EIO and vmm_error == _TABLE_TOO_LARGE:
                raise _TableTooLargeError from error
            raise
        status, size = _RESPONSE_HEAD.unpack_from(answer.raw)
        if status == _SUCCESS and size != REPORT_BYTES:
            raise AttesterFailedError(f"{self._path}: a report of {size} bytes")
        return status, answer.raw[_RESPONSE_HEAD.size : _RESPONSE_HEAD.size + size]

    def _open(self) -> int:
        return persist(lambda: os.open(self._path, os.O_RDWR | os.O_CLOEXEC), sleep=self._sleep)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(str(self._path), _ADVICE, absent=_ABSENT)


class SevGuestAttester:
    """Evidence of kind `sev-snp` through `/dev/sev-guest`."""

    kind: Final = KIND

    def __init__(self, device: SevGuest | None = None) -> None:
        """Check that the device opens; raises `AttesterMissingError`, `AttesterFailedError`."""
        self._device = device or SevGuest()
        self._device.check()

    def collect(self, report_data: bytes) -> bytes:
        """Return a body over `report_data`, or raise an `UnavailableError`."""
        found = self._device.report(report_data)
        try:
            signed = Report.from_bytes(found.report).report_data
        except DecodeError as error:
            raise AttesterFailedError(f"the report is not readable: {error}") from error
        if signed != report_data:
            raise AttesterFailedError("the report is over something else than was asked")
        return SevSnpEvidence(
            report=found.report, certificates=(), certificate_table=found.table
        ).to_bytes()


def _used(table: bytes) -> bytes:
    # The driver fills whole pages; what lies after the last certificate need not travel.
    end = 0
    for at in range(0, len(table) - _ROW.size, _ROW.size):
        guid, offset, length = _ROW.unpack_from(table, at)
        if not any(guid):
            return table[: max(end, at + _ROW.size)] if at else b""
        end = max(end, offset + length)
    return table
