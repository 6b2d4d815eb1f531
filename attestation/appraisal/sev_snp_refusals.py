"""Why a step of kind `sev-snp` refuses. Each docstring is the advice that `--explain` shows."""

from attestation.errors import MissingError, VerificationError


class ReportUnsignedError(VerificationError):
    """No key known here signed the report. Have the machine clear MASK_CHIP_KEY and use a VCEK."""

    code = "report-unsigned"


class ReportSignatureError(VerificationError):
    """The certified key did not sign this report. Treat the Evidence as forged.

    Also what a genuine report shows beside the certificate of another chip or TCB.
    """

    code = "report-signature-invalid"


class SigningKeyNotAcceptedError(VerificationError):
    """The policy does not accept this kind of key or this provider. Add it to sev_snp if you do."""

    code = "signing-key-not-accepted"


class CertifiedTcbError(VerificationError):
    """The report claims another TCB than AMD certified the key for. Do not trust its level."""

    code = "certified-tcb-mismatch"


class SnpTcbTooLowError(VerificationError):
    """The platform's firmware is older than the policy accepts. Its operator has to update it."""

    code = "snp-tcb-too-low"


class MinimumTcbMissingError(MissingError):
    """The policy names no minimum TCB for this product. Add one under sev_snp.minimum_tcb."""

    code = "minimum-tcb-missing"


class ProductMismatchError(VerificationError):
    """Report and certificate name different products. Treat the Evidence as forged."""

    code = "product-mismatch"


class ProductNotAcceptedError(VerificationError):
    """The policy does not name this product. Add it to sev_snp.products if you accept it."""

    code = "product-not-accepted"


class ExtractableKeyError(VerificationError):
    """Software on the host can extract this product's signing keys, so its reports prove little.

    Use a worker on a later product. Or write it under sev_snp.products_with_extractable_keys, which
    accepts that whoever runs the machine may have forged the report (arXiv 2605.12990).
    """

    code = "signing-key-extractable"


class ChipMismatchError(VerificationError):
    """The report is of another chip than its certificate. Get the certificate of this chip."""

    code = "chip-id-mismatch"


class ChipHiddenError(VerificationError):
    """The report hides its chip. Ask the machine's operator to clear MASK_CHIP_ID."""

    code = "chip-id-hidden"


class ChipNotAcceptedError(VerificationError):
    """The policy does not name this chip. Add it to sev_snp.chips once you know who holds it."""

    code = "chip-not-accepted"


class GuestDebugError(VerificationError):
    """The host may read and write this guest's memory (DEBUG). Launch it without debugging."""

    code = "guest-debug"


class GuestMigratableError(VerificationError):
    """A migration agent may carry this guest's memory away. Launch it without MIGRATE_MA."""

    code = "guest-migratable"


class GuestPolicyError(VerificationError):
    """The guest was launched with a policy that yours does not allow. Launch it with a tighter one.

    The finding names the bit: SMT, several sockets, CXL, the ABI version, or one unknown here.
    """

    code = "guest-policy-not-accepted"


class HostFeatureError(VerificationError):
    """The host lacks a protection that the policy requires. Its operator has to switch it on."""

    code = "host-feature-missing"


class VmplNotAcceptedError(VerificationError):
    """The report was asked for at another privilege level than the policy accepts, or by the host.

    Under a paravisor the workload is not at VMPL 0: name the level at which it runs.
    """

    code = "vmpl-not-accepted"


class LaunchMeasurementError(VerificationError):
    """Another guest image was launched. Review its measurement, then add it, or refuse."""

    code = "launch-measurement-not-accepted"


class LaunchMeasurementsMissingError(MissingError):
    """The policy names no launch measurement, and absent means no. Add sev_snp.measurements."""

    code = "launch-measurements-missing"


class LaunchIdentityError(VerificationError):
    """Host data, guest SVN or an identity key is not what the policy names. Review the launch."""

    code = "launch-identity-not-accepted"
