"""What can go wrong between a client and its results, each with a stable code."""

from collections.abc import Mapping, Sequence

from attestation.appraisal.result import Check
from attestation.errors import EnclaveError, UnavailableError
from attestation.identifiers import WorkerId
from attestation.receipts.receipt import Receipt
from attestation.wire.client_session import AcceptedWorker
from attestation.wire.control import RefusalCode


class ClientError(EnclaveError):
    """A job could not be brought to a verified result."""

    code = "client-error"


class CoordinatorUnreachableError(UnavailableError):
    """Nothing answers at the coordinator's address. Check it, and that the coordinator runs."""

    code = "coordinator-unreachable"


class TransportKeysMissingError(UnavailableError):
    """An address outside loopback needs CURVE keys. Make them with `enclave keygen --curve`."""

    code = "curve-keys-missing"


class KeyFileError(UnavailableError):
    """A key file is missing, or is not what `enclave keygen` writes."""

    code = "key-file"


class NoWorkerError(UnavailableError):
    """The coordinator has no worker that could run the job. Start one, or wait longer."""

    code = "no-worker"


class PolicyUnmetError(ClientError):
    """Workers are there, but your policy accepts none; `refusals` says which check failed where."""

    code = "policy-unmet"

    def __init__(self, refusals: Mapping[WorkerId, Sequence[Check | str]]) -> None:
        """Name every refused worker with the checks (or the error code) that refused it."""
        self.refusals = dict(refusals)
        reasons = "; ".join(
            f"worker {worker_id.hex()[:16]}: {', '.join(map(_reason, checks)) or 'refused'}"
            for worker_id, checks in refusals.items()
        )
        super().__init__(f"no worker meets the policy: {reasons}")


class TooLargeError(ClientError):
    """The job is larger than any accepted worker, or the coordinator, takes. Split it."""

    code = "too-large"


class JobRefusedError(ClientError):
    """The coordinator or a worker refused the job; `code` says why (`queue-full`)."""

    code = "job-refused"

    def __init__(self, code: RefusalCode, detail: str = "") -> None:
        """Carry the refusal's own code."""
        super().__init__(f"the job was refused: {code}{f' ({detail})' if detail else ''}")
        self.__dict__["code"] = str(code)


class JobFailedError(ClientError):
    """An accepted worker ran the program and it failed; `code` comes from a verified receipt."""

    code = "job-failed"

    def __init__(self, code: str, *, receipt: Receipt, accepted: AcceptedWorker) -> None:
        """Carry the code in the receipt. Receipts never hold messages: those could hold data."""
        super().__init__(f"the program failed on the worker: {code}")
        self.__dict__["code"] = code
        self.receipt = receipt
        self.accepted = accepted


class ItemsFailedError(ClientError):
    """Some items of a stack failed; `failures` says which. `Job.item` returns the others."""

    code = "items-failed"

    def __init__(self, failures: Mapping[int, str]) -> None:
        """Carry number and verified code of each item that failed."""
        first, code = next(iter(failures.items()))
        super().__init__(f"{len(failures)} items failed on the worker, first {first}: {code}")
        self.failures = failures


class JobTimeoutError(ClientError, TimeoutError):
    """The result did not come in time. A durable job goes on; ask again or cancel it."""

    code = "timeout"


class ClientClosedError(ClientError):
    """The client was closed before the job was done."""

    code = "client-closed"


def _reason(check: Check | str) -> str:
    if isinstance(check, str):
        return check
    return (
        f"({check.number}) {check.name}: {check.code}{f' - {check.detail}' if check.detail else ''}"
    )
