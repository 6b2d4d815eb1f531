"""One item of Intel collateral: TCB info, QE identity and both revocation lists, for one platform.

The JSON around them is what dcap-qvl and others write (`QuoteCollateralV3`, after Intel's
`sgx_ql_qve_collateral_t`). It is signed by nobody. Inside are the exact texts that Intel signed,
and each is believed for what its signature covers: so an item may come from anywhere.
"""

from binascii import a2b_hex
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, Self

from attrs import field, frozen
from cryptography import x509

from attestation import limits
from attestation.endorsements.intel_chain import (
    PckChain,
    public_key,
    split_certificates,
    verify_p256,
    verify_tcb_signer,
)
from attestation.endorsements.intel_json import Node
from attestation.endorsements.intel_pck import PckCa, read_pck_ca
from attestation.endorsements.intel_tcb import QeIdentity, TcbInfo
from attestation.endorsements.revocation import parse_crl
from attestation.errors import DecodeError, MissingError, VerificationError
from attestation.evidence.intel_quote import Tee

_PEM_MARK: Final = b"-----BEGIN"


class CollateralMissingError(MissingError):
    """There is no Intel collateral for this platform. Gather it for the FMSPC, then try again."""

    code = "intel-collateral-missing"


class CollateralMismatchError(VerificationError):
    """The Intel collateral is of another TEE, PCE or PCK CA. Gather that of this platform."""

    code = "intel-collateral-mismatch"


class FmspcMismatchError(CollateralMismatchError):
    """The Intel collateral is of another kind of platform. Gather that of this FMSPC."""

    code = "fmspc-mismatch"


class TextExpiredError(VerificationError):
    """Intel's text is past its nextUpdate at that time. Gather a current one."""

    code = "intel-text-expired"


class TextNotYetValidError(VerificationError):
    """Intel's text was issued later than that time. Compare the time given with the record's."""

    code = "intel-text-not-yet-valid"


@frozen(kw_only=True)
class SignedText:
    """A text of Intel's, byte for byte, with the signature over it and the signer's chain."""

    text: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def read(cls, node: Node, name: str) -> Self:
        """Read the three members of `name`, or raise `DecodeError`."""
        return cls(
            text=_encoded(node, name),
            signature=node.octets(f"{name}_signature", 64),
            certificates=_chain(node, f"{name}_issuer_chain"),
        )


@frozen(kw_only=True)
class QuoteCollateral:
    """One item, parsed and not yet believed."""

    tcb_info: TcbInfo
    tcb_info_text: SignedText
    qe_identity: QeIdentity
    qe_identity_text: SignedText
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    pck_crl_ca: PckCa | None
    """Which PCK CA the list says it is of; None where there is no list."""
    pck_certificates: tuple[bytes, ...] = field(repr=False)
    """A PCK chain, which some tools add for quotes that do not hold it."""

    def signers(self, *, root: x509.Certificate, now: datetime) -> tuple[x509.Certificate, ...]:
        """Return the certificates that signed the two texts, which may be one."""
        texts = (self.tcb_info_text, self.qe_identity_text)
        signers = (verify_tcb_signer(text.certificates, root=root, now=now) for text in texts)
        return tuple(dict.fromkeys(signers))

    def check_tcb_info(self, *, root: x509.Certificate, now: datetime) -> None:
        """Raise unless Intel signed the TCB info and `now` is in its window."""
        _check_text(self.tcb_info_text, root=root, now=now)
        _check_window(self.tcb_info, now)

    def check_qe_identity(self, *, root: x509.Certificate, now: datetime) -> None:
        """Raise unless Intel signed the QE identity and `now` is in its window."""
        _check_text(self.qe_identity_text, root=root, now=now)
        _check_window(self.qe_identity, now)


@lru_cache(maxsize=64)
def read_collateral(data: bytes) -> QuoteCollateral:
    """Parse one item, or raise `DecodeError`. What was parsed is remembered by its exact bytes."""
    if len(data) > limits.INTEL_COLLATERAL_BYTES:
        raise DecodeError(f"{len(data)} bytes of Intel collateral")
    node = Node.parse(data)
    tcb_info, qe_identity = (SignedText.read(node, name) for name in ("tcb_info", "qe_identity"))
    pck_crl = _list(node, "pck_crl")
    extra = "pck_certificate_chain"
    return QuoteCollateral(
        tcb_info=TcbInfo.parse(tcb_info.text),
        tcb_info_text=tcb_info,
        qe_identity=QeIdentity.parse(qe_identity.text),
        qe_identity_text=qe_identity,
        root_ca_crl=_list(node, "root_ca_crl"),
        pck_crl=pck_crl,
        pck_crl_ca=_crl_ca(pck_crl),
        pck_certificates=_chain(node, extra) if node.has(extra) else (),
    )


