"""Bundles, policies and Challenges as the parties of a real appraisal would make them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from attestation.encoding.digests import Label, digest
from attestation.evidence.binding import NonceTree, report_data
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from attestation.evidence.tpm import PcrBank
from attestation.policy.policy import (
    CataloguePolicy,
    EvidencePolicy,
    KeyPolicy,
    Policy,
)
from attestation.policy.revocation import Revocation
from attestation.policy.tpm import TpmPolicy

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
CATALOGUE = b"a catalogue"
CATALOGUE_DIGEST = digest(Label.CATALOGUE, CATALOGUE)


def milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def draw_keyset(
    *, now: datetime = NOW, lifetime: timedelta = timedelta(hours=1), **changes: Any
) -> KeySet:
    """Return a key set of fresh random bytes: nothing here opens what is sealed to it."""
    values: dict[str, Any] = {
        "kem_public_key": os.urandom(1216),
        "receipt_key": os.urandom(32),
        "not_before_ms": milliseconds(now),
        "not_after_ms": milliseconds(now + lifetime),
        "catalogue_digest": CATALOGUE_DIGEST,
    }
    return KeySet(**(values | changes))


def bundle_for(
    keyset: KeySet, tree: NonceTree, collect: Callable[[bytes], bytes], *, kind: str = "tpm"
) -> EvidenceBundle:
    """Return what a worker sends for `keyset` when `collect` is its hardware."""
    return EvidenceBundle(
        kind=kind,
        keyset=keyset.to_bytes(),
        nonce_root=tree.root,
        gpu_evidence=None,
        body=collect(report_data(keyset.keyset_id(), tree.root)),
    )


def collect_insecure(data: bytes) -> bytes:
    return InsecureEvidence(report_data=data).to_bytes()


def tpm_policy(
    pcrs: dict[int, Sequence[bytes]],
    *,
    roots: Sequence[bytes] = (),
    keys: Sequence[bytes] = (),
    max_age_seconds: int = 0,
    **changes: Any,
) -> Policy:
    """Return a policy for TPMs that accepts this test's catalogue only.

    Revocation lists are not asked for, since few tests hand any over; `changes` may ask.
    """
    tpm = TpmPolicy(
        pcr_bank=PcrBank.SHA256,
        pcrs=tuple((index, tuple(values)) for index, values in sorted(pcrs.items())),
        roots=tuple(roots),
        attestation_keys=tuple(keys),
        revocation=Revocation.OPTIONAL,
    )
    return Policy(
        evidence=EvidencePolicy(
            kinds=("tpm",), allow_insecure_evidence=False, max_age_seconds=max_age_seconds
        ),
        keys=KeyPolicy(max_lifetime_seconds=3600),
        catalogue=CataloguePolicy(accept_any=False, digests=(CATALOGUE_DIGEST,)),
        tpm=attrs.evolve(tpm, **changes),
    )


def insecure_policy(*, allow: bool = True) -> Policy:
    """Return a policy that spells out `insecure`, or one that names it without the word."""
    return attrs.evolve(
        tpm_policy({}),
        evidence=EvidencePolicy(
            kinds=("insecure",), allow_insecure_evidence=allow, max_age_seconds=0
        ),
        tpm=None,
    )


def fingerprint(spki: bytes) -> bytes:
    return hashlib.sha256(spki).digest()
