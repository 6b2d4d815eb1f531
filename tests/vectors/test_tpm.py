"""Quotes of real TPMs, with the verdicts of the index that came with them.

The vectors lie beside the repository (`../shared/vectors`, licences in their index) and are skipped
with a reason where they are absent.
"""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal.pcrs import require_quote
from attestation.appraisal.tpm import verify_signature
from attestation.endorsements import gcp
from attestation.endorsements.tpm import KeyNotEndorsedError, endorse
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.evidence.event_log import EventLog
from attestation.evidence.tpm import Attest, PcrBank, Signature
from attestation.evidence.tpm_forms import read_key, read_signature
from tests.vectors import tpm
from tests.vectors.entry import read_files
from tests.vectors.run import judge_one
from tests.vectors.verdict import agrees

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="no ../shared/vectors beside this tree")

GCE, WINDOWS = "gce-cos85-no-nonce", "gcp-windows-vtpm-sha1"


@cache
def entries() -> Mapping[str, Any]:
    document = json.loads(INDEX.read_text()) if INDEX.exists() else {"entries": []}
    return {entry["name"]: entry for entry in document["entries"] if entry["kind"] in tpm.KINDS}


def files(name: str) -> dict[str, bytes]:
    return read_files(entries()[name], {}, VECTORS)


CHECKS = [
    pytest.param(name, check, id=f"{name}-{check['id']}")
    for name, entry in entries().items()
    for check in entry["checks"]
]


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_the_verdict_is_that_of_the_index(name: str, check: Mapping[str, Any]) -> None:
    got = judge_one(entries()[name], check, VECTORS)
    assert agrees(check["expected"], got), got


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


@pytest.mark.parametrize("name", [WINDOWS, "swtpm-trustee"])
def test_the_fields_are_those_of_the_index(name: str) -> None:
    if name in entries():
        check_fields(Attest.from_bytes(files(name)["attest"]), entries()[name]["expected_fields"])


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_the_fields_of_each_bank_are_those_of_the_index(bank: str) -> None:
    attest = Attest.from_bytes(files(GCE)[f"attest_{bank}"])
    check_fields(attest, entries()[GCE]["expected_fields"][bank])


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_the_log_of_a_real_boot_leads_to_the_quoted_values_in_every_bank(bank: str) -> None:
    values = json.loads(files(GCE)[f"pcrs_{bank}"])
    replayed = EventLog.from_bytes(files(GCE)["eventlog"]).replay(PcrBank(bank))
    assert set(replayed) == set(range(10))
    assert {pcr: value.hex() for pcr, value in replayed.items()} == {
        pcr: values[str(pcr)] for pcr in replayed
    }


def test_a_real_log_of_the_old_format_leads_to_the_quoted_values() -> None:
    values = json.loads(files(WINDOWS)["pcrs"])
    replayed = EventLog.from_bytes(files(WINDOWS)["eventlog"]).replay(PcrBank.SHA1)
    assert set(replayed) == {0, 4, 5, 7, 11, 12, 13, 14}
    assert all(values[str(pcr)] == value.hex() for pcr, value in replayed.items())


@pytest.mark.parametrize("name", [GCE, WINDOWS])
def test_a_real_log_cut_anywhere_never_leads_to_the_same_values(name: str) -> None:
    """Cut at the end of an event it is a log, of a boot that measured less."""
    data = files(name)["eventlog"]
    bank = PcrBank.SHA1
    whole = EventLog.from_bytes(data).replay(bank)
    for length in range(len(data) - 1, 0, -37):
        try:
            log = EventLog.from_bytes(data[:length])
        except DecodeError:
            continue
        assert log.replay(bank) != whole


def test_google_vouches_for_its_key_through_the_roots_that_are_built_in() -> None:
    ak = read_key(files(GCE)["ak_public"])
    roots = [root.public_bytes(Encoding.DER) for root in gcp.roots()]
    now = datetime.fromisoformat(entries()[GCE]["verify_at"])
    # Its intermediate is built in as well: a VM hands out the leaf alone.
    endorsement = endorse(ak, [files(GCE)["ak_cert"]], roots=roots, pinned=(), now=now)
    assert len(endorsement.path) == 3
    with pytest.raises(KeyNotEndorsedError):
        endorse(ak, [files(GCE)["ak_cert"]], roots=roots[1:], pinned=(), now=now)


