"""Bodies for what an Intel machine and its host send: quotes, certificates, collateral."""

from contextlib import suppress
from functools import cache

from attrs import evolve

from attestation.appraisal import tdx
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.endorsements.collateral import Collateral
from attestation.endorsements.intel_chain import split_certificates
from attestation.endorsements.intel_collateral import read_collateral
from attestation.endorsements.intel_tcb import QeIdentity, TcbInfo
from attestation.errors import DecodeError
from attestation.evidence.intel_quote import Quote
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.simulators.intel import NOW, Domain, encoded, intel, pem
from tests.simulators.intel_case import gather, tdx_policy


@cache
def evidence() -> TdxEvidence:
    """Return honest Evidence of a simulated TD, with its certificates beside it as well."""
    return TdxEvidence(quote=intel().td_quote(), certificates=encoded(*intel().chain))


@cache
def _collateral() -> Collateral:
    return gather(intel().collateral())


def records() -> list[TdxEvidence | SgxEvidence]:
    """Return one of each record."""
    return [evidence(), SgxEvidence(quote=intel().sgx_quote())]


def body_intel_quote(data: bytes) -> None:
    """A quote: what is signed is its beginning, and what follows it are zeros."""
    try:
        quote = Quote.from_bytes(data)
    except DecodeError:
        return
    REACHED["intel_quote"] += 1
    size = len(quote.signed)
    end = size + 4 + int.from_bytes(data[size : size + 4], "little")
    assert data.startswith(quote.signed)
    assert data[end - len(quote.certification.data) : end] == quote.certification.data
    assert not any(data[end:])


def body_intel_certificates(data: bytes) -> None:
    """Certificates in PEM or DER: nothing in between them that nobody reads."""
    try:
        found = split_certificates(data)
    except DecodeError:
        return
    REACHED["intel_certificates"] += 1
    assert split_certificates(b"".join(found)) == found if data[:1] == b"\x30" else found


def body_intel_collateral(data: bytes) -> None:
    """An item of collateral: the signed texts are kept as they were written."""
    try:
        collateral = read_collateral(data)
    except DecodeError:
        return
    REACHED["intel_collateral"] += 1
    assert TcbInfo.parse(collateral.tcb_info_text.text) == collateral.tcb_info
    assert QeIdentity.parse(collateral.qe_identity_text.text) == collateral.qe_identity


def body_intel_appraisal(data: bytes) -> None:
    """A verdict, never an exception; and no changed report or key is an accepted one."""
    script = Script(data)
    honest = evidence()
    changed = evolve(
        honest,
        quote=script.damaged(honest.quote),
        certificates=tuple(script.damaged(entry) for entry in honest.certificates),
    )
    checks = Checklist()
    checks.announce(tdx.REPORT_STEPS)
    with suppress(CannotContinueError):
        tdx.examine(
            changed,
            policy=tdx_policy(),
            collateral=_collateral(),
            now=NOW,
            checks=checks,
            root=lambda: intel().root.certificate,
        )
    REACHED["intel_appraisal"] += 1
    if all(check.tier.accepted for check in checks.finish()):
        made, good = Quote.from_bytes(changed.quote), Quote.from_bytes(honest.quote)
        assert (made.signed, made.attestation_key) == (good.signed, good.attestation_key)


def seeds_of_quotes() -> list[bytes]:
    tdx15 = Domain(tee_tcb_svn2=bytes(16))
    return [
        intel().sgx_quote(),
        intel().sgx_quote(version=4),
        intel().td_quote(padding=bytes(40)),
        intel().td_quote(version=5),
        intel().td_quote(tdx15, version=5),
    ]


def seeds_of_certificates() -> list[bytes]:
    return [pem(intel().chain).encode() + b"\0", b"".join(encoded(*intel().chain))]


def seeds_of_collateral() -> list[bytes]:
    return [intel().collateral(), intel().collateral("SGX")]
