"""The Nitro Secure Module through its real ioctl."""

import errno
import os
from typing import Any

import cbor2
import pytest

from attestation.evidence.nitro import NitroDocument, NitroEvidence
from enclave_worker.attester.nitro import NitroAttester
from enclave_worker.attester.patience import PAUSES, AttesterFailedError, AttesterMissingError
from tests.attester.conftest import Mount
from tests.simulators.nsm import Nsm

DATA = bytes(range(64))


def document(user_data: bytes | None) -> bytes:
    """A document with the right form and nobody's signature."""
    payload = {
        "module_id": "i-1234-enc5678",
        "digest": "SHA384",
        "timestamp": 1_700_000_000_000,
        "pcrs": {index: bytes(48) for index in range(16)},
        "certificate": b"\x30" * 600,
        "cabundle": [b"\x30" * 500],
        "public_key": None,
        "user_data": user_data,
        "nonce": None,
    }
    return cbor2.dumps([b"\xa1\x01\x38\x22", {}, cbor2.dumps(payload), bytes(96)])


class Enclave:
    """A Nitro enclave's view of its module."""

    def __init__(self, mount: Mount, **changes: Any) -> None:
        self.module = Nsm(**{"attest": document, **changes})
        self.slept: list[float] = []
        self.path = mount(self.module) / "nsm"
        self.attester = NitroAttester(self.path, sleep=self.slept.append)


@pytest.fixture
def enclave(mount: Mount) -> Enclave:
    return Enclave(mount)


def test_the_module_signs_our_data_as_user_data_and_nothing_else(enclave: Enclave) -> None:
    body = NitroEvidence.from_bytes(enclave.attester.collect(DATA))
    assert NitroDocument.from_bytes(body.document).user_data == DATA
    assert enclave.module.requests == [
        {"Attestation": {"user_data": DATA, "nonce": None, "public_key": None}}
    ]


@pytest.mark.parametrize("signed", [None, b"", bytes(64), DATA[:63], DATA + b"\0"])
def test_a_document_over_other_data_is_refused(mount: Mount, signed: bytes | None) -> None:
    enclave = Enclave(mount, attest=lambda _data: document(signed))
    with pytest.raises(AttesterFailedError, match="something else"):
        enclave.attester.collect(DATA)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"\xa0",
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": None}}),
        cbor2.dumps({"Attestation": {"document": b""}}),
        cbor2.dumps({"Attestation": {"document": b"\x00" * 64}}),
        cbor2.dumps({"Attestation": {"document": document(DATA)[:-1]}}),
        cbor2.dumps({"DescribeNSM": {"version_major": 1}}),
        cbor2.dumps({"Attestation": {"document": document(DATA)}})[:-1],
        os.urandom(0x3000),
    ],
)
def test_an_answer_that_is_no_document_is_refused(mount: Mount, answer: bytes) -> None:
    enclave = Enclave(mount, answer=answer)
    with pytest.raises(AttesterFailedError, match="not readable"):
        enclave.attester.collect(DATA)


def test_what_the_module_says_is_passed_on(mount: Mount) -> None:
    enclave = Enclave(mount, answer=cbor2.dumps({"Error": "InternalError"}))
    with pytest.raises(AttesterFailedError, match="InternalError"):
        enclave.attester.collect(DATA)


def test_more_than_the_module_takes_is_refused_by_it(enclave: Enclave) -> None:
    with pytest.raises(AttesterFailedError, match="InputTooLarge"):
        enclave.attester.collect(bytes(513))
    with pytest.raises(AttesterFailedError, match="EMSGSIZE"):
        enclave.attester.collect(bytes(5000))


@pytest.mark.parametrize("fault", [errno.EBUSY, errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("operation", ["open", "ioctl"])
def test_what_passes_is_waited_for(enclave: Enclave, operation: str, fault: int) -> None:
    enclave.module.faults.then(operation, fault, fault)
    assert enclave.attester.collect(DATA)
    assert enclave.module.faults.spent


def test_a_busy_module_is_waited_for_so_long_and_no_longer(enclave: Enclave) -> None:
    enclave.module.faults.then("ioctl", *[errno.EBUSY] * 100)
    with pytest.raises(AttesterFailedError, match="EBUSY"):
        enclave.attester.collect(DATA)
    assert enclave.slept == list(PAUSES)


@pytest.mark.parametrize("fault", [errno.ETIMEDOUT, errno.EIO, errno.ENODATA])
def test_what_does_not_pass_is_said_at_once(enclave: Enclave, fault: int) -> None:
    enclave.module.faults.then("ioctl", fault)
    with pytest.raises(AttesterFailedError, match=errno.errorcode[fault]):
        enclave.attester.collect(DATA)
    assert enclave.slept == []


def test_outside_an_enclave_it_is_missing(enclave: Enclave) -> None:
    with pytest.raises(AttesterMissingError, match="inside AWS Nitro enclaves only"):
        NitroAttester(enclave.path.with_name("nothing"))


def test_a_real_document_over_other_data_is_refused(mount: Mount, vectors: Any) -> None:
    real = (vectors / "aws-nitro/dstack-2025-nsm/document.cbor").read_bytes()
    signed = NitroDocument.from_bytes(real).user_data
    enclave = Enclave(mount, attest=lambda _data: real)
    with pytest.raises(AttesterFailedError, match="something else"):
        enclave.attester.collect(DATA)
    if signed is not None:
        body = NitroEvidence.from_bytes(enclave.attester.collect(signed))
        assert body.document == real
