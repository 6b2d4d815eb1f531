"""What each vendor's service is asked, and the items that are made of its answers.

AMD: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230),
chapter 4. Intel: PCS API v4. NVIDIA: RIM service v1, and OCSP (RFC 6960) with SHA-384.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from attestation.cli.collateral_cache import Gatherer, Wish
from attestation.cli.collateral_http import Answer, Query
from attestation.cli.collateral_windows import (
    Description,
    describe,
    pem_certificates,
    signed_text,
    signed_window,
    xml_certificates,
)
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.collateral import CollateralKind
from attestation.endorsements.nvidia_rim import rim_root
from attestation.errors import DecodeError
from attestation.evidence.sev_snp_tcb import LAYOUTS, Product

Item: TypeAlias = tuple[CollateralKind, bytes]

_DAY: Final = timedelta(days=1)

_SPL: Final[Mapping[str, str]] = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
"""What KDS calls the parts of a TCB."""

_CHIP_ID_BYTES: Final = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}
"""How much of a report's CHIP_ID names the chip; the rest is zero."""

_TCB_CHAIN: Final = "TCB-Info-Issuer-Chain"
_IDENTITY_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"
_CRL_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"


@frozen(kw_only=True)
class Services:
    """Where the vendors answer, or a mirror of them does."""

    kds_url: str = "https://kdsintf.amd.com"
    pcs_url: str = "https://api.trustedservices.intel.com"
    intel_crl_url: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    rim_url: str = "https://rim.attestation.nvidia.com"
    ocsp_url: str = "https://ocsp.ndis.nvidia.com"


# -- AMD ------------------------------------------------------------------------------------------


def gather_amd(gatherer: Gatherer, services: Services, product: Product) -> Iterator[Item]:
    """Yield the intermediates of a product and its revocation list."""
    for service in ("vcek", "vlek"):
        url = f"{services.kds_url}/{service}/v1/{product.title()}/cert_chain"
        wish = Wish(
            name=f"AMD {service.upper()} chain of {product.title()}",
            query=Query(url=url),
            read=lambda answer: _narrowest(_chain(answer)),
            young=7 * _DAY,
        )
        for der in _chain(gatherer.get(wish)):
            certificate = parse_certificate(der)
            # The root is pinned in this program; one that comes over a network is nobody's.
            if certificate.subject != certificate.issuer:
                yield CollateralKind.AMD_CERTIFICATE, der
    crl = Wish(
        name=f"AMD revocation list of {product.title()}",
        query=Query(url=f"{services.kds_url}/vcek/v1/{product.title()}/crl"),
        read=lambda answer: describe(CollateralKind.AMD_CRL, answer.data),
        young=_DAY,
    )
    yield CollateralKind.AMD_CRL, gatherer.get(crl).data


def gather_vcek(
    gatherer: Gatherer, services: Services, product: Product, chip_id: bytes, tcb: bytes
) -> Iterator[Item]:
    """Yield the certificate of one chip at one TCB; `tcb` has the 8 bytes of a report's field."""
    levels = "&".join(f"{_SPL[part]}={tcb[at]:02d}" for part, at in LAYOUTS[product].items())
    chip = chip_id[: _CHIP_ID_BYTES[product]].hex()
    wish = Wish(
        name=f"AMD VCEK of {chip_id.hex()[:16]}",
        query=Query(url=f"{services.kds_url}/vcek/v1/{product.title()}/{chip}?{levels}"),
        read=lambda answer: describe(CollateralKind.AMD_CERTIFICATE, answer.data),
        # KDS answers few questions about one chip per minute, and the same each time.
        young=30 * _DAY,
    )
    yield CollateralKind.AMD_CERTIFICATE, gatherer.get(wish).data


def _chain(answer: Answer) -> list[bytes]:
    return pem_certificates(answer.data.decode("ascii", "replace"))


# -- Intel ----------------------------------------------------------------------------------------