def select_collateral(
    items: Sequence[bytes], *, chain: PckChain, tee: Tee, root: x509.Certificate, now: datetime
) -> QuoteCollateral:
    """Return the item for this platform; of several, the newest that Intel signed and that holds.

    Raises `CollateralMissingError` without any. A single item that is of something else was meant
    for this quote and is `CollateralMismatchError` or, unreadable, `DecodeError`; of many, those of
    other platforms and those that nobody can read are passed over.
    """
    fitting: list[QuoteCollateral] = []
    for item in items:
        try:
            collateral = read_collateral(item)
            _check_fits(collateral, chain, tee)
        except (DecodeError, CollateralMismatchError):
            if len(items) == 1:
                raise
            continue
        fitting.append(collateral)
    if not fitting:
        count = f"{len(items)} items" if items else "no item"
        raise CollateralMissingError(f"{count} for {tee} on FMSPC {chain.pck.fmspc.hex()}")
    if len(fitting) == 1:
        return fitting[0]
    # Anyone can write a high number into an item, so only those count that Intel signed.
    holding = [entry for entry in fitting if _holds(entry, root=root, now=now)]
    return max(holding or fitting, key=_age)


def _holds(collateral: QuoteCollateral, *, root: x509.Certificate, now: datetime) -> bool:
    try:
        collateral.check_tcb_info(root=root, now=now)
        collateral.check_qe_identity(root=root, now=now)
    except (DecodeError, VerificationError):
        return False
    return True


def _age(collateral: QuoteCollateral) -> tuple[int, datetime]:
    return collateral.tcb_info.evaluation_number, collateral.tcb_info.issue_date


def _check_fits(collateral: QuoteCollateral, chain: PckChain, tee: Tee) -> None:
    info, pck = collateral.tcb_info, chain.pck
    if info.tee is not tee or collateral.qe_identity.tee is not tee:
        raise CollateralMismatchError(f"collateral of {info.tee} for a quote of {tee}")
    if info.fmspc != pck.fmspc:
        raise FmspcMismatchError(f"of {info.fmspc.hex()}, the platform is {pck.fmspc.hex()}")
    if info.pce_id != pck.pce_id:
        raise CollateralMismatchError("collateral of another PCE")
    if collateral.pck_crl_ca not in (None, chain.ca):
        raise CollateralMismatchError("a revocation list of the other PCK CA")


def _check_text(signed: SignedText, *, root: x509.Certificate, now: datetime) -> None:
    _check_signature(signed, verify_tcb_signer(signed.certificates, root=root, now=now))


@lru_cache(maxsize=128)
def _check_signature(signed: SignedText, signer: x509.Certificate) -> None:
    verify_p256(public_key(signer), signed.signature, signed.text)


def _check_window(text: TcbInfo | QeIdentity, now: datetime) -> None:
    if now < text.issue_date:
        raise TextNotYetValidError(f"issued at {text.issue_date.isoformat()}")
    if now > text.next_update:
        raise TextExpiredError(f"to be renewed by {text.next_update.isoformat()}")


def _encoded(node: Node, name: str) -> bytes:
    try:
        return node.text(name).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
        raise DecodeError(f"{name} is not Unicode") from error


def _chain(node: Node, name: str) -> tuple[bytes, ...]:
    return split_certificates(_encoded(node, name))


def _list(node: Node, name: str) -> bytes:
    """Read a revocation list: DER in hexadecimal, or PEM; empty where there is none."""
    if not node.has(name):
        return b""
    text = _encoded(node, name)
    if text.startswith(_PEM_MARK):
        return text
    try:
        return a2b_hex(text)
    except ValueError as error:
        raise DecodeError(f"{name} is neither PEM nor hexadecimal") from error


def _crl_ca(crl: bytes) -> PckCa | None:
    if not crl:
        return None
    try:
        ca = read_pck_ca(parse_crl(crl).issuer)
    except ValueError as error:
        raise DecodeError("a revocation list with a name that cannot be read") from error
    if ca is None:
        raise DecodeError("a PCK revocation list that is not of a PCK CA")
    return ca
