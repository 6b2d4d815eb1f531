"""Bodies for what virtual TPMs, enclaves and boots say of themselves (bodies.py)."""

from functools import cache

import cbor2

from attestation.encoding import foreign_cbor
from attestation.encoding.record import Record
from attestation.errors import DecodeError
from attestation.evidence.azure_vtpm import (
    AzureTdxVtpmEvidence,
    HclReport,
    read_runtime_data,
)
from attestation.evidence.event_log import EventLog
from attestation.evidence.nitro import NitroDocument, NitroEvidence
from attestation.evidence.tpm import PcrBank, PcrQuote
from attestation.evidence.tpm_forms import read_key, read_signature
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.simulators.amd import SimulatedChip
from tests.simulators.azure import SimulatedParavisor
from tests.simulators.event_log import BOOT, agile_log, old_log
from tests.simulators.nitro import SimulatedNsm, indefinite
from tests.simulators.tpm import RsaTpm, SimulatedTpm


@cache
def rsa_tpm() -> RsaTpm:
    return RsaTpm()


@cache
def nsm() -> SimulatedNsm:
    return SimulatedNsm()


def evidence() -> list[Record]:
    """One of each record of these kinds."""
    snp = SimulatedParavisor(chip=SimulatedChip(), tpm=rsa_tpm()).evidence(bytes(64))
    quote = {
        "attest": snp.attest,
        "signature": snp.signature,
        "pcrs": snp.pcrs,
        "event_log": agile_log(BOOT),
    }
    return [
        PcrQuote(**quote),
        NitroEvidence(document=nsm().document(bytes(64))),
        snp,
        AzureTdxVtpmEvidence(
            **quote, hcl_report=snp.hcl_report, td_quote=b"quote", ak_certificates=()
        ),
    ]


def body_foreign_cbor(data: bytes) -> None:
    """CBOR in any encoding: what is read is what another decoder reads."""
    try:
        value = foreign_cbor.decode(data, limit=len(data))
    except DecodeError:
        return
    REACHED["foreign_cbor"] += 1
    if not tagged(value):  # the other one makes dates and numbers of what it knows
        assert plain(value) == plain(cbor2.loads(data))


def body_nitro_document(data: bytes) -> None:
    """A document parses, and then all that is signed is in what the signature is over."""
    try:
        document = NitroDocument.from_bytes(data)
    except DecodeError:
        return
    REACHED["nitro_document"] += 1
    assert document.certificate in document.signed
    assert document.user_data is None or document.user_data in document.signed


def body_event_log(data: bytes) -> None:
    """A log parses, and replays in each of its banks."""
    try:
        log = EventLog.from_bytes(data)
    except DecodeError:
        return
    REACHED["event_log"] += 1
    for bank in log.banks:
        assert all(len(value) == bank.digest_bytes for value in log.replay(bank).values())


def body_hcl_report(data: bytes) -> None:
    """A paravisor's report parses, and so does its text, or not."""
    try:
        runtime = read_runtime_data(data)
        if data.startswith(b"HCLA"):
            assert HclReport.from_bytes(data).runtime == runtime
        claims = runtime.claims()
    except DecodeError:
        return
    REACHED["hcl_report"] += 1
    assert claims.ak.attributes is None
    assert all(value.isprintable() for value in claims.configuration().values())


def body_tpm_key(data: bytes) -> None:
    """A key in any form that tools hand it over in."""
    try:
        key = read_key(data)
    except DecodeError:
        return
    REACHED["tpm_key"] += 1
    assert read_key(key.spki()).fingerprint() == key.fingerprint()


def body_tpm_signature_form(data: bytes) -> None:
    """A signature in any form, by a key of either kind."""
    script = Script(data)
    tpm = SimulatedTpm()
    key = script.pick([rsa_tpm().rsa_key.public_key(), tpm.key.public_key()])
    try:
        signature = read_signature(script.rest(), key=key, hash=PcrBank.SHA256)
    except DecodeError:
        return
    REACHED["tpm_signature_form"] += 1
    assert 1 <= len(signature.values) <= 2


def tagged(value: object) -> bool:
    """Whether there is a tag anywhere in it."""
    match value:
        case foreign_cbor.Tagged():
            return True
        case list():
            return any(map(tagged, value))
        case dict():
            return any(map(tagged, value.values()))
    return False


def plain(value: object) -> object:
    """Tell 1, True and 1.0 apart, which Python takes for equal."""
    match value:
        case list() | tuple():
            return [plain(one) for one in value]
        case dict():
            return [(plain(name), plain(one)) for name, one in value.items()]
    return type(value).__name__, value


def seeds_of_foreign_cbor() -> list[bytes]:
    """Every kind of item, in short, long and indefinite forms."""
    chunks = b"\x5f\x41a\x58\x01b\xff"
    return [
        b"\x18\x01",
        b"\x9f\x01\x20\xff",
        indefinite({"a": b"b", "n": None, "t": True}),
        chunks,
        cbor2.dumps({1: -35, "x": [b"", "text", {}]}),
    ]


def seeds_of_documents() -> list[bytes]:
    """A document, tagged and not."""
    document = nsm().document(bytes(64))
    return [document, b"\xd2" + document, nsm().but(encode=indefinite).document(None)]


def seeds_of_logs() -> list[bytes]:
    """Both formats."""
    return [agile_log(BOOT), agile_log(BOOT, ("sha384", "sm3_256")), old_log(BOOT)]


def seeds_of_reports() -> list[bytes]:
    """A whole report, and its runtime data alone."""
    paravisor = SimulatedParavisor(chip=SimulatedChip(), tpm=rsa_tpm())
    return [paravisor.hcl_report(), paravisor.request_data(paravisor.runtime_text())]


def seeds_of_keys() -> list[bytes]:
    """The forms that keep a key's attributes, and one that does not."""
    public = rsa_tpm().public()
    return [public, len(public).to_bytes(2, "big") + public, rsa_tpm().spki()]


def seeds_of_signatures() -> list[bytes]:
    """A TPM's own form and a bare one, by an RSA key; and of an elliptic curve."""
    tpm = SimulatedTpm()
    return [
        b"\0" + rsa_tpm().sign(b"data"),
        b"\0" + rsa_tpm().bare_signature(b"data"),
        b"\1" + tpm.sign(b"data"),
        b"\1" + bytes(64),
        b"\1\x30\x06\x02\x01\x01\x02\x01\x01",
    ]
