"""Mistakes that other systems shipped about Nitro enclaves: none of them is made here.

Each docstring names the mistake. How they are refused in detail is in test_nitro.py.
"""

from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.nitro import REPORT_STEPS, examine
from attestation.appraisal.result import Check
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.nitro import NitroEvidence
from attestation.policy.nitro import NitroPolicy
from tests.simulators.evidence import NOW
from tests.simulators.nitro import IMAGE, PCRS, SimulatedAws, SimulatedNsm

AWS = SimulatedAws()
NSM = SimulatedNsm(vendor=AWS)
POLICY = NitroPolicy(pcrs=((0, (IMAGE,)),), max_age_seconds=600)


def judge(
    nsm: SimulatedNsm = NSM, policy: NitroPolicy = POLICY, later: timedelta = timedelta()
) -> list[str]:
    """Return the codes of what was refused."""
    checks = Checklist()
    checks.announce(REPORT_STEPS)
    with suppress(CannotContinueError):
        examine(
            NitroEvidence(document=nsm.document(b"data")),
            policy=policy,
            collateral=NO_COLLATERAL,
            now=NOW + later,
            checks=checks,
            root=AWS.root,
        )
    return [check.code for check in checks.finish() if refused(check)]


def refused(check: Check) -> bool:
    return not check.tier.accepted and check.code != "not-reached"


def test_the_enclave_that_each_mistake_is_tried_on_is_accepted() -> None:
    assert judge() == []


def test_a_root_of_the_right_name_is_not_taken_for_the_root() -> None:
    """Mock roots are called what AWS's is called, and some verifiers compared names."""
    assert judge(NSM.but(vendor=SimulatedAws())) == ["chain-not-anchored"]


def test_the_root_in_the_document_is_not_taken_for_an_anchor() -> None:
    """The chain was verified up to the first certificate of the bundle, whoever made it."""
    stranger = SimulatedAws()
    ders = tuple(entry.public_bytes(Encoding.DER) for entry in stranger.line[:-1])
    assert judge(NSM.but(vendor=stranger, bundle=ders)) == ["chain-not-anchored"]


def test_a_leaf_that_follows_no_ca_is_not_taken_for_an_enclaves() -> None:
    """A signature by any certificate of the bundle was enough, whether or not it was a CA's."""
    bundle = tuple(entry.public_bytes(Encoding.DER) for entry in AWS.line[:2])
    assert judge(NSM.but(bundle=bundle)) == ["chain-invalid"]


def test_a_debug_enclave_is_not_taken_for_one_without_measurements() -> None:
    """PCRs of zero were compared with an expected value of zero, and found equal."""
    debug = NSM.but(pcrs=dict(PCRS) | dict.fromkeys((0, 1, 2), bytes(48)))
    zeros = NitroPolicy(pcrs=((0, (bytes(48),)),), max_age_seconds=600)
    assert judge(debug, zeros) == ["debug-enclave"]


def test_a_pcr_that_is_absent_is_not_taken_for_accepted() -> None:
    """A loop over the document's PCRs never noticed that the one it was for was not there."""
    fewer = {index: value for index, value in PCRS.items() if index != 0}
    assert judge(NSM.but(pcrs=fewer)) == ["pcr-not-quoted"]


def test_a_document_does_not_keep_for_the_life_of_its_chain() -> None:
    """A replayed document passed for hours, since its certificate was still alive."""
    assert judge(later=timedelta(minutes=11)) == ["document-stale"]


def test_an_expired_leaf_is_not_excused_because_documents_are_old() -> None:
    """Validity was not checked at all, because checking it as of today fails."""
    assert judge(later=timedelta(hours=4)) == ["certificate-expired", "document-stale"]


@pytest.mark.parametrize("header", [{}, {1: -7}, {1: -35, 1000: "extra"}, {1: None}])
def test_the_algorithm_is_not_taken_from_the_document(header: dict[int, object]) -> None:
    """The header chose how it was to be verified."""
    assert judge(NSM.but(header=header)) == ["malformed"]


def test_a_header_that_nobody_signed_is_refused() -> None:
    """What an unprotected header said was believed."""
    assert judge(NSM.but(unprotected={4: b"key"})) == ["malformed"]


def test_a_signature_is_checked_whoever_carries_the_document() -> None:
    """The parent instance was believed: the payload was read, and the signature was not."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert judge(NSM.but(key=stranger)) == ["signature-invalid"]
