"""Segments and credit of running jobs, relayed or through the spool."""

from attestation import limits
from attestation.errors import DecodeError, LimitError
from attestation.wire.control import UINT32, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import instructions as do
from coordinator.core.admission import Admission, check_segment
from coordinator.core.credit import ask_inputs, grant_outputs, pump_inputs, rewind_inputs
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.events import Congested, Message, Segment
from coordinator.core.job import Attempt, Job, State
from coordinator.core.peers import Client, Worker
from coordinator.core.welcome import single
from coordinator.core.world import World


class Transfer:
    """Handles INPUT, INPUT_CREDIT, OUTPUT and OUTPUT_CREDIT."""

    def __init__(
        self, world: World, admission: Admission, dispatch: Dispatch, delivering: Delivering
    ) -> None:
        self._world = world
        self._admission = admission
        self._dispatch = dispatch
        self._delivering = delivering

    # -- from clients -----------------------------------------------------------------------------

    def input(self, client: Client, event: Segment) -> None:
        """Take an input segment: to the spool, or straight on to the worker."""
        job = self._world.jobs.get(event.header.job_id)
        if job is None or job.owner != client.client_key:
            # Segments under way when their job ended: not worth an answer each.
            self._world.counters["segments.stray"] += 1
        elif job.state is State.RECEIVING and job.upload is not None:
            self._admission.receive(job, job.upload, event)
        elif job.state is State.STREAM_LEASED and job.attempt is not None and not job.inline:
            self._relay_input(job, job.attempt, event)

    def _relay_input(self, job: Job, attempt: Attempt, event: Segment) -> None:
        world, length = self._world, len(event.payload)
        worker = world.workers.get(attempt.worker_id)
        if worker is None:
            return
        problem = check_segment(job, event.header.index, attempt.in_sent, length)
        if attempt.in_bytes + length > job.record.input_bytes:
            problem = "more bytes than announced"
        if problem is not None:
            self._dispatch.refuse_job(job, RefusalCode.MALFORMED, problem)
            return
        if attempt.in_sent >= attempt.in_asked:
            self._dispatch.refuse_job(job, RefusalCode.NO_CREDIT, "a segment without credit")
            return
        attempt.in_sent += 1
        attempt.in_bytes += length
        attempt.progress_ms = world.now_ms
        world.counters["bytes.relayed"] += length
        header = Header(Kind.INPUT, job.job_id, attempt.number, event.header.index)
        world.out.append(do.Send(worker.peer, header, (event.payload,)))
        ask_inputs(world, job)

    def client_credit(self, client: Client, message: Message) -> None:
        """The client can take more outputs."""
        world, job = self._world, self._world.jobs.get(message.header.job_id)
        if job is None or job.owner != client.client_key or job.peer != client.peer:
            return
        job.client_credit = min(job.client_credit + message.header.count, 2 * UINT32)
        if job.delivery is not None:
            job.delivery.progress_ms = world.now_ms
            self._delivering.pump(job)
        elif job.state is State.STREAM_LEASED and job.attempt is not None:
            job.attempt.progress_ms = world.now_ms
            worker = world.workers.get(job.attempt.worker_id)
            if worker is not None:
                grant_outputs(world, job, worker)

    # -- from workers -----------------------------------------------------------------------------

    def worker_credit(self, worker: Worker, message: Message) -> None:
        """The worker can take more inputs."""
        world, header = self._world, message.header
        job = world.jobs.get(header.job_id)
        attempt = self._dispatch.lease(job, worker, header.attempt)
        if job is None or attempt is None:
            self.fence(worker, header)
            return
        if job.inline:
            return
        attempt.in_granted = min(attempt.in_granted + header.count, job.record.input_segments)
        self._renew(attempt)
        if not job.durable:
            ask_inputs(world, job)
        elif pump_inputs(world, job, worker):
            world.pumping[job.job_id] = None

    def output_headers(self, worker: Worker, message: Message) -> None:
        """Pass on what a worker announces of its outputs, once and before the first of them.

        A durable job's client gets the recorded header when its outputs are delivered.
        """
        world, header, body = self._world, message.header, single(message)
        job = world.jobs.get(header.job_id)
        attempt = self._dispatch.lease(job, worker, header.attempt)
        if job is None or attempt is None:
            self.fence(worker, header)
            return
        if len(body) > limits.CONTROL_BYTES or attempt.announced or attempt.out_relayed:
            raise DecodeError("outputs are announced once, before the first of them")
        attempt.announced = True
        if not job.durable:
            onward = Header(Kind.OUTPUT_HEADERS, job.job_id, attempt.number, peer=worker.worker_id)
            world.send_to_client(job, onward, body)

    def output(self, worker: Worker, event: Segment) -> None:
        """Take an output segment: to the spool, or straight on to the client."""
        world, header = self._world, event.header
        job = world.jobs.get(header.job_id)
        attempt = self._dispatch.lease(job, worker, header.attempt)
        if job is None or attempt is None:
            self.fence(worker, header)
            return
        problem = self._check_output(job, attempt, event)
        if problem is not None:
            world.note("worker.misbehaved", level="warning", worker_id=worker.worker_id)
            self._dispatch.lose(job, reason=problem)
            return
        attempt.out_relayed += 1
        self._renew(attempt)
        if job.durable:
            world.out.append(do.SpoolAppend(job.output_file(attempt.number), event.payload))
        else:
            world.counters["bytes.relayed"] += len(event.payload)
            onward = Header(
                Kind.OUTPUT, job.job_id, attempt.number, header.index, 0, worker.worker_id
            )
            world.send_to_client(job, onward, event.payload)
        grant_outputs(world, job, worker)

    @staticmethod
    def _check_output(job: Job, attempt: Attempt, event: Segment) -> str | None:
        length = len(event.payload)
        if attempt.out_relayed >= attempt.out_granted:
            return "output-without-credit"
        if check_segment(job, event.header.index, attempt.out_relayed, length) is not None:
            return "output-out-of-order"
        if attempt.out_lengths.total + length > job.record.output_bytes_max:
            return "output-too-large"
        try:
            attempt.out_lengths.append(length)
        except LimitError:
            return "output-irregular"
        return None

    def fence(self, worker: Worker, header: Header) -> None:
        """Tell a worker, once per message that matters, that its lease is over."""
        # One REVOKE for the first segment is enough; the rest of a window is under way already.
        if header.kind is not Kind.OUTPUT or header.index % 16 == 0:
            revoke = Header(Kind.REVOKE, header.job_id, header.attempt)
            self._world.send(worker.peer, revoke)

    def _renew(self, attempt: Attempt) -> None:
        now = self._world.now_ms
        attempt.progress_ms = now
        attempt.expires_ms = now + self._world.rules.lease_ms

    # -- turns ------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Give every transfer that has credit left another window."""
        world = self._world
        jobs = [world.jobs[job_id] for job_id in world.pumping if job_id in world.jobs]
        world.pumping.clear()
        for job in jobs:
            if job.delivery is not None:
                self._delivering.pump(job)
            elif job.attempt is not None:
                worker = world.workers.get(job.attempt.worker_id)
                if worker is not None and pump_inputs(world, job, worker):
                    world.pumping[job.job_id] = None

    def congested(self, event: Congested) -> None:
        """A spooled segment did not go out; it and its successors go again later."""
        world, header = self._world, event.instruction.header
        job = world.jobs.get(header.job_id)
        if job is None:
            return
        if header.kind is Kind.OUTPUT:
            self._delivering.rewind(job, header.index)
        elif header.kind is Kind.RESULT:
            if job.delivery is not None:
                job.delivery.finished = False
                world.pumping[job.job_id] = None
        elif job.attempt is not None and job.attempt.number == header.attempt:
            rewind_inputs(job.attempt, header.index)
            world.pumping[job.job_id] = None
