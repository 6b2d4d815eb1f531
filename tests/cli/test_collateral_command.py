"""`enclave collateral`, and what `--collateral` is worth to those who judge."""

import json
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.appraisal.verifier import appraise_record
from attestation.cli.root import root
from attestation.client.keys import ClientKey
from attestation.endorsements.bundle import (
    CollateralBundle,
    CollateralSignatureError,
    CollateralSignerError,
)
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral, CollateralKind
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.bundle import EvidenceRecord
from attestation.policy.template import policy_template
from tests.receipts.signing import NOW_MS, SigningWorker
from tests.simulators.evidence import insecure_policy
from tests.simulators.vendor_services import Vendor, VendorServices, running, status

TODAY = datetime.now(UTC)
VENDOR = Vendor(TODAY)
CRL = VENDOR.crl()
OLD_CRL = VENDOR.crl(days=2)
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
ITEMS = Collateral.from_items([(CollateralKind.AMD_CRL, CRL), (CollateralKind.CRL, CRL)])
SIGNED = CollateralBundle.sign(ITEMS, gathered_at=TODAY, signer=PUBLIC, sign=KEY.sign)
AT = datetime.fromtimestamp(NOW_MS / 1000, UTC).isoformat()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A gatherer's key pair, evidence, a policy, and one bundle."""
    ClientKey.of(KEY).save(tmp_path)
    (tmp_path / "job.evidence").write_bytes(SigningWorker().record().to_bytes())
    (tmp_path / "policy.toml").write_text(policy_template(allow_insecure_evidence=True))
    (tmp_path / "today.collateral").write_bytes(SIGNED.to_bytes())
    return tmp_path


def verify(files: Path, *options: str | Path) -> Result:
    return run(
        *("verify", files / "job.evidence", "--policy", files / "policy.toml", "--at", AT),
        *options,
    )


# -- a bundle's date --


def test_a_bundle_gives_out_what_was_put_in() -> None:
    kept = CollateralBundle.from_bytes(SIGNED.to_bytes())
    assert kept.open(pinned=PUBLIC) == kept.open(pinned=None) == ITEMS
    assert abs((kept.gathered_at - TODAY).total_seconds()) < 0.001


def test_a_bundle_that_somebody_else_signed_is_refused_when_a_key_is_pinned() -> None:
    with pytest.raises(CollateralSignerError):
        SIGNED.open(pinned=bytes(32))


def test_a_key_that_is_named_without_having_signed_is_found_out() -> None:
    other = Ed25519PrivateKey.generate()
    forged = CollateralBundle.sign(ITEMS, gathered_at=TODAY, signer=PUBLIC, sign=other.sign)
    for pinned in (PUBLIC, None):
        with pytest.raises(CollateralSignatureError):
            forged.open(pinned=pinned)


@pytest.mark.parametrize("field", ["collateral", "gathered_at_ms"])
def test_neither_date_nor_content_can_be_changed(field: str) -> None:
    """An old bundle with a new date would hide what was revoked in between."""
    value = SIGNED.gathered_at_ms + 1 if field == "gathered_at_ms" else NO_COLLATERAL.to_bytes()
    changed = attrs.evolve(SIGNED, **{field: value})
    with pytest.raises(CollateralSignatureError):
        changed.open(pinned=PUBLIC)


