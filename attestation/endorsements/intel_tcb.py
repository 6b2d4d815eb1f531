"""What Intel says about platforms and quoting enclaves: TCB info and QE identity.

Members are those of the Intel SGX and TDX Provisioning Certification Service API, versions 3 and 4:
"TCBInfo V2" and "V3", "EnclaveIdentityV2". Levels are sorted highest first, as Intel's own library
does, whatever the order in the text: the first that a platform reaches is the one that applies.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from attrs import frozen

from attestation.endorsements.intel_json import Node
from attestation.endorsements.intel_pck import FMSPC_BYTES, PCE_ID_BYTES
from attestation.errors import DecodeError
from attestation.evidence.intel_quote import Tee
from attestation.evidence.intel_quote_bodies import SVN_COMPONENTS, TD_MEASUREMENT_BYTES

EVALUATION_NUMBER_MAX: Final = 0xFFFF_FFFF


class TcbStatus(StrEnum):
    """How far a platform is behind, in Intel's words; see Intel's "TCB status" for each."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    NOT_SUPPORTED = "NotSupported"
    """Below every level that Intel lists. Not a status of the service: what a verifier finds."""


_FOUND: Final = frozenset(
    {
        TcbStatus.TD_RELAUNCH_ADVISED,
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        TcbStatus.NOT_SUPPORTED,
    }
)
"""Statuses that no signed text may claim."""


@frozen(kw_only=True)
class Standing:
    """A status and what it is about."""

    status: TcbStatus
    advisories: tuple[str, ...]
    date: str
    """When Intel published the level; empty where none applies."""


NOT_SUPPORTED: Final = Standing(status=TcbStatus.NOT_SUPPORTED, advisories=(), date="")


@frozen(kw_only=True)
class TcbLevel:
    """One level of a platform. `tdx` is empty in TCB info of SGX."""

    sgx: bytes
    tdx: bytes
    pce_svn: int
    standing: Standing


@frozen(kw_only=True)
class SvnLevel:
    """One level of something that has a single SVN: a quoting enclave, or a TDX module."""

    isv_svn: int
    standing: Standing


@frozen(kw_only=True)
class ModuleIdentity:
    """Who must have signed a TDX module, and its levels; the old kind of entry has none."""

    mr_signer: bytes
    attributes: int
    attributes_mask: int
    levels: tuple[SvnLevel, ...]


