"""`/dev/sev-guest` with the kernel's errno rules, as a file whose ioctls reach this process.

The rules are those of drivers/virt/coco/sev-guest/sev-guest.c: message version 0 and bad lengths
are EINVAL, bad addresses EFAULT, unknown commands ENOTTY; a certificate buffer that is too small is
EIO with `vmm_error` 1 and the length that would do; what the firmware thinks of a request is in the
response's own status; after any other failure the driver wipes its key to the firmware, and every
later request is ENOTTY.
"""

import errno
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from tests.simulators.configfs_tsm import FaultPlan
from tests.simulators.fuse import Caller, Directory, IoctlAnswer, Path_

GET_REPORT: Final = 0xC0205300
GET_EXTENDED_REPORT: Final = 0xC0205302
INVALID_PARAMETERS: Final = 0x16

_NAME: Final = ("sev-guest",)
_REQUEST = struct.Struct("<B7xQQQ")
_REPORT_REQUEST = struct.Struct("<64sI28s")
_RESPONSE_BYTES: Final = 4000
_PAGE: Final = 4096
_CERTIFICATES_MAX: Final = 0x4000
_INVALID_LENGTH: Final = 1 << 32
_NO_FIRMWARE_ERROR: Final = 0xFF

MakeReport = Callable[[bytes, int], tuple[bytes, bytes]]


@define(kw_only=True, eq=False)
class SevGuest(Directory):
    """A directory with the one device. `make_report` is the firmware and the host."""

    make_report: MakeReport
    privilege: int = 0
    certificate_bytes: int | None = None
    """What the host says it needs; by default what it has."""
    faults: FaultPlan = field(factory=FaultPlan)
    disabled: bool = False
    requests: list[int] = field(factory=list)

    def mode(self, path: Path_) -> int:
        if path == ():
            return stat.S_IFDIR | 0o755
        if path == _NAME:
            return stat.S_IFREG | 0o600
        raise OSError(errno.ENOENT, "no such device")

    def names(self, path: Path_) -> list[str]:
        return list(_NAME)

    def open(self, path: Path_, flags: int) -> Any:
        self.faults.strike("open")
        return self

    def ioctl(self, handle: Any, command: int, data: bytes, caller: Caller) -> IoctlAnswer:
        self.requests.append(command)
        self.faults.strike("ioctl")
        version, request, response, _ = _REQUEST.unpack(data)
        if version == 0:
            raise OSError(errno.EINVAL, "message version 0")
        if command not in (GET_REPORT, GET_EXTENDED_REPORT):
            raise OSError(errno.ENOTTY, "unknown command")
        if not request or not response:
            raise OSError(errno.EINVAL, "no address")
        if self.disabled:
            raise OSError(errno.ENOTTY, "VMPCK is disabled")

        def answer(result: int, exit_info: int) -> IoctlAnswer:
            return IoctlAnswer(
                data=_REQUEST.pack(version, request, response, exit_info), result=result
            )

        extended = command == GET_EXTENDED_REPORT
        user_data, privilege, reserved = _REPORT_REQUEST.unpack(caller.read_memory(request, 96))
        report, certificates = self._firmware(user_data, privilege, reserved)
        if extended:
            address, length = struct.unpack("<QI", caller.read_memory(request + 96, 12))
            if address and length:
                if length > _CERTIFICATES_MAX or length % _PAGE:
                    raise OSError(errno.EINVAL, "not a number of pages that the driver has")
                needed = self.certificate_bytes or len(certificates)
                if needed > length:
                    pages = -(-needed // _PAGE) * _PAGE
                    caller.write_memory(request + 104, struct.pack("<I", pages))
                    return answer(-errno.EIO, _INVALID_LENGTH)
                caller.write_memory(address, certificates.ljust(length, b"\0"))
        try:
            self.faults.strike("firmware")
        except OSError as error:
            self.disabled = True  # "Disabling VMPCK0 communication key to prevent IV reuse"
            return answer(-(error.errno or errno.EIO), _NO_FIRMWARE_ERROR)
        caller.write_memory(response, report.ljust(_RESPONSE_BYTES, b"\0"))
        return answer(0, 0)

    def _firmware(self, user_data: bytes, privilege: int, reserved: bytes) -> tuple[bytes, bytes]:
        if any(reserved) or not self.privilege <= privilege <= 3:
            return struct.pack("<II24x", INVALID_PARAMETERS, 0), b""
        report, certificates = self.make_report(user_data, privilege)
        return struct.pack("<II24x", 0, len(report)) + report, certificates
