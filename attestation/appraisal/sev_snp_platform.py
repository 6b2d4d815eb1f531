"""Steps of kind `sev-snp` about the machine: its key, its product, its patch level, its chip."""

from attestation.appraisal.checklist import Weakness
from attestation.appraisal.claims import Claims
from attestation.appraisal.sev_snp_refusals import (
    CertifiedTcbError,
    ChipHiddenError,
    ChipMismatchError,
    ChipNotAcceptedError,
    ExtractableKeyError,
    HostFeatureError,
    MinimumTcbMissingError,
    ProductMismatchError,
    ProductNotAcceptedError,
    SigningKeyNotAcceptedError,
    SnpTcbTooLowError,
)
from attestation.endorsements.amd import Chain
from attestation.evidence.sev_snp import Report, Signer
from attestation.evidence.sev_snp_tcb import Tcb
from attestation.policy.sev_snp import EXTRACTABLE, SevSnpPolicy


def check_signing_key(policy: SevSnpPolicy, chain: Chain) -> str:
    """Accept the kind of key and, for a VLEK, the provider whose machines all have it."""
    signing = chain.signing
    if signing.signer not in policy.signing_keys:
        raise SigningKeyNotAcceptedError(f"the policy does not accept a {_name(signing.signer)}")
    if signing.csp_id is None:
        return "the key of one chip"
    if not policy.accept_any_csp and signing.csp_id not in policy.csps:
        raise SigningKeyNotAcceptedError(f"a VLEK of {signing.csp_id!r}")
    return f"a key on any chip of {signing.csp_id!r}"


def check_certified_tcb(report: Report, chain: Chain) -> str:
    """Compare what the report says with what AMD certified: a patch level is AMD's to state."""
    if report.reported_tcb != chain.signing.tcb:
        raise CertifiedTcbError(
            f"reported {report.reported_tcb.hex()}, certified {chain.signing.tcb.hex()}"
        )
    return str(Tcb.from_bytes(chain.signing.tcb, chain.product))


def check_product(policy: SevSnpPolicy, report: Report, chain: Chain) -> str | Weakness:
    """Accept the product whose root vouches, if report and certificate speak of that one."""
    product = chain.product
    if not chain.signing.is_for(product):
        raise ProductMismatchError(
            f"a certificate for {chain.signing.product_name!r} under the root of {product.title()}"
        )
    if report.cpuid is not None and report.product is not product:
        family, model, _ = report.cpuid
        raise ProductMismatchError(
            f"a report of CPU family {family:#x}, model {model:#x}, certified as {product.title()}"
        )
    if product in EXTRACTABLE:
        if product not in policy.products_with_extractable_keys:
            raise ExtractableKeyError(f"{product.title()}: see arXiv 2605.12990")
        return Weakness(
            code="signing-key-extractable-accepted",
            detail=f"{product.title()}: the policy accepts that its host may have forged this",
        )
    if product not in policy.products:
        raise ProductNotAcceptedError(f"the policy does not name {product.value}")
    return product.title()


def check_minimum_tcb(policy: SevSnpPolicy, chain: Chain) -> str:
    """Compare the certified TCB with the policy's minimum, part by part."""
    minimum = policy.least_tcb(chain.product)
    if minimum is None:
        raise MinimumTcbMissingError(f"the policy has no minimum TCB of {chain.product.value}")
    tcb = Tcb.from_bytes(chain.signing.tcb, chain.product)
    if lacking := tcb.lacking(minimum):
        parts = ", ".join(f"{part} {tcb.parts[part]} of {minimum[part]}" for part in lacking)
        raise SnpTcbTooLowError(f"too low: {parts}")
    return "no part of the certified TCB is below the policy's minimum"


def check_chip(policy: SevSnpPolicy, report: Report, chain: Chain) -> str:
    """Compare the chip with the certificate's and accept it; a VLEK names none."""
    certified = chain.signing.chip_id
    if certified is None:
        # The provider's key is the same on all its machines: the report's word alone is not enough.
        if not policy.accept_any_chip:
            raise ChipNotAcceptedError("a VLEK does not say which chip signed")
        return "a VLEK does not say which chip signed; the policy accepts any"
    if not any(report.chip_id):
        raise ChipHiddenError("CHIP_ID is zero")
    if report.chip_id != certified:
        raise ChipMismatchError(f"reported {report.chip_id.hex()}, certified {certified.hex()}")
    if policy.accept_any_chip:
        return "the certified chip; the policy accepts any"
    for chip, proof in policy.chips:
        if chip == certified:
            return f"named by the policy, {_custody(proof)}"
    raise ChipNotAcceptedError(f"the policy does not name chip {certified.hex()}")


def check_features(policy: SevSnpPolicy, report: Report) -> str:
    """Accept a host that has switched on what the policy requires."""
    missing = [
        feature.value
        for feature in policy.required_features
        if not report.platform_info & feature.bit
    ]
    if missing:
        raise HostFeatureError(f"not on: {', '.join(missing)}")
    return f"PLATFORM_INFO {report.platform_info:#x}"


def describe(report: Report, chain: Chain) -> Claims:
    """Return what the report says, for people."""
    signing, product = chain.signing, chain.product
    tcbs = {
        "certified TCB": signing.tcb,
        "current TCB": report.current_tcb,
        "committed TCB": report.committed_tcb,
        "launch TCB": report.launch_tcb,
    }
    return {
        "product": product.title(),
        "signing key": _name(signing.signer),
        "chip": "not named by a VLEK" if signing.chip_id is None else signing.chip_id.hex(),
        **({} if signing.csp_id is None else {"provider": signing.csp_id}),
        "report version": str(report.version),
        "measurement": report.measurement.hex(),
        "host data": report.host_data.hex(),
        "guest policy": f"{report.policy:#x}",
        "guest SVN": str(report.guest_svn),
        "VMPL": str(report.vmpl),
        "platform": f"{report.platform_info:#x}",
        "firmware": ".".join(map(str, report.current_version)),
        **{name: str(Tcb.from_bytes(raw, product)) for name, raw in tcbs.items()},
    }


def _name(signer: Signer) -> str:
    return signer.value.upper()


def _custody(proof: bytes) -> str:
    return f"custody proven by sha256:{proof.hex()}" if proof else "without a proof of custody"
