"""The Attester of SEV-SNP and TDX guests: a report of configfs-tsm, in the form of its kind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence import sev_snp, tdx
from attestation.evidence.event_log import EventLog
from attestation.evidence.intel_quote import Quote
from attestation.evidence.intel_quote_bodies import TdReport
from attestation.logging import get_logger
from enclave_worker.attester.configfs_tsm import ConfigfsTsm, TsmReport
from enclave_worker.attester.patience import AttesterFailedError, AttesterMissingError

log: Final = get_logger(__name__)

EVENT_LOG: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
"""Where Linux shows what the firmware and the boot loader measured into a TD's RTMRs."""


_RESERVED_BYTES: Final = 4 * limits.MIB
"""More than any firmware reserves for the log."""


class TsmAttester:
    """Evidence of kind `sev-snp` or `tdx`, whichever driver the kernel has loaded."""

    def __init__(self, tsm: ConfigfsTsm | None = None, *, event_log: Path = EVENT_LOG) -> None:
        """Ask the kernel which TEE this is.

        Raises `AttesterMissingError` when it is none that we know, and `AttesterFailedError`.
        """
        self._tsm = tsm or ConfigfsTsm()
        self._provider = self._tsm.provider()
        form = _FORMS.get(self._provider)
        if form is None:
            raise AttesterMissingError(
                f"configfs-tsm speaks of {self._provider[:40]!r}; we know {', '.join(_FORMS)}"
            )
        self._kind, self._body = form
        self._event_log = _read_event_log(event_log) if self._kind == tdx.KIND else None

    @property
    def kind(self) -> str:
        """`sev-snp` or `tdx`."""
        return self._kind

    @property
    def provider(self) -> str:
        """The kernel's name for the driver."""
        return self._provider

    def collect(self, report_data: bytes) -> bytes:
        """Return a body over `report_data`, or raise an `UnavailableError`."""
        report = self._tsm.report(report_data)
        if report.provider != self._provider:
            raise AttesterFailedError(
                f"configfs-tsm went from {self._provider!r} to {report.provider[:40]!r}"
            )
        try:
            signed, body = self._body(report, self._event_log)
        except DecodeError as error:
            raise AttesterFailedError(f"the report is not readable: {error}") from error
        # No client would accept it; better to say so here, where an operator sees it.
        if signed != report_data:
            raise AttesterFailedError("the report is over something else than was asked")
        return body


def _snp_body(report: TsmReport, _event_log: bytes | None) -> tuple[bytes, bytes]:
    evidence = sev_snp.SevSnpEvidence(
        report=report.outblob, certificates=(), certificate_table=report.auxblob
    )
    return sev_snp.Report.from_bytes(report.outblob).report_data, evidence.to_bytes()


def _tdx_body(report: TsmReport, event_log: bytes | None) -> tuple[bytes, bytes]:
    body = Quote.from_bytes(report.outblob).body
    if not isinstance(body, TdReport):
        raise DecodeError("a quote of an SGX enclave")
    evidence = tdx.TdxEvidence(quote=report.outblob, event_log=event_log)
    return body.report_data, evidence.to_bytes()


_FORMS: Final[
    Mapping[str, tuple[str, Callable[[TsmReport, bytes | None], tuple[bytes, bytes]]]]
] = {
    "sev_guest": (sev_snp.KIND, _snp_body),
    "tdx_guest": (tdx.KIND, _tdx_body),
}
"""For each driver its kind of Evidence, and what returns the data signed and the body."""


def _without_fill(data: bytes) -> bytes:
    """Leave out what is beyond the largest log, if it is memory that was reserved and not used."""
    kept, rest = data[: limits.EVENT_LOG_BYTES], data[limits.EVENT_LOG_BYTES :]
    return data if rest.strip(b"\0") and rest.strip(b"\xff") else kept


def _read_event_log(path: Path) -> bytes | None:
    # It helps an appraisal and is no part of what is signed: without it the RTMRs stand alone.
    try:
        with path.open("rb") as file:
            data = _without_fill(file.read(_RESERVED_BYTES + 1))
        EventLog.from_bytes(data)
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        log.warning("attester.event_log_left_out", error=type(error).__name__)
        return None
    return data
