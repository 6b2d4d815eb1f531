"""Every check before a job's inputs has an attack that it stops, and leaves nothing behind."""

from os import urandom

import attrs
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding import cbor
from attestation.encoding.digests import Label, digest
from attestation.programs.program import Program, encode_parameters
from attestation.sealing.content_key import ContentKey
from attestation.sealing.tensor_header import SealedTensorHeader
from attestation.wire.messages import JobEnvelope
from enclave_worker.admission import Terms
from enclave_worker.refusals import (
    ExpiredError,
    JobNotAuthenticError,
    JobRefusedError,
    JobSignatureError,
    MalformedJobError,
    ProgramRefusedError,
    ReplayedError,
    UnknownKeySetError,
    UnknownSessionError,
    WorkerLimitError,
)
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient, SimulatedJob


def refuses(
    workshop: Workshop, job: SimulatedJob, error: type[JobRefusedError], **changes: object
) -> JobRefusedError:
    """Check that the offer is refused, and that the refusal leaves no claim behind."""
    with pytest.raises(error) as caught:
        workshop.admit(job, **changes)
    live = next(iter(workshop.keystore._live.values()))
    assert live.replay.active == 0
    assert type(caught.value) is error
    return caught.value


def test_an_honest_job_is_admitted(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    admitted = workshop.admit(job, attempt=4)
    assert admitted.request_digest == job.header.digest()
    assert admitted.attempt == 4
    assert list(admitted.plan.outputs) == ["y"]
    assert admitted.content_key is not job.content_key
    assert "ContentKey" not in repr(admitted)


# -- (1, 2) form ----------------------------------------------------------------------------------


def test_an_envelope_that_does_not_parse_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    for envelope in (b"", b"\xff", job.envelope()[:-1], job.envelope() + b"\0"):
        refuses(workshop, job, MalformedJobError, envelope=envelope)


def test_an_envelope_under_another_job_id_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A coordinator that files one client's job under another's id cannot mix their results."""
    job, other = workshop.job(client), workshop.job(client)
    refuses(workshop, job, MalformedJobError, job_id=other.job_id)


# -- (3) signature --------------------------------------------------------------------------------


def test_a_header_changed_after_signing_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A coordinator that raises the price limit or the deadline breaks the signature."""
    job = workshop.job(client)
    envelope = JobEnvelope.from_bytes(job.envelope())
    dearer = attrs.evolve(job.header, price_limit=10**9).to_bytes()
    changed = attrs.evolve(envelope, header=dearer).to_bytes()
    refuses(workshop, job, JobSignatureError, envelope=changed)


def test_a_header_signed_by_somebody_else_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """Nobody runs jobs in a client's name, or on its bill, without its key."""
    job = workshop.job(client)
    forged = job.envelope(signer=Ed25519PrivateKey.generate())
    refuses(workshop, job, JobSignatureError, envelope=forged)


def test_a_signature_that_does_not_parse_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    envelope = JobEnvelope.from_bytes(job.envelope())
    changed = attrs.evolve(envelope, signature=b"\x00").to_bytes()
    refuses(workshop, job, JobSignatureError, envelope=changed)


# -- (4) session ----------------------------------------------------------------------------------


def test_another_clients_job_does_not_run_in_a_session(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A thief signs its own header and shows it with a wrap from its victim's session."""
    thief = SimulatedClient(keyset=client.keyset, keys=client.keys)
    refuses(workshop, workshop.job(thief), JobSignatureError)


def test_a_wrap_of_an_unknown_session_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    for wrap in (b"", bytes(75), bytes(76), urandom(16) + job.wrap()[16:]):
        refuses(workshop, job, UnknownSessionError, wrap=wrap)


def test_a_session_ends_with_its_key_set(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    workshop.now_ms = client.keyset.not_after_ms
    with pytest.raises(UnknownKeySetError):
        workshop.admit(job)
    workshop.attestations.tick(workshop.now_ms)
    with pytest.raises(UnknownSessionError):
        workshop.admit(job)


# -- (5) replay -----------------------------------------------------------------------------------


def test_a_job_that_is_here_is_not_admitted_again(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    workshop.admit(job)
    for attempt in (1, 2):
        with pytest.raises(ReplayedError):
            workshop.admit(job, attempt=attempt)


def test_replay_is_found_before_a_key_is_unwrapped(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """The order is part of the protocol: a replay costs a worker no decryption."""
    job = workshop.job(client)
    workshop.admit(job)
    wrap = bytearray(job.wrap())
    wrap[-1] ^= 1
    with pytest.raises(ReplayedError):
        workshop.admit(job, wrap=bytes(wrap))


# -- (6) time, catalogue, limits ------------------------------------------------------------------


def test_an_expired_job_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    """A coordinator that holds a job back cannot have it run when nobody wants it any more."""
    job = workshop.job(client, not_after_ms=workshop.now_ms)
    refuses(workshop, job, ExpiredError)


def test_a_job_for_another_catalogue_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    other = digest(Label.CATALOGUE, b"another worker's")
    refuses(workshop, workshop.job(client, catalogue_digest=other), ProgramRefusedError)


def test_an_unknown_kind_of_commitment_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    refuses(workshop, workshop.job(client, commitment_kind="md5"), ProgramRefusedError)


def test_a_job_is_not_run_for_more_than_its_client_pays(
    workshop: Workshop, client: SimulatedClient
) -> None:
    workshop.terms = Terms(max_job_bytes=1 << 26, price=11)
    refuses(workshop, workshop.job(client, price_limit=10), WorkerLimitError)
    workshop.admit(workshop.job(client, price_limit=11))
    workshop.admit(workshop.job(client, price_limit=0))


def test_inputs_larger_than_the_worker_allows_are_refused_before_a_key_is_unwrapped(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    workshop.terms = Terms(max_job_bytes=job.arrays["x"].nbytes - 1)
    refuses(workshop, job, WorkerLimitError, wrap=job.wrap()[:-1] + b"!")


def test_a_program_whose_intermediates_are_too_large_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """Small inputs do not buy large memory: the plan is sized before anything is allocated."""
    job = workshop.job(client)
    workshop.terms = Terms(max_job_bytes=job.arrays["x"].nbytes + 100)
    refuses(workshop, job, WorkerLimitError)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20), (1,) * 15 + (1 << 40,)], ids=len)
def test_a_header_that_announces_a_giant_tensor_allocates_nothing(
    workshop: Workshop, client: SimulatedClient, shape: tuple[int, ...]
) -> None:
    """2^40 elements in a hundred bytes."""
    job = workshop.job(client)
    honest = SealedTensorHeader.from_bytes(job.header.inputs[0])
    giant = attrs.evolve(honest.tensor, dtype="int8", shape=shape).to_bytes()
    assert len(giant) <= 200
    sealed = attrs.evolve(honest, header=giant)
    job.change_header(inputs=(sealed.to_bytes(),))
    segments = -(-(1 << 40) // job.header.segment_bytes)
    refuses(workshop, job, WorkerLimitError, input_segments=segments)


def test_a_header_that_announces_more_than_any_tensor_has_is_malformed(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """2^40 elements of eight bytes: the header itself is none."""
    job = workshop.job(client)
    honest = SealedTensorHeader.from_bytes(job.header.inputs[0])
    fields = honest.tensor.to_map() | {"shape": [1 << 40]}
    sealed = attrs.evolve(honest, header=cbor.encode(fields))
    job.change_header(inputs=(sealed.to_bytes(),))
    refuses(workshop, job, MalformedJobError)


def test_another_number_of_segments_than_was_signed_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    refuses(workshop, job, JobNotAuthenticError, input_segments=2)
    refuses(workshop, job, JobNotAuthenticError, input_segments=0)


def test_a_tensor_of_another_job_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    """Even a client that signs a splice of two jobs does not get it run."""
    job, other = workshop.job(client), workshop.job(client)
    job.change_header(inputs=other.header.inputs)
    refuses(workshop, job, JobNotAuthenticError)


def test_two_tensors_of_one_name_are_refused(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    first = SealedTensorHeader.from_bytes(job.header.inputs[0])
    second = attrs.evolve(first, header=attrs.evolve(first.tensor, index=1).to_bytes())
    job.change_header(inputs=(first.to_bytes(), second.to_bytes()))
    refuses(workshop, job, MalformedJobError, input_segments=6)


def test_segments_of_another_size_than_the_job_says_are_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    job.change_header(segment_bytes=1 << 20)
    refuses(workshop, job, MalformedJobError)


# -- (7, 8) keys ----------------------------------------------------------------------------------


def test_a_wrap_for_another_job_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    """The coordinator swaps the wraps of two jobs of one client."""
    job, other = workshop.job(client), workshop.job(client)
    refuses(workshop, job, JobNotAuthenticError, wrap=other.wrap())


def test_a_changed_wrap_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    wrap = bytearray(job.wrap())
    wrap[20] ^= 1
    refuses(workshop, job, JobNotAuthenticError, wrap=bytes(wrap))


def test_a_content_key_other_than_the_committed_one_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A client cannot give two workers two keys under which one ciphertext means two things."""
    job = workshop.job(client)
    envelope = job.envelope()
    other = client.keys.wrap(ContentKey.generate(), job.header.digest())
    refuses(workshop, job, JobNotAuthenticError, envelope=envelope, wrap=other)


# -- (9, 10) body ---------------------------------------------------------------------------------


def test_a_changed_body_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    envelope = JobEnvelope.from_bytes(job.envelope())
    for body in (b"", envelope.body[:-1], bytes([envelope.body[0] ^ 1]) + envelope.body[1:]):
        changed = attrs.evolve(envelope, body=body).to_bytes()
        refuses(workshop, job, JobNotAuthenticError, envelope=changed)


def test_the_body_of_another_job_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    key = ContentKey.generate()
    job = workshop.job(client, content_key=key)
    other = workshop.job(client, content_key=key)
    body = JobEnvelope.from_bytes(other.envelope()).body
    changed = attrs.evolve(JobEnvelope.from_bytes(job.envelope()), body=body).to_bytes()
    refuses(workshop, job, JobNotAuthenticError, envelope=changed)


def test_another_program_than_the_signed_one_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """G5: what runs is what the header, and later the receipt, names."""
    job = workshop.job(client)
    other = Program.single(workshop.catalogue.signature("test.hoard"))
    job.body = attrs.evolve(job.body, program=other.to_bytes())
    refuses(workshop, job, ProgramRefusedError)


def test_a_job_that_asks_for_equal_bits_gets_no_kernel_that_cannot_promise_them(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A client with an old catalogue, or none, is protected by the worker's own check."""
    promised = workshop.job(client, "stats.describe", arrays={"x": np.ones((4, 2))})
    promised.change_header(deterministic=True)
    assert workshop.admit(promised).header.deterministic
    other = workshop.job(client)
    other.change_header(deterministic=True)
    with pytest.raises(ProgramRefusedError, match="not-deterministic"):
        workshop.admit(other)


def test_other_parameters_than_the_committed_ones_are_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client, "stats.describe", arrays={"x": np.ones((4, 2))})
    changed = encode_parameters({"run": {"ddof": 1}})
    job.body = attrs.evolve(job.body, parameters=changed)
    refuses(workshop, job, ProgramRefusedError)


# -- (11) plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.ones((2, 2)), "shape-mismatch"),
        (np.ones(3, dtype=np.float32), "dtype-mismatch"),
    ],
)
def test_inputs_that_do_not_fit_the_program_are_refused(
    workshop: Workshop, client: SimulatedClient, array: np.ndarray, code: str
) -> None:
    """Shapes are checked by the worker too: a client's own check protects only honest clients."""
    error = refuses(workshop, workshop.job(client, arrays={"x": array}), ProgramRefusedError)
    assert str(error) == code


def test_an_input_that_the_program_does_not_name_is_refused(
    workshop: Workshop, client: SimulatedClient
) -> None:
    arrays = {"x": np.ones(3), "z": np.ones(3)}
    refuses(workshop, workshop.job(client, arrays=arrays), ProgramRefusedError)


def test_a_refusal_quotes_no_parameter(workshop: Workshop, client: SimulatedClient) -> None:
    """The coordinator reads refusals, and parameters are secret."""
    job = workshop.job(
        client,
        "stats.describe",
        arrays={"x": np.ones((4, 2))},
        parameters={"run": {"ddof": 123456789}},
    )
    error = refuses(workshop, job, ProgramRefusedError)
    assert "123456789" not in error.refusal().detail
