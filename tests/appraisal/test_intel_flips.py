"""Every byte of a good quote and of its collateral, changed: refused, or proven not to matter.

What does not matter is listed. In a quote: line ends of PEM, where CR and LF mean the same. In an
item of collateral: what no signature covers and nothing here reads.
"""

import json
import os
from collections.abc import Iterator

import attrs
import pytest

from attestation.appraisal.result import Check
from attestation.errors import DecodeError
from attestation.evidence.intel_quote import Quote
from attestation.evidence.tdx import TdxEvidence
from tests.simulators.intel import Domain, intel
from tests.simulators.intel_case import examine_enclave, examine_td, gather, refused

EVERY = bool(os.environ.get("EVERY_FLIP"))
"""EVERY_FLIP=1 changes every byte to every other value; it takes an hour."""

TD = intel().td_quote()
TD15 = intel().td_quote(Domain(tee_tcb_svn2=bytes([6, 1, 3]) + bytes(13)), version=5)
ENCLAVE = intel().sgx_quote()
FOR_TDS, FOR_ENCLAVES = gather(intel().collateral()), gather(intel().collateral("SGX"))


def flips(data: bytes, *, stride: int = 1) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(data), 1 if EVERY else stride):
        for mask in range(1, 256) if EVERY else (1 << offset % 8,):
            yield offset, data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


@pytest.mark.parametrize("name", ["td", "td15", "enclave"])
def test_no_byte_of_a_quote_can_be_changed(name: str) -> None:
    """All bytes of a TD's quote; every fifth of the others, which share its parts."""
    good = {"td": TD, "td15": TD15, "enclave": ENCLAVE}[name]

    def examine(quote: bytes) -> tuple[Check, ...]:
        if name == "enclave":
            return examine_enclave(quote, FOR_ENCLAVES)[0]
        return examine_td(quote, FOR_TDS)[0]

    assert refused(examine(good)) == {}
    for offset, changed in flips(good, stride=1 if name == "td" else 5):
        checks = examine(changed)
        if not refused(checks):
            assert {good[offset], changed[offset]} <= set(b"\r\n"), offset
            assert Quote.from_bytes(changed).signed == Quote.from_bytes(good).signed


def test_a_quote_is_refused_at_every_length_but_its_own() -> None:
    for length in range(len(TD)):
        checks, _ = examine_td(TD[:length], FOR_TDS)
        assert refused(checks) == {"format": "malformed"}, length


def test_no_signed_byte_of_collateral_can_be_changed() -> None:
    item = json.loads(intel().collateral())
    for name in ("tcb_info", "qe_identity"):
        text = item[name].encode()
        for offset, changed in flips(text, stride=7):
            try:
                members = {**item, name: changed.decode()}
            except UnicodeDecodeError:
                continue  # JSON cannot hold it
            checks, _ = examine_td(TD, gather(json.dumps(members).encode()))
            assert refused(checks), (name, offset)


@pytest.mark.parametrize("name", ["tcb_info_signature", "qe_identity_signature"])
def test_no_byte_of_a_signature_in_collateral_can_be_changed(name: str) -> None:
    item = json.loads(intel().collateral())
    good = bytes.fromhex(item[name])
    for offset, changed in flips(good):
        checks, _ = examine_td(TD, gather(json.dumps({**item, name: changed.hex()}).encode()))
        assert refused(checks), offset


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_no_byte_of_a_revocation_list_can_be_changed(name: str) -> None:
    item = json.loads(intel().collateral())
    good = bytes.fromhex(item[name])
    for offset, changed in flips(good, stride=3):
        checks, _ = examine_td(TD, gather(json.dumps({**item, name: changed.hex()}).encode()))
        assert refused(checks), offset


def test_no_byte_of_the_body_can_be_changed_to_another_quote() -> None:
    """The frame around the quote: a change is refused, or leaves the quote as it was."""
    good = TdxEvidence(quote=TD)
    body = good.to_bytes()
    for offset, changed in flips(body, stride=23):
        try:
            read = TdxEvidence.from_bytes(changed)
        except DecodeError:
            continue
        if not refused(examine_td(read.quote, FOR_TDS, **_beside(read))[0]):
            assert Quote.from_bytes(read.quote).signed == Quote.from_bytes(TD).signed, offset


def _beside(evidence: TdxEvidence) -> dict[str, object]:
    members = attrs.asdict(evidence)
    return {name: members[name] for name in ("certificates", "event_log")}