@frozen(kw_only=True)
class TcbInfo:
    """TCB info of one kind of platform. `module` and `module_identities` are of TDX only."""

    tee: Tee
    issue_date: datetime
    next_update: datetime
    evaluation_number: int
    fmspc: bytes
    pce_id: bytes
    levels: tuple[TcbLevel, ...]
    module: ModuleIdentity | None
    module_identities: Mapping[str, ModuleIdentity]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse the signed text, or raise `DecodeError`."""
        node = Node.parse(text)
        version = node.uint("version", 0xFF)
        if version not in (2, 3) or (version == 3) != node.has("id"):
            raise DecodeError(f"TCB info of version {version}")
        if node.uint("tcbType", 0xFF):
            raise DecodeError("TCB info whose components are in an order that we do not know")
        tee = _tee(node.text("id")) if version == 3 else Tee.SGX
        levels = [_level(entry, version, tee) for entry in node.nodes("tcbLevels")]
        levels.sort(key=lambda level: (level.sgx, level.pce_svn, level.tdx), reverse=True)
        return cls(
            tee=tee,
            issue_date=node.time("issueDate"),
            next_update=node.time("nextUpdate"),
            evaluation_number=node.uint("tcbEvaluationDataNumber", EVALUATION_NUMBER_MAX),
            fmspc=node.octets("fmspc", FMSPC_BYTES),
            pce_id=node.octets("pceId", PCE_ID_BYTES),
            levels=tuple(levels),
            module=_module(node.node("tdxModule")) if tee is Tee.TDX else None,
            module_identities=_identities(node) if tee is Tee.TDX else {},
        )


@frozen(kw_only=True)
class QeIdentity:
    """How Intel's quoting enclave for one TEE looks: what is compared with its report."""

    tee: Tee
    issue_date: datetime
    next_update: datetime
    evaluation_number: int
    misc_select: int
    misc_select_mask: int
    attributes: int
    attributes_mask: int
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[SvnLevel, ...]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse the signed text, or raise `DecodeError`."""
        node = Node.parse(text)
        if node.uint("version", 0xFF) != 2:
            raise DecodeError("a QE identity of another version than 2")
        tee = _QE_IDS.get(node.text("id"))
        if tee is None:
            raise DecodeError(f"an identity of {node.text('id')!r}, which signs no quotes")
        return cls(
            tee=tee,
            issue_date=node.time("issueDate"),
            next_update=node.time("nextUpdate"),
            evaluation_number=node.uint("tcbEvaluationDataNumber", EVALUATION_NUMBER_MAX),
            misc_select=_little(node, "miscselect", 4),
            misc_select_mask=_little(node, "miscselectMask", 4),
            attributes=_little(node, "attributes", 16),
            attributes_mask=_little(node, "attributesMask", 16),
            mr_signer=node.octets("mrsigner", 32),
            isv_prod_id=node.uint("isvprodid", 0xFFFF),
            levels=_svn_levels(node, 0xFFFF),
        )


_QE_IDS: Final = {"QE": Tee.SGX, "TD_QE": Tee.TDX}


def _tee(name: str) -> Tee:
    try:
        return Tee(name)
    except ValueError as error:
        raise DecodeError(f"TCB info of {name!r}") from error


def _level(node: Node, version: int, tee: Tee) -> TcbLevel:
    tcb = node.node("tcb")
    if version == 2:
        names = (f"sgxtcbcomp{index:02d}svn" for index in range(1, SVN_COMPONENTS + 1))
        sgx = bytes(tcb.uint(name, 0xFF) for name in names)
    else:
        sgx = _components(tcb, "sgxtcbcomponents")
    return TcbLevel(
        sgx=sgx,
        tdx=_components(tcb, "tdxtcbcomponents") if tee is Tee.TDX else b"",
        pce_svn=tcb.uint("pcesvn", 0xFFFF),
        standing=_standing(node),
    )


def _components(tcb: Node, name: str) -> bytes:
    svns = bytes(component.uint("svn", 0xFF) for component in tcb.nodes(name))
    if len(svns) != SVN_COMPONENTS:
        raise DecodeError(f"{name} has {len(svns)} components")
    return svns


def _standing(node: Node) -> Standing:
    word = node.text("tcbStatus")
    if word in _FOUND or word not in set(TcbStatus):
        raise DecodeError(f"TCB status {word!r}")
    return Standing(
        status=TcbStatus(word),
        advisories=node.texts("advisoryIDs"),
        date=node.time("tcbDate").date().isoformat(),
    )


def _svn_levels(node: Node, maximum: int) -> tuple[SvnLevel, ...]:
    levels = [
        SvnLevel(isv_svn=entry.node("tcb").uint("isvsvn", maximum), standing=_standing(entry))
        for entry in node.nodes("tcbLevels")
    ]
    return tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))


def _module(node: Node, levels: tuple[SvnLevel, ...] = ()) -> ModuleIdentity:
    return ModuleIdentity(
        mr_signer=node.octets("mrsigner", TD_MEASUREMENT_BYTES),
        attributes=_little(node, "attributes", 8),
        attributes_mask=_little(node, "attributesMask", 8),
        levels=levels,
    )


def _identities(node: Node) -> Mapping[str, ModuleIdentity]:
    if not node.has("tdxModuleIdentities"):
        return {}
    entries = list(node.nodes("tdxModuleIdentities"))
    found = {
        entry.text("id").upper(): _module(entry, _svn_levels(entry, 0xFF)) for entry in entries
    }
    if len(found) != len(entries):
        raise DecodeError("a TDX module identity that is there twice")
    return found


def _little(node: Node, name: str, size: int) -> int:
    return int.from_bytes(node.octets(name, size), "little")
