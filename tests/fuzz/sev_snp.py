"""Bodies for what an AMD machine and its host send: report, certificate table, certificates."""

from contextlib import suppress
from functools import cache

from attrs import evolve

from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.sev_snp import REPORT_STEPS, examine
from attestation.endorsements.amd import read_certificates
from attestation.endorsements.amd_signing_key import SigningCertificate
from attestation.endorsements.collateral import Collateral
from attestation.endorsements.revocation import parse_crl
from attestation.errors import DecodeError
from attestation.evidence.sev_snp import REPORT_BYTES, SIGNED_BYTES, Report
from attestation.evidence.sev_snp_table import CertificateTable
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.simulators.amd import (
    VCEK_GUID,
    SimulatedChip,
    collateral,
    snp_policy,
    table,
    trusting,
)
from tests.simulators.evidence import NOW


@cache
def chip() -> SimulatedChip:
    """A chip of a simulated AMD, whose host hands out a certificate table."""
    made = SimulatedChip(version=5)
    return made.but(table=table((VCEK_GUID, made.vendor.certify(made))))


def body_sev_snp_report(data: bytes) -> None:
    """A report has one length, and nothing in the part that no signature covers."""
    try:
        report = Report.from_bytes(data)
    except DecodeError:
        return
    REACHED["sev_snp_report"] += 1
    assert len(data) == REPORT_BYTES
    assert report.signed == data[:SIGNED_BYTES]
    r, s = report.signature
    assert data[SIGNED_BYTES:] == r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def body_sev_snp_table(data: bytes) -> None:
    """A host's table: what is taken out of it was in it."""
    try:
        found = CertificateTable.from_bytes(data)
    except DecodeError:
        return
    REACHED["sev_snp_table"] += 1
    assert all(content in data for content in (*found.certificates, *found.crls))


def body_sev_snp_certificate(data: bytes) -> None:
    """A certificate in DER or some in PEM, each of them with AMD's extensions."""
    try:
        found = [SigningCertificate.of(entry) for entry in read_certificates(data)]
    except DecodeError:
        return
    REACHED["sev_snp_certificate"] += 1
    assert all((entry.hardware_id is None) is not (entry.csp_id is None) for entry in found)


def body_revocation_list(data: bytes) -> None:
    """A revocation list in DER or PEM, whose window can be read."""
    try:
        crl = parse_crl(data)
    except DecodeError:
        return
    REACHED["revocation_list"] += 1
    assert crl.last_update_utc.tzinfo is not None


def seeds_of_certificates() -> list[bytes]:
    return [chip().vendor.certify(chip())]


def seeds_of_lists() -> list[bytes]:
    amd = chip().vendor
    return [amd.crl(), amd.crl(amd.ask)]


def body_sev_snp_appraisal(data: bytes) -> None:
    """A verdict, never an exception; and no changed report or key is an accepted one."""
    script = Script(data)
    honest = chip().evidence(bytes(64))
    changed = evolve(
        honest,
        report=script.damaged(honest.report)[:REPORT_BYTES].ljust(REPORT_BYTES, b"\0"),
        certificates=tuple(script.damaged(entry) for entry in honest.certificates),
        certificate_table=script.damaged(honest.certificate_table),
    )
    checks = Checklist()
    checks.announce(REPORT_STEPS)
    with trusting(chip().vendor), suppress(CannotContinueError):
        examine(changed, policy=snp_policy(), collateral=_collateral(), now=NOW, checks=checks)
    REACHED["sev_snp_appraisal"] += 1
    if all(check.tier.accepted for check in checks.finish()):
        assert changed.report == honest.report
        assert {*changed.certificates, honest.certificates[0]} - set(honest.certificates) == set()


@cache
def _collateral() -> Collateral:
    return collateral(chip().vendor.crl())
