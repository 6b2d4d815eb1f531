"""Whatever a coordinator sends, the client's engine neither raises nor hands out a result."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.client.active import Active
from attestation.client.engine import Engine
from attestation.client.errors import ClientClosedError
from attestation.client.jobs import Job, Progress
from attestation.client.keys import ClientKey
from attestation.client.numpy_tensors import to_tensor
from attestation.client.requests import JobSpec, choose, seal_request
from attestation.client.workers import ReadyWorker
from attestation.identifiers import JobId, WorkerId
from attestation.programs.catalogue import Catalogue
from attestation.wire.client_session import State
from attestation.wire.control import HelloChallenge, WorkerDescription
from attestation.wire.frames import NO_JOB, Frame, Header, Kind
from tests.programs.kernels import MATMUL
from tests.simulators.evidence import insecure_policy
from tests.wire.test_client_session import Worker as SessionWorker
from tests.wire.test_client_session import ready

ROOMY = 1 << 30
HEADERS = st.builds(
    Header,
    st.sampled_from(Kind),
    st.sampled_from([NO_JOB, JobId(b"j" * 16)]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 40),
    st.sampled_from([bytes(16), b"w" * 16]),
)
BODIES = st.lists(st.binary(max_size=80), max_size=4)


def new_engine(sent: list[list[Frame]]) -> Engine:
    return Engine(
        policy=insecure_policy(),
        key=ClientKey.of(None),
        channel_binding=b"",
        send=sent.append,
        changed=lambda _: None,
        openers=ThreadPoolExecutor(1),
        later=lambda command: command(0.0),
    )


def a_job(durable: bool) -> Active:
    """Return a job of two small matrices, as `Client.submit` would make it."""
    session = ready(SessionWorker()).session
    assert session.state is State.READY
    kernels = Catalogue.from_map(
        {"v": 1, "entries": [{"signature": MATMUL.to_map(), "source_digest": bytes(32)}]}
    )
    accepted = session.accepted
    worker = ReadyWorker(
        worker_id=WorkerId(b"w" * 16),
        description=WorkerDescription(
            backend="numpy",
            device="cpu",
            evidence_kind="insecure",
            catalogue_digest=kernels.digest(),
            capacity=1,
            max_job_bytes=ROOMY,
        ),
        session=session,
        accepted=type(accepted)(
            result=accepted.result,
            keyset=accepted.keyset,
            keyset_id=accepted.keyset_id,
            catalogue=kernels,
            record=accepted.record,
        ),
    )
    tensors = {name: to_tensor(name, np.eye(2)) for name in ("a", "b")}
    spec = JobSpec(
        program="linalg.matmul",
        parameters={},
        arrays={name: array for name, (_, array) in tensors.items()},
        specs={name: spec for name, (spec, _) in tensors.items()},
        durable=durable,
        deadline_ms=1 << 50,
        price_limit=0,
        commitment="tags",
        segment_bytes=1 << 20,
    )
    request = seal_request(spec, choose(spec, [worker], ROOMY), ClientKey.of(None))
    request.job_id = JobId(b"j" * 16)
    progress = Progress(bytes_to_send=1, bytes_to_receive=1)
    return Active.of(Job(request.job_id, progress, lambda _: None), spec, request)


JOBS = {durable: a_job(durable) for durable in (True, False)}


@given(st.lists(st.tuples(HEADERS, BODIES), max_size=12), st.booleans())
def test_no_sequence_of_messages_raises_or_yields_a_result(
    messages: list[tuple[Header, list[bytes]]], durable: bool
) -> None:
    sent: list[list[Frame]] = []
    engine = new_engine(sent)
    template = JOBS[durable]
    job = Job(template.request.job_id, template.job.progress, lambda _: None)
    engine.submit(Active.of(job, template.spec, template.request))
    for step, (header, body) in enumerate(messages):
        engine.receive([header.to_bytes(), *body], float(step))
        engine.tick(float(step))
    assert not (job.done() and job.exception() is None)
    engine.abandon(ClientClosedError("the end of the test"))
    assert job.done()


@given(st.lists(st.binary(max_size=64), max_size=5))
def test_frames_that_are_no_message_are_dropped(frames: list[bytes]) -> None:
    sent: list[list[Frame]] = []
    new_engine(sent).receive(list(frames), 0.0)
    assert sent == []


@given(st.integers(1, 20))
def test_a_flood_of_not_welcome_is_answered_by_one_hello(count: int) -> None:
    """One refusal comes for every message on the way; a hello for each would never settle."""
    sent: list[list[Frame]] = []
    engine = new_engine(sent)
    engine.tick(0.0)
    challenge = HelloChallenge(nonce=bytes(32)).to_bytes()
    engine.receive([Header(Kind.HELLO_CHALLENGE).to_bytes(), challenge], 0.0)
    welcome = b"\xa2gpeer_id" + b"\x50" + bytes(16) + b"mmax_job_bytes\x1a\x7f\xff\xff\xff"
    engine.receive([Header(Kind.CLIENT_WELCOME).to_bytes(), welcome], 0.0)
    sent.clear()
    refusal = b"\xa2dcodeknot-welcomefdetail`"
    for _ in range(count):
        engine.receive([Header(Kind.REFUSED).to_bytes(), refusal], 0.1)
    kinds = [Header.from_bytes(message[0]).kind for message in sent]
    assert kinds == [Kind.CLIENT_HELLO]


def test_questions_end_with_the_connection() -> None:
    engine = new_engine([])
    jobs: Future[object] = Future()
    engine.ask_jobs(jobs)  # type: ignore[arg-type]
    engine.abandon(ClientClosedError("the end of the test"))
    with pytest.raises(ClientClosedError):
        jobs.result(0)
