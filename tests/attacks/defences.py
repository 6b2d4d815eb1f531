"""The defences, and how each is taken out. Read beside docs/attacks.md."""

from collections.abc import Callable
from os import urandom

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.appraisal import insecure, tpm, verifier
from attestation.client import engine
from attestation.client.engine import Engine
from attestation.client.outputs import Outputs
from attestation.client.results import Collector
from attestation.client.uploads import Uploads
from attestation.client.workers import WorkerBook
from attestation.encoding.digests import Label, digest
from attestation.identifiers import JobId
from attestation.receipts import verification
from attestation.sealing import hybrid_kem, sealed_tensor
from attestation.sealing.content_key import CONTENT_KEY_BYTES, ContentKey
from attestation.sealing.floe import FloeOpener
from attestation.sealing.sealed_tensor import SealedTensorHeader, TensorOpener
from attestation.sealing.session_keys import SessionKeys
from attestation.wire import worker_session
from attestation.wire.client_session import ClientSession
from attestation.wire.frames import Frame, Header
from attestation.wire.messages import SessionOpen
from attestation.wire.worker_session import State, WorkerSession
from coordinator.core import admission as coordinator_admission
from coordinator.core import welcome
from coordinator.core.core import Core
from coordinator.core.dispatch import Dispatch
from coordinator.core.transfer import Transfer
from enclave_worker import admission
from enclave_worker.admission import Admission
from enclave_worker.executor import JobExecution
from enclave_worker.inbox import Inbox, Segment
from enclave_worker.replay import Claim, ReplayCache
from enclave_worker.runtime import Runtime
from enclave_worker.sessions import SessionTable
from enclave_worker.tensors import InputTensors
from enclave_worker.windows import ChallengeWindow
from tests.attacks.mutations import Mutation, Replaced, Set, Together, Unraised


def _lose_anything(self: Engine, header: Header, _frames: list[Frame], _now: float) -> None:
    active = self._jobs.get(header.job_id)
    if active is not None:
        self._resubmit(active, lost=True)


def _remember_nothing(self: ReplayCache, job_id: JobId) -> Claim:
    cache = ReplayCache()
    claim = cache._held[job_id] = Claim(job_id, cache)
    return claim


class _AnySignature:
    """In place of a public key: every signature is right."""

    @staticmethod
    def from_public_bytes(_key: bytes) -> "_AnySignature":
        return _AnySignature()

    def verify(self, _signature: bytes, _data: bytes) -> None:
        """Whatever it is."""


def _seal_without_aad(key: bytes, aad: bytes, data: bytes) -> bytes:
    iv = urandom(_IV_BYTES)  # noqa: F821 - names of the module that this body goes into
    return iv + AESGCM(key).encrypt(iv, data, None)


def _open_without_aad(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_IV_BYTES], sealed[_IV_BYTES:], None)  # noqa: F821


def _endorse_anybody(
    evidence: object, ak: object, policy: object, collateral: object, now: object
) -> str:
    return "whoever it is"


def _take_unasked(self: Inbox, segment: Segment) -> None:
    with self._changed:
        self._segments.append(segment)
        self._changed.notify()


def _wait_for_ever(self: Inbox, ready: Callable[[], bool]) -> None:
    self._changed.wait_for(lambda: self._stopped or ready())
    self.require_wanted()


EVIDENCE = (
    Mutation(
        defence="the hardware signs the digest of the key set",
        attacks=("swap-keys", "own-keys"),
        removes=(Unraised(tpm.check_binding, "BindingMismatchError"),),
    ),
    Mutation(
        defence="attestation keys are pinned, or endorsed by the policy's root",
        attacks=("own-worker", "own-worker-beside-a-good-one"),
        removes=(Replaced(tpm._endorsement, _endorse_anybody),),
    ),
    Mutation(
        defence="the policy names the kinds of evidence, and insecure takes another word",
        attacks=("no-hardware",),
        removes=(
            Unraised(verifier._kind, "KindNotAcceptedError"),
            Unraised(insecure._hardware, "InsecureRefusedError"),
        ),
    ),
    Mutation(
        defence="the Challenge is a leaf of the tree whose root is signed",
        attacks=("replayed-evidence", "replaced-challenge"),
        removes=(Unraised(verifier._freshness, "NonceMismatchError"),),
    ),
    Mutation(
        defence="a key set ends",
        attacks=("evidence-kept-too-long",),
        removes=(Unraised(verifier._window, "KeySetExpiredError"),),
    ),
    Mutation(
        defence="a worker confirms that it holds the session secret",
        attacks=("relayed-evidence", "forged-confirmation"),
        removes=(Unraised(SessionKeys.check_confirmation, "NotAuthenticError"),),
    ),
    Mutation(
        defence="the catalogue's digest is in the key set",
        attacks=("other-catalogue",),
        removes=(Unraised(ClientSession.receive_attestation, "CatalogueMismatchError"),),
    ),
)

