"""Appraise one of NVIDIA's manifests by itself: for those who keep a store of them."""

from datetime import datetime
from typing import Final

from attestation.appraisal.checklist import Checklist, Step
from attestation.endorsements.nvidia_rim import check_content, signer_line

STEPS: Final = (Step.authentic("manifest certificates"), Step.authentic("manifest signature"))


def examine(data: bytes, *, now: datetime, checks: Checklist) -> None:
    """Check who signed it, and that it is what they signed: both, so that one run shows both."""
    # (1) NVIDIA's manifest CA vouches for its signer at `now`,
    checks.run(_certificates, data, now)
    # (2) and that one signed exactly this.
    checks.run(_signature, data)


def _certificates(data: bytes, now: datetime) -> str:
    return f"{len(signer_line(data, now=now))} certificates to NVIDIA's manifest CA"


def _signature(data: bytes) -> str:
    head = check_content(data)
    return f"signed as {head.kind.value} {head.version} of {head.product}"
