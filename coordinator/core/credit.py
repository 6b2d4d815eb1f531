"""Credit arithmetic: how many segments each side of a running job may send.

A grant says "I have room for that many more". What we grant onwards is never more than what we were
granted and never more than the lane that the job reserved in the budget, so sealed bytes wait at
their sender and not here.
"""

from attestation.wire.frames import Header, Kind
from coordinator.core import instructions as do
from coordinator.core.job import Attempt, Job
from coordinator.core.peers import Worker
from coordinator.core.world import World


def _worth_sending(more: int, window: int, *, starved: bool) -> bool:
    """Credit goes out in quarters of a window, or at once to a sender that has none left."""
    return more > 0 and (starved or more >= max(1, window // 4))


def grant_outputs(world: World, job: Job, worker: Worker) -> None:
    """Let the worker send outputs into the spool, or as many as the client takes."""
    attempt = job.attempt
    if attempt is None:
        return
    target = attempt.out_relayed + attempt.window
    if not job.durable:
        target = min(target, job.client_credit)
    more = target - attempt.out_granted
    starved = attempt.out_granted == attempt.out_relayed
    if _worth_sending(more, attempt.window, starved=starved):
        attempt.out_granted = target
        header = Header(Kind.OUTPUT_CREDIT, job.job_id, attempt.number, count=more)
        world.send(worker.peer, header)


def ask_inputs(world: World, job: Job) -> None:
    """Pass a streaming worker's credit on to the client, as far as the lane reaches."""
    attempt = job.attempt
    if attempt is None or job.peer is None:
        return
    target = min(attempt.in_granted, attempt.in_sent + attempt.window)
    more = target - attempt.in_asked
    if _worth_sending(more, attempt.window, starved=attempt.in_asked == attempt.in_sent):
        attempt.in_asked = target
        world.send(job.peer, Header(Kind.INPUT_CREDIT, job.job_id, count=more))


def pump_inputs(world: World, job: Job, worker: Worker) -> bool:
    """Send spooled inputs under the worker's credit; return whether a turn was not enough.

    A turn is one window, so that a worker that grants everything at once is still fed in step with
    its connection.
    """
    attempt = job.attempt
    if attempt is None or attempt.in_cursor is None:
        return False
    for _ in range(min(attempt.window, attempt.in_granted - attempt.in_sent)):
        index = attempt.in_cursor.index
        offset, length = attempt.in_cursor.take()
        attempt.in_sent += 1
        world.out.append(
            do.SendSpooled(
                peer=worker.peer,
                header=Header(Kind.INPUT, job.job_id, attempt.number, index),
                file=job.input_file,
                offset=offset,
                length=length,
            )
        )
    return attempt.in_sent < attempt.in_granted


def rewind_inputs(attempt: Attempt, index: int) -> None:
    """Take back spooled inputs from `index` on: the worker's queue was full."""
    if attempt.in_cursor is not None and index < attempt.in_sent:
        attempt.in_cursor.seek(index)
        attempt.in_sent = index
