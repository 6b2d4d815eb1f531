"""Keys and signatures of TPMs in the forms that other tools write."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.tpm import PcrBank, Public, Scheme, Signature
from attestation.evidence.tpm_forms import read_key, read_signature
from tests.simulators.tpm import RsaTpm, SimulatedTpm
from tests.simulators.vendor import Operator, der, pem

RSA, ECC = RsaTpm(), SimulatedTpm()
RSA_KEY, ECC_KEY = RSA.rsa_key.public_key(), ECC.key.public_key()
DER = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
PEM = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


def forms(tpm: SimulatedTpm, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> list[bytes]:
    certificate: x509.Certificate = Operator().certify(key)[0]
    public = tpm.public()
    return [
        public,
        len(public).to_bytes(2, "big") + public,
        key.public_bytes(*DER),
        key.public_bytes(*PEM),
        der(certificate),
        pem(certificate),
    ]


@pytest.mark.parametrize(("tpm", "key"), [(RSA, RSA_KEY), (ECC, ECC_KEY)])
def test_a_key_is_the_same_in_every_form(
    tpm: SimulatedTpm, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> None:
    keys = [read_key(form) for form in forms(tpm, key)]
    assert len({one.fingerprint() for one in keys}) == 1
    assert [one.attributes is not None for one in keys] == [True, True] + [False] * 4


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x00", id="an empty sequence"),
        pytest.param(b"-----BEGIN PUBLIC KEY-----\n", id="a PEM header"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\n", id="another PEM header"),
        pytest.param(
            rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
            .public_key()
            .public_bytes(*DER),
            id="a short RSA key",
        ),
        pytest.param(
            ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(*DER),
            id="another curve",
        ),
        pytest.param(
            ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*DER),
            id="a kind of key that TPMs do not have",
        ),
        pytest.param(bytes(limits.CERTIFICATE_BYTES + 1), id="too long"),
    ],
)
def test_what_is_no_key_of_a_tpm_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_key(data)


def test_a_weak_key_padded_to_look_long_is_malformed() -> None:
    """2048 bits of modulus of which the first byte is zero."""
    public = RSA.public()
    with pytest.raises(DecodeError):
        Public.from_bytes(public[:-256] + b"\0" + public[-255:])


def test_a_tpm2b_of_another_size_is_not_taken_for_one() -> None:
    public = ECC.public()
    with pytest.raises(DecodeError):
        read_key((len(public) + 1).to_bytes(2, "big") + public)


def test_an_rsa_signature_is_the_same_bare_and_wrapped() -> None:
    wrapped, bare = RSA.sign(b"data"), RSA.bare_signature(b"data")
    for form in (wrapped, bare):
        signature = read_signature(form, key=RSA_KEY, hash=PcrBank.SHA256)
        assert signature == Signature(scheme=Scheme.RSASSA, hash=PcrBank.SHA256, values=(bare,))


def test_an_ecdsa_signature_is_the_same_in_all_three_forms() -> None:
    wrapped = Signature.from_bytes(ECC.sign(b"data"))
    r, s = (int.from_bytes(value, "big") for value in wrapped.values)
    encoded = encode_dss_signature(r, s)
    for form in (ECC.sign(b"data")[:0] + b"".join(wrapped.values), encoded):
        assert read_signature(form, key=ECC_KEY, hash=PcrBank.SHA256) == wrapped


def test_the_hash_in_a_tpms_own_form_is_not_overridden() -> None:
    signature = read_signature(RSA.sign(b"data"), key=RSA_KEY, hash=PcrBank.SHA1)
    assert signature.hash is PcrBank.SHA256


@pytest.mark.parametrize("key", [RSA_KEY, ECC_KEY])
@pytest.mark.parametrize(
    "data",
    [b"", bytes(63), bytes(65), bytes(255), bytes(257), b"\x30\x06\x02\x01\x01\x02\x01", b"\0\x16"],
)
def test_what_is_no_signature_is_malformed(
    data: bytes, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> None:
    with pytest.raises(DecodeError):
        read_signature(data, key=key, hash=PcrBank.SHA256)


@pytest.mark.parametrize("values", [(-1, 1), (1, 1 << 256)])
def test_a_der_signature_with_numbers_out_of_range_is_malformed(values: tuple[int, int]) -> None:
    def integer(value: int) -> bytes:
        data = value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)
        return bytes([2, len(data)]) + data

    body = b"".join(map(integer, values))
    with pytest.raises(DecodeError):
        read_signature(bytes([0x30, len(body)]) + body, key=ECC_KEY, hash=PcrBank.SHA256)