def gather_intel(
    gatherer: Gatherer, services: Services, tee: str, fmspc: str, ca: str
) -> Iterator[Item]:
    """Yield one item with everything that a quote of `tee` on platforms of `fmspc` needs.

    `tee` is `sgx` or `tdx`, `ca` the PCK CA: `platform` or `processor`.
    """
    base = f"{services.pcs_url}/{tee}/certification/v4"
    tcb = gatherer.get(
        _signed_wish(f"Intel TCB info of {fmspc}", f"{base}/tcb?fmspc={fmspc}", "tcbInfo")
    )
    identity = gatherer.get(
        _signed_wish(f"Intel QE identity ({tee})", f"{base}/qe/identity", "enclaveIdentity")
    )
    pck_crl = gatherer.get(
        Wish(
            name=f"Intel PCK revocation list ({ca})",
            query=Query(
                url=f"{services.pcs_url}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der",
                keep=(_CRL_CHAIN,),
            ),
            read=lambda answer: _with_chain(
                describe(CollateralKind.CRL, answer.data), answer, _CRL_CHAIN
            ),
            young=_DAY,
        )
    )
    root_crl = gatherer.get(
        Wish(
            name="Intel root revocation list",
            query=Query(url=services.intel_crl_url),
            read=lambda answer: describe(CollateralKind.CRL, answer.data),
            young=_DAY,
        )
    )
    tcb_info, tcb_signature = signed_text(tcb.data, "tcbInfo")
    qe_identity, qe_signature = signed_text(identity.data, "enclaveIdentity")
    # The members of sgx_ql_qve_collateral_t, as they are written by others too.
    document = {
        "pck_crl_issuer_chain": _header_chain(pck_crl, _CRL_CHAIN),
        "root_ca_crl": root_crl.data.hex(),
        "pck_crl": pck_crl.data.hex(),
        "tcb_info_issuer_chain": _header_chain(tcb, _TCB_CHAIN),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": _header_chain(identity, _IDENTITY_CHAIN),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_signature,
    }
    yield CollateralKind.INTEL_QUOTE_COLLATERAL, json.dumps(document, indent=1).encode()


def _signed_wish(name: str, url: str, member: str) -> Wish:
    chain = _TCB_CHAIN if member == "tcbInfo" else _IDENTITY_CHAIN

    def read(answer: Answer) -> Description:
        text, _ = signed_text(answer.data, member)
        begins, ends = signed_window(text)
        return _with_chain(Description(title=name, begins=begins, ends=ends), answer, chain)

    return Wish(name=name, query=Query(url=url, keep=(chain,)), read=read, young=_DAY)


def _with_chain(found: Description, answer: Answer, header: str) -> Description:
    chain = _narrowest(pem_certificates(_header_chain(answer, header)))
    return Description(
        title=found.title,
        begins=max(found.begins, chain.begins),
        ends=min(found.ends, chain.ends),
    )


def _header_chain(answer: Answer, header: str) -> str:
    return unquote(answer.headers.get(header, ""))


# -- NVIDIA ---------------------------------------------------------------------------------------


def gather_rim(gatherer: Gatherer, services: Services, rim_id: str) -> Iterator[Item]:
    """Yield one reference integrity manifest, and what OCSP says about who signed it."""
    wish = Wish(
        name=f"NVIDIA RIM {rim_id}",
        query=Query(url=f"{services.rim_url}/v1/rim/{quote(rim_id, safe='')}"),
        read=lambda answer: describe(CollateralKind.NVIDIA_RIM, _rim(answer)),
        # A manifest may be issued again under its id, with measurements that the first one lacked.
        young=_DAY,
        for_the_past=True,
    )
    manifest = _rim(gatherer.get(wish))
    yield CollateralKind.NVIDIA_RIM, manifest
    yield from gather_ocsp(gatherer, services, xml_certificates(manifest), root=rim_root())


def _rim(answer: Answer) -> bytes:
    try:
        document: Any = json.loads(answer.data)
        data = base64.b64decode(document["rim"], validate=True)
        wanted = document.get("sha256")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise DecodeError("not an answer of the RIM service") from error
    if isinstance(wanted, str) and hashlib.sha256(data).hexdigest() != wanted.lower():
        raise DecodeError("the manifest is not the one that the answer announces")
    return data


def gather_ocsp(
    gatherer: Gatherer,
    services: Services,
    certificates: Sequence[x509.Certificate],
    *,
    root: x509.Certificate,
) -> Iterator[Item]:
    """Yield what the OCSP service says about each of `certificates` below `root`.

    Without a nonce: an answer is kept and used by many appraisals, and dates itself.
    """
    issuers = {entry.subject: entry for entry in (*certificates, root)}
    for certificate in certificates:
        issuer = issuers.get(certificate.issuer)
        if issuer is None or certificate.issuer == certificate.subject:
            continue
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
        body = builder.build().public_bytes(serialization.Encoding.DER)
        serial = certificate.serial_number
        wish = Wish(
            name=f"NVIDIA OCSP answer about {serial:x}",
            query=Query(url=services.ocsp_url, body=body, content_type="application/ocsp-request"),
            read=lambda answer, serial=serial: _about(answer, serial),  # type: ignore[misc]
            young=timedelta(hours=1),
        )
        yield CollateralKind.NVIDIA_OCSP, gatherer.get(wish).data


def _about(answer: Answer, serial: int) -> Description:
    found = describe(CollateralKind.NVIDIA_OCSP, answer.data)
    single = next(iter(ocsp.load_der_ocsp_response(answer.data).responses))
    if single.serial_number != serial:
        raise DecodeError("an OCSP answer about another certificate")
    return found


def _narrowest(chain: Sequence[bytes]) -> Description:
    found = [describe(CollateralKind.AMD_CERTIFICATE, der) for der in chain]
    return Description(
        title=found[0].title,
        begins=max(entry.begins for entry in found),
        ends=min(entry.ends for entry in found),
    )
