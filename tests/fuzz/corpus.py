"""Where a search begins: a few valid inputs per body, made anew from the honest parties.

Nothing binary lies in the repository: a seed that is built from the code cannot grow stale, and
test_bodies.py sees that each one still comes past its parser. `python -m tests.fuzz.run` adds what
it finds to a folder of its own.
"""

import io
import zipfile
from collections.abc import Callable

import numpy as np
import safetensors.numpy
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation.encoding import cbor
from attestation.encoding.record import Record
from attestation.identifiers import JobId
from attestation.policy.template import policy_template
from attestation.programs.program import Program, encode_parameters
from attestation.receipts.receipt import ReceiptClaims
from attestation.receipts.signed_batch import BatchRoot, SignedLeaf
from attestation.wire import control, messages
from attestation.wire.frames import Header, Kind
from coordinator.core.lengths import SegmentLengths
from tests.coordinator.formats import submit_record
from tests.fuzz import catalogue, honest, hosts, intel, nvidia, platforms, sev_snp, verdicts
from tests.fuzz.bodies import RECORDS, TPM_POLICY
from tests.fuzz.parties import JOB_IDS, KINDS
from tests.fuzz.script import chunk
from tests.programs import kernels

HONEST = bytes(24)
"""A script of zeros changes nothing."""

PROGRAM_TOML = b"""version = 1
inputs = ["x"]

[steps.clean]
kernel = "stats.standardize"
inputs = { x = "x" }

[steps.reduce]
kernel = "linalg.pca"
inputs = { x = "clean.z" }
parameters = { k = 2, tolerance = 1e-3, exact = true, mode = "full" }

[outputs]
scores = "reduce.scores"
"""

ATTESTATION_KEY = f'attestation_keys = ["sha256:{"cd" * 32}"]'
POLICY = TPM_POLICY.replace('roots = ["roots.pem"]', ATTESTATION_KEY).encode()


def seeds(name: str) -> list[bytes]:
    """Return valid inputs of body `name`."""
    return _SEEDS[name]() if name in _SEEDS else _record_seeds(name.removesuffix("_record"))


def _record_seeds(group: str) -> list[bytes]:
    """One of each record of a group; the first byte says which."""
    made: dict[type[Record], bytes] = {}
    for record in _records():
        made.setdefault(type(record), record.to_bytes())
    return [bytes([index]) + made[kind] for index, kind in enumerate(RECORDS[group])]


def _records() -> list[Record]:
    key, id_ = b"k" * 32, b"i" * 16
    worker, receipt = honest.receipts()
    entry = control.WorkerEntry(
        worker_id=honest.WORKER_ID, state="ready", running=1, description=honest.description()
    )
    mine = control.JobEntry(
        job_id=JobId(id_),
        state="queued",
        attempt=1,
        durable=True,
        input_bytes=2,
        submitted_ms=3,
    )
    sealed = honest.sealed_tensor().sealer.sealed_header
    job = honest.job()
    envelope = messages.JobEnvelope.from_bytes(job.envelope())
    signature = kernels.PCA
    program = Program.single(kernels.MATMUL)
    return [
        control.Refusal(code=control.RefusalCode.INTERNAL, detail="why"),
        control.ClientHello(client_key=key),
        control.HelloChallenge(nonce=key),
        control.ClientProof(signature=key * 2),
        control.ClientWelcome(peer_id=id_, max_job_bytes=1),
        honest.description(),
        control.WorkerHello(instance=id_, description=honest.description()),
        control.WorkerWelcome(worker_id=honest.WORKER_ID, heartbeat_ms=1, lease_ms=2),
        control.Heartbeat(running=((JobId(id_), 1),)),
        submit_record(honest.WORKER_ID),
        entry,
        control.WorkerListing(workers=(entry,)),
        mine,
        control.JobListing(jobs=(mine,)),
        *map(messages.parse, _session_messages()),
        job.header,
        envelope,
        job.body,
        messages.ResultHeader(code="", outputs=(sealed.to_bytes(),)),
        honest.transcript(),
        worker.keyset,
        worker.bundle,
        worker.record(),
        honest.insecure(),
        verdicts.items(),
        verdicts.bundle(),
        verdicts.cached_answer(),
        honest.tpm().evidence(bytes(64)),
        *platforms.evidence(),
        sev_snp.chip().evidence(bytes(64)),
        *intel.records(),
        *nvidia.records(),
        receipt,
        ReceiptClaims.from_bytes(receipt.claims),
        ReceiptClaims.from_bytes(receipt.claims).device,
        ReceiptClaims.from_bytes(receipt.claims).metering,
        SignedLeaf.from_bytes(receipt.proof),
        BatchRoot(size=3, root=key),
        program,
        program.steps[0],
        kernels.CATALOGUE,
        kernels.CATALOGUE.entries[0],
        signature,
        signature.inputs[0],
        kernels.K,
        sealed.tensor,
        sealed,
    ]


