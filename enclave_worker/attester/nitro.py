"""The Attester of AWS Nitro enclaves: the Nitro Secure Module behind `/dev/nsm`.

include/uapi/linux/nsm.h for the ioctl, aws-nitro-enclaves-nsm-api for what travels through it: CBOR
maps with the name of the request. Our report data goes into `user_data`, which the module signs;
`nonce` stays empty because the report data already covers the Challenges.
"""

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from attestation import limits
from attestation.encoding import cbor, foreign_cbor
from attestation.errors import DecodeError
from attestation.evidence.nitro import KIND, NitroDocument, NitroEvidence
from enclave_worker.attester.patience import AttesterFailedError, explained, persist

DEFAULT_DEVICE: Final = Path("/dev/nsm")

_RAW: Final = 0xC0200A00  # _IOWR(0x0A, 0, struct nsm_raw)
_MESSAGE: Final = struct.Struct("<QQQQ")  # request address and length, response address and length
_RESPONSE_BYTES: Final = 0x3000  # NSM_RESPONSE_MAX_SIZE
_CODE_CHARACTERS: Final = 40

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})
_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOENT: "it exists inside AWS Nitro enclaves only",
    errno.EACCES: "run the worker as a user who may open it",
    errno.EPERM: "run the worker as a user who may open it",
    errno.ETIMEDOUT: "the Nitro hypervisor does not answer",
}


class NitroAttester:
    """Evidence of kind `nitro`. Safe to call from several threads: the driver takes turns."""

    kind: Final = KIND

    def __init__(
        self, path: Path = DEFAULT_DEVICE, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Check that `path` opens; raises `AttesterMissingError`, `AttesterFailedError`."""
        self._path = path
        self._sleep = sleep
        with self._explained():
            os.close(self._open())

    def collect(self, report_data: bytes) -> bytes:
        """Return a document with `report_data` as its user data, or raise `AttesterFailedError`."""
        request = cbor.encode(
            {"Attestation": {"user_data": report_data, "nonce": None, "public_key": None}}
        )
        with self._explained():
            response = self._exchange(request)
        try:
            document = self._document(response)
            signed = NitroDocument.from_bytes(document).user_data
        except DecodeError as error:
            raise AttesterFailedError(f"{self._path}: not readable: {error}") from error
        if signed != report_data:
            raise AttesterFailedError(f"{self._path}: the document is over something else")
        return NitroEvidence(document=document).to_bytes()

    def _exchange(self, request: bytes) -> bytes:
        asked = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(_RESPONSE_BYTES)
        message = bytearray(
            _MESSAGE.pack(
                ctypes.addressof(asked), len(request), ctypes.addressof(answer), _RESPONSE_BYTES
            )
        )
        descriptor = self._open()
        try:
            persist(lambda: fcntl.ioctl(descriptor, _RAW, message), sleep=self._sleep)
        finally:
            os.close(descriptor)
        size = _MESSAGE.unpack(message)[3]
        return answer.raw[: min(size, _RESPONSE_BYTES)]

    def _document(self, response: bytes) -> bytes:
        match foreign_cbor.decode(response, limit=_RESPONSE_BYTES):
            case {"Attestation": {"document": bytes() as document}}:
                if len(document) > limits.NITRO_DOCUMENT_BYTES:
                    raise DecodeError(f"a document of {len(document)} bytes")
                return document
            case {"Error": str() as code}:
                raise AttesterFailedError(
                    f"{self._path}: the module answers {code[:_CODE_CHARACTERS]!r}"
                )
            case _:
                raise DecodeError("the module answers with something else")

    def _open(self) -> int:
        return persist(lambda: os.open(self._path, os.O_RDWR | os.O_CLOEXEC), sleep=self._sleep)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(str(self._path), _ADVICE, absent=_ABSENT)
