"""What Intel hardware reports, parsed and not believed: an SGX enclave (REPORTBODY), or a TD.

Offsets are those of the Intel TDX DCAP Quoting Library API, appendix 3 ("Enclave Report Body", "TD
Quote Body" for TDX 1.0 and 1.5) and, for the extended body of 1.5, those of `sgx_quote_5.h` in
Intel's DCAP (`sgx_report2_body_v1_5_ex_t`), little-endian. Each has one fixed size, so a layout is
a struct and nothing in it can be out of bounds. Reserved bytes are skipped: they are signed and
without meaning.
"""

import struct
from enum import IntFlag
from typing import Final, Self

from attrs import frozen

from attestation.errors import DecodeError

REPORT_DATA_BYTES: Final = 64
SVN_COMPONENTS: Final = 16
TD_MEASUREMENT_BYTES: Final = 48
RTMRS: Final = 4

_ENCLAVE: Final = struct.Struct("<16sI12x16s16s32s32x32s32x64sHHH42x16s64s")
_TD10: Final = struct.Struct("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s")
_TD15_MORE: Final = struct.Struct("<16s48s")
_TD15EX_MORE: Final = struct.Struct("<B32s48s48sQ16s16s12s48sQ")

ENCLAVE_REPORT_BYTES: Final = _ENCLAVE.size
TD10_BYTES: Final = _TD10.size
TD15_BYTES: Final = _TD10.size + _TD15_MORE.size
TD15EX_BYTES: Final = TD15_BYTES + _TD15EX_MORE.size


class EnclaveAttributes(IntFlag):
    """ATTRIBUTES.FLAGS of an enclave (Intel SDM volume 3D, table "ATTRIBUTES Structure")."""

    INIT = 1 << 0
    DEBUG = 1 << 1
    MODE64BIT = 1 << 2
    PROVISION_KEY = 1 << 4
    EINITTOKEN_KEY = 1 << 5
    CET = 1 << 6
    KSS = 1 << 7
    AEX_NOTIFY = 1 << 10


class TdAttributes(IntFlag):
    """ATTRIBUTES of a TD (Intel TDX Module ABI, "TD_ATTRIBUTES")."""

    DEBUG = 1 << 0
    """The host can read and write the TD's memory and registers."""
    LASS = 1 << 27
    """Linear address space separation is on: a hardening of the TD against its own mistakes."""
    SEPT_VE_DISABLE = 1 << 28
    """A page that the host takes away stops the TD, instead of a trap that the host can choose."""
    MIGRATABLE = 1 << 29
    """A service TD may move the TD, and its keys, to another machine."""
    PKS = 1 << 30
    """The TD may use supervisor protection keys."""
    KL = 1 << 31
    """The TD may use Key Locker."""
    PERFMON = 1 << 63
    """The TD may use performance counters, which its neighbours may watch."""


TD_DEBUG_CLASS: Final = 0xFF
"""Bits of group TUD, "TD under debug": with any of them set the TD is not one to be trusted."""

XFAM_FIXED: Final = 0x3
"""x87 and SSE, which every TD has (Intel TDX Module ABI, "XFAM_FIXED1")."""
XFAM_KNOWN: Final = 0x0006_DBE7
"""State components whose handling the TDX module defines ("XFAM_FIXED0")."""


@frozen(kw_only=True)
class EnclaveReport:
    """An SGX enclave: the workload itself, or the quoting enclave that signs for another."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    """FLAGS and XFRM, as compared under a mask; `flags` are the first half."""
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse REPORTBODY, or raise `DecodeError`."""
        if len(data) != ENCLAVE_REPORT_BYTES:
            raise DecodeError(f"an enclave report of {len(data)} bytes")
        fields = _ENCLAVE.unpack(data)
        return cls(
            cpu_svn=fields[0],
            misc_select=fields[1],
            isv_ext_prod_id=fields[2],
            attributes=fields[3],
            mr_enclave=fields[4],
            mr_signer=fields[5],
            config_id=fields[6],
            isv_prod_id=fields[7],
            isv_svn=fields[8],
            config_svn=fields[9],
            isv_family_id=fields[10],
            report_data=fields[11],
        )

    @property
    def flags(self) -> EnclaveAttributes:
        """ATTRIBUTES.FLAGS."""
        return EnclaveAttributes(int.from_bytes(self.attributes[:8], "little"))


@frozen(kw_only=True)
class TdExtension:
    """What the extended body of TDX 1.5 adds: which TD it is, and where it was first started."""

    vmid: int
    """0 for the TD itself or the hypervisor in it, 1 to 3 for a virtual machine that it runs."""
    td_id: bytes
    """Drawn anew at each start, kept when the TD is moved or its module is updated."""
    device_info: bytes
    initial_service_td: bytes
    initial_service_td_attributes: int
    initial_cpu_svn: bytes
    initial_tee_tcb_svn: bytes
    initial_fmspc: bytes
    current_service_td: bytes
    current_service_td_attributes: int


@frozen(kw_only=True)
class TdReport:
    """A trust domain. The last fields are None in a report whose version has none.

    `extension` is of the extended body of TDX 1.5 alone; TDX 1.0 has none of the last three.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: int
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, ...]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    """The TCB of the TDX module that runs now; `tee_tcb_svn` is of the one that started the TD."""
    mr_service_td: bytes | None
    extension: TdExtension | None

    @property
    def service_tds(self) -> tuple[bytes, ...]:
        """Digests of the service TDs that are or were bound to this TD; zeros stand for none."""
        found = () if self.mr_service_td is None else (self.mr_service_td,)
        if self.extension is None:
            return found
        return (*found, self.extension.initial_service_td, self.extension.current_service_td)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse the body of TDX 1.0 or 1.5, or the extended one of 1.5; raises `DecodeError`."""
        if len(data) not in (TD10_BYTES, TD15_BYTES, TD15EX_BYTES):
            raise DecodeError(f"a TD report of {len(data)} bytes")
        fields = _TD10.unpack_from(data)
        svn2 = service = None
        if len(data) >= TD15_BYTES:
            svn2, service = _TD15_MORE.unpack_from(data, TD10_BYTES)
        return cls(
            tee_tcb_svn=fields[0],
            mr_seam=fields[1],
            mr_signer_seam=fields[2],
            seam_attributes=fields[3],
            td_attributes=fields[4],
            xfam=fields[5],
            mr_td=fields[6],
            mr_config_id=fields[7],
            mr_owner=fields[8],
            mr_owner_config=fields[9],
            rtmrs=fields[10:14],
            report_data=fields[14],
            tee_tcb_svn2=svn2,
            mr_service_td=service,
            extension=_extension(data[TD15_BYTES:]) if len(data) == TD15EX_BYTES else None,
        )


def _extension(data: bytes) -> TdExtension:
    fields = _TD15EX_MORE.unpack(data)
    return TdExtension(
        vmid=fields[0],
        td_id=fields[1],
        device_info=fields[2],
        initial_service_td=fields[3],
        initial_service_td_attributes=fields[4],
        initial_cpu_svn=fields[5],
        initial_tee_tcb_svn=fields[6],
        initial_fmspc=fields[7],
        current_service_td=fields[8],
        current_service_td_attributes=fields[9],
    )
