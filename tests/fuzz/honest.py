"""Honest parties and what they made, once per process: what a fuzzer changes, and compares with.

Keys that a body's outcome depends on are drawn anew in each process where the code under test draws
them itself; bodies therefore change honest bytes by edits (`Script.damaged`), which mean the same
in every process.
"""

import os
from datetime import UTC, datetime
from functools import cache

import numpy as np
from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from attestation.appraisal.verifier import appraise
from attestation.client.active import Active
from attestation.client.jobs import Job, Progress
from attestation.client.keys import ClientKey
from attestation.client.numpy_tensors import to_tensor
from attestation.client.requests import JobSpec, SealedRequest, choose, seal_request
from attestation.client.results import Delivery, verify_and_open
from attestation.client.workers import ReadyWorker
from attestation.encoding.digests import Label
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.insecure import InsecureEvidence
from attestation.identifiers import Digest, JobId, KeySetId, SessionId, WorkerId
from attestation.policy.policy import CataloguePolicy, Policy
from attestation.receipts import cose
from attestation.receipts.receipt import Receipt
from attestation.receipts.signed_batch import SignedLeaf, sign_batch
from attestation.sealing import hybrid_kem
from attestation.sealing.content_key import ContentKey
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.sealed_tensor import TensorSealer
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.sealing.tensor_header import Direction, Place, TensorHeader
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.client_session import ClientSession
from attestation.wire.control import WorkerDescription
from attestation.wire.messages import AttestationReply, SessionAccepted, SessionOpen, parse
from enclave_worker.admission import JobOffer, Terms
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.engine import ProgramEngine
from enclave_worker.executor import JobExecution
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.sessions import SessionTable
from tests.receipts.signing import SigningWorker, draft
from tests.simulators.evidence import (
    NOW,
    bundle_for,
    collect_insecure,
    draw_keyset,
    insecure_policy,
    tpm_policy,
)
from tests.simulators.tpm import PCRS, SimulatedTpm
from tests.simulators.vendor import Operator, der
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient, SimulatedJob

SEGMENT = 64 * 1024
PEER = b"p" * 16
WORKER_ID = WorkerId(b"w" * 16)
KERNEL = "stats.standardize"
KEY_ID = b"i" * 32
CONTENT_TYPE = "application/x-test"
PAYLOAD = b"what was signed or sealed"
_SIGNER = Ed25519PrivateKey.from_private_bytes(b"5" * 32)


# -- evidence and receipts ------------------------------------------------------------------------


@frozen(kw_only=True)
class AppraisalCase:
    """Evidence of one kind, a policy that accepts it, and the Challenge it answers."""

    record: EvidenceRecord
    policy: Policy

    def appraise(self, record: EvidenceRecord) -> object:
        """Appraise `record`, which claims to answer the honest Challenge."""
        bundle = EvidenceBundle.from_bytes(record.bundle)
        return appraise(
            bundle, policy=self.policy, nonce=self.record.nonce, path=record.proof(), now=NOW
        )


@cache
def operator() -> Operator:
    """A vendor, its root and its CA."""
    return Operator()


@cache
def chain() -> tuple[x509.Certificate, ...]:
    """The certificate of that vendor's TPM, and of its CA."""
    return tuple(x509.load_der_x509_certificate(entry) for entry in tpm().certificates)


@cache
def tpm() -> SimulatedTpm:
    """A TPM whose key that vendor certified."""
    keyed = SimulatedTpm()
    return keyed.but(
        certificates=[der(entry) for entry in operator().certify(keyed.key.public_key())]
    )


@cache
def appraisals() -> tuple[AppraisalCase, ...]:
    """One accepted piece of Evidence per kind."""
    nonces = [b"n" * 32, b"m" * 32, b"o" * 32]
    tree = NonceTree.over(nonces)
    roots = tpm_policy({11: [PCRS[11]]}, roots=[operator().root_der])
    cases = []
    for kind, collect, policy in (
        ("tpm", tpm().collect, roots),
        ("insecure", collect_insecure, insecure_policy()),
    ):
        bundle = bundle_for(draw_keyset(), tree, collect, kind=kind)
        proof = tree.proofs[1]
        record = EvidenceRecord(
            bundle=bundle.to_bytes(),
            nonce=nonces[1],
            leaf_index=proof.leaf_index,
            tree_size=proof.tree_size,
            path=proof.path,
            catalogue=b"a catalogue",
            collateral=NO_COLLATERAL.to_bytes(),
        )
        cases.append(AppraisalCase(record=record, policy=policy))
    return tuple(cases)


