"""Attestation documents of Nitro enclaves: the forms that the NSM may write, and no other."""

from typing import Any

import cbor2
import pytest

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.nitro import NitroDocument
from tests.simulators.nitro import PCRS, SimulatedNsm, indefinite

NSM = SimulatedNsm()
DOCUMENT = NSM.document(b"data")


def test_a_document_holds_what_the_module_wrote() -> None:
    document = NitroDocument.from_bytes(DOCUMENT)
    assert document.user_data == b"data"
    assert (document.nonce, document.public_key) == (None, None)
    assert document.pcrs == PCRS
    assert len(document.cabundle) == 4


@pytest.mark.parametrize("encode", [cbor2.dumps, indefinite])
def test_lengths_may_be_definite_or_not(encode: Any) -> None:
    """The NSM writes the map as of indefinite length, others write it anew."""
    parsed = NitroDocument.from_bytes(NSM.but(encode=encode).document(b"data"))
    assert parsed.user_data == b"data"


def test_a_tag_in_front_changes_nothing() -> None:
    assert NitroDocument.from_bytes(b"\xd2" + DOCUMENT) == NitroDocument.from_bytes(DOCUMENT)


@pytest.mark.parametrize("name", ["user_data", "nonce", "public_key"])
def test_a_field_that_was_not_asked_for_may_be_null_or_absent(name: str) -> None:
    for nsm in (NSM.but(fields={name: None}), NSM.but(without=(name,))):
        assert getattr(NitroDocument.from_bytes(nsm.document(b"data")), name) is None


def test_there_may_be_more_pcrs_than_sixteen() -> None:
    pcrs = dict(PCRS) | {16: bytes(48), 31: b"x" * 48}
    assert NitroDocument.from_bytes(NSM.but(pcrs=pcrs).document(None)).pcrs == pcrs


def test_a_member_that_is_unknown_here_is_passed_over() -> None:
    """It is signed like the rest; what AWS adds must not lock everybody out."""
    NitroDocument.from_bytes(NSM.but(fields={"new": [1, {"a": None}]}).document(None))


@pytest.mark.parametrize(
    "nsm",
    [
        pytest.param(NSM.but(header={1: -7}), id="ES256"),
        pytest.param(NSM.but(header={}), id="no algorithm"),
        pytest.param(NSM.but(header={1: -35, 4: b"key"}), id="a key id"),
        pytest.param(NSM.but(unprotected={4: b"key"}), id="an unprotected header"),
        pytest.param(NSM.but(fields={"digest": "SHA256"}), id="another digest"),
        *(
            pytest.param(NSM.but(without=(name,)), id=f"no {name}")
            for name in ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
        ),
        pytest.param(NSM.but(fields={"module_id": ""}), id="an empty name"),
        pytest.param(NSM.but(fields={"module_id": "x" * 300}), id="a long name"),
        pytest.param(NSM.but(fields={"module_id": "\x1b[2J"}), id="a name for a terminal"),
        pytest.param(NSM.but(fields={"timestamp": 0}), id="no time"),
        pytest.param(NSM.but(fields={"timestamp": -1}), id="a time before time"),
        pytest.param(NSM.but(fields={"timestamp": 1 << 60}), id="a time that no date has"),
        pytest.param(NSM.but(fields={"timestamp": True}), id="a time that is true"),
        pytest.param(NSM.but(fields={"pcrs": {}}), id="no PCRs"),
        pytest.param(NSM.but(fields={"pcrs": {32: bytes(48)}}), id="PCR 32"),
        pytest.param(NSM.but(fields={"pcrs": {"0": bytes(48)}}), id="a PCR by name"),
        pytest.param(NSM.but(fields={"pcrs": {0: bytes(32)}}), id="a PCR of another bank"),
        pytest.param(NSM.but(fields={"cabundle": []}), id="no bundle"),
        pytest.param(NSM.but(fields={"cabundle": [b"x"] * 17}), id="a long bundle"),
        pytest.param(NSM.but(fields={"cabundle": ["x"]}), id="a bundle of texts"),
        pytest.param(NSM.but(fields={"user_data": "text"}), id="user data that are text"),
        pytest.param(
            NSM.but(fields={"nonce": bytes(limits.NITRO_FIELD_BYTES + 1)}), id="a long nonce"
        ),
    ],
)
def test_another_document_is_malformed(nsm: SimulatedNsm) -> None:
    with pytest.raises(DecodeError):
        NitroDocument.from_bytes(nsm.document(b"data"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(DOCUMENT + b"\0", id="a byte too many"),
        pytest.param(b"\xd1" + DOCUMENT, id="another tag"),
        pytest.param(b"\xd2\xd2" + DOCUMENT, id="two tags"),
        pytest.param(b"\x83" + DOCUMENT[1:], id="three members"),
        pytest.param(bytes(limits.NITRO_DOCUMENT_BYTES + 1), id="too long"),
    ],
)
def test_what_is_no_cose_sign1_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        NitroDocument.from_bytes(data)


def test_no_truncated_document_parses() -> None:
    for length in range(len(DOCUMENT)):
        with pytest.raises(DecodeError):
            NitroDocument.from_bytes(DOCUMENT[:length])
