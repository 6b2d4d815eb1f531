"""Signed manifests: one shape of XML signature, and nothing that is not signed is read."""

import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.endorsements.chains import (
    CertificateExpiredError,
    ChainInvalidError,
    ChainNotAnchoredError,
)
from attestation.endorsements.nvidia_rim import Rim, RimHead, RimKind, RimUnsupportedError
from attestation.endorsements.xml_signatures import (
    DigestMismatchError,
    XmlSignatureInvalidError,
    parse_xml,
)
from attestation.errors import DecodeError, VerificationError
from tests.simulators.nvidia import BEGINNING, DS, SWID, SimulatedNvidia, manifest, new_key

VALUE, EVIL = os.urandom(48), os.urandom(48)
NOW = BEGINNING + timedelta(days=100)

Change = Callable[[str], str]


@pytest.fixture(scope="module")
def vendor() -> SimulatedNvidia:
    return SimulatedNvidia()


@pytest.fixture(autouse=True)
def trusted(vendor: SimulatedNvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor.trust(monkeypatch)


def made(vendor: SimulatedNvidia, **changes: object) -> bytes:
    arguments = {"version": "590.48.01", "product": "GH100", "values": {3: [VALUE]}} | changes
    return manifest(vendor.signer(), **arguments)  # type: ignore[arg-type]


def replacing(before: str, after: str) -> Change:
    def change(text: str) -> str:
        assert before in text
        return text.replace(before, after, 1)

    return change


def test_a_signed_manifest_says_what_was_signed(vendor: SimulatedNvidia) -> None:
    rim = Rim.verify(made(vendor, inactive={4: [EVIL]}), now=NOW)
    assert rim.head == RimHead(kind=RimKind.DRIVER, product="GH100", version="590.48.01")
    assert rim.active == {3: {VALUE}}


@pytest.mark.parametrize(
    ("version", "edition", "kind"),
    [
        ("590.48.01", "GPU", RimKind.DRIVER),
        ("96.00.9F.00.01", "GPU", RimKind.VBIOS),
        ("96.10.55.00.01", "SWITCH", RimKind.SWITCH_BIOS),
    ],
)
def test_a_manifest_is_told_by_its_edition_and_version(
    version: str, edition: str, kind: RimKind, vendor: SimulatedNvidia
) -> None:
    assert RimHead.peek(made(vendor, version=version, edition=edition)).kind is kind


# -- what was signed --


def test_a_changed_value_is_refused(vendor: SimulatedNvidia) -> None:
    changed = made(vendor, unsigned_change=replacing(VALUE.hex(), EVIL.hex()))
    with pytest.raises(DigestMismatchError):
        Rim.verify(changed, now=NOW)


def test_a_measurement_switched_off_later_is_refused(vendor: SimulatedNvidia) -> None:
    changed = made(vendor, unsigned_change=replacing('active="True"', 'active="False"'))
    with pytest.raises(DigestMismatchError):
        Rim.verify(changed, now=NOW)


def test_text_after_the_signature_is_signed_too(vendor: SimulatedNvidia) -> None:
    changed = made(vendor, unsigned_change=replacing("</ds:Signature>", "</ds:Signature> "))
    with pytest.raises(DigestMismatchError):
        Rim.verify(changed, now=NOW)


def test_a_digest_put_in_later_is_refused(vendor: SimulatedNvidia) -> None:
    """The digest of changed content, under the signature of the old one."""
    old, new = made(vendor).decode(), made(vendor, values={3: [EVIL]}).decode()
    begin, end = "<ds:SignedInfo>", "</ds:SignedInfo>"
    info = new[new.index(begin) : new.index(end)]
    signed = old.replace(old[old.index(begin) : old.index(end)], info)
    with pytest.raises(XmlSignatureInvalidError):
        Rim.verify(signed.replace(VALUE.hex(), EVIL.hex()).encode(), now=NOW)


def test_a_signature_by_another_key_than_the_first_certificates_is_refused(
    vendor: SimulatedNvidia,
) -> None:
    with pytest.raises(XmlSignatureInvalidError):
        Rim.verify(made(vendor, key=new_key()), now=NOW)


def test_a_signers_certificate_put_in_front_is_refused(vendor: SimulatedNvidia) -> None:
    """The signature is checked under the first certificate, which the chain begins with."""
    stranger = SimulatedNvidia().signer()
    forged = manifest(stranger, version="590.48.01", product="GH100", values={3: [EVIL]})
    with pytest.raises(ChainNotAnchoredError):
        Rim.verify(forged, now=NOW)


def test_a_chain_of_the_vendors_behind_a_strangers_leaf_is_refused(
    vendor: SimulatedNvidia,
) -> None:
    stranger, genuine = SimulatedNvidia().signer(), vendor.signer()
    mixed = type(genuine)(stranger.key, stranger.certificate, genuine.above)
    forged = manifest(mixed, version="590.48.01", product="GH100", values={3: [EVIL]})
    with pytest.raises(ChainInvalidError):
        Rim.verify(forged, now=NOW)


def test_a_signer_that_has_expired_is_refused_and_was_good_before(
    vendor: SimulatedNvidia,
) -> None:
    """Time is an argument here too: XML libraries look at the clock of the day."""
    signer = vendor.signer(life=timedelta(days=10))
    data = manifest(signer, version="590.48.01", product="GH100", values={3: [VALUE]})
    assert Rim.verify(data, now=BEGINNING + timedelta(days=9)).active
    with pytest.raises(CertificateExpiredError):
        Rim.verify(data, now=NOW)


# -- shapes of signatures that verify something else than is read --


def wrapped(text: str) -> str:
    """The signed document kept inside another one, whose values are read."""
    signature = text[text.index("<ds:Signature") : text.index("</ds:Signature>") + 15]
    evil = text.replace(signature, "").replace(VALUE.hex(), EVIL.hex())
    inner = text.replace(signature, "")
    return evil.replace("</SoftwareIdentity>", f"<x>{inner}</x>{signature}</SoftwareIdentity>")


SHAPES: dict[str, Change] = {
    "no signature": lambda text: text[: text.index("<ds:Signature")] + "</SoftwareIdentity>",
    "two signatures": lambda text: text.replace(
        "</SoftwareIdentity>",
        text[text.index("<ds:Signature") : text.index("</ds:Signature>") + 15]
        + "</SoftwareIdentity>",
    ),
    "something after the signature": replacing("</ds:Signature>", "</ds:Signature><Meta></Meta>"),
    "a reference to a part": replacing('URI=""', 'URI="#payload"'),
    "a reference to another file": replacing('URI=""', 'URI="file:///etc/passwd"'),
    "a reference without URI": replacing(' URI=""', ""),
    "a typed reference": replacing('URI=""', f'URI="" Type="{DS}Object"'),
    "two references": lambda text: text.replace(
        "</ds:Reference>",
        "</ds:Reference>" + text[text.index("<ds:Reference") : text.index("</ds:Reference>") + 15],
    ),
    "an XPath transform": replacing(
        f"{DS}enveloped-signature", "http://www.w3.org/TR/1999/REC-xpath-19991116"
    ),
    "an XSLT transform": replacing(
        f"{DS}enveloped-signature", "http://www.w3.org/TR/1999/REC-xslt-19991116"
    ),
    "no enveloped transform": replacing(
        f'<ds:Transform Algorithm="{DS}enveloped-signature"></ds:Transform>', ""
    ),
    "a transform with an inside": replacing(
        f'"{DS}enveloped-signature">', f'"{DS}enveloped-signature"><x></x>'
    ),
    "exclusive canonicalisation": lambda text: text.replace(
        "http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/2001/10/xml-exc-c14n#"
    ),
    "HMAC": replacing("xmldsig-more#ecdsa-sha384", "xmldsig-more#hmac-sha384"),
    "SHA-1": replacing("http://www.w3.org/2001/04/xmldsig-more#sha384", f"{DS}sha1"),
    "a bare key": replacing("<ds:X509Data>", "<ds:KeyValue></ds:KeyValue><ds:X509Data>"),
    "an object": replacing("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object></ds:Object>"),
    "no certificate": lambda text: (
        text[: text.index("<ds:X509Certificate>")] + text[text.rindex("</ds:X509Data>") :]
    ),
    "a document type": lambda text: f"<!DOCTYPE SoftwareIdentity>{text}",
    "entities": lambda text: f'<!DOCTYPE a [<!ENTITY b "{"b" * 9}">]>{text}',
    "a comment": replacing("<Payload>", "<!-- x --><Payload>"),
    "CDATA": replacing("<Payload>", "<![CDATA[x]]><Payload>"),
    "a processing instruction": replacing("<Payload>", "<?x y?><Payload>"),
    "a style sheet": lambda text: f'<?xml-stylesheet href="x"?>{text}',
    "an xml attribute": replacing("<Payload>", '<Payload xml:base="x">'),
    "a relative namespace": replacing("<Payload>", '<Payload xmlns:x="relative">'),
    "another encoding": lambda text: f'<?xml version="1.0" encoding="UTF-7"?>{text}',
    "not XML": lambda _: "a manifest",
    "cut off": lambda text: text[:-1],
    "nothing": lambda _: "",
}


def test_a_signed_document_inside_another_is_not_what_is_read(vendor: SimulatedNvidia) -> None:
    with pytest.raises(DigestMismatchError):
        Rim.verify(made(vendor, unsigned_change=wrapped), now=NOW)


@pytest.mark.parametrize("change", SHAPES.values(), ids=list(SHAPES))
def test_no_other_shape_of_signature_is_followed(change: Change, vendor: SimulatedNvidia) -> None:
    with pytest.raises(DecodeError):
        Rim.verify(made(vendor, unsigned_change=change), now=NOW)


def test_a_declaration_of_the_encoding_changes_nothing(vendor: SimulatedNvidia) -> None:
    declaration = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
    data = made(vendor, unsigned_change=lambda text: declaration + text)
    assert Rim.verify(data, now=NOW).active


@pytest.mark.parametrize("data", [b"\xff\xfe<\0a\0>\0", b"<a>\xff</a>", b"<a>" * 300, b"<a/>" * 2])
def test_bytes_that_are_no_document_are_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_xml(data)


def test_a_document_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(DecodeError):
        parse_xml(b"<a>" + b" " * (300 << 10) + b"</a>")


# -- what a signed manifest may say --


CONTENTS: dict[str, Change] = {
    "two heads": replacing("</Meta>", '</Meta><Meta colloquialVersion="1" product="a"></Meta>'),
    "no version": replacing('colloquialVersion="590.48.01"', 'colloquialVersion=""'),
    "two lists": replacing("</Payload>", "</Payload><Payload></Payload>"),
    "one index twice": lambda text: text.replace("</Resource>", "</Resource>" + RESOURCE, 1),
    "more alternatives than it says": replacing('alternatives="1"', 'alternatives="2"'),
    "a value that is too short": replacing(VALUE.hex(), VALUE.hex()[2:]),
    "a value that is no number": replacing(VALUE.hex(), "x" * 96),
    "an index that is no number": replacing('index="3"', 'index="+3"'),
    "neither active nor not": replacing('active="True"', 'active="true"'),
    "nothing active": replacing('active="True"', 'active="False"'),
}
RESOURCE = (
    '<Resource active="True" alternatives="1" index="3" name="Measurement_3" size="48"'
    f' type="Measurement" h:Hash0="{EVIL.hex()}"></Resource>'
)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_manifest_that_contradicts_itself_is_malformed_though_signed(
    name: str, vendor: SimulatedNvidia
) -> None:
    with pytest.raises(DecodeError):
        Rim.verify(made(vendor, change=CONTENTS[name]), now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        replacing('type="Measurement"', 'type="OpaqueData"'),
        replacing(f' h:Hash0="{VALUE.hex()}"', ""),
    ],
    ids=["another type of record", "a record without a hash"],
)
def test_a_reference_value_of_an_unknown_kind_is_not_passed_over(
    change: Change, vendor: SimulatedNvidia
) -> None:
    """A floor for a security version that nobody compares would be met by everyone."""
    with pytest.raises(RimUnsupportedError):
        Rim.verify(made(vendor, change=change), now=NOW)


def test_a_manifest_is_remembered_only_with_the_bytes_that_were_signed(
    vendor: SimulatedNvidia,
) -> None:
    good = made(vendor)
    Rim.verify(good, now=NOW)
    with pytest.raises(VerificationError):
        Rim.verify(good.replace(VALUE.hex().encode(), EVIL.hex().encode()), now=NOW)
    Rim.verify(good, now=NOW)


def test_the_namespace_of_the_format_is_required(vendor: SimulatedNvidia) -> None:
    with pytest.raises(DecodeError):
        RimHead.peek(made(vendor).replace(SWID.encode(), b"urn:other"))


def test_keys_of_other_curves_sign_nothing(vendor: SimulatedNvidia) -> None:
    signer = vendor.rim_root.issue("P-256", key=ec.generate_private_key(ec.SECP256R1()))
    data = manifest(
        signer, version="590.48.01", product="GH100", values={3: [VALUE]}, key=new_key()
    )
    with pytest.raises(ChainInvalidError):
        Rim.verify(data, now=NOW)