def test_a_key_in_each_form_is_the_same_key() -> None:
    forms = [read_key(files(GCE)[role]) for role in ("ak_public", "ak_pem", "ak_cert")]
    size = len(files(GCE)["ak_public"]).to_bytes(2, "big")
    forms.append(read_key(size + files(GCE)["ak_public"]))
    assert len({key.spki() for key in forms}) == 1
    assert [key.attributes is None for key in forms] == [False, True, True, False]


def test_certificates_without_a_quote_are_judged_by_themselves() -> None:
    wanted = {"verify_at": "2023-01-01T00:00:00Z"}
    entry = {**entries()[GCE], "files": {"ak_cert": entries()[GCE]["files"]["ak_cert"]}}
    assert judge_one(entry, wanted, VECTORS).verdict == "authentic"
    expired = judge_one(entry, {"verify_at": "2099-01-01T00:00:00Z"}, VECTORS)
    assert (expired.verdict, expired.reasons) == ("reject", ("leaf_certificate_expired",))


def test_a_certificate_is_the_same_with_the_memory_that_it_was_kept_in() -> None:
    """Azure's vTPMs hand out what their NV index holds, zeros included; some put that into PEM."""
    data = files(GCE)["ak_cert"]
    filled = data + bytes(2048 - len(data))
    text = base64.encodebytes(filled)
    pem = b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
    assert tpm.ders(filled) == tpm.ders(pem) == [data]
    assert tpm.ders(pem + pem) == [data, data]
    assert tpm.ders(data + b"\1") == [data + b"\1"]


def test_a_quote_of_another_machine_does_not_verify() -> None:
    ak = read_key(files(GCE)["ak_public"])
    other = files("swtpm-trustee")
    with pytest.raises(SignatureInvalidError):
        verify_signature(ak, Signature.from_bytes(other["signature"]), other["attest"])


def test_real_values_under_their_own_numbers_are_accepted() -> None:
    """The renumbered vector is refused for its numbers and for nothing else."""
    [evidence] = tpm.evidence_of(files("pair-pcr-renumbered"))
    quote = require_quote(Attest.from_bytes(evidence.attest))
    honest = tuple(
        (bank, index, value)
        for (bank, index), (_, _, value) in zip(quote.selection, evidence.pcrs, strict=True)
    )
    checks = tpm.examine_one(attrs.evolve(evidence, pcrs=honest), pinned=True)
    assert all(check.tier.accepted for check in checks)


def test_a_real_certification_has_a_good_signature_and_is_still_no_quote() -> None:
    parts = files("pair-certify-as-quote")
    key = read_key(parts["ak_pem"])
    signature = read_signature(parts["signature_der"], key=key.key, hash=PcrBank.SHA256)
    verify_signature(key, signature, parts["attest"])


def test_no_flipped_byte_of_a_real_quote_is_accepted() -> None:
    """Of the quote and its signature all bytes, of the log a sample."""
    *_, evidence = tpm.evidence_of(files(GCE))
    for field, step in {"attest": 1, "signature": 1, "event_log": 301}.items():
        data = getattr(evidence, field)
        for offset in range(0, len(data), step):
            changed = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
            forged = attrs.evolve(evidence, **{field: changed})
            if all(check.tier.accepted for check in tpm.examine_one(forged)):
                assert field == "event_log"
                assert same_digests(changed, data), f"{field}, byte {offset}"


def same_digests(changed: bytes, data: bytes) -> bool:
    """Whether the quoted bank's digests are the same: kinds and descriptions measure nothing, and
    nobody quoted the other banks."""
    logs = [EventLog.from_bytes(one) for one in (changed, data)]
    first, second = ([log.digests(PcrBank.SHA384, pcr) for pcr in range(24)] for log in logs)
    return first == second


def test_every_real_quote_parses_and_no_truncation_does() -> None:
    quotes = [path for path in VECTORS.glob("*/*/*.attest") if "certify" not in path.name]
    assert len(quotes) >= 6
    for path in quotes:
        data = path.read_bytes()
        require_quote(Attest.from_bytes(data))
        for length in range(len(data)):
            with pytest.raises(DecodeError):
                Attest.from_bytes(data[:length])
