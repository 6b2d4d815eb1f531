"""Submissions: what is refused, what is spooled, when a job counts as accepted."""

import hashlib

from attrs import evolve

from attestation import limits
from attestation.errors import DecodeError, LimitError
from attestation.wire.control import RefusalCode, SubmitRecord
from attestation.wire.frames import NO_JOB, Header, Kind
from coordinator.core import instructions as do
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.events import Message, Segment
from coordinator.core.instructions import Payload
from coordinator.core.job import InputsStored, Job, Refused, State, Upload, body_hold, upload_lane
from coordinator.core.peers import Client
from coordinator.core.rules import SEGMENT_OVERHEAD, sealed_segment
from coordinator.core.timers import Alarm
from coordinator.core.world import NEVER, World

_ENTRY_BYTES = 2048
"""What one job costs in tables besides its wraps, generously."""


class RefusedError(Exception):
    """Internal to admission: carries the code and sentence of a refusal up to `submit`."""

    def __init__(self, code: RefusalCode, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class Admission:
    """Handles SUBMIT and the uploads that follow it."""

    def __init__(self, world: World, dispatch: Dispatch, delivering: Delivering) -> None:
        self._world = world
        self._dispatch = dispatch
        self._delivering = delivering

    # -- SUBMIT -----------------------------------------------------------------------------------

    def submit(self, client: Client, message: Message) -> None:
        """Accept a job, ask for its inputs, or refuse it."""
        world, job_id = self._world, message.header.job_id
        try:
            record = self._parse(message)
            if self._repeated(client, record, message):
                return
            self._check_rules(client, record)
            job = self._make(client, record, message)
        except RefusedError as refusal:
            world.refuse(message.peer, refusal.code, refusal.detail, job_id=job_id)
            return
        world.add_job(job)
        if job.state is State.RECEIVING:
            self._start_upload(job)
        else:
            self._accept(job, message)

    def _parse(self, message: Message) -> SubmitRecord:
        """Check everything that needs no table."""
        if message.header.job_id == NO_JOB or len(message.frames) < 2:
            raise RefusedError(RefusalCode.MALFORMED, "a job id, a record and an envelope")
        try:
            record = SubmitRecord.from_bytes(message.frames[0])
        except DecodeError as error:
            raise RefusedError(RefusalCode.MALFORMED, str(error)) from error
        if not 0 < len(message.frames[1]) <= limits.JOB_ENVELOPE_BYTES:
            raise RefusedError(RefusalCode.TOO_LARGE, "the job envelope")
        check_shape(record, message.frames[2:])
        workers = [worker_id for worker_id, _ in record.wraps]
        if len(set(workers)) != len(workers) or not all(wrap for _, wrap in record.wraps):
            raise RefusedError(RefusalCode.MALFORMED, "an empty wrap, or two for one worker")
        return record

    def _repeated(self, client: Client, record: SubmitRecord, message: Message) -> bool:
        """Answer a job that we have: the same bytes again are idempotent, others an error."""
        world = self._world
        job = world.jobs.get(message.header.job_id)
        if job is None:
            if world.finished.get(message.header.job_id, NEVER).recorded:
                raise RefusedError(RefusalCode.DUPLICATE_JOB, "this job has ended")
            return False
        if job.owner != client.client_key or job.envelope_digest != _digest(message.frames[1]):
            raise RefusedError(RefusalCode.DUPLICATE_JOB, "another job has this id")
        if job.state is State.RECEIVING:
            # The client starts over, as it does after a broken connection.
            self.drop_upload(job)
            return False
        job.peer = client.peer
        for worker_id, wrap in record.wraps:
            self._dispatch.add_wrap(job, worker_id, wrap)
        world.send(client.peer, Header(Kind.ACCEPTED, job.job_id))
        self._delivering.resume(client)
        return True

    def _check_rules(self, client: Client, record: SubmitRecord) -> None:
        world, rules = self._world, self._world.rules
        own = world.jobs_of.get(client.client_key, ())
        index_bytes = _index_bytes(record)
        if world.draining:
            raise RefusedError(RefusalCode.DRAINING)
        if record.deadline_ms and record.deadline_ms <= world.unix_ms:
            raise RefusedError(RefusalCode.DEADLINE_PASSED)
        if record.input_bytes + record.output_bytes_max > rules.max_job_bytes:
            raise RefusedError(RefusalCode.TOO_LARGE, f"more than {rules.max_job_bytes} bytes")
        if rules.window(record.segment_bytes) == 0:
            raise RefusedError(RefusalCode.TOO_LARGE, "one segment exceeds the memory budget")
        if len(own) >= rules.max_jobs_per_client or not world.places.room(client.account, 1):
            raise RefusedError(RefusalCode.QUEUE_FULL)
        if not world.index.room(client.account, index_bytes):
            raise RefusedError(RefusalCode.QUEUE_FULL, "too many wrapped keys")

    def _make(self, client: Client, record: SubmitRecord, message: Message) -> Job:
        world = self._world
        envelope, segments = message.frames[1], message.frames[2:]
        inline = len(segments) == record.input_segments
        disk_bytes = 0
        if record.durable:
            disk_bytes = len(envelope) + record.input_bytes + record.output_bytes_max
            if not world.spool.room(client.account, disk_bytes):
                raise RefusedError(RefusalCode.SPOOL_FULL)
        state = State.STREAM_QUEUED
        if record.durable:
            state = State.QUEUED if inline else State.RECEIVING
        job = Job(
            job_id=message.header.job_id,
            owner=client.client_key,
            account=client.account,
            record=evolve(record, wraps=()),
            envelope_digest=_digest(envelope),
            envelope_bytes=len(envelope),
            inline=inline,
            wraps=dict(record.wraps),
            state=state,
            sequence=world.next_sequence(),
            submitted_ms=world.unix_ms,
            output_window=message.header.count,
            index_bytes=_index_bytes(record),
            disk_bytes=disk_bytes,
            peer=client.peer,
            # A streaming job may come again after LOST: its attempts go on counting.
            attempt_number=world.finished.get(message.header.job_id, NEVER).last,
            client_credit=message.header.count,
        )
        for segment in segments:
            job.lengths.append(len(segment))
        self._hold_body(job, (envelope, *segments))
        return job

    def _hold_body(self, job: Job, body: tuple[Payload, ...]) -> None:
        """Keep a body in memory while there is room. A streaming job has nowhere else to be."""
        size = sum(len(frame) for frame in body)
        if self._world.bodies.hold(body_hold(job.job_id), size, job.account):
            job.body = body
        elif not job.durable or not job.inline:
            raise RefusedError(RefusalCode.NO_CREDIT, "no memory for this job at the moment")

    def _accept(self, job: Job, message: Message) -> None:
        if job.durable:
            self._store(job, message.frames[0], message.frames[1], message.frames[2:])
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        world = self._world
        world.counters["jobs.accepted"] += 1
        world.note(
            "job.accepted",
            level="debug",
            job_id=job.job_id,
            durable=job.durable,
            input_bytes=job.record.input_bytes,
        )
        # To a free worker first: the client waits for its result, not for this.
        self._dispatch.enqueue(job)
        world.send_to_client(job, Header(Kind.ACCEPTED, job.job_id))

    def _store(
        self, job: Job, record: bytes, envelope: bytes, segments: tuple[bytes, ...] = ()
    ) -> None:
        self._world.out.append(
            do.StoreJob(
                job_id=job.job_id,
                owner=job.owner,
                record=record,
                envelope=envelope,
                segments=segments,
                lengths=job.lengths.to_bytes(),
                spooled=not job.inline,
                output_window=job.output_window,
                submitted_ms=job.submitted_ms,
            )
        )

    # -- uploads of durable jobs ------------------------------------------------------------------

    def _start_upload(self, job: Job) -> None:
        world = self._world
        window = world.rules.window(job.record.segment_bytes)
        upload = job.upload = Upload(window=window, progress_ms=world.now_ms)
        lane = window * sealed_segment(job.record.segment_bytes)
        world.timers.set(world.now_ms + world.rules.stall_ms, Alarm.STALL, job.job_id)
        key = upload_lane(job.job_id)
        world.budget.request(key, lane, lambda: self._grant_upload(job, upload), job.account)

    def _grant_upload(self, job: Job, upload: Upload) -> None:
        world = self._world
        target = min(upload.received + upload.window, job.record.input_segments)
        more = target - upload.granted
        # Credit goes out in quarters of a window: one message for several segments.
        if more <= 0 or (more < upload.window // 4 and target < job.record.input_segments):
            return
        upload.granted = target
        upload.progress_ms = world.now_ms
        world.send_to_client(job, Header(Kind.INPUT_CREDIT, job.job_id, count=more))

    def receive(self, job: Job, upload: Upload, event: Segment) -> None:
        """Take one INPUT of a durable job into its file."""
        world = self._world
        problem = self._check_input(job, upload, event)
        if problem is not None:
            self._dispatch.refuse_job(job, *problem)
            return
        upload.received += 1
        upload.progress_ms = world.now_ms
        world.counters["bytes.received"] += len(event.payload)
        world.out.append(do.SpoolAppend(job.input_file, event.payload))
        if upload.received < job.record.input_segments:
            self._grant_upload(job, upload)
        else:
            self._finish_upload(job)

    def _check_input(
        self, job: Job, upload: Upload, event: Segment
    ) -> tuple[RefusalCode, str] | None:
        if upload.received >= upload.granted:
            return RefusalCode.NO_CREDIT, "a segment without credit"
        length = len(event.payload)
        last = upload.received + 1 == job.record.input_segments
        problem = check_segment(job, event.header.index, upload.received, length)
        total = job.lengths.total + length
        if (
            problem is None
            and (total > job.record.input_bytes or last)
            and (total != job.record.input_bytes)
        ):
            problem = "the segments are not the announced number of bytes"
        if problem is None:
            try:
                job.lengths.append(length)
            except LimitError as error:
                problem = str(error)
        return None if problem is None else (RefusalCode.MALFORMED, problem)

    def _finish_upload(self, job: Job) -> None:
        world = self._world
        assert job.body is not None  # noqa: S101 - an upload holds its envelope until here
        (envelope,) = job.body
        world.out.append(do.SpoolSeal(job.input_file))
        record = evolve(job.record, wraps=tuple(job.wraps.items())).to_bytes()
        self._store(job, record, bytes(envelope))  # type: ignore[call-overload]
        job.upload = None
        job.apply(InputsStored)
        world.drop_body(job)
        world.budget.release(upload_lane(job.job_id))
        self._enqueue(job)

    def drop_upload(self, job: Job) -> None:
        """Forget a job that was never accepted."""
        job.apply(Refused)
        self._world.forget_job(job)
        self._world.out.append(do.SpoolDelete(job.input_file))


def check_shape(record: SubmitRecord, segments: tuple[bytes, ...]) -> None:
    """Refuse sizes that cannot belong together."""
    size = record.segment_bytes
    if size & (size - 1) or not limits.SEGMENT_BYTES_MIN <= size <= limits.SEGMENT_BYTES_MAX:
        raise RefusedError(RefusalCode.MALFORMED, "segment_bytes is not an allowed power of two")
    count, total = record.input_segments, record.input_bytes
    if not count * SEGMENT_OVERHEAD <= total <= count * sealed_segment(size):
        raise RefusedError(RefusalCode.MALFORMED, "input_bytes does not fit input_segments")
    if not segments:
        return
    if len(segments) != count or sum(map(len, segments)) != total:
        raise RefusedError(RefusalCode.MALFORMED, "inline segments are not the announced ones")
    if count > limits.INLINE_SEGMENTS or total > limits.INLINE_BYTES:
        raise RefusedError(RefusalCode.TOO_LARGE, "too much for one message")
    if not all(SEGMENT_OVERHEAD <= len(each) <= sealed_segment(size) for each in segments):
        raise RefusedError(RefusalCode.MALFORMED, "a segment of another size")


def check_segment(job: Job, index: int, expected: int, length: int) -> str | None:
    """Return what is wrong with a segment, or None."""
    if index != expected:
        return f"segment {index} where {expected} is next"
    if not SEGMENT_OVERHEAD <= length <= sealed_segment(job.record.segment_bytes):
        return "a segment of another size"
    return None


def _digest(envelope: bytes) -> bytes:
    return hashlib.sha256(envelope).digest()


def _index_bytes(record: SubmitRecord) -> int:
    return _ENTRY_BYTES + sum(128 + len(wrap) for _, wrap in record.wraps)
