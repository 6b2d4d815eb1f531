"""What each parser of bytes from outside promises, once: `body_x(data)` for any `data` at all.

A body parses, or sees the documented error; anything else that is raised is a finding. Where a
format has one encoding per value, a body encodes again and compares. Where bytes are authenticated,
it starts from honest ones (`honest.py`), changes what the script says, and asserts that only the
unchanged ones pass. Hypothesis (test_bodies.py), atheris (run.py) and every old crash
(test_regressions.py) call these same functions. The parties that answer to a whole conversation
(coordinator, worker, client) are in parties.py.

`REACHED` counts how often a body came past its parser: the seeds must, or they no longer say
anything (test_bodies.py).
"""

import atexit
import base64
import io
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from attrs import evolve

from attestation.cli.collateral_cache import CachedAnswer
from attestation.client.errors import KeyFileError
from attestation.client.files import load_tensor
from attestation.client.keys import ClientKey
from attestation.client.transport import CurveKeys as ClientCurveKeys
from attestation.encoding import cbor
from attestation.encoding.record import Record
from attestation.endorsements.bundle import CollateralBundle
from attestation.endorsements.chains import parse_certificate, verify_chain
from attestation.endorsements.collateral import Collateral
from attestation.errors import (
    DecodeError,
    NotAuthenticError,
    PolicyError,
    ProgramError,
    ReceiptRefusedError,
    SignatureInvalidError,
    TensorError,
    VerificationError,
)
from attestation.evidence.azure_vtpm import AzureSnpVtpmEvidence, AzureTdxVtpmEvidence
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from attestation.evidence.nitro import NitroEvidence
from attestation.evidence.nvidia_gpu import ConfidentialState, GpuDevice, GpuEvidence
from attestation.evidence.sev_snp import SevSnpEvidence
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence
from attestation.evidence.tpm import Attest, PcrQuote, Public, Signature, TpmEvidence
from attestation.policy.loading import parse_policy
from attestation.programs import shapes
from attestation.programs.catalogue import Catalogue, CatalogueEntry
from attestation.programs.loading import load_program_toml
from attestation.programs.parameters import Parameter
from attestation.programs.plan import make_plan
from attestation.programs.program import Program, Step, decode_parameters, encode_parameters
from attestation.programs.signature import KernelSignature, Port
from attestation.receipts import cose
from attestation.receipts.receipt import DeviceClaims, Metering, Receipt, ReceiptClaims
from attestation.receipts.signed_batch import BatchRoot, SignedLeaf
from attestation.sealing import hybrid_kem
from attestation.sealing.floe import FloeOpener
from attestation.sealing.sealed_tensor import TensorOpener, open_bytes, seal_bytes
from attestation.sealing.segments import Layout
from attestation.sealing.session_keys import Transcript
from attestation.sealing.tensor_header import SealedTensorHeader, TensorHeader
from attestation.sealing.tensor_spec import DTYPES, TensorSpec
from attestation.wire import control, messages
from attestation.wire.frames import HEADER_BYTES, Header, check_message
from coordinator.core.lengths import SegmentLengths
from coordinator.errors import KeyFileError as CoordinatorKeyFileError
from coordinator.keys import load as load_coordinator_key
from coordinator.keys import load_allowed
from enclave_worker.transport import KeyFileError as WorkerKeyFileError
from enclave_worker.transport import load_curve_keys
from tests.fuzz import honest
from tests.fuzz.script import Script
from tests.programs import kernels
from tests.simulators.evidence import NOW

REACHED: Counter[str] = Counter()

Body = Callable[[bytes], None]

