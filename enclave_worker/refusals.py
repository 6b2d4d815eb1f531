"""Why a worker refuses a session or a job before a kernel has run: one class per stable code.

The coordinator chooses what to do by the code alone (docs/protocol.md, `JOB_REFUSED`), so a detail
is for people, and never says anything about plaintext.
"""

from attestation.wire.control import Refusal, RefusalCode
from enclave_worker.errors import EnclaveWorkerError


class JobRefusedError(EnclaveWorkerError):
    """The worker will not run this. `code` is a `RefusalCode`; the coordinator acts on it."""

    code = RefusalCode.INTERNAL

    def refusal(self) -> Refusal:
        """Return the record that travels."""
        return Refusal(code=RefusalCode(self.code), detail=str(self)[:400])


class MalformedJobError(JobRefusedError):
    """The envelope, the header or a segment count is not in the documented format."""

    code = RefusalCode.MALFORMED


class UnknownKeySetError(JobRefusedError):
    """The key set has expired, or was never this worker's. Challenge it again."""

    code = RefusalCode.UNKNOWN_KEYSET


class UnknownSessionError(JobRefusedError):
    """No open session has this id. Open one under a key set the worker still has."""

    code = RefusalCode.UNKNOWN_SESSION


class ReplayedError(JobRefusedError):
    """The job has run, or is running, under this key set. A job runs once; draw a new job id."""

    code = RefusalCode.REPLAYED


class ExpiredError(JobRefusedError):
    """The job's `not_after_ms` has passed, or its key set ended before the receipt was signed."""

    code = RefusalCode.EXPIRED


class JobSignatureError(JobRefusedError):
    """The header is not signed by the client whose session wrapped the key."""

    code = RefusalCode.SIGNATURE_INVALID


class JobNotAuthenticError(JobRefusedError):
    """A wrap, a body or a segment was changed, moved, left out or sealed under another key."""

    code = RefusalCode.NOT_AUTHENTIC


class ProgramRefusedError(JobRefusedError):
    """The program, its parameters or its inputs do not fit this worker's catalogue."""

    code = RefusalCode.PROGRAM_INVALID


class WorkerLimitError(JobRefusedError):
    """The job needs more than this worker gives to one job, or costs more than it offers."""

    code = RefusalCode.WORKER_LIMIT


class OverrunError(JobRefusedError):
    """The coordinator sent more segments than it was granted. A defect, or an attack on memory."""

    code = RefusalCode.NO_CREDIT


class StalledError(JobRefusedError):
    """The next segment or credit did not come in time. Another worker may have more patience."""

    code = RefusalCode.WORKER_LIMIT


class DrainingError(JobRefusedError):
    """The worker is leaving and takes no new jobs. Another worker will have it."""

    code = RefusalCode.DRAINING


class RevokedError(JobRefusedError):
    """The coordinator took the job back before its kernel ran. Nothing needs to be said."""

    code = RefusalCode.CANCELLED


class WorkerBusyError(JobRefusedError):
    """Too many challenges are waiting, or every key set is in use. Try again in a moment."""

    code = RefusalCode.QUEUE_FULL
