"""Judge vectors of kind `tpm` under the index's default policy.

That policy asks only that the quoted bank is not SHA-1, so PCRs may have any value. Where an entry
brings no certificate, the key that it names is taken as pinned; roots are those that are built in.
An entry with one quote per bank is judged by the strongest, and all of them must be authentic.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.refusals import NonceMismatchError
from attestation.appraisal.result import Check, Question
from attestation.appraisal.tpm import REPORT_STEPS, examine
from attestation.endorsements import azure, gcp
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.endorsements.tpm import find_path
from attestation.errors import DecodeError
from attestation.evidence.nvidia_eat import read_json
from attestation.evidence.tpm import Attest, PcrBank, PcrRow, TpmEvidence
from attestation.evidence.tpm_forms import read_key
from attestation.policy.revocation import Revocation
from attestation.policy.tpm import TpmPolicy
from tests.vectors.entry import (
    ANY_TIME,
    RoleMissingError,
    binary,
    event_log,
    need,
    nonce_of,
    read_files,
    time_of,
)
from tests.vectors.verdict import Judged

KINDS = ("tpm",)

WORDS = {
    "ak-certificate-mismatch": "ak_certificate_mismatch",
    "ak-not-endorsed": "endorsement_missing",
    "certificate-expired": "leaf_certificate_expired",
    "certificate-not-yet-valid": "leaf_certificate_not_yet_valid",
    "chain-invalid": "ak_chain_invalid",
    "chain-not-anchored": "untrusted_root",
    "event-log-mismatch": "eventlog_mismatch",
    "nonce-mismatch": "nonce_mismatch",
    "not-a-quote": "attest_type_not_quote",
    "not-tpm-generated": "attest_magic_invalid",
    "pcr-bank-sha1": "pcr_bank_sha1",
    "pcr-digest-mismatch": "pcr_digest_mismatch",
    "revocation-invalid": "crl_signature_invalid",
    "pcr-selection-mismatch": "pcr_selection_mismatch",
    "signature-invalid": "quote_signature_invalid",
}

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")
_KEY_ROLES = frozenset({"ak_cert", "ak_public", "ak_pem"})
_NONCE = Step.authentic("nonce")
_BANKS = ("", "_sha1", "_sha256", "_sha384", "_sha512")
"""Suffixes of roles, the strongest last."""


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Return the checks on every quote of the entry."""
    files = read_files(entry, check, folder)
    quotes = list(evidence_of(files))
    if not quotes and "ak_cert" in files:
        return _certificates_alone(chain_of(files), time_of(entry, check)), WORDS
    if not quotes:
        raise RoleMissingError("no attest")
    *weaker, strongest = [
        examine_one(
            evidence,
            pinned="ak_cert" not in files,
            now=time_of(entry, check),
            nonce=nonce_of(check),
        )
        for evidence in quotes
    ]
    authentic = [one for checks in weaker for one in checks if one.question is Question.AUTHENTIC]
    return (*authentic, *strongest), WORDS


def _certificates_alone(chain: Sequence[bytes], now: datetime) -> tuple[Check, ...]:
    """Judge a key's certificates that no quote came with."""

    def lead() -> str:
        path = find_path(chain, roots=[*azure.roots(), *gcp.roots()], now=now)
        return f"{len(path)} certificates to a root that is built in"

    checks = Checklist()
    checks.announce([Step.authentic("certificates")])
    checks.run(lead)
    return checks.finish()


def evidence_of(files: Mapping[str, bytes]) -> Iterator[TpmEvidence]:
    """Yield each quote with its values, weakest bank first."""
    source = _source(files)
    for bank in _BANKS:
        if f"attest{bank}" not in files:
            continue
        attest = binary(files[f"attest{bank}"])
        values = files.get(f"pcrs{bank}")
        yield TpmEvidence(
            attest=attest,
            signature=signature_of(files, bank),
            pcrs=rows(_listed(source) if values is None else read_json(values)),
            event_log=event_log(files, "eventlog"),
            ak_public=_key(files, source),
            ak_certificates=chain_of(files),
        )