RECORDS: dict[str, tuple[type[Record], ...]] = {
    "control": (
        control.Refusal,
        control.ClientHello,
        control.HelloChallenge,
        control.ClientProof,
        control.ClientWelcome,
        control.WorkerDescription,
        control.WorkerHello,
        control.WorkerWelcome,
        control.Heartbeat,
        control.SubmitRecord,
        control.WorkerEntry,
        control.WorkerListing,
        control.JobEntry,
        control.JobListing,
    ),
    "messages": (
        messages.Challenge,
        messages.AttestationReply,
        messages.SessionOpen,
        messages.SessionAccepted,
        messages.SessionRefused,
        messages.JobHeader,
        messages.JobEnvelope,
        messages.JobBody,
        messages.ResultHeader,
        Transcript,
    ),
    "evidence": (
        KeySet,
        EvidenceBundle,
        EvidenceRecord,
        InsecureEvidence,
        TpmEvidence,
        PcrQuote,
        NitroEvidence,
        AzureSnpVtpmEvidence,
        AzureTdxVtpmEvidence,
        SevSnpEvidence,
        TdxEvidence,
        SgxEvidence,
        GpuEvidence,
        GpuDevice,
        ConfidentialState,
    ),
    "collateral": (Collateral, CollateralBundle, CachedAnswer),
    "receipts": (Receipt, ReceiptClaims, DeviceClaims, Metering, BatchRoot, SignedLeaf),
    "programs": (Program, Step, Catalogue, CatalogueEntry, KernelSignature, Port, Parameter),
    "tensors": (TensorHeader, SealedTensorHeader),
}
"""Every format that travels or is stored; test_bodies.py looks for one that was forgotten."""

TPM_POLICY = f"""version = 1
[evidence]
kinds = ["tpm"]
max_age_seconds = 60
[keys]
max_lifetime_seconds = 600
[catalogue]
digests = ["sha256:{"ab" * 32}"]
[tpm]
pcr_bank = "sha256"
roots = ["roots.pem"]
[tpm.pcrs]
11 = ["{"ab" * 32}"]
"""


# -- encoding and framing -------------------------------------------------------------------------


def body_cbor(data: bytes) -> None:
    """Deterministic CBOR: one encoding per value, and no other is accepted."""
    try:
        value = cbor.decode(data, limit=len(data))
    except DecodeError:
        return
    REACHED["cbor"] += 1
    assert cbor.encode(value) == data


def body_header(data: bytes) -> None:
    """The 48 bytes that a relay reads."""
    try:
        header = Header.from_bytes(data)
    except DecodeError:
        return
    REACHED["header"] += 1
    assert header.to_bytes() == data


def body_message(data: bytes) -> None:
    """A message of any frames: its header is checked before anything else is looked at."""
    script, frames = Script(data), []
    while not script.done:
        frames.append(script.take(HEADER_BYTES) if not frames else script.chunk())
    try:
        header = check_message(frames)
    except DecodeError:
        return
    REACHED["message"] += 1
    assert header.to_bytes() == frames[0]


def body_session_message(data: bytes) -> None:
    """What client and worker say to each other, told apart by its `type`."""
    try:
        message = messages.parse(data)
    except DecodeError:
        return
    REACHED["session_message"] += 1
    assert message.to_bytes() == data


def _records(group: str) -> Body:
    def body(data: bytes) -> None:
        script = Script(data)
        kind = script.pick(RECORDS[group])
        encoded = script.rest()
        try:
            record = kind.from_bytes(encoded)
        except DecodeError:
            return
        REACHED[f"{group}_record"] += 1
        assert record.to_bytes() == encoded

    return body


body_control_record = _records("control")
body_messages_record = _records("messages")
body_evidence_record = _records("evidence")
body_collateral_record = _records("collateral")
body_receipts_record = _records("receipts")
body_programs_record = _records("programs")
body_tensors_record = _records("tensors")


def body_segment_lengths(data: bytes) -> None:
    """What the coordinator reads back from its store: a disk may lie too."""
    try:
        lengths = SegmentLengths.from_bytes(data)
    except DecodeError:
        return
    REACHED["segment_lengths"] += 1
    assert lengths.to_bytes() == data


# -- evidence -------------------------------------------------------------------------------------


def _parsed(name: str, parse: Callable[[bytes], object]) -> Body:
    def body(data: bytes) -> None:
        try:
            parse(data)
        except DecodeError:
            return
        REACHED[name] += 1

    return body


body_tpm_attest = _parsed("tpm_attest", Attest.from_bytes)
body_tpm_signature = _parsed("tpm_signature", Signature.from_bytes)
body_tpm_public = _parsed("tpm_public", Public.from_bytes)


