"""Why a numbered step refuses. Each docstring is the advice that `enclave verify --explain` shows.

Steps raise these; the verifier turns them into `Check`s, so none of them reaches a caller.
"""

from attestation.errors import MissingError, VerificationError


class KindUnknownError(VerificationError):
    """No such kind of Evidence is known here. Update, or use a worker of another kind."""

    code = "kind-unknown"


class KindNotAcceptedError(VerificationError):
    """The policy does not name this kind. Add it to evidence.kinds if you accept it."""

    code = "kind-not-accepted"


class InsecureRefusedError(VerificationError):
    """No hardware stands behind this Evidence. Use a worker with a TPM or a TEE."""

    code = "insecure-refused"


class KeySetExpiredError(VerificationError):
    """The key set's life is over at the given time. Ask the worker for new Evidence."""

    code = "keyset-expired"


class KeySetNotYetValidError(VerificationError):
    """The key set begins in the future. Compare your clock with the worker's."""

    code = "keyset-not-yet-valid"


class KeySetLifeError(VerificationError):
    """The key set lives longer than the policy allows. Configure the worker for a shorter life."""

    code = "keyset-life-too-long"


class CatalogueNotAcceptedError(VerificationError):
    """The policy does not name these kernels. Review the catalogue, then add its digest."""

    code = "catalogue-not-accepted"


class NonceMismatchError(VerificationError):
    """The Evidence answers another Challenge. Ask again; if it recurs, someone replays."""

    code = "nonce-mismatch"


class NonceNeededError(VerificationError):
    """The policy accepts only Evidence that answers your own Challenge. Give --nonce."""

    code = "nonce-needed"


class EvidenceStaleError(VerificationError):
    """The Evidence is older than max_age_seconds. Ask the worker for new Evidence."""

    code = "evidence-stale"


class BindingMismatchError(VerificationError):
    """The hardware signed for other keys or Challenges. Someone put these keys in; do not use them.

    Also what a coordinator gets that shows one worker's key set with another worker's Evidence.
    """

    code = "binding-mismatch"


class NotTpmGeneratedError(VerificationError):
    """The signed bytes were not made inside a TPM. Treat the Evidence as forged."""

    code = "not-tpm-generated"


class NotAQuoteError(VerificationError):
    """The TPM attests something other than PCRs. Treat the Evidence as forged."""

    code = "not-a-quote"


class KeyAttributesError(VerificationError):
    """The key may sign bytes from outside, or may leave its TPM. Make a restricted signing key."""

    code = "ak-attributes"


class WeakHashError(VerificationError):
    """The quote is signed over SHA-1. Make an attestation key that signs over SHA-256."""

    code = "weak-hash"


class SelectionMismatchError(VerificationError):
    """The PCR values stand under other numbers than those signed. Treat the Evidence as forged."""

    code = "pcr-selection-mismatch"


class PcrDigestError(VerificationError):
    """The PCR values are not those that the TPM signed. Treat the Evidence as forged."""

    code = "pcr-digest-mismatch"


class PcrNotQuotedError(VerificationError):
    """The quote leaves out a PCR that the policy names. Configure the worker to quote it."""

    code = "pcr-not-quoted"


class PcrNotAcceptedError(VerificationError):
    """A PCR has none of its Reference Values: something else was booted. Review it, or refuse."""

    code = "pcr-not-accepted"


class ReferenceValuesMissingError(MissingError):
    """The policy names no PCR at all, and absent means no. Add Reference Values under tpm.pcrs."""

    code = "reference-values-missing"