def signature_of(files: Mapping[str, bytes], bank: str = "") -> bytes:
    """Return the signature in whichever form the entry has it."""
    roles = (f"signature{bank}", "signature_der", "signature_raw", "signature_rs", "signature")
    return binary(need(files, *roles))


def chain_of(files: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Return the key's certificate and what the entry puts above it, as DER."""
    if "ak_cert" not in files:
        return ()
    above = [role for role in files if role.startswith("ak_") and role not in _KEY_ROLES]
    return tuple(one for role in ("ak_cert", *above) for one in ders(files[role]))


def ders(data: bytes) -> list[bytes]:
    """Return the certificates in a DER or PEM file, without the zeros that fill up NV memory."""
    if b"-----BEGIN" not in data:
        return [_unfilled(data)]
    try:
        return [_unfilled(base64.b64decode(text)) for text in _PEM.findall(data)]
    except binascii.Error as error:
        raise DecodeError("a PEM certificate that is not base64") from error


def _unfilled(data: bytes) -> bytes:
    if data[:2] != b"\x30\x82":
        return data
    end = 4 + int.from_bytes(data[2:4], "big")
    return data if any(data[end:]) else data[:end]


def rows(values: Mapping[str, str]) -> tuple[PcrRow, ...]:
    """Return the listed values under the numbers that they are listed under."""
    sizes = {bank.digest_bytes: bank for bank in PcrBank}
    try:
        ordered = sorted((int(index), bytes.fromhex(value)) for index, value in values.items())
        return tuple((sizes[len(value)], index, value) for index, value in ordered)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DecodeError("PCR values of another form") from error


def vector_policy(pinned: tuple[bytes, ...]) -> TpmPolicy:
    """Return the index's default policy: what it does not name, it accepts."""
    roots = [*azure.roots(), *gcp.roots()]
    return TpmPolicy(
        pcr_bank=PcrBank.SHA256,
        pcrs=(),
        accept_any_pcrs=True,
        roots=tuple(root.public_bytes(Encoding.DER) for root in roots),
        attestation_keys=pinned,
        revocation=Revocation.OPTIONAL,
    )


def check_nonce(attest: bytes, nonce: bytes) -> str:
    """Check that a quote is about exactly this nonce."""
    if Attest.from_bytes(attest).extra_data != nonce:
        raise NonceMismatchError("extraData is another")
    return "extraData is the nonce"


def examine_one(
    evidence: TpmEvidence,
    *,
    pinned: bool = False,
    now: datetime = ANY_TIME,
    nonce: bytes | None = None,
) -> tuple[Check, ...]:
    """Return the checks on one quote, whose key is taken as pinned when `pinned`."""
    checks = Checklist()
    checks.announce(REPORT_STEPS if nonce is None else [_NONCE, *REPORT_STEPS])
    # First: what is missing for the rest must not hide that the nonce is wrong.
    if nonce is not None:
        checks.run(check_nonce, evidence.attest, nonce)
    with suppress(CannotContinueError):
        examine(
            evidence,
            policy=vector_policy((read_key(evidence.ak_public).fingerprint(),) if pinned else ()),
            collateral=NO_COLLATERAL,
            now=now,
            checks=checks,
        )
    return checks.finish()


def _source(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    try:
        source = read_json(files.get("source_file", b"{}"))
    except DecodeError:
        return {}
    return source if isinstance(source, dict) else {}


def _key(files: Mapping[str, bytes], source: Mapping[str, Any]) -> bytes:
    """Return the key in whichever form the entry has it."""
    for role in ("ak_public", "ak_pem"):
        if role in files:
            return files[role]
    if "ak_cert" in files and (found := ders(files["ak_cert"])):
        return found[0]
    if not isinstance(text := source.get("ak_public"), str):
        raise RoleMissingError("no attestation key")
    return binary(text.encode())


def _listed(source: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that a source lists in order, from PCR 0 on."""
    quote = source.get("tpm_quote")
    values = quote.get("pcrs") if isinstance(quote, dict) else None
    if not isinstance(values, list):
        return {}
    return {str(index): value for index, value in enumerate(values)}