def body_certificate(data: bytes) -> None:
    """A certificate parses or not; one that nobody issued leads to no root."""
    try:
        certificate = parse_certificate(data)
    except DecodeError:
        return
    REACHED["certificate"] += 1
    issued = {honest.der(entry) for entry in honest.chain()}
    try:
        verify_chain([certificate, honest.chain()[1]], roots=[honest.operator().root], now=NOW)
    except VerificationError:
        return
    assert data in issued


def body_appraisal(data: bytes) -> None:
    """A verdict, never an exception; and no changed Evidence gives out another key."""
    script = Script(data)
    case = script.pick(honest.appraisals())
    record = case.record
    true = EvidenceBundle.from_bytes(record.bundle)
    match script.number() % 4:
        case 0:
            changed = script.damaged(record.bundle)
        case 1:
            changed = evolve(true, body=script.damaged(true.body)).to_bytes()
        case 2:
            changed = evolve(true, keyset=script.damaged(true.keyset)).to_bytes()
        case _:
            changed = script.rest()
    record = evolve(record, bundle=changed, leaf_index=record.leaf_index + script.number() % 3)
    try:
        result = case.appraise(record)
    except DecodeError:
        return
    REACHED["appraisal"] += 1
    if result.accepted:
        assert result.keyset == KeySet.from_bytes(true.keyset)
        assert result.recipient_key().public_bytes == result.keyset.kem_public_key
        assert record.leaf_index == case.record.leaf_index


# -- receipts -------------------------------------------------------------------------------------


def body_receipt(data: bytes) -> None:
    """A receipt that is not the one that was signed is refused as a receipt."""
    script = Script(data)
    worker, true = honest.receipts()
    receipt = evolve(true, claims=script.damaged(true.claims), proof=script.damaged(true.proof))
    try:
        claims = worker.verify(receipt)
    except ReceiptRefusedError:
        assert receipt != true
        return
    REACHED["receipt"] += 1
    assert claims == ReceiptClaims.from_bytes(true.claims)


def body_signed_leaf(data: bytes) -> None:
    """A leaf, its path and the signature of its root: changed, they prove nothing else."""
    script = Script(data)
    leaf, label, key, true = honest.signed_leaf()
    leaf, proof = script.damaged(leaf), script.damaged(true.to_bytes())
    try:
        parsed = SignedLeaf.from_bytes(proof)
        key_id = parsed.verify(leaf, label=label, public_key=key)
    except (DecodeError, SignatureInvalidError):
        return
    REACHED["signed_leaf"] += 1
    assert (leaf, key_id) == (honest.signed_leaf()[0], honest.KEY_ID)


def body_cose(data: bytes) -> None:
    """COSE_Sign1: only what was signed comes out."""
    script = Script(data)
    true, key = honest.cose_sign1()
    signed = script.damaged(true) if script.number() % 2 == 0 else script.rest()
    try:
        _, payload = cose.verify1(signed, key, content_type=honest.CONTENT_TYPE)
    except (DecodeError, SignatureInvalidError):
        return
    REACHED["cose"] += 1
    assert payload == honest.PAYLOAD


# -- programs and policies ------------------------------------------------------------------------


def body_program(data: bytes) -> None:
    """A program over any tensors: a plan within its own sizes, or why there is none."""
    script = Script(data)
    specs = {}
    for name in ("x", "a", "b"):
        rank = script.number() % 4
        shape = tuple(script.number() for _ in range(rank))
        specs[name] = TensorSpec(dtype=script.pick(sorted(DTYPES)), shape=shape)
    try:
        parameters = decode_parameters(script.chunk())
        program = Program.from_bytes(script.rest())
        plan = make_plan(
            program,
            kernels.CATALOGUE,
            {name: specs.get(name, specs["x"]) for name in program.inputs},
            parameters,
        )
    except (DecodeError, ProgramError):
        return
    REACHED["program"] += 1
    assert plan.peak_bytes <= plan.total_bytes


