"""Quotes of real TPMs, with the verdicts of the index that came with them.

The vectors lie beside the repository (`../shared/vectors`, licences in their index) and are skipped
with a reason where they are absent. They were made for other protocols, so what is checked is the
steps that do not depend on our binding: type, signature, PCR selection, digest, endorsement.
"""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.appraisal.refusals import NotAQuoteError, SelectionMismatchError, WeakHashError
from attestation.appraisal.tpm import (
    check_attributes,
    check_values,
    require_quote,
    verify_signature,
)
from attestation.endorsements.tpm import KeyNotEndorsedError, endorse
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.evidence.tpm import (
    Attest,
    Attributes,
    PcrBank,
    PcrRow,
    Public,
    Scheme,
    Signature,
)

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="no ../shared/vectors beside this tree")

GCE = "gce-cos85-no-nonce"


@cache
def entries() -> Mapping[str, Any]:
    document = json.loads(INDEX.read_text())
    return {entry["name"]: entry for entry in document.get("entries") or document["vectors"]}


def read(name: str, role: str) -> bytes:
    return (VECTORS / entries()[name]["files"][role]).read_bytes()


def der(data: bytes) -> bytes:
    if b"-----BEGIN" not in data:
        return data
    return x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)


def ecdsa(signature: bytes) -> Signature:
    """A signature that its source kept as DER; in a TPMT_SIGNATURE it is r and s."""
    r, s = decode_dss_signature(signature)
    values = (r.to_bytes(32, "big"), s.to_bytes(32, "big"))
    return Signature(scheme=Scheme.ECDSA, hash=PcrBank.SHA256, values=values)


def public(key: Any) -> Public:
    return Public(attributes=Attributes(0), scheme=None, key=key)


def rows(quote_bank: PcrBank, values: Mapping[str, str]) -> tuple[PcrRow, ...]:
    ordered = sorted((int(index), bytes.fromhex(value)) for index, value in values.items())
    return tuple((quote_bank, index, value) for index, value in ordered)


def check_fields(attest: Attest, expected: Mapping[str, Any]) -> None:
    assert attest.extra_data.hex() == expected["extra_data"]
    assert attest.qualified_signer.hex() == expected["qualified_signer"]
    assert (attest.clock, attest.reset_count, attest.restart_count, attest.safe) == (
        expected["clock"],
        expected["reset_count"],
        expected["restart_count"],
        bool(expected["safe"]),
    )
    assert f"{attest.firmware_version:016x}" == expected["firmware_version"]
    quote = require_quote(attest)
    assert quote.pcr_digest.hex() == expected["pcr_digest"]
    assert [(bank.value, index) for bank, index in quote.selection] == [
        (bank["bank"], index) for bank in expected["pcr_selection"] for index in bank["pcrs"]
    ]


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_google_compute_engine_quotes_verify_in_every_bank(bank: str) -> None:
    """All three are signed over SHA-256: the digest takes the scheme's hash, not the bank's."""
    attest = Attest.from_bytes(read(GCE, f"attest_{bank}"))
    check_fields(attest, entries()[GCE]["expected_fields"][bank])
    ak = Public.from_bytes(read(GCE, "ak_public"))
    signature = Signature.from_bytes(read(GCE, f"signature_{bank}"))
    verify_signature(ak, signature, read(GCE, f"attest_{bank}"))
    check_attributes(ak)
    values = rows(PcrBank(bank), json.loads(read(GCE, f"pcrs_{bank}")))
    check_values(require_quote(attest), values, signature)


@pytest.mark.parametrize("anchor", ["ak_root", "ak_issuer"])
def test_google_vouches_for_its_attestation_key_at_that_time(anchor: str) -> None:
    ak = Public.from_bytes(read(GCE, "ak_public"))
    chain = [der(read(GCE, "ak_cert")), der(read(GCE, "ak_issuer"))]
    now = datetime.fromisoformat(entries()[GCE]["verify_at"])
    endorse(ak, chain, roots=[der(read(GCE, anchor))], pinned=(), now=now)
    with pytest.raises(KeyNotEndorsedError):
        endorse(ak, chain[:1], roots=[der(read(GCE, "ak_root"))], pinned=(), now=now)


def test_a_quote_signed_over_sha1_is_refused() -> None:
    name = "gcp-windows-vtpm-sha1"
    attest = Attest.from_bytes(read(name, "attest"))
    check_fields(attest, entries()[name]["expected_fields"])
    ak = Public.from_bytes(read(name, "ak_public"))
    signature = Signature.from_bytes(read(name, "signature"))
    with pytest.raises(WeakHashError):
        verify_signature(ak, signature, read(name, "attest"))
    check_values(
        require_quote(attest), rows(PcrBank.SHA1, json.loads(read(name, "pcrs"))), signature
    )


def test_a_software_tpms_quote_verifies_under_its_key() -> None:
    name = "swtpm-trustee"
    attest = Attest.from_bytes(read(name, "attest"))
    check_fields(attest, entries()[name]["expected_fields"])
    source = json.loads(read(name, "source_file"))
    key = serialization.load_der_public_key(base64.b64decode(source["ak_public"]))
    assert isinstance(key, rsa.RSAPublicKey)
    signature = Signature.from_bytes(read(name, "signature"))
    verify_signature(public(key), signature, read(name, "attest"))
    values = dict(enumerate(source["tpm_quote"]["pcrs"]))
    pcrs = rows(PcrBank.SHA256, {str(index): value for index, value in values.items()})
    check_values(require_quote(attest), pcrs, signature)


def test_real_values_under_other_pcr_numbers_are_refused() -> None:
    name = "pair-pcr-renumbered"
    quote = require_quote(Attest.from_bytes(read(name, "attest")))
    signature = ecdsa(read(name, "signature_der"))
    key = serialization.load_pem_public_key(read(name, "ak_pem"))
    verify_signature(public(key), signature, read(name, "attest"))
    shown = rows(PcrBank.SHA256, json.loads(read(name, "pcrs")))
    with pytest.raises(SelectionMismatchError):
        check_values(quote, shown, signature)
    renumbered = zip(quote.selection, shown, strict=True)
    honest = tuple((bank, index, value) for (bank, index), (_, _, value) in renumbered)
    check_values(quote, honest, signature)


def test_a_real_certification_is_not_a_quote_though_its_signature_is_good() -> None:
    name = "pair-certify-as-quote"
    key = serialization.load_pem_public_key(read(name, "ak_pem"))
    verify_signature(public(key), ecdsa(read(name, "signature_der")), read(name, "attest"))
    with pytest.raises(NotAQuoteError):
        require_quote(Attest.from_bytes(read(name, "attest")))


def test_a_quote_of_another_machine_does_not_verify() -> None:
    ak = Public.from_bytes(read(GCE, "ak_public"))
    other = "swtpm-trustee"
    with pytest.raises(SignatureInvalidError):
        verify_signature(ak, Signature.from_bytes(read(other, "signature")), read(other, "attest"))


def test_every_real_quote_parses_and_no_truncation_does() -> None:
    quotes = [path for path in VECTORS.glob("*/*/*.attest") if "certify" not in path.name]
    assert len(quotes) >= 6
    for path in quotes:
        data = path.read_bytes()
        require_quote(Attest.from_bytes(data))
        for length in range(len(data)):
            with pytest.raises(DecodeError):
                Attest.from_bytes(data[:length])