@given(st.data())
def test_no_changed_bundle_opens(data: st.DataObject) -> None:
    honest = SIGNED.to_bytes()
    changed = bytearray(honest)
    changed[data.draw(st.integers(0, len(honest) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((DecodeError, VerificationError)):
        CollateralBundle.from_bytes(bytes(changed)).open(pinned=PUBLIC)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        CollateralBundle.from_bytes(data)


# -- whose collateral counts --


def test_what_the_judge_brings_takes_the_place_of_what_the_file_brings() -> None:
    """Otherwise a file that keeps a list from before a revocation could choose it."""
    mine = Collateral.from_items([(CollateralKind.AMD_CRL, CRL)])
    theirs = Collateral.from_items(
        [(CollateralKind.AMD_CRL, OLD_CRL), (CollateralKind.NVIDIA_RIM, b"rim")]
    )
    together = mine.over(theirs)
    assert together.of(CollateralKind.AMD_CRL) == (CRL,)
    assert together.of(CollateralKind.NVIDIA_RIM) == (b"rim",)
    assert NO_COLLATERAL.over(theirs) == theirs


def test_an_evidence_file_is_judged_with_the_collateral_that_is_kept_in_it() -> None:
    record = attrs.evolve(SigningWorker().record(), collateral=ITEMS.to_bytes())
    now = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    result = appraise_record(record, policy=insecure_policy(), nonce=record.nonce, now=now)
    assert result.collateral == ITEMS
    given_crl = Collateral.from_items([(CollateralKind.CRL, OLD_CRL)])
    again = appraise_record(
        record, policy=insecure_policy(), nonce=record.nonce, now=now, collateral=given_crl
    )
    assert again.collateral.of(CollateralKind.CRL) == (OLD_CRL,)
    assert again.collateral.of(CollateralKind.AMD_CRL) == (CRL,)


def test_an_evidence_file_with_broken_collateral_is_refused() -> None:
    record = attrs.evolve(SigningWorker().record(), collateral=b"\xff")
    with pytest.raises(DecodeError):
        appraise_record(
            EvidenceRecord.from_bytes(record.to_bytes()),
            policy=insecure_policy(),
            nonce=None,
            now=TODAY,
        )


# -- the auditor's options --


def test_a_verdict_names_the_collateral_and_whose_word_its_date_is(files: Path) -> None:
    bundle = files / "today.collateral"
    pinned = verify(files, "--collateral", bundle, "--collateral-key", files / "client.pub")
    assert pinned.exit_code == 0, pinned.output
    assert "says the pinned key" in pinned.stderr
    unpinned = verify(files, "--collateral", bundle, "--json")
    assert "do not rely on this date" in unpinned.stderr
    assert json.loads(unpinned.stdout)["collateral_digest"] == ITEMS.digest().hex()


def test_several_bundles_are_judged_with_together(files: Path) -> None:
    other = Collateral.from_items([(CollateralKind.CRL, OLD_CRL)])
    bundle = CollateralBundle.sign(other, gathered_at=TODAY, signer=PUBLIC, sign=KEY.sign)
    (files / "other.collateral").write_bytes(bundle.to_bytes())
    answer = verify(
        *(files, "--collateral", files / "today.collateral"),
        *("--collateral", files / "other.collateral", "--json"),
    )
    both = Collateral.from_items([*ITEMS.items, *other.items])
    assert json.loads(answer.stdout)["collateral_digest"] == both.digest().hex()


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "malformed"), (b"\xa0", "malformed"), (None, "unavailable")],
)
def test_collateral_that_cannot_be_read_is_not_left_out_silently(
    files: Path, content: bytes | None, code: str
) -> None:
    path = files / "broken.collateral"
    if content is not None:
        path.write_bytes(content)
    answer = verify(files, "--collateral", path)
    assert answer.exit_code != 0
    assert f"error[{code}]" in answer.stderr


def test_an_auditor_who_pins_a_gatherer_takes_nobody_elses_bundle(files: Path) -> None:
    other = Ed25519PrivateKey.generate()
    forged = CollateralBundle.sign(
        ITEMS, gathered_at=TODAY, signer=other.public_key().public_bytes_raw(), sign=other.sign
    )
    (files / "forged.collateral").write_bytes(forged.to_bytes())
    answer = verify(
        *(files, "--collateral", files / "forged.collateral"),
        *("--collateral-key", files / "client.pub"),
    )
    assert answer.exit_code == 1
    assert "collateral-signer" in answer.stderr


def test_a_receipt_is_verified_with_the_same_options(tmp_path: Path, files: Path) -> None:
    worker = SigningWorker()
    (files / "job.receipt").write_bytes(worker.issue().to_bytes())
    (files / "job.evidence").write_bytes(worker.record().to_bytes())
    answer = run(
        *("receipt", "verify", files / "job.receipt", "--evidence", files / "job.evidence"),
        *("--policy", files / "policy.toml", "--collateral", files / "today.collateral", "--json"),
    )
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document["attestation"]["collateral_digest"] == ITEMS.digest().hex()


def test_reports_are_written_for_refusals_too(files: Path) -> None:
    """A page that exists only when all is well would be taken for its own proof."""
    page, token = files / "verdict.html", files / "verdict.json"
    answer = run(
        *("verify", files / "job.evidence", "--policy", files / "policy.toml"),
        *("--at", "2020-01-01T00:00:00Z", "--html", page, "--ear", token),
    )
    assert answer.exit_code == 1
    assert "REFUSED" in page.read_text()
    assert json.loads(token.read_text())["ear_status"] == "contraindicated"


@pytest.mark.parametrize("form", ["jwt", "cwt"])
def test_a_token_is_signed_when_a_key_is_given(files: Path, form: str) -> None:
    token = files / "verdict.token"
    answer = verify(files, "--ear", token, "--ear-key", files / "client.key", "--ear-format", form)
    assert answer.exit_code == 0, answer.output
    assert token.read_bytes().startswith(b"ey" if form == "jwt" else b"\xd8\x3d\xd2\x84")
    assert b"UNSIGNED" not in token.read_bytes()


def test_a_key_without_a_token_is_a_mistake(files: Path) -> None:
    assert verify(files, "--ear-key", files / "client.key").exit_code == 2


def test_a_key_that_cannot_sign_writes_no_unsigned_token(files: Path) -> None:
    """Somebody asked for a signature: claims without one are not a lesser answer but another."""
    token = files / "verdict.token"
    answer = verify(files, "--ear", token, "--ear-key", files / "client.pub")
    assert answer.exit_code == 3
    assert not token.exists()


# -- bundle and show --