def body_parameters(data: bytes) -> None:
    """Parameters of a program: canonical, or refused."""
    try:
        parameters = decode_parameters(data)
    except DecodeError:
        return
    REACHED["parameters"] += 1
    assert encode_parameters(parameters) == data


def body_shapes(data: bytes) -> None:
    """A pattern or a rule of a kernel's signature, as another worker's catalogue may write it."""
    text = data.decode("utf-8", "replace")
    for parse in (shapes.parse, shapes.parse_rule):
        try:
            parse(text)
        except DecodeError:
            continue
        REACHED["shapes"] += 1


def body_program_toml(data: bytes) -> None:
    """A program file."""
    try:
        program, parameters = load_program_toml(data.decode("utf-8", "replace"))
    except ProgramError:
        return
    REACHED["program_toml"] += 1
    assert Program.from_bytes(program.to_bytes()) == program
    try:
        encoded = encode_parameters(parameters)
    except ProgramError:
        return
    assert decode_parameters(encoded).keys() <= parameters.keys()


def body_policy(data: bytes) -> None:
    """A policy file: every field said, or an error that names the line."""
    try:
        policy = parse_policy(data.decode("utf-8", "replace"), directory=Path("/nonexistent"))
    except PolicyError:
        return
    REACHED["policy"] += 1
    assert policy.evidence.kinds
    assert policy.catalogue.accept_any or policy.catalogue.digests


def pem(der: bytes) -> str:
    """Return `der` in the armour of a certificate, whatever it is."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def body_policy_roots(data: bytes) -> None:
    """The certificates that a policy pins, from a PEM file beside it."""
    _file("roots.pem", pem(data).encode())
    try:
        policy = parse_policy(TPM_POLICY, directory=_folder())
    except PolicyError:
        return
    REACHED["policy_roots"] += 1
    assert policy.tpm is not None
    assert policy.tpm.roots


# -- sealing --------------------------------------------------------------------------------------


def body_tensor_layout(data: bytes) -> None:
    """A header's claims stay within the limits before a byte is allocated for them."""
    script = Script(data)
    true = honest.sealed_tensor()
    try:
        header = TensorHeader.from_bytes(script.damaged(true.sealer.sealed_header.header))
    except DecodeError:
        return
    REACHED["tensor_layout"] += 1
    layout = Layout.of(header)
    sizes = sum(layout.plaintext_length(i) for i in {0, layout.count - 1})
    assert sizes <= header.spec.nbytes <= 1 << 40


def body_floe(data: bytes) -> None:
    """FLOE itself: any header, and any segment at any place, with either finality."""
    script = Script(data)
    true = honest.sealed_tensor()
    aad = true.sealer.sealed_header.header
    header = script.damaged(true.sealer.sealed_header.floe_header)
    position, final = script.number() % 3, bool(script.number() % 2)
    segment = script.damaged(script.pick(true.segments))
    try:
        opener = FloeOpener(
            true.key.tensor_key(aad), aad, header, segment_length=honest.SEGMENT + 32
        )
        out = bytearray(b"\xaa" * max(0, len(segment) - 32))
        opener.open_into(position, segment, out, final=final)
    except NotAuthenticError:
        if "out" in locals():
            assert not any(out), "unauthenticated plaintext stayed in the buffer"
        return
    REACHED["floe"] += 1
    assert (position, final) in ((0, False), (1, True))
    assert segment == true.segments[position]


def body_tensor_opener(data: bytes) -> None:
    """A whole tensor from changed headers and segments: the one that was sealed, or nothing."""
    script = Script(data)
    true = honest.sealed_tensor()
    out = bytearray(b"\xaa" * len(true.plaintext))
    try:
        sealed = SealedTensorHeader.from_bytes(script.damaged(true.sealer.sealed_header.to_bytes()))
        opener = TensorOpener(true.key, sealed, expected=true.place)
    except (DecodeError, NotAuthenticError):
        return
    order = [script.number() % 3 for _ in range(2)]
    try:
        for index in order:
            opener.open_into(index, script.damaged(true.segments[index % 2]), out)
        opener.finish()
    except NotAuthenticError:
        assert not any(out), "plaintext of a refused tensor stayed in the buffer"
        return
    REACHED["tensor_opener"] += 1
    assert out == true.plaintext


