"""Why a step about an Intel quote refuses; the docstrings are what `--explain` shows."""

from collections.abc import Mapping
from typing import Final

from attestation.endorsements.intel_tcb import TcbStatus
from attestation.errors import MissingError, VerificationError


class PckCertificateMissingError(MissingError):
    """The quote does not hold its PCK certificate. Supply the chain beside it or as collateral."""

    code = "pck-certificate-missing"


class AttestationKeyError(VerificationError):
    """The quoting enclave vouches for another key than signed. Treat the Evidence as forged."""

    code = "attestation-key-not-bound"


class QuotingEnclaveError(VerificationError):
    """The enclave that signed is not Intel's quoting enclave. Treat the Evidence as forged."""

    code = "quoting-enclave-mismatch"


class TdxModuleError(VerificationError):
    """Intel vouches for no such TDX module. Treat the Evidence as forged, or gather collateral."""

    code = "tdx-module-mismatch"


class TeeMismatchError(VerificationError):
    """The quote is of the other Intel TEE. Name its kind, and the policy for it."""

    code = "tee-mismatch"


class TcbEvaluationError(VerificationError):
    """The collateral is of an older TCB evaluation than the policy wants. Gather a newer one."""

    code = "tcb-evaluation-too-old"


class AdvisoryError(VerificationError):
    """An advisory applies that the policy does not name. Read it; add it if you accept the risk."""

    code = "tcb-advisory"


class PlatformNotAcceptedError(VerificationError):
    """The policy does not name this machine. Add its PPID if you know who holds it."""

    code = "platform-not-accepted"


class TcbError(VerificationError):
    """The platform's TCB has a status that the policy does not name. Use an updated machine."""

    code = "tcb-not-accepted"


class TcbSwHardeningError(TcbError):
    """Software must mitigate the advisories. Accept SWHardeningNeeded if the workload does."""

    code = "tcb-sw-hardening-needed"


class TcbConfigurationError(TcbError):
    """The platform's settings leave an advisory open. Have its owner correct them."""

    code = "tcb-configuration-needed"


class TcbConfigurationAndSwHardeningError(TcbError):
    """Settings and software must mitigate advisories. Have the owner correct the settings first."""

    code = "tcb-configuration-and-sw-hardening-needed"


class TcbOutOfDateError(TcbError):
    """The platform lacks security updates. Have its owner update it, or use another machine."""

    code = "tcb-out-of-date"


class TcbOutOfDateConfigurationError(TcbError):
    """The platform lacks updates, and its settings are open too. Have its owner mend both."""

    code = "tcb-out-of-date-configuration-needed"


class TcbRelaunchError(TcbError):
    """The machine is up to date, the TD was started before it was. Start the TD anew."""

    code = "tcb-relaunch-advised"


class TcbRelaunchConfigurationError(TcbError):
    """The TD was started before an update, and settings are open. Mend them, then start it anew."""

    code = "tcb-relaunch-advised-configuration-needed"


class TcbRevokedError(TcbError):
    """Intel has revoked this TCB: its keys may be known. Do not use the machine."""

    code = "tcb-revoked"


class TcbNotSupportedError(TcbError):
    """The TCB is below every level that Intel lists. Update the machine; check the collateral."""

    code = "tcb-not-supported"


TCB_REFUSALS: Final[Mapping[TcbStatus, type[TcbError]]] = {
    TcbStatus.SW_HARDENING_NEEDED: TcbSwHardeningError,
    TcbStatus.CONFIGURATION_NEEDED: TcbConfigurationError,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbConfigurationAndSwHardeningError,
    TcbStatus.OUT_OF_DATE: TcbOutOfDateError,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbOutOfDateConfigurationError,
    TcbStatus.TD_RELAUNCH_ADVISED: TcbRelaunchError,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: TcbRelaunchConfigurationError,
    TcbStatus.REVOKED: TcbRevokedError,
    TcbStatus.NOT_SUPPORTED: TcbNotSupportedError,
    TcbStatus.UP_TO_DATE: TcbError,
}


class DebugError(VerificationError):
    """The TD or enclave is in debug mode: its host reads its memory. Start it without debug."""

    code = "intel-debug"


class SeptVeError(VerificationError):
    """The host can choose when the TD's exception handler runs. Start it with SEPT_VE_DISABLE."""

    code = "td-sept-ve"


class TdAttributesError(VerificationError):
    """The TD has an attribute that weakens it. Start it without, or name it under tdx.allow."""

    code = "td-attributes"


class XfamError(VerificationError):
    """The TD may use processor features that the policy does not name. Start it without them."""

    code = "td-xfam"


class ServiceTdError(VerificationError):
    """A service TD is bound to the TD and may move or change it. Name it if you trust it."""

    code = "td-service-td"


class TdMeasurementError(VerificationError):
    """Something else than the policy names was measured. Review what was started, or refuse."""

    code = "td-measurement-not-accepted"


class EventLogMismatchError(VerificationError):
    """The event log does not lead to the RTMRs: it is of another boot, or was changed."""

    code = "event-log-rtmr-mismatch"


class EnclaveAttributesError(VerificationError):
    """The enclave has an attribute that the policy does not allow. Build or start it without."""

    code = "sgx-attributes"


class EnclaveNotAcceptedError(VerificationError):
    """The policy names neither this enclave nor its signer. Review it, then add its identity."""

    code = "sgx-enclave-not-accepted"