SESSIONS = (
    Mutation(
        defence="an opening is taken out of the table, its id is remembered, the session moves on",
        attacks=("replayed-opening",),
        removes=(
            Replaced(
                SessionTable.take_attested,
                lambda self, peer, message: (
                    self._attested.pop((peer, message.keyset_id), None)
                    or self._open.pop(message.session_id)
                ),
            ),
            Set(worker_session.TRANSITIONS, (State.OPEN, SessionOpen), State.OPEN),
        ),
    ),
    Mutation(
        defence="the client signs, and HPKE binds, the transcript with this client's Challenge",
        attacks=("crossed-openings", "policy-passed-off"),
        removes=(
            Unraised(WorkerSession._check_signature, "SignatureInvalidError"),
            Replaced(hybrid_kem.info, lambda transcript: b""),
        ),
    ),
    Mutation(
        defence="HPKE binds the client's key: who signs again cannot seal again",
        attacks=("own-client-key",),
        removes=(Replaced(hybrid_kem.info, lambda transcript: b""),),
    ),
    Mutation(
        defence="a confirmation names its session, and is an HMAC under its secret",
        attacks=("crossed-confirmations",),
        removes=(
            Unraised(ClientSession.receive_accepted, "RemoteProtocolError"),
            Unraised(SessionKeys.check_confirmation, "NotAuthenticError"),
        ),
    ),
    Mutation(
        defence="a window holds a bounded number of Challenges",
        attacks=("challenge-flood",),
        removes=(Unraised(ChallengeWindow.add, "WorkerBusyError"),),
    ),
)

_RECEIPT = Replaced(verification._check_expected, lambda claims, expected: None)
_PLACE = Unraised(SealedTensorHeader.tensor_at, "NotAuthenticError")
_TAG = Unraised(FloeOpener._open, "NotAuthenticError")

RESULTS = (
    Mutation(
        defence="receipts name their job, tensors their place, and every job has a key of its own",
        attacks=("results-of-two-jobs", "results-of-two-clients"),
        removes=(
            _RECEIPT,
            _PLACE,
            Replaced(ContentKey.generate, lambda cls: cls(bytes(CONTENT_KEY_BYTES))),
        ),
    ),
    Mutation(
        defence="a receipt is compared with everything that the client knows of its job",
        attacks=("receipt-of-another-job",),
        removes=(_RECEIPT,),
    ),
    Mutation(
        defence="receipt and tensor headers name the attempt",
        attacks=("other-attempt",),
        removes=(_RECEIPT, _PLACE),
    ),
    Mutation(
        defence="the receipt names the result header, and that the direction and the tensor",
        attacks=("reflected-input",),
        removes=(_RECEIPT, _PLACE, Unraised(Outputs.__init__, "ReceiptResultError")),
    ),
    Mutation(
        defence="every segment has a tag",
        attacks=("changed-output",),
        removes=(_TAG,),
    ),
    Mutation(
        defence="the receipt commits to the outputs, and every segment has a tag over its place",
        attacks=("changed-output-under-sha256", "spliced-outputs", "reordered-outputs"),
        removes=(_RECEIPT, _TAG),
    ),
    Mutation(
        defence="the receipt and the opener know how many segments there are",
        attacks=("truncated-outputs",),
        removes=(_RECEIPT, Unraised(TensorOpener.finish, "NotAuthenticError")),
    ),
    Mutation(
        defence="receipts are signed by the key in the attested key set",
        attacks=("changed-claims", "own-receipt", "invented-failure"),
        removes=(
            Replaced(
                verification._check_signature, lambda receipt, proof, receipt_key, keyset_id: None
            ),
        ),
    ),
    Mutation(
        defence="the client keeps the job's deadline itself",
        attacks=("withheld-result",),
        removes=(Set(engine, "DEADLINE_GRACE_MS", 1 << 60),),
    ),
    Mutation(
        defence="a client takes the segments of its plan, in order, and no others",
        attacks=("output-flood",),
        removes=(Unraised(Collector.add, "RemoteProtocolError"),),
    ),
    Mutation(
        defence="only streaming jobs can be lost",
        attacks=("forged-loss",),
        removes=(Replaced(Engine._on_lost, _lose_anything),),
    ),
    Mutation(
        defence="a client remembers wishes about listed workers only",
        attacks=("wrap-flood",),
        removes=(Replaced(WorkerBook.lists, lambda self, worker_id: True),),
    ),
    Mutation(
        defence="a job is sealed again a bounded number of times",
        attacks=("loss-flood",),
        removes=(Set(engine, "RESUBMISSIONS", 1 << 60),),
    ),
)

_SIGNATURE = Replaced(
    admission._check_signature,
    lambda envelope, header: digest(Label.CLIENT_KEY, header.client_key),
)
_REQUEST = (
    Replaced(SessionKeys._aad, lambda self, request_digest: b""),
    Replaced(ContentKey.body_key, lambda self, request: self._derive(Label.JOB_BODY, b"")),
    Together(
        (
            Replaced(sealed_tensor.seal_bytes, _seal_without_aad),
            Replaced(sealed_tensor.open_bytes, _open_without_aad),
        )
    ),
)
_NO_LIMITS = Unraised(Admission._check_terms, "WorkerLimitError")

