"""Every error that this project raises on purpose: one tree, each with a stable `code`.

Tests and callers match the class or the `code`; messages may improve at any time and never hold
plaintext, keys or tensors.
"""

from typing import ClassVar


class EnclaveError(Exception):
    """Root of every error the project raises. Catch it to catch them all."""

    code: ClassVar[str] = "error"


class DecodeError(EnclaveError):
    """Bytes from outside are not in the documented format. Ask their sender for a correct copy."""

    code = "malformed"


class LimitError(EnclaveError):
    """Something is larger than `limits.py` allows. Split the work, or raise the limit knowingly."""

    code = "limit-exceeded"


class VerificationError(EnclaveError):
    """Evidence, a receipt or a signature was refused. Do not trust what it came with."""

    code = "verification-failed"


class SignatureInvalidError(VerificationError):
    """A signature does not verify under the key that should have made it."""

    code = "signature-invalid"


class MissingError(VerificationError):
    """Something that this side would have to supply is missing: no word about the Evidence itself.

    Refusals below it are *unverifiable*, all others *contraindicated*. Supply it and try again.
    """

    code = "missing"


class EvidenceRefusedError(VerificationError):
    """The Appraisal Policy does not accept this Evidence. `result` lists the checks that failed."""

    code = "evidence-refused"


class ReceiptRefusedError(VerificationError):
    """A receipt does not prove the request it came with. Treat the result as not computed."""

    code = "receipt-refused"


class NotAuthenticError(EnclaveError):
    """Sealed bytes were changed, cut, reordered or sealed under another key. Nothing was opened."""

    code = "not-authentic"


class PolicyError(EnclaveError):
    """A policy file is not usable. The message names the line; an unclear policy denies."""

    code = "policy-invalid"


class TensorError(EnclaveError):
    """A tensor cannot be sent: its dtype, shape or size is not one that the format carries."""

    code = "tensor-refused"


class ProgramError(EnclaveError):
    """A program or its parameters do not fit the kernels it names. Nothing was sent."""

    code = "program-invalid"


class ProtocolError(EnclaveError):
    """Two parties disagree about the protocol. The session that raised it is finished."""

    code = "protocol-error"


class LocalProtocolError(ProtocolError):
    """We tried a step that our own state does not allow: a defect on this side."""

    code = "protocol-misuse"


class RemoteProtocolError(ProtocolError):
    """The peer sent something its state does not allow. Its session is dropped."""

    code = "protocol-violation"


class UnavailableError(EnclaveError):
    """The coordinator, a worker or a device cannot be reached. Check the address and try again."""

    code = "unavailable"
