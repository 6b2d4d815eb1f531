"""Whatever a coordinator sends, the client's engine neither raises nor hands out a result."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from attestation.client.active import Active, Stage
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
from attestation.wire.control import (
    ClientWelcome,
    HelloChallenge,
    Refusal,
    RefusalCode,
    WorkerDescription,
)
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


@define
class Sent:
    """A way to a coordinator that takes what it has room for."""

    messages: list[list[Frame]] = field(factory=list)
    room: int = 1 << 32

    @property
    def congested(self) -> bool:
        return len(self.messages) >= self.room

    def send(self, frames: Sequence[Frame]) -> None:
        self.messages.append(list(frames))

    def forget_queued(self) -> None:
        """What was sent has left."""

    def headers(self, kind: Kind) -> list[Header]:
        """Return the headers of one kind."""
        headers = [Header.from_bytes(frames[0]) for frames in self.messages]
        return [header for header in headers if header.kind is kind]


def new_engine(sent: Sent) -> Engine:
    return Engine(
        policy=insecure_policy(),
        key=ClientKey.of(None),
        channel_binding=b"",
        outgoing=sent,
        changed=lambda _: None,
        openers=ThreadPoolExecutor(1),
        later=lambda command: command(0.0),
    )


def a_job(durable: bool, *, size: int = 2) -> Active:
    """Return a job of two square matrices, as `Client.submit` would make it."""
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
    tensors = {name: to_tensor(name, np.eye(size)) for name in ("a", "b")}
    spec = JobSpec(
        program="linalg.matmul",
        parameters={},
        arrays={name: array for name, (_, array) in tensors.items()},
        specs={name: spec for name, (spec, _) in tensors.items()},
        durable=durable,
        deadline_ms=1 << 50,
        price_limit=0,
        commitment="tags",
        segment_bytes=1 << 16,
    )
    request = seal_request(spec, choose(spec, [worker], ROOMY), ClientKey.of(None))
    request.job_id = JobId(b"j" * 16)
    progress = Progress(bytes_to_send=1, bytes_to_receive=1)
    return Active.of(Job(request.job_id, progress, lambda _: None), spec, request)


def be_welcome(engine: Engine) -> None:
    """Let a coordinator welcome the client."""
    engine.tick(0.0)
    challenge = HelloChallenge(nonce=bytes(32)).to_bytes()
    engine.receive([Header(Kind.HELLO_CHALLENGE).to_bytes(), challenge], 0.0)
    welcome = ClientWelcome(peer_id=b"p" * 16, max_job_bytes=ROOMY).to_bytes()
    engine.receive([Header(Kind.CLIENT_WELCOME).to_bytes(), welcome], 0.0)


def grant(engine: Engine, active: Active, count: int) -> None:
    """Say that the coordinator takes `count` more segments of a job."""
    header = Header(Kind.INPUT_CREDIT, active.request.job_id, count=count)
    engine.receive([header.to_bytes()], 0.0)


JOBS = {durable: a_job(durable) for durable in (True, False)}


@given(st.lists(st.tuples(HEADERS, BODIES), max_size=12), st.booleans())
def test_no_sequence_of_messages_raises_or_yields_a_result(
    messages: list[tuple[Header, list[bytes]]], durable: bool
) -> None:
    engine = new_engine(Sent())
    template = JOBS[durable]
    job = Job(template.request.job_id, template.job.progress, lambda _: None)
    engine.submit(Active.of(job, template.spec, template.request))
    for step, (header, body) in enumerate(messages):
        engine.receive([header.to_bytes(), *body], float(step))
        engine.tick(float(step))
        engine.upload()
    assert not (job.done() and job.exception() is None)
    engine.abandon(ClientClosedError("the end of the test"))
    assert job.done()


@given(st.lists(st.binary(max_size=64), max_size=5))
def test_frames_that_are_no_message_are_dropped(frames: list[bytes]) -> None:
    sent = Sent()
    new_engine(sent).receive(list(frames), 0.0)
    assert sent.messages == []


@given(st.integers(1, 20))
def test_a_flood_of_not_welcome_is_answered_by_one_hello(count: int) -> None:
    """One refusal comes for every message on the way; a hello for each would never settle."""
    sent = Sent()
    engine = new_engine(sent)
    be_welcome(engine)
    sent.messages.clear()
    refusal = Refusal(code=RefusalCode.NOT_WELCOME).to_bytes()
    for _ in range(count):
        engine.receive([Header(Kind.REFUSED).to_bytes(), refusal], 0.1)
    kinds = [Header.from_bytes(message[0]).kind for message in sent.messages]
    assert kinds == [Kind.CLIENT_HELLO]


def test_questions_end_with_the_connection() -> None:
    engine = new_engine(Sent())
    jobs: Future[object] = Future()
    engine.ask_jobs(jobs)  # type: ignore[arg-type]
    engine.abandon(ClientClosedError("the end of the test"))
    with pytest.raises(ClientClosedError):
        jobs.result(0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=12))
def test_whatever_is_granted_nothing_is_sealed_that_the_socket_does_not_take(
    steps: list[tuple[int, int]],
) -> None:
    """A coordinator that grants everything and reads nothing does not fill the client's memory."""
    sent = Sent()
    engine = new_engine(sent)
    be_welcome(engine)
    active = a_job(durable=True, size=512)  # 64 segments: more than are ever taken
    engine.submit(active)
    granted, sent.room = 0, len(sent.messages)
    for room, count in steps:
        grant(engine, active, count)
        granted += count
        sent.room += room
        while engine.upload():
            pass
        indices = [header.index for header in sent.headers(Kind.INPUT)]
        assert indices == list(range(active.request.segments_sealed))
        assert len(indices) <= granted
        assert len(sent.messages) <= sent.room


def test_jobs_that_are_granted_everything_take_turns() -> None:
    sent = Sent()
    engine = new_engine(sent)
    be_welcome(engine)
    jobs = [a_job(durable=True, size=512) for _ in range(2)]
    jobs[1].request.job_id = JobId(b"k" * 16)
    for active in jobs:
        engine.submit(active)
        grant(engine, active, (1 << 32) - 1)
    sent.room = len(sent.messages) + 8
    engine.upload()
    assert [each.request.segments_sealed for each in jobs] == [4, 4]


@pytest.mark.parametrize("end", ["cancelled", "refused", "to be offered again"])
def test_of_a_job_that_ended_no_more_is_sealed(end: str) -> None:
    sent = Sent()
    engine = new_engine(sent)
    be_welcome(engine)
    active = a_job(durable=True, size=512)
    engine.submit(active)
    grant(engine, active, (1 << 32) - 1)
    sent.room = len(sent.messages) + 2
    engine.upload()
    codes = {"refused": RefusalCode.INTERNAL, "to be offered again": RefusalCode.QUEUE_FULL}
    if end in codes:
        refusal = Refusal(code=codes[end]).to_bytes()
        engine.receive([Header(Kind.REFUSED, active.request.job_id).to_bytes(), refusal], 0.0)
    else:
        engine.cancel(active.job)
    sent.room = 1 << 32
    assert engine.upload() == 0
    assert active.request.segments_sealed == 2
    assert active.stage is (Stage.WAITING if end == "to be offered again" else Stage.SENT)