@cache
def receipts() -> tuple[SigningWorker, Receipt]:
    """A worker as far as receipts go, and the second of three receipts under one signature."""
    worker = SigningWorker()
    return worker, worker.issuer.issue([draft(attempt=number) for number in (1, 2, 3)])[1]


@cache
def signed_leaf() -> tuple[bytes, Label, bytes, SignedLeaf]:
    """A leaf, its label, the public key, and its proof under a signature of five."""
    leaves = [f"leaf {number}".encode() for number in range(5)]
    proofs = sign_batch(leaves, label=Label.RECEIPT, key_id=KEY_ID, sign=_SIGNER.sign)
    return leaves[3], Label.RECEIPT, _SIGNER.public_key().public_bytes_raw(), proofs[3]


@cache
def cose_sign1() -> tuple[bytes, bytes]:
    """A COSE_Sign1 over `PAYLOAD`, and the public key."""
    signed = cose.sign1(PAYLOAD, key_id=KEY_ID, content_type=CONTENT_TYPE, sign=_SIGNER.sign)
    return signed, _SIGNER.public_key().public_bytes_raw()


def insecure() -> InsecureEvidence:
    """The body of Evidence without hardware."""
    return InsecureEvidence(report_data=bytes(64))


# -- sealing --------------------------------------------------------------------------------------


@frozen(kw_only=True)
class SealedTensor:
    """A tensor of two segments, the second of them short."""

    place: Place
    key: ContentKey
    plaintext: bytes
    sealer: TensorSealer
    segments: tuple[bytes, ...]


@cache
def sealed_tensor() -> SealedTensor:
    """A tensor under a key that everybody here knows."""
    place = Place(job_id=JobId(b"j" * 16), direction=Direction.INPUT, attempt=0, index=0)
    spec = TensorSpec(dtype="uint8", shape=(SEGMENT + 10,))
    header = TensorHeader.for_tensor(spec, name="x", place=place, segment_bytes=SEGMENT)
    key = ContentKey.from_bytes(b"k" * 32)
    sealer = TensorSealer(key, header)
    plaintext = bytes(range(251)) * (spec.nbytes // 251 + 1)
    plaintext = plaintext[: spec.nbytes]
    segments = tuple(bytes(sealer.segment(i, plaintext)) for i in range(sealer.segment_count))
    return SealedTensor(place=place, key=key, plaintext=plaintext, sealer=sealer, segments=segments)


@cache
def transcript() -> Transcript:
    """What one session is bound to."""
    return Transcript(
        keyset_id=KeySetId(b"1" * 32),
        evidence_digest=Digest(b"2" * 32),
        policy_digest=Digest(b"3" * 32),
        client_key=b"4" * 32,
        session_id=SessionId(b"5" * 16),
        nonce=b"6" * 32,
    )


@cache
def session_keys() -> SessionKeys:
    """The keys of that session."""
    return SessionKeys.derive(b"s" * 32, transcript())


@cache
def wrapped_key() -> tuple[bytes, Digest, ContentKey]:
    """A content key wrapped in that session for one request."""
    key, request = ContentKey.from_bytes(b"c" * 32), Digest(b"q" * 32)
    return session_keys().wrap(key, request), request, key


@cache
def hpke() -> tuple[MLKEM768X25519PrivateKey, bytes, bytes]:
    """A key pair, and a session secret that was sealed to it."""
    private, public = hybrid_kem.generate_key_pair()
    recipient = hybrid_kem.public_key_from_bytes(public)
    enc = hybrid_kem.SUITE.encrypt(b"s" * 32, recipient, hybrid_kem.info(transcript()))
    return private, public, enc


# -- a worker and its client ----------------------------------------------------------------------


@cache
def workshop() -> Workshop:
    """A worker without sockets, over our kernels for statistics."""
    registry = Registry(["enclave_worker.kernels.stats"])
    pool = BufferPool(keep_bytes=1 << 20)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(select_device("cpu"), registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 20),
    )


@cache
def client() -> SimulatedClient:
    """A client with an open session at that worker."""
    return workshop().connect()


@cache
def opening() -> SessionOpen:
    """A session that another client asks for, and the worker has not heard of yet."""
    newcomer = SimulatedClient()
    workshop().attest(newcomer)
    return newcomer.open()


@cache
def session_reply() -> bytes:
    """The Evidence that answered somebody else's Challenge."""
    case = appraisals()[1]
    return AttestationReply(
        bundle=case.record.bundle,
        leaf_index=case.record.leaf_index,
        tree_size=case.record.tree_size,
        path=case.record.path,
        catalogue=workshop().catalogue.to_bytes(),
    ).to_bytes()


