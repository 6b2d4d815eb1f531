"""Whether a worker runs a job: the checks of docs/protocol.md step 9, in their order.

Cheap and unauthenticated checks that a stranger could make us repeat come first, nothing is
allocated for a tensor before all of them have passed, and whatever fails leaves neither a claimed
job id nor a key behind.
"""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.errors import (
    DecodeError,
    LocalProtocolError,
    NotAuthenticError,
    ProgramError,
    SignatureInvalidError,
)
from attestation.identifiers import ClientKeyId, Digest, JobId, KeySetId, SessionId
from attestation.programs.catalogue import Catalogue
from attestation.programs.known import KnownPrograms
from attestation.programs.plan import Plan
from attestation.programs.program import decode_parameters
from attestation.programs.stacking import plan_job
from attestation.receipts.commitment import CommitmentKind
from attestation.receipts.signed_batch import SignedLeaf
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import TensorOpener, open_bytes
from attestation.sealing.segments import Layout
from attestation.sealing.session_keys import wrap_session_id
from attestation.sealing.tensor_header import Direction, Place, SealedTensorHeader
from attestation.wire.frames import Frame
from attestation.wire.messages import JobBody, JobEnvelope, JobHeader
from attestation.wire.worker_session import WorkerSession
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import (
    ExpiredError,
    JobNotAuthenticError,
    JobSignatureError,
    MalformedJobError,
    ProgramRefusedError,
    UnknownSessionError,
    WorkerLimitError,
)
from enclave_worker.replay import Claim

_COMMITMENT_KINDS: Final = frozenset(CommitmentKind)


@frozen(kw_only=True)
class JobOffer:
    """What the coordinator hands over: a job to run as `attempt`, `input_segments` to follow."""

    job_id: JobId
    attempt: int
    input_segments: int
    envelope: Frame = field(repr=False)
    wrap: bytes = field(repr=False)


@frozen(kw_only=True)
class Terms:
    """What a worker gives to one job, and what it costs (micro-units per second)."""

    max_job_bytes: int
    price: int = 0


@frozen(kw_only=True)
class AdmittedJob:
    """A job that passed every check before its inputs. Whoever holds it must wipe the key."""

    header: JobHeader
    attempt: int
    request_digest: Digest
    client_key_id: ClientKeyId
    keyset_id: KeySetId
    evidence_digest: Digest
    plan: Plan = field(repr=False)
    openers: tuple[TensorOpener, ...] = field(repr=False)
    content_key: ContentKey = field(repr=False)
    claim: Claim = field(repr=False)


class Admission:
    """The gate of one worker: its sessions, its catalogue and its terms."""

    def __init__(
        self,
        *,
        keystore: Keystore,
        find_session: Callable[[SessionId], WorkerSession],
        catalogue: Catalogue,
        terms: Terms,
    ) -> None:
        """Admit jobs over `catalogue` from the sessions that `find_session` knows."""
        self._keystore = keystore
        self._find_session = find_session
        self._catalogue = catalogue
        self._catalogue_digest = catalogue.digest()
        self._known = KnownPrograms(catalogue)
        self._terms = terms

    def admit(self, offer: JobOffer, *, now_ms: int) -> AdmittedJob:
        """Return the job, or raise the `JobRefusedError` of the first check that fails."""
        # (1, 2) The envelope and the header inside it are well-formed, and for this job.
        envelope, header = _parse(offer)
        # (3) The client that the header names signed it.
        client_key_id = _check_signature(envelope, header)
        # (4) The wrap belongs to an open session, and that client opened it.
        session = self._session_of(offer, header)
        # (5) The job has not run under this key set.
        claim = self._keystore.claim(session.keyset_id, header.job_id, now_ms=now_ms)
        try:
            # (6) It is in time, for these kernels, and within the worker's limits.
            inputs = self._check_terms(offer, header, now_ms)
            # Of the bytes that were signed; wrap, body and receipt are bound to it.
            request_digest = digest(Label.JOB_HEADER, envelope.header)
            content_key = _unwrap(session, offer.wrap, request_digest)
            try:
                body = _open_body(envelope, header, request_digest, content_key)
                plan = self._plan(header, inputs, body)
                openers = _openers(header, inputs, content_key)
            except BaseException:
                content_key.wipe()
                raise
        except BaseException:
            claim.finish()
            raise
        return AdmittedJob(
            header=header,
            attempt=offer.attempt,
            request_digest=request_digest,
            client_key_id=client_key_id,
            keyset_id=session.keyset_id,
            evidence_digest=session.evidence_digest,
            plan=plan,
            openers=openers,
            content_key=content_key,
            claim=claim,
        )

    def _session_of(self, offer: JobOffer, header: JobHeader) -> WorkerSession:
        try:
            session = self._find_session(wrap_session_id(offer.wrap))
            client_key = session.client_key
        except DecodeError as error:
            raise UnknownSessionError("the wrapped key names no session") from error
        except LocalProtocolError as error:
            raise UnknownSessionError("the session has ended") from error
        if client_key != header.client_key:
            # G6: whoever opened the session is who is billed; nobody else's job runs in it.
            raise JobSignatureError("the job is signed by another client than the session's")
        return session

    def _check_terms(
        self, offer: JobOffer, header: JobHeader, now_ms: int
    ) -> tuple[SealedTensorHeader, ...]:
        if now_ms >= header.not_after_ms:
            raise ExpiredError("the client no longer wants this job")
        if header.catalogue_digest != self._catalogue_digest:
            raise ProgramRefusedError("the job is for another kernel catalogue")
        if header.commitment_kind not in _COMMITMENT_KINDS:
            raise ProgramRefusedError("an unknown kind of commitment")
        if header.price_limit and self._terms.price > header.price_limit:
            raise WorkerLimitError("the worker costs more than the client offers")
        inputs = _sealed_headers(header)
        tensors = [sealed.tensor for sealed in inputs]
        if sum(Layout.of(tensor).count for tensor in tensors) != offer.input_segments:
            raise JobNotAuthenticError("another number of segments than the signed headers imply")
        if sum(tensor.spec.nbytes for tensor in tensors) > self._terms.max_job_bytes:
            raise WorkerLimitError("the inputs are larger than the worker allows for one job")
        return inputs

    def _plan(self, header: JobHeader, inputs: Sequence[SealedTensorHeader], body: JobBody) -> Plan:
        # (10) The body holds the program and parameters that were signed.
        if digest(Label.PROGRAM, body.program) != header.program_digest:
            raise ProgramRefusedError("another program than the header names")
        if body.commitment() != header.parameters_commitment:
            raise ProgramRefusedError("other parameters than the header commits to")
        # (11) Every tensor has the shape and type that every step needs.
        try:
            program = self._known.read(body.program, header.program_digest)
            parameters = decode_parameters(body.parameters)
            specs = {sealed.tensor.name: sealed.tensor.spec for sealed in inputs}
            plan = plan_job(
                program,
                self._catalogue,
                specs,
                parameters,
                items=header.items,
                deterministic=header.deterministic,
            )
        except (DecodeError, ProgramError) as error:
            # The code and not the message: a message may quote a parameter.
            raise ProgramRefusedError(error.code) from error
        if plan.peak_bytes > self._terms.max_job_bytes:
            raise WorkerLimitError("the program needs more memory than the worker allows")
        if len(plan.outputs) > limits.TENSORS_PER_JOB:
            raise ProgramRefusedError("too many outputs")
        return plan