def _session_messages() -> list[bytes]:
    return [
        messages.Challenge(nonce=b"n" * 32).to_bytes(),
        honest.session_reply(),
        honest.opening().to_bytes(),
        messages.SessionAccepted(
            session_id=honest.transcript().session_id, confirmation=b"c" * 32
        ).to_bytes(),
        messages.SessionRefused(
            subject=b"n" * 32, code=control.RefusalCode.UNKNOWN_KEYSET
        ).to_bytes(),
    ]


def _cbor() -> list[bytes]:
    values = [0, -1, 1 << 63, 1.5, 1e-7, True, None, b"b", "t", [1, [2, [3]]], {"a": {1: 2}}]
    return [cbor.encode(value) for value in [*values, values[:-1]]]


def _headers() -> list[bytes]:
    job = JobId(b"j" * 16)
    return [Header(kind, job, 1, 2, 3, b"p" * 16).to_bytes() for kind in Kind]


def _lengths() -> list[bytes]:
    lengths = SegmentLengths()
    for length in (65568, 65568, 42):
        lengths.append(length)
    return [b"", lengths.to_bytes()]


def _programs() -> list[bytes]:
    matrix = bytes([2, 4, 4, 5])  # rank, two dimensions, a dtype
    parameters = chunk(encode_parameters({"run": {"k": 2}}))
    return [
        3 * matrix + chunk(encode_parameters({})) + Program.single(kernels.MATMUL).to_bytes(),
        3 * matrix + parameters + Program.single(kernels.PCA).to_bytes(),
    ]


def _keys() -> list[bytes]:
    key = Ed25519PrivateKey.from_private_bytes(b"5" * 32)
    return [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]


def _curve() -> list[bytes]:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    text = f'metadata\ncurve\n    public-key = "{public}"\n    secret-key = "{secret}"\n'
    return [text.encode()]


def _npy() -> list[bytes]:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(1.5),
        np.zeros((0, 3), dtype=">i4"),
        np.asfortranarray(np.ones((2, 2), dtype=np.complex64)),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ]
    return [_saved(array) for array in arrays]


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz() -> list[bytes]:
    stored, packed, foreign = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(stored, x=np.arange(3))
    np.savez_compressed(packed, x=np.arange(3), y=np.eye(2))
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("x", b"not an array")
    return [
        b"\0" + stored.getvalue(),
        b"\1" + packed.getvalue(),
        b"\0" + foreign.getvalue(),
    ]


def _safetensors() -> list[bytes]:
    two = {"x": np.arange(3, dtype=np.float32), "y": np.eye(2, dtype=np.float16)}
    return [b"\1" + safetensors.numpy.save(two), b"\0" + safetensors.numpy.save({"x": two["x"]})]


CLIENTS, WORKERS = (0, 1), (2, 3)
"""Peers of the coordinator's script, as numbers."""


def _coordinator() -> list[bytes]:
    """A job from SUBMIT to RESULT_ACK, inline and durable; then one whose segments stream."""
    job = JOB_IDS.index(JobId(b"a" * 16))

    def submit(client: int, segments: int, durable: int, outputs: int) -> bytes:
        return bytes([5, client, job, segments, 0, durable, outputs, 0, 4, 0])

    def say(
        kind: Kind, body: int, who: int, *, attempt: int = 0, index: int = 0, count: int = 1
    ) -> bytes:
        return bytes([7, KINDS.index(kind), job, attempt, index, count, 0, who, body])

    client, worker = CLIENTS[0], WORKERS[0]
    result = say(Kind.RESULT, 6, worker)
    done = result + say(Kind.RESULT_ACK, 0, client)
    upload = b"".join(say(Kind.INPUT, 2, client, attempt=1, index=index) for index in range(3))
    credit = say(Kind.INPUT_CREDIT, 0, worker, count=3)
    return [
        submit(client, 0, 1, 1) + done,
        submit(client, 0, 0, 1) + done,
        submit(client, 2, 0, 1) + credit + upload + done,
        submit(client, 2, 1, 1) + upload + bytes([0, 12]) + done,
        submit(client, 0, 1, 1) + bytes([2, 0]) + result + bytes([0, 15]),
        bytes([6, 4, 3]) + b"abc" + chunk(b"body"),
    ]


def _client() -> list[bytes]:
    """The true result, on a durable job and on a streaming one; and some talk before it."""
    result = bytes([2, 0, 0, 0, 0, 0, 0])
    return [
        b"\0" + result,
        b"\1" + bytes([8, 5, 12, 0, 0, 0, 0, 0, 0, 0, 0]) + result,
        b"\0" + b"".join(bytes([4, index]) for index in range(3)) + result,
    ]


