"""Bodies for what surrounds a verdict: collateral as files, signed policies, pages (bodies.py)."""

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.appraisal.page import page
from attestation.cli.collateral_cache import CachedAnswer
from attestation.cli.collateral_windows import describe, pem_certificates, signed_text
from attestation.endorsements.bundle import CollateralBundle
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.errors import DecodeError, VerificationError
from attestation.policy.loading import parse_policy
from attestation.policy.policy import Policy
from attestation.policy.signing import PolicySignatureError, sign_policy, verify_policy
from attestation.policy.template import policy_template
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.simulators.evidence import NOW
from tests.simulators.vendor_services import Vendor
from tests.simulators.verdicts import check, result

_KEY = Ed25519PrivateKey.from_private_bytes(b"6" * 32)
_PUBLIC = _KEY.public_key().public_bytes_raw()


@cache
def vendor() -> Vendor:
    """Whose collateral it is."""
    return Vendor(NOW)


@cache
def items() -> Collateral:
    """One item of most kinds."""
    return Collateral.from_items(
        [
            (CollateralKind.AMD_CRL, vendor().crl()),
            (CollateralKind.NVIDIA_RIM, vendor().rim()),
            (CollateralKind.CRL, vendor().crl(days=3)),
        ]
    )


@cache
def bundle() -> CollateralBundle:
    """Those, dated and signed."""
    return CollateralBundle.sign(items(), gathered_at=NOW, signer=_PUBLIC, sign=_KEY.sign)


@cache
def _policy() -> tuple[Policy, bytes]:
    policy = parse_policy(policy_template(allow_insecure_evidence=True), directory=Path("/nowhere"))
    return policy, sign_policy(policy, public_key=_PUBLIC, sign=_KEY.sign)


def body_collateral_bundle(data: bytes) -> None:
    """A bundle whose date is believed is the one that was signed, to the byte."""
    script = Script(data)
    changed = script.damaged(bundle().to_bytes())
    try:
        held = CollateralBundle.from_bytes(changed).open(pinned=_PUBLIC)
    except (DecodeError, VerificationError):
        assert changed != bundle().to_bytes()
        return
    REACHED["collateral_bundle"] += 1
    assert changed == bundle().to_bytes()
    assert held == items()


def body_collateral_description(data: bytes) -> None:
    """What is shown of an item, and cached by: anything may stand where collateral should."""
    script = Script(data)
    kind = script.pick(list(CollateralKind))
    try:
        found = describe(kind, script.rest())
    except DecodeError:
        return
    REACHED["collateral_description"] += 1
    assert found.title
    assert found.begins.tzinfo is not None
    assert found.ends.tzinfo is not None


def body_collateral_answer(data: bytes) -> None:
    """What Intel's service answers, and the chains in its headers."""
    try:
        text, _ = signed_text(data, "tcbInfo")
    except DecodeError:
        pass
    else:
        REACHED["collateral_answer"] += 1
        assert text.encode() in data
    try:
        assert pem_certificates(data.decode("latin-1"))
    except DecodeError:
        return


def body_policy_signature(data: bytes) -> None:
    """A signature file beside a policy: the owner's, or a refusal."""
    policy, honest = _policy()
    changed = Script(data).damaged(honest)
    try:
        verify_policy(policy, changed, public_key=_PUBLIC)
    except PolicySignatureError:
        assert changed != honest
        return
    REACHED["policy_signature"] += 1
    assert changed == honest


def body_verdict_page(data: bytes) -> None:
    """No words of a stranger bring an element, or anything unprintable, into a page."""
    word = data.decode("utf-8", "surrogateescape")
    shown = page(
        result(check(word, code=word, detail=word), kind=word, claims={word: word}), notes=[word]
    )
    REACHED["verdict_page"] += 1
    plain = page(result(check("w", code="w", detail="w"), kind="w", claims={"w": "w"}), notes=["w"])
    assert shown.count("<") == plain.count("<")
    assert shown.count('"') == plain.count('"')
    shown.encode()


def seeds_of_answers() -> list[bytes]:
    """What the services say."""
    return [vendor().signed("tcbInfo", {"id": "TDX", "fmspc": "00906ED50000"})]


def seeds_of_descriptions() -> list[bytes]:
    """An item of each kind that the simulated vendor makes; the first byte says which."""
    kinds = list(CollateralKind)
    return [bytes([kinds.index(kind)]) + data for kind, data in items().items]


def cached_answer() -> CachedAnswer:
    """A file of the cache."""
    return CachedAnswer(
        url="https://vendor.example/", fetched_at_ms=1, data=b"x", headers={"Chain": "y"}
    )
