"""Parsing TPM structures: bounded, whole, and nothing but `DecodeError`."""

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.errors import DecodeError
from attestation.evidence.tpm import Attest, Attributes, PcrBank, Public, Scheme, Signature
from tests.simulators.tpm import AK_ATTRIBUTES, PCRS, SimulatedTpm

TPM = SimulatedTpm()
ATTEST = TPM.attest(b"extra data")
SIGNATURE = TPM.sign(ATTEST)
PUBLIC = TPM.public()


def rsa_public(modulus: bytes, *, scheme: bytes = b"\x00\x14\x00\x0b", exponent: int = 0) -> bytes:
    head = struct.pack(">HHIH", 0x0001, 0x000B, AK_ATTRIBUTES, 0) + b"\x00\x10" + scheme
    return head + struct.pack(">HIH", len(modulus) * 8, exponent, len(modulus)) + modulus


def test_a_quote_says_what_was_signed() -> None:
    attest = Attest.from_bytes(ATTEST)
    assert attest.extra_data == b"extra data"
    assert attest.quote is not None
    assert attest.quote.selection == tuple((PcrBank.SHA256, index) for index in sorted(PCRS))
    assert (attest.reset_count, attest.restart_count, attest.safe) == (3, 1, True)


def test_an_ecc_key_is_the_one_that_signs() -> None:
    public = Public.from_bytes(PUBLIC)
    assert isinstance(public.key, ec.EllipticCurvePublicKey)
    assert public.key.public_numbers() == TPM.key.public_key().public_numbers()
    assert public.scheme == (Scheme.ECDSA, PcrBank.SHA256)
    assert Attributes.RESTRICTED in public.attributes


def test_an_rsa_exponent_of_zero_means_the_usual_one() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    modulus = key.public_numbers().n.to_bytes(256, "big")
    parsed = Public.from_bytes(rsa_public(modulus)).key
    assert parsed.public_numbers() == key.public_numbers()


@pytest.mark.parametrize("kind", [Attest, Signature, Public])
def test_every_truncation_and_every_longer_copy_is_malformed(
    kind: type[Attest] | type[Signature] | type[Public],
) -> None:
    data = {Attest: ATTEST, Signature: SIGNATURE, Public: PUBLIC}[kind]
    kind.from_bytes(data)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            kind.from_bytes(data[:length])
    with pytest.raises(DecodeError):
        kind.from_bytes(data + b"\0")


@pytest.mark.parametrize(
    "public",
    [
        pytest.param(PUBLIC[:-1] + bytes([PUBLIC[-1] ^ 1]), id="point off its curve"),
        pytest.param(b"\x00\x08" + PUBLIC[2:], id="a keyed hash"),
        pytest.param(PUBLIC[:2] + b"\x00\x77" + PUBLIC[4:], id="unknown name hash"),
        pytest.param(PUBLIC[:10] + b"\x00\x0a" + PUBLIC[12:], id="unknown symmetric scheme"),
        pytest.param(PUBLIC[:12] + b"\x00\x1a" + PUBLIC[14:], id="ECDAA"),
        pytest.param(PUBLIC[:16] + b"\x00\x05" + PUBLIC[18:], id="unknown curve"),
        pytest.param(PUBLIC[:18] + b"\x00\x20" + PUBLIC[20:], id="key derivation scheme"),
        pytest.param(rsa_public(b"\xff" * 128), id="RSA-1024"),
        pytest.param(rsa_public(b"\xff" * 256, scheme=b"\x00\x17\x00\x0b"), id="OAEP"),
        pytest.param(rsa_public(b"\xff" * 256, exponent=2), id="even exponent"),
    ],
)
def test_keys_that_nothing_here_verifies_under_are_malformed(public: bytes) -> None:
    with pytest.raises(DecodeError):
        Public.from_bytes(public)


@pytest.mark.parametrize("scheme", [0x0010, 0x0005, 0x0015, 0x001A, 0x001C])
def test_signature_schemes_that_nothing_here_verifies_are_malformed(scheme: int) -> None:
    with pytest.raises(DecodeError):
        Signature.from_bytes(struct.pack(">H", scheme) + SIGNATURE[2:])


def test_a_pcr_selected_twice_is_malformed() -> None:
    """Two entries for one bank could show two values for one PCR."""
    start = ATTEST.index(struct.pack(">IH", 1, 0x000B))
    entry = ATTEST[start + 4 : start + 10]
    doubled = ATTEST[:start] + struct.pack(">I", 2) + entry * 2 + ATTEST[start + 10 :]
    with pytest.raises(DecodeError):
        Attest.from_bytes(doubled)


@pytest.mark.parametrize("count", [17, 0xFFFFFFFF])
def test_an_announced_number_of_banks_is_bounded(count: int) -> None:
    start = ATTEST.index(struct.pack(">IH", 1, 0x000B))
    with pytest.raises(DecodeError):
        Attest.from_bytes(ATTEST[:start] + struct.pack(">I", count) + ATTEST[start + 4 :])


def test_a_boolean_is_zero_or_one() -> None:
    start = ATTEST.index(struct.pack(">QII", 12345, 3, 1)) + 16
    with pytest.raises(DecodeError):
        Attest.from_bytes(ATTEST[:start] + b"\x02" + ATTEST[start + 1 :])