def _executor() -> list[bytes]:
    segment = bytes([1, 0, 0])
    return [segment + segment + bytes([1, 0, 0, 0]), segment + bytes([0, 0, 0])]


def _worker_runtime() -> list[bytes]:
    """An assignment with all it needs, twice; then a welcome and a heartbeat between them."""
    assign = bytes([1, *[0] * 4, 0, 1, 0])
    welcome = bytes([3, KINDS.index(Kind.WORKER_WELCOME), 1, 0, 0, 0, 0, 0, 0])
    return [assign + assign, welcome + assign, bytes([1, *[0] * 4, 2, 1, 0])]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "kernel_report": hosts.seeds_of_reports,
    "nitro_answer": hosts.seeds_of_answers,
    "tpm_signature_form": platforms.seeds_of_signatures,
    "tpm_key": platforms.seeds_of_keys,
    "nitro_document": platforms.seeds_of_documents,
    "hcl_report": platforms.seeds_of_reports,
    "foreign_cbor": platforms.seeds_of_foreign_cbor,
    "event_log": platforms.seeds_of_logs,
    "admission": lambda: [HONEST, b"\2" + HONEST],
    "allow_list": lambda: [b"# who\n" + zmq.curve_keypair()[0] + b" a name\n\n"],
    "appraisal": lambda: [HONEST, b"\1" + HONEST],
    "cbor": _cbor,
    "certificate": lambda: list(honest.tpm().certificates),
    "client": _client,
    "client_key": _keys,
    "collateral_answer": verdicts.seeds_of_answers,
    "collateral_bundle": lambda: [HONEST],
    "collateral_description": verdicts.seeds_of_descriptions,
    "coordinator": _coordinator,
    "cose": lambda: [HONEST, b"\1" + honest.cose_sign1()[0]],
    "curve_key": _curve,
    "executor": _executor,
    "expression": catalogue.seeds_of_expressions,
    "floe": lambda: [HONEST, bytes([0, 1, 1, 1])],
    "header": _headers,
    "hpke": lambda: [HONEST],
    "intel_appraisal": lambda: [HONEST],
    "intel_certificates": intel.seeds_of_certificates,
    "intel_collateral": intel.seeds_of_collateral,
    "intel_quote": intel.seeds_of_quotes,
    "job_body": lambda: [HONEST],
    "message": lambda: [_headers()[0] + chunk(b"frame") + chunk(b"")],
    "npy": _npy,
    "npz": _npz,
    "onnx_model": catalogue.seeds_of_models,
    "parameters": lambda: [encode_parameters({"a": {"k": 1, "x": 0.5, "b": True, "w": "text"}})],
    "policy": lambda: [policy_template(allow_insecure_evidence=True).encode(), POLICY],
    "policy_signature": lambda: [HONEST],
    "policy_roots": lambda: list(honest.tpm().certificates),
    "program": _programs,
    "program_toml": lambda: [PROGRAM_TOML],
    "receipt": lambda: [HONEST],
    "revocation_list": sev_snp.seeds_of_lists,
    "safetensors": _safetensors,
    "segment_lengths": _lengths,
    "session_message": _session_messages,
    "sev_snp_appraisal": lambda: [HONEST],
    "sev_snp_certificate": sev_snp.seeds_of_certificates,
    "sev_snp_report": lambda: [sev_snp.chip().report(bytes(64))],
    "sev_snp_table": lambda: [sev_snp.chip().table],
    "shapes": lambda: [
        *(b"T[..., m, min(n-1, k)+2]", b"complex(T)[n]", b"k+1 <= min(n, d)"),
        *(b"T[..., div(h+2*padding-p, stride)+1]?", b"mod(o, groups) == 0", b"c == groups*i"),
    ],
    "signed_leaf": lambda: [HONEST],
    "tensor_layout": lambda: [HONEST],
    "tensor_opener": lambda: [bytes([0, 0, 1, 0, 0])],
    "tpm_attest": lambda: [honest.tpm().evidence(bytes(64)).attest],
    "tpm_public": lambda: [honest.tpm().evidence(bytes(64)).ak_public],
    "tpm_signature": lambda: [honest.tpm().evidence(bytes(64)).signature],
    "verdict_page": lambda: [b"<script>", b"a name"],
    "worker_runtime": _worker_runtime,
    "worker_session": lambda: [HONEST, b"\1" + HONEST],
    "dice": nvidia.seeds_of_extensions,
    "key_set": nvidia.seeds_of_key_sets,
    "nvidia_appraisal": lambda: [HONEST],
    "nvidia_chain": nvidia.seeds_of_chains,
    "nvidia_manifest": nvidia.seeds_of_manifests,
    "nvidia_report": nvidia.seeds_of_reports,
    "ocsp": nvidia.seeds_of_answers,
    "token_bundle": nvidia.seeds_of_tokens,
    "wrap": lambda: [HONEST],
}