def test_files_that_somebody_has_become_a_bundle(files: Path) -> None:
    (files / "genoa.crl").write_bytes(CRL)
    (files / "chain.pem").write_bytes(VENDOR.chain_pem())
    output = files / "mine.collateral"
    answer = run(
        *("collateral", "bundle", f"amd-crl={files / 'genoa.crl'}"),
        *(f"amd-certificate={files / 'chain.pem'}", files / "today.collateral"),
        *("-o", output, "--key", files / "client.key", "--gathered-at", "2026-06-01T00:00:00Z"),
    )
    assert answer.exit_code == 0, answer.output
    bundle = CollateralBundle.from_bytes(output.read_bytes())
    held = bundle.open(pinned=PUBLIC)
    assert bundle.gathered_at.isoformat() == "2026-06-01T00:00:00+00:00"
    der = serialization.Encoding.DER
    assert set(held.of(CollateralKind.AMD_CERTIFICATE)) == {
        VENDOR.signer.public_bytes(der),
        VENDOR.root.public_bytes(der),
    }
    assert held.of(CollateralKind.CRL) == (CRL,)


@pytest.mark.parametrize(
    ("source", "code"),
    [("amd-crl=policy.toml", 1), ("gpu-driver=policy.toml", 2), ("amd-crl=missing", 3)],
)
def test_a_file_that_is_something_else_does_not_get_into_a_bundle(
    files: Path, monkeypatch: pytest.MonkeyPatch, source: str, code: int
) -> None:
    monkeypatch.chdir(files)
    assert run("collateral", "bundle", source, "-o", "out").exit_code == code
    assert not (files / "out").exists()


def test_a_bundle_signed_by_a_passing_key_says_so(files: Path) -> None:
    answer = run(
        "collateral", "bundle", files / "today.collateral", "-o", files / "again.collateral"
    )
    assert "nobody's word" in answer.stderr


def test_show_says_what_is_held_and_for_when(files: Path) -> None:
    bundle = files / "today.collateral"
    document = json.loads(run("collateral", "show", bundle, "--json").stdout)
    assert document["signer_pinned"] is False
    assert {item["kind"] for item in document["items"]} == {"amd-crl", "crl"}
    assert {item["current"] for item in document["items"]} == {"yes"}
    later = run("collateral", "show", bundle, "--json", "--at", "2040-01-01T00:00:00Z")
    assert {item["current"] for item in json.loads(later.stdout)["items"]} == {"no"}
    assert "not pinned" in run("collateral", "show", bundle).stdout


# -- fetch --


def options(services: VendorServices, files: Path) -> list[str]:
    return [
        *("--kds-url", services.url, "--cache", str(files / "cache")),
        *("--key", str(files / "client.key"), "-o", str(files / "new.collateral")),
    ]


def test_what_is_fetched_is_dated_and_signed(files: Path) -> None:
    with running(VENDOR) as services:
        answer = run("collateral", "fetch", "--amd", "genoa", *options(services, files))
    assert answer.exit_code == 0, answer.output
    bundle = CollateralBundle.from_bytes((files / "new.collateral").read_bytes())
    assert bundle.open(pinned=PUBLIC).of(CollateralKind.AMD_CRL) == (CRL,)
    assert abs((bundle.gathered_at - TODAY).total_seconds()) < 600


def test_a_vendor_that_is_down_costs_a_note_and_not_the_bundle(files: Path) -> None:
    """The cache of the first call answers; with an empty one nothing is written."""
    with running(VENDOR) as services:
        wanted = ["collateral", "fetch", "--amd", "genoa", *options(services, files)]
        assert run(*wanted).exit_code == 0
        services.fail("", status(404), times=100)
        again = run(*wanted, "--refresh")
    assert again.exit_code == 0, again.output
    assert "taken from the cache" in again.stderr


def test_what_is_missing_is_named_and_nothing_is_written(files: Path) -> None:
    with running(VENDOR) as services:
        services.fail("Turin", status(404), times=100)
        wanted = ["collateral", "fetch", "--amd", "genoa", "--amd", "turin"]
        answer = run(*wanted, *options(services, files))
        assert answer.exit_code == 3
        assert "AMD VCEK chain of Turin" in answer.stderr
        assert not (files / "new.collateral").exists()
        partial = run(*wanted, "--partial", *options(services, files))
    assert partial.exit_code == 3
    assert (files / "new.collateral").exists()


@pytest.mark.parametrize(
    "wish",
    [
        (),
        ("--amd", "Rome"),
        ("--amd-vcek", "Genoa:00:00"),
        ("--amd-vcek", "Genoa"),
        ("--intel", "tdx"),
        ("--intel", "sev:90c06f000000"),
        ("--intel", "tdx:90c06f000000:root"),
        ("--intel", "tdx:90c0"),
        ("--nvidia-rim", ""),
    ],
)
def test_a_wish_that_nobody_can_fulfil_is_a_usage_error(files: Path, wish: tuple[str, ...]) -> None:
    answer = run("collateral", "fetch", *wish, "-o", files / "new.collateral")
    assert answer.exit_code == 2