def _parse(offer: JobOffer) -> tuple[JobEnvelope, JobHeader]:
    try:
        envelope = JobEnvelope.from_bytes(offer.envelope)
        header = JobHeader.from_bytes(envelope.header)
    except DecodeError as error:
        raise MalformedJobError(str(error)) from error
    if header.job_id != offer.job_id:
        raise MalformedJobError("the envelope is for another job than the message")
    return envelope, header


def _check_signature(envelope: JobEnvelope, header: JobHeader) -> ClientKeyId:
    expected = digest(Label.CLIENT_KEY, header.client_key)
    try:
        leaf = SignedLeaf.from_bytes(envelope.signature)
        key_id = leaf.verify(
            envelope.header, label=Label.JOB_SIGNATURE, public_key=header.client_key
        )
    except (DecodeError, SignatureInvalidError) as error:
        raise JobSignatureError("the client did not sign this header") from error
    if key_id != expected:
        raise JobSignatureError("the signature names another key")
    return ClientKeyId(expected)


def _place(header: JobHeader, index: int) -> Place:
    return Place(job_id=header.job_id, direction=Direction.INPUT, attempt=0, index=index)


def _sealed_headers(header: JobHeader) -> tuple[SealedTensorHeader, ...]:
    inputs = []
    for index, entry in enumerate(header.inputs):
        try:
            sealed = SealedTensorHeader.from_bytes(entry)
            tensor = sealed.tensor_at(_place(header, index))
        except DecodeError as error:
            raise MalformedJobError(str(error)) from error
        except NotAuthenticError as error:
            raise JobNotAuthenticError(str(error)) from error
        if tensor.segment_bytes != header.segment_bytes:
            raise MalformedJobError("a tensor has segments of another size than the job")
        inputs.append(sealed)
    if len({sealed.tensor.name for sealed in inputs}) != len(inputs):
        raise MalformedJobError("two inputs have one name")
    return tuple(inputs)


def _unwrap(session: WorkerSession, wrap: bytes, request_digest: Digest) -> ContentKey:
    # (7) The key was wrapped in this session for this very header.
    try:
        return session.keys.unwrap(wrap, request_digest)
    except NotAuthenticError as error:
        raise JobNotAuthenticError(str(error)) from error
    except LocalProtocolError as error:
        raise UnknownSessionError("the session has ended") from error


def _open_body(
    envelope: JobEnvelope, header: JobHeader, request_digest: Digest, content_key: ContentKey
) -> JobBody:
    # (8) The key is the one that the client committed to, the same for every worker.
    if content_key.commitment(header.job_id) != header.content_key_commitment:
        raise JobNotAuthenticError("the wrapped key is not the one that was committed to")
    # (9) The body opens.
    key = content_key.body_key(request_digest)
    try:
        return JobBody.from_bytes(open_bytes(key, request_digest, envelope.body))
    except NotAuthenticError as error:
        raise JobNotAuthenticError("the sealed body was changed") from error
    except DecodeError as error:
        raise MalformedJobError("the sealed body is not a job body") from error


def _openers(
    header: JobHeader, inputs: Sequence[SealedTensorHeader], content_key: ContentKey
) -> tuple[TensorOpener, ...]:
    try:
        return tuple(
            TensorOpener(content_key, sealed, expected=_place(header, index))
            for index, sealed in enumerate(inputs)
        )
    except NotAuthenticError as error:
        raise JobNotAuthenticError(str(error)) from error