JOBS = (
    Mutation(
        defence="a key set remembers the jobs it was given",
        attacks=("replayed-job", "replayed-job-as-another-attempt", "duplicated-job"),
        removes=(Replaced(ReplayCache.claim, _remember_nothing),),
    ),
    Mutation(
        defence="the worker keeps the job's deadline",
        attacks=("stale-job",),
        removes=(
            Unraised(Admission._check_terms, "ExpiredError"),
            Unraised(JobExecution._require_in_time, "ExpiredError"),
        ),
    ),
    Mutation(
        defence="every input segment has a tag over its tensor, place and job",
        attacks=("changed-input", "spliced-inputs", "input-of-another-job", "reordered-inputs"),
        removes=(_TAG,),
    ),
    Mutation(
        defence="the signed headers say how many segments there are, and all must be open",
        attacks=("truncated-inputs",),
        removes=(
            Unraised(Admission._check_terms, "JobNotAuthenticError"),
            Unraised(InputTensors.finish, "JobNotAuthenticError"),
        ),
    ),
    Mutation(
        defence="the client signs the job header, keys are bound to it, and the receipt names it",
        attacks=("other-commitment",),
        removes=(_SIGNATURE, *_REQUEST, _RECEIPT),
    ),
    Mutation(
        defence="the client signs the job header, and keys are bound to it",
        attacks=("raised-price",),
        removes=(_SIGNATURE, *_REQUEST),
    ),
    Mutation(
        defence="the worker compares its price with the one that the client signed",
        attacks=("dearer-worker",),
        removes=(_NO_LIMITS,),
    ),
    Mutation(
        defence="the worker compares the inputs, and the plan, with its operator's limit",
        attacks=("overstated-worker",),
        removes=(_NO_LIMITS, Unraised(Admission._plan, "WorkerLimitError")),
    ),
    Mutation(
        defence="the header's key signed the header, and opened the session",
        attacks=("another-clients-name",),
        removes=(_SIGNATURE, Unraised(Admission._session_of, "JobSignatureError")),
    ),
    Mutation(
        defence="a worker counts the segments that it granted",
        attacks=("unasked-inputs",),
        removes=(Replaced(Inbox.feed, _take_unasked),),
    ),
    Mutation(
        defence="a worker holds twice as many jobs as it runs",
        attacks=("assignment-flood",),
        removes=(Replaced(Runtime._reason_to_refuse, lambda self: None),),
    ),
    Mutation(
        defence="a job waits a bounded time for its next segment",
        attacks=("withheld-inputs",),
        removes=(Replaced(Inbox._wait, _wait_for_ever),),
    ),
    Mutation(
        defence="a worker seals a window of outputs, and more when they have left",
        attacks=("forged-output-credit",),
        removes=(Replaced(Inbox.take_credit, lambda self, window: None),),
    ),
    Mutation(
        defence="a client seals inputs when its socket takes them",
        attacks=("forged-input-credit",),
        removes=(Replaced(Uploads._may_send, lambda self: True),),
    ),
)

_ANYBODYS_JOB = Replaced(
    Core._own_job, lambda self, client, message: self.world.jobs.get(message.header.job_id)
)
_NO_LEASES = Replaced(Dispatch.lease, lambda self, job, worker, number: job and job.attempt)

ROUTING = (
    Mutation(
        defence="a job id is taken once",
        attacks=("same-job-id",),
        removes=(Unraised(coordinator_admission.Admission._repeated, "RefusedError"),),
    ),
    Mutation(
        defence="a job is there for its owner only",
        attacks=("another-clients-job", "another-clients-result"),
        removes=(_ANYBODYS_JOB,),
    ),
    Mutation(
        defence="a client proves its key",
        attacks=("another-clients-key",),
        removes=(Set(welcome, "Ed25519PublicKey", _AnySignature),),
    ),
    Mutation(
        defence="inputs are counted against what was announced and granted",
        attacks=("more-input-than-announced", "input-without-credit"),
        removes=(
            Replaced(
                coordinator_admission.Admission._check_input, lambda self, job, upload, event: None
            ),
        ),
    ),
    Mutation(
        defence="jobs are counted per client",
        attacks=("job-flood",),
        removes=(Unraised(coordinator_admission.Admission._check_rules, "RefusedError"),),
    ),
    Mutation(
        defence="a result counts if job, attempt and worker are those of the lease",
        attacks=("result-of-a-job-it-never-had", "result-of-a-lost-lease"),
        removes=(_NO_LEASES,),
    ),
    Mutation(
        defence="the coordinator bounds what one worker is given",
        attacks=("overstated-capacity",),
        removes=(Set(welcome, "CAPACITY", 1 << 30),),
    ),
    Mutation(
        defence="outputs are counted against what was announced and granted",
        attacks=("more-output-than-announced",),
        removes=(Replaced(Transfer._check_output, lambda job, attempt, event: None),),
    ),
)

MUTATIONS = EVIDENCE + SESSIONS + JOBS + RESULTS + ROUTING
