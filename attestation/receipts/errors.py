"""Why a receipt is refused: one class and one stable code for each mismatch."""

from attestation.errors import ReceiptRefusedError


class ReceiptMalformedError(ReceiptRefusedError):
    """The claims or the proof inside the receipt are not in the documented format."""

    code = "receipt-malformed"


class ReceiptSignatureError(ReceiptRefusedError):
    """The key set's receipt key did not sign these claims. Somebody made or changed them."""

    code = "receipt-signature-invalid"


class ReceiptKeySetError(ReceiptRefusedError):
    """The receipt belongs to another key set than the one the Evidence vouches for."""

    code = "receipt-keyset-mismatch"


class ReceiptEvidenceError(ReceiptRefusedError):
    """The receipt names other Evidence, or Evidence of another kind, than was appraised."""

    code = "receipt-evidence-mismatch"


class ReceiptConfidentialError(ReceiptRefusedError):
    """The receipt claims confidentiality that its kind of Evidence cannot give."""

    code = "receipt-confidential-unfounded"


class ReceiptTimeError(ReceiptRefusedError):
    """The job did not run within the life of the key set, or ended before it began."""

    code = "receipt-time-invalid"


class ReceiptChainError(ReceiptRefusedError):
    """Receipts of a key set do not follow each other: one is missing, repeated or replaced."""

    code = "receipt-chain-broken"


class ReceiptJobError(ReceiptRefusedError):
    """The receipt is for another job."""

    code = "receipt-job-mismatch"


class ReceiptAttemptError(ReceiptRefusedError):
    """The receipt is for another attempt at the job than the result it came with."""

    code = "receipt-attempt-mismatch"


class ReceiptClientError(ReceiptRefusedError):
    """The receipt is for a job of another client."""

    code = "receipt-client-mismatch"


class ReceiptRequestError(ReceiptRefusedError):
    """The worker answered another job header than the one that was signed."""

    code = "receipt-request-mismatch"


class ReceiptResultError(ReceiptRefusedError):
    """The result header is not the one that the worker signed for."""

    code = "receipt-result-mismatch"


class ReceiptProgramError(ReceiptRefusedError):
    """The worker ran another program."""

    code = "receipt-program-mismatch"


class ReceiptParametersError(ReceiptRefusedError):
    """The worker ran the program with other parameters."""

    code = "receipt-parameters-mismatch"


class ReceiptCatalogueError(ReceiptRefusedError):
    """The worker's kernels are not those of the catalogue that was agreed on."""

    code = "receipt-catalogue-mismatch"


class ReceiptCommitmentKindError(ReceiptRefusedError):
    """The receipt commits to the ciphertext in another way than the client asked for."""

    code = "receipt-commitment-kind-mismatch"


class ReceiptInputError(ReceiptRefusedError):
    """The worker computed on other input ciphertext than was sent."""

    code = "receipt-input-mismatch"


class ReceiptOutputError(ReceiptRefusedError):
    """The output ciphertext that arrived is not the one that the worker made."""

    code = "receipt-output-mismatch"