def body_wrap(data: bytes) -> None:
    """A content key comes out of the wrap that was made, for the request it was made for."""
    script = Script(data)
    true, request, key = honest.wrapped_key()
    wrap, other = script.damaged(true), script.damaged(request)
    if len(other) != len(request):
        other = request
    try:
        unwrapped = honest.session_keys().unwrap(wrap, other)
    except (DecodeError, NotAuthenticError):
        assert (wrap, other) != (true, request)
        return
    REACHED["wrap"] += 1
    assert (wrap, other) == (true, request)
    assert unwrapped.commitment(b"j" * 16) == key.commitment(b"j" * 16)


def body_hpke(data: bytes) -> None:
    """A public key of any bytes, and a ciphertext of any bytes to a true key."""
    script = Script(data)
    private, public, enc = honest.hpke()
    try:
        hybrid_kem.public_key_from_bytes(script.damaged(public))
    except DecodeError:
        pass
    else:
        REACHED["hpke"] += 1
    changed = script.damaged(enc)
    try:
        keys = hybrid_kem.open_session(private, changed, honest.transcript())
    except NotAuthenticError:
        assert changed != enc
        return
    assert changed == enc
    assert keys.session_id == honest.transcript().session_id


def body_job_body(data: bytes) -> None:
    """A sealed job body opens unchanged, with its own associated data, or not at all."""
    script = Script(data)
    true, aad = _sealed_body()
    changed, bound = script.damaged(true), script.damaged(aad)
    try:
        opened = open_bytes(b"k" * 32, bound, changed)
    except NotAuthenticError:
        assert (changed, bound) != (true, aad)
        return
    REACHED["job_body"] += 1
    assert opened == honest.PAYLOAD
    assert (changed, bound) == (true, aad)


@cache
def _sealed_body() -> tuple[bytes, bytes]:
    aad = b"a request digest"
    return seal_bytes(b"k" * 32, aad, honest.PAYLOAD), aad


# -- files ----------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    # In memory where there is such a place: a fuzzer writes thousands of files in a second.
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def body_client_key(data: bytes) -> None:
    """A client's signing key in PEM."""
    try:
        key = ClientKey.load(_file("client.key", data))
    except KeyFileError:
        return
    REACHED["client_key"] += 1
    assert len(key.public_bytes) == 32


def body_curve_key(data: bytes) -> None:
    """A CURVE key file, as client, worker and coordinator each read it."""
    path = _file("any.curve", data)
    for load, error in (
        (lambda: ClientCurveKeys.load(path, path), KeyFileError),
        (lambda: load_curve_keys(path, path), WorkerKeyFileError),
        (lambda: load_coordinator_key(path), CoordinatorKeyFileError),
    ):
        try:
            load()
        except error:
            continue
        REACHED["curve_key"] += 1


def body_allow_list(data: bytes) -> None:
    """The operator's list of peers: never empty, and every key 32 bytes long."""
    try:
        allowed = load_allowed(_file("allow", data))
    except CoordinatorKeyFileError:
        return
    REACHED["allow_list"] += 1
    assert allowed
    assert {len(key) for key in allowed} == {32}


def body_npy(data: bytes) -> None:
    """A tensor on standard input, and the same in a file: an array without objects, or refused."""
    for source in ("-", str(_file("x.npy", data))):
        try:
            array = load_tensor(source, stdin=io.BytesIO(data))
        except TensorError:
            continue
        REACHED["npy"] += 1
        assert not array.dtype.hasobject


def _named_tensor(name: str, suffix: str) -> Body:
    def body(data: bytes) -> None:
        script = Script(data)
        key = script.pick(["", ":x"])
        path = _file(f"any{suffix}", script.rest())
        try:
            array = load_tensor(f"{path}{key}", stdin=io.BytesIO())
        except TensorError:
            return
        REACHED[name] += 1
        assert not array.dtype.hasobject

    return body


body_npz = _named_tensor("npz", ".npz")
body_safetensors = _named_tensor("safetensors", ".safetensors")