def job(**changes: object) -> SimulatedJob:
    """Return a job of that client: a matrix of two segments to standardize."""
    array = np.arange(9_000, dtype=np.float64).reshape(-1, 2)
    return workshop().job(client(), KERNEL, **({"arrays": {"x": array}} | changes))


@frozen(kw_only=True)
class FinishedRequest:
    """A request of the client SDK that a real worker answered, and nobody has looked at yet."""

    key: ClientKey
    spec: JobSpec
    active: Active
    result: tuple[bytes, ...]
    """Result header, receipt, sealed segments."""
    outputs: dict[str, bytes]

    def fresh(self) -> Active:
        """Return the job as it was before anything of its result arrived."""
        job = Job(
            self.active.request.job_id,
            Progress(bytes_to_send=1, bytes_to_receive=1),
            lambda _: None,
        )
        return Active.of(job, self.spec, self.active.request)


@cache
def finished_request(durable: bool) -> FinishedRequest:
    """Submit with the SDK's parts, run with the worker's, and keep what travelled."""
    site, key = workshop(), ClientKey.of(None)
    session = ClientSession(policy=any_catalogue(), client_key=key.public_bytes)
    nonce = os.urandom(32)
    site.attestations.receive(PEER, session.challenge(nonce).to_bytes(), site.now_ms)
    site.now_ms += 1000
    site.attestations.tick(site.now_ms)
    # What a body asked before shares the window.
    replies = site.attestations.collected(site.wait_for_collection())
    answer = next(reply for reply in replies if reply.peer == PEER)
    assert isinstance(answer.record, AttestationReply)
    accepted = session.receive_attestation(
        answer.record, now=datetime.fromtimestamp(site.now_ms / 1000, UTC)
    )
    opening = session.open(SessionId(os.urandom(16)), sign=key.sign)
    (answer,) = site.attestations.receive(PEER, opening.to_bytes(), site.now_ms)
    confirmation = parse(answer.record.to_bytes())
    assert isinstance(confirmation, SessionAccepted)
    session.receive_accepted(confirmation)
    worker = ReadyWorker(
        worker_id=WORKER_ID,
        description=description(catalogue_digest=site.catalogue_digest),
        session=session,
        accepted=accepted,
    )
    spec = _spec(durable=durable)
    request = seal_request(spec, choose(spec, [worker], 1 << 30), key)
    active = Active.of(
        Job(request.job_id, Progress(bytes_to_send=1, bytes_to_receive=1), lambda _: None),
        spec,
        request,
    )
    frames = _run(request)
    delivery = Delivery(attempt=1, header=frames[0], receipt=frames[1], segments=frames[2:])
    opened = verify_and_open(request, delivery, key.key_id, RecycledBuffers()).outputs
    outputs = {name: array.tobytes() for name, array in opened.items()}
    return FinishedRequest(key=key, spec=spec, active=active, result=frames, outputs=outputs)


def any_catalogue() -> Policy:
    """Return a policy that accepts insecure Evidence for any kernels."""
    catalogue = CataloguePolicy(accept_any=True, digests=())
    return evolve(insecure_policy(), catalogue=catalogue)


def description(**changes: object) -> WorkerDescription:
    """Return what a worker says of itself."""
    values = {
        "backend": "numpy",
        "device": "cpu",
        "evidence_kind": "insecure",
        "catalogue_digest": Digest(b"c" * 32),
        "capacity": 2,
        "max_job_bytes": 1 << 30,
    }
    return WorkerDescription(**(values | changes))


def _spec(*, durable: bool) -> JobSpec:
    tensor, array = to_tensor("x", np.arange(20, dtype=np.float64).reshape(10, 2))
    return JobSpec(
        program=KERNEL,
        parameters={},
        arrays={"x": array},
        specs={"x": tensor},
        durable=durable,
        deadline_ms=1 << 50,
        price_limit=0,
        commitment="tags",
        segment_bytes=SEGMENT,
    )


def _run(request: SealedRequest) -> tuple[bytes, ...]:
    site = workshop()
    offer = JobOffer(
        job_id=request.job_id,
        attempt=1,
        input_segments=len(request.inline),
        envelope=request.envelope,
        wrap=dict(request.record.wraps)[WORKER_ID],
    )
    admitted = site.admission.admit(offer, now_ms=site.now_ms)
    with JobExecution(admitted, engine=site.engine, pool=site.pool, clock=site.clock) as execution:
        for index, segment in enumerate(request.inline):
            execution.add_segment(index, segment)
        execution.run()
        segments = [bytes(segment) for segment in execution.segments()]
        finished = execution.finish()
    (receipt,) = site.attestations.issuer(admitted.keyset_id).issue([finished.draft])
    return finished.result.to_bytes(), receipt.to_bytes(), *segments
