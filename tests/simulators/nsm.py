"""`/dev/nsm` of an AWS Nitro enclave, as a file whose ioctl reaches this process.

Rules of drivers/misc/nsm.c: one command, EINVAL for any other; EMSGSIZE for requests above 4 KiB;
an answer that does not fit is cut without a word. Requests and answers are the CBOR that the
aws-nitro-enclaves-nsm-api crate writes: a map with the request's name, or a text string.
"""

import errno
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

import cbor2
from attrs import define, field

from tests.simulators.configfs_tsm import FaultPlan
from tests.simulators.fuse import Caller, Directory, IoctlAnswer, Path_

RAW: Final = 0xC0200A00
REQUEST_MAX: Final = 0x1000
USER_DATA_MAX: Final = 512

_NAME: Final = ("nsm",)
_MESSAGE = struct.Struct("<QQQQ")


@define(kw_only=True, eq=False)
class Nsm(Directory):
    """A directory with the one device. `attest` makes a document over `user_data`."""

    attest: Callable[[bytes], bytes]
    answer: bytes | None = None
    """What the module says instead of the truth."""
    faults: FaultPlan = field(factory=FaultPlan)
    requests: list[Any] = field(factory=list)

    def mode(self, path: Path_) -> int:
        if path == ():
            return stat.S_IFDIR | 0o755
        if path == _NAME:
            return stat.S_IFREG | 0o666
        raise OSError(errno.ENOENT, "no such device")

    def names(self, path: Path_) -> list[str]:
        return list(_NAME)

    def open(self, path: Path_, flags: int) -> Any:
        self.faults.strike("open")
        return self

    def ioctl(self, handle: Any, command: int, data: bytes, caller: Caller) -> IoctlAnswer:
        self.faults.strike("ioctl")
        if command != RAW:
            raise OSError(errno.EINVAL, "unknown command")
        request_at, request_bytes, response_at, response_bytes = _MESSAGE.unpack(data)
        if request_bytes > REQUEST_MAX:
            raise OSError(errno.EMSGSIZE, "a request of more than 4 KiB")
        response = self._respond(caller.read_memory(request_at, request_bytes))
        response = response[:response_bytes]
        caller.write_memory(response_at, response)
        return IoctlAnswer(
            data=_MESSAGE.pack(request_at, request_bytes, response_at, len(response))
        )

    def _respond(self, request: bytes) -> bytes:
        message = cbor2.loads(request)
        self.requests.append(message)
        if self.answer is not None:
            return self.answer
        match message:
            case {"Attestation": {"user_data": bytes(user_data), "nonce": _, "public_key": _}}:
                if len(user_data) > USER_DATA_MAX:
                    return cbor2.dumps({"Error": "InputTooLarge"})
                return cbor2.dumps({"Attestation": {"document": self.attest(user_data)}})
            case _:
                return cbor2.dumps({"Error": "InvalidOperation"})
