"""Getting stored results to their clients: outputs first, RESULT last, again until acknowledged."""

from attestation.identifiers import JobId
from attestation.wire.frames import Header, Kind
from coordinator.core import instructions as do
from coordinator.core.instructions import Payload
from coordinator.core.job import Acknowledged, Delivery, Job, Result, State, delivery_lane
from coordinator.core.lengths import Cursor
from coordinator.core.peers import Client
from coordinator.core.rules import sealed_segment
from coordinator.core.timers import Alarm
from coordinator.core.world import World


class Delivering:
    """Moves done jobs to their owners' connections."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, job: Job, frames: tuple[Payload, ...] | None = None) -> None:
        """Begin, if the owner is here and not busy. `frames` is a RESULT still in memory."""
        world = self._world
        client = world.client_at(job.peer)
        if client is None or job.result is None or job.delivery is not None:
            return
        if len(client.deliveries) >= world.rules.deliveries_per_client:
            client.backlog.append(job.job_id)
            return
        client.deliveries.add(job.job_id)
        window = max(1, world.rules.window(job.record.segment_bytes))
        cursor = Cursor(job.result.lengths)
        job.delivery = Delivery(peer=client.peer, window=window, cursor=cursor)
        key, size = delivery_lane(job.job_id), self._lane_bytes(job, job.result)
        if world.budget.hold(key, size, job.account):
            self._begin(job, frames)
        else:
            # It will be read back from the store: what waits in line holds no memory.
            world.budget.request(key, size, lambda: self._begin(job, None), job.account)

    def _lane_bytes(self, job: Job, result: Result) -> int:
        rules, segment = self._world.rules, job.record.segment_bytes
        size = result.inline_bytes
        if result.spooled:
            size += rules.window(segment) * sealed_segment(segment)
        return min(size, self._world.budget.limit)

    def _begin(self, job: Job, frames: tuple[Payload, ...] | None) -> None:
        world, delivery, result = self._world, job.delivery, job.result
        if delivery is None or result is None:
            return
        delivery.started = True
        delivery.progress_ms = world.now_ms
        world.timers.set(world.now_ms + world.rules.stall_ms, Alarm.STALL, job.job_id)
        if frames is not None and not result.spooled:
            delivery.finished = True
            world.send(delivery.peer, self._header(job, result), *frames)
        else:
            self.pump(job)

    @staticmethod
    def _header(job: Job, result: Result) -> Header:
        return Header(Kind.RESULT, job.job_id, result.attempt, 0, result.count, result.worker_id)

    def pump(self, job: Job) -> bool:
        """Send what the client's credit allows; return whether one turn was not enough."""
        world, delivery, result = self._world, job.delivery, job.result
        if delivery is None or result is None or not delivery.started or delivery.finished:
            return False
        count = result.count if result.spooled else 0
        cursor = delivery.cursor
        allowed = min(count, job.client_credit)
        if allowed and not cursor.index:
            number, worker_id = result.attempt, result.worker_id
            header = Header(Kind.OUTPUT_HEADERS, job.job_id, number, peer=worker_id)
            world.out.append(do.SendStoredResult(peer=delivery.peer, header=header))
        for _ in range(min(delivery.window, allowed - cursor.index)):
            index = cursor.index
            offset, length = cursor.take()
            world.counters["bytes.delivered"] += length
            world.out.append(
                do.SendSpooled(
                    peer=delivery.peer,
                    header=Header(Kind.OUTPUT, job.job_id, result.attempt, index),
                    file=job.output_file(result.attempt),
                    offset=offset,
                    length=length,
                )
            )
        if cursor.index >= count:
            delivery.finished = True
            header = self._header(job, result)
            world.out.append(do.SendStoredResult(peer=delivery.peer, header=header))
            return False
        more = cursor.index < allowed
        if more:
            world.pumping[job.job_id] = None
        return more

    def rewind(self, job: Job, index: int) -> None:
        """Take back outputs from `index` on: the client's queue was full."""
        delivery = job.delivery
        if delivery is None or index >= delivery.cursor.index:
            return
        delivery.cursor.seek(index)
        delivery.finished = False
        self._world.pumping[job.job_id] = None

    def resume(self, client: Client) -> None:
        """Deliver everything that ended while this client was away."""
        world = self._world
        for job in list(world.jobs_of.get(client.client_key, {}).values()):
            if world.client_at(job.peer) is None:
                job.peer = client.peer
                job.client_credit = job.output_window
                job.asked.clear()
            if job.state is State.REFUSED and job.refusal is not None:
                code, detail = job.refusal
                world.refuse(client.peer, code, detail, job_id=job.job_id)
            elif job.state is State.DONE and job.delivery is None:
                self.start(job)

    def acknowledge(self, job: Job) -> None:
        """The client has it: forget the job and its bytes."""
        world, result = self._world, job.result
        job.apply(Acknowledged)
        if job.durable:
            world.out.append(do.DeleteJob(job_id=job.job_id))
            if result is not None and not job.inline:
                world.out.append(do.SpoolDelete(job.input_file))
            if result is not None and result.spooled:
                world.out.append(do.SpoolDelete(job.output_file(result.attempt)))
        client = world.client_at(job.peer)
        world.forget_job(job)
        world.counters["jobs.acknowledged"] += 1
        if client is not None:
            self._next(client)

    def stop(self, job: Job) -> None:
        """End a delivery that its client left or let stall; a reconnect begins a new one."""
        delivery = job.delivery
        if delivery is None:
            return
        job.delivery = None
        self._world.pumping.pop(job.job_id, None)
        client = self._world.client_at(delivery.peer)
        self._world.budget.release(delivery_lane(job.job_id))
        if client is not None:
            client.deliveries.discard(job.job_id)
            self._next(client)

    def _next(self, client: Client) -> None:
        while client.backlog and (len(client.deliveries) < self._world.rules.deliveries_per_client):
            job_id: JobId = client.backlog.popleft()
            job = self._world.jobs.get(job_id)
            if job is not None and job.state is State.DONE:
                self.start(job)
