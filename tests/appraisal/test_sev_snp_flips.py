"""Every byte of good Evidence of kind `sev-snp`, changed: refused, or proven not to matter.

What does not matter is listed: a root that came with the Evidence counts by its public key alone,
and the pinned certificate is used in its place; so the rest of its bytes may say anything.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import attrs
import pytest

from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.result import Check, Tier
from attestation.appraisal.sev_snp import REPORT_STEPS, examine
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.errors import DecodeError
from attestation.evidence.sev_snp import REPORT_BYTES, SevSnpEvidence
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import SevSnpPolicy
from tests.simulators.amd import SimulatedAmd, SimulatedChip, collateral, der, snp_policy, trusting
from tests.simulators.evidence import NOW
from tests.vectors.sev_snp import evidence_of, vector_policy

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
MASKS = range(1, 256) if os.environ.get("EVERY_FLIP") else (0x01, 0x80)
"""EVERY_FLIP=1 changes every byte to every other value; it takes minutes."""

AMD = SimulatedAmd()
CHIP = SimulatedChip(vendor=AMD, version=5)
LEAF, ASK, ARK = AMD.certify(CHIP), der(AMD.ask), der(AMD.ark)
GOOD = CHIP.but(certificates=(LEAF, ASK, ARK)).evidence(bytes(range(64)))
CRLS = collateral(AMD.crl())


@pytest.fixture
def trusted() -> Iterator[None]:
    with trusting(AMD):
        yield


def judge(
    evidence: SevSnpEvidence,
    *,
    policy: SevSnpPolicy | None = None,
    given: Collateral = CRLS,
    now: datetime = NOW,
) -> tuple[Check, ...]:
    checks = Checklist()
    checks.announce(REPORT_STEPS)
    with suppress(CannotContinueError):
        examine(evidence, policy=policy or snp_policy(), collateral=given, now=now, checks=checks)
    return checks.finish()


def accepted(checks: tuple[Check, ...]) -> bool:
    return all(check.tier.accepted for check in checks)


def flips(data: bytes, *, stride: int = 1) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(data), stride):
        for mask in MASKS[offset % len(MASKS) :: len(MASKS)] if len(MASKS) == 2 else MASKS:
            yield offset, data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


@pytest.mark.usefixtures("trusted")
def test_the_evidence_is_good() -> None:
    assert accepted(judge(GOOD))


@pytest.mark.usefixtures("trusted")
def test_no_byte_of_the_report_can_be_changed() -> None:
    for offset, changed in flips(GOOD.report):
        checks = judge(attrs.evolve(GOOD, report=changed))
        assert any(
            check.code in ("report-signature-invalid", "malformed", "vcek-missing")
            for check in checks
        ), offset


@pytest.mark.usefixtures("trusted")
def test_no_byte_of_the_signing_certificate_can_be_changed() -> None:
    for offset, changed in flips(LEAF):
        checks = judge(attrs.evolve(GOOD, certificates=(changed, ASK, ARK)))
        assert not accepted(checks), offset


@pytest.mark.usefixtures("trusted")
def test_no_byte_of_the_intermediate_can_be_changed() -> None:
    for offset, changed in flips(ASK):
        checks = judge(attrs.evolve(GOOD, certificates=(LEAF, changed, ARK)))
        assert not accepted(checks), offset


@pytest.mark.usefixtures("trusted")
def test_a_changed_root_is_refused_or_the_pinned_one_stands_in_for_it() -> None:
    honest = judge(GOOD)
    start = ARK.index(AMD.ark.public_key().public_numbers().n.to_bytes(256, "big"))
    for offset, changed in flips(ARK, stride=3):
        checks = judge(attrs.evolve(GOOD, certificates=(LEAF, ASK, changed)))
        if start <= offset < start + 256:
            assert not accepted(checks), offset
        assert not accepted(checks) or checks == honest, offset


@pytest.mark.usefixtures("trusted")
def test_no_byte_of_the_body_can_be_changed_to_another_report() -> None:
    """The frame around the parts: a change is refused, or leaves every part as it was."""
    body = GOOD.to_bytes()
    for offset, changed in flips(body, stride=9):
        try:
            read = SevSnpEvidence.from_bytes(changed)
        except DecodeError:
            continue
        if accepted(judge(read)):
            assert (read.report, read.certificates[:2]) == (GOOD.report, (LEAF, ASK)), offset


def test_evidence_cut_anywhere_is_refused() -> None:
    body = GOOD.to_bytes()
    for length in range(len(body)):
        with pytest.raises(DecodeError):
            SevSnpEvidence.from_bytes(body[:length])


@pytest.mark.skipif(not VECTORS.exists(), reason="no shared vectors beside this checkout")
@pytest.mark.parametrize("name", ["genoa-v5-oak", "turin-v5-microsoft", "milan-v3-vlek-trustee"])
def test_no_byte_of_a_real_report_can_be_changed(name: str) -> None:
    entries = json.loads((VECTORS / "index.shared.json").read_text())["entries"]
    entry = next(entry for entry in entries if entry["name"] == name)
    files = {role: (VECTORS / path).read_bytes() for role, path in entry["files"].items()}
    good, now = evidence_of(files), datetime.fromisoformat(entry["checks"][0]["verify_at"])
    given = Collateral.from_items(
        [(CollateralKind.AMD_CRL, files["crl"])] if "crl" in files else []
    )
    policy = vector_policy(Revocation.OPTIONAL)
    assert accepted(judge(good, policy=policy, given=given, now=now))
    assert len(good.report) == REPORT_BYTES
    for offset, changed in flips(good.report, stride=7):
        checks = judge(attrs.evolve(good, report=changed), policy=policy, given=given, now=now)
        assert any(check.tier is Tier.CONTRAINDICATED for check in checks), offset
