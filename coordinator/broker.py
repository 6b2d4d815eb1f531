"""The broker: one thread, one ROUTER socket, no decisions.

A turn is: take every message that is there (up to a bound), let the core decide, write the spool as
it says, commit all store instructions of the turn in one transaction, then send. Nothing that
depends on the disk leaves before the disk has it; while a turn has nothing to commit, sends leave
at once, so that a relayed segment waits for nobody.

Written as a lean blocking loop: frame by frame, received `Frame` objects passed on without a copy.
`recv_multipart` costs four times as much per message and asyncio six times.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
import zmq

from attestation import limits
from attestation.errors import DecodeError
from attestation.identifiers import JobId
from attestation.wire.frames import HEADER_BYTES, Header, Kind, check_message
from coordinator.broker_sockets import Wakeup, open_router
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.core import Core
from coordinator.keys import CurveKeys, load, load_allowed
from coordinator.settings import Settings
from coordinator.storage import open_storage
from coordinator.zap import Authenticator

MESSAGES_PER_TURN: Final = 256
BYTES_PER_TURN: Final = 16 * limits.MIB
ZERO_COPY_BYTES: Final = 64 * limits.KIB
"""Below, copying is cheaper than libzmq's bookkeeping of a shared buffer."""

_BULK: Final = frozenset({int(Kind.INPUT), int(Kind.OUTPUT)})
_ASSIGNED_ID_BYTES: Final = 5
_STORE: Final = (
    do.StoreJob,
    do.StoreWrap,
    do.StoreLease,
    do.StoreResult,
    do.StoreRefusal,
    do.DeleteJob,
)

log = structlog.get_logger("coordinator")


class Broker:
    """A coordinator that listens. Make it, `run` it in one thread, `stop` it from any."""

    def __init__(self, settings: Settings) -> None:
        """Open the state directory and bind; raises `CoordinatorError` when it may not."""
        keys, allowed = _load_keys(settings)
        self._settings = settings
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._authenticator = None if keys is None else Authenticator(self._context, allowed)
        self._store, self._spool, self._lock = open_storage(settings.state)
        try:
            self._router = open_router(self._context, settings.listen, keys)
        except BaseException:
            self._close_storage()
            self._context.destroy(linger=0)
            raise
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.core = Core(
            settings.rules,
            curve_key=b"" if keys is None else keys.public_bytes,
            random_bytes=secrets.token_bytes,
        )
        self._wakeup = Wakeup()
        self._stops = 0
        self._drain_ends: float | None = None
        self._deferred: list[do.Instruction] = []
        self._must_commit = False
        self._poisoned: set[JobId] = set()
        self._clogged: set[bytes] = set()
        self._follow_ups: list[events.Event] = []
        self._acts: Mapping[type, Callable[[Any], None]] = {
            do.Send: self._send,
            do.SendSpooled: self._send_spooled,
            do.SendStoredAssign: self._send_assign,
            do.SendStoredResult: self._send_result,
            do.SpoolDelete: self._delete_file,
            do.Note: self._note,
        }

    # -- life -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain, then return from `run`; called a second time: return at once. Signal-safe."""
        self._stops += 1
        self._wakeup.ring()

    def run(self) -> None:
        """Serve until stopped."""
        try:
            self._recover()
            poller = zmq.Poller()
            poller.register(self._router, zmq.POLLIN)
            poller.register(self._wakeup.descriptor, zmq.POLLIN)
            if self._authenticator is not None:
                poller.register(self._authenticator.socket, zmq.POLLIN)
            while not self._finished():
                self._turn(poller)
        finally:
            self.close()

    def close(self) -> None:
        """Close sockets and files; what was committed stays."""
        if self._router.closed:
            return
        self._router.close(linger=500)
        if self._authenticator is not None:
            self._authenticator.close()
        self._wakeup.close()
        self._close_storage()
        self._context.term()
        log.info("coordinator.stopped")

    def _close_storage(self) -> None:
        self._spool.close()
        self._store.close()
        self._lock.close()

    def _recover(self) -> None:
        orphans = self._spool.remove_orphans(self._store.files())
        log.info("spool.checked", orphans=orphans)
        self._tick()
        self._carry_out(self.core.handle(events.JobsRecovered(tuple(self._store.jobs()))))
        self._flush()

    def _finished(self) -> bool:
        if self._stops == 0:
            return False
        now = time.monotonic()
        if self._drain_ends is None:
            self._drain_ends = now + self._settings.drain_seconds
            self._carry_out(self.core.handle(events.DrainRequested()))
            self._flush()
        return self._stops > 1 or self.core.idle or now >= self._drain_ends

    # -- one turn ---------------------------------------------------------------------------------

    def _turn(self, poller: zmq.Poller) -> None:
        ready = dict(poller.poll(self.core.wait_ms()))
        if self._wakeup.descriptor in ready:
            self._wakeup.clear()
        if self._authenticator is not None and self._authenticator.socket in ready:
            self._authenticator.answer()
        self._clogged.clear()
        self._tick()
        if self._router in ready:
            self._drain_socket()
        self._flush()

    def _tick(self) -> None:
        now_ms, unix_ms = time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000
        self._carry_out(self.core.handle(events.Tick(now_ms, unix_ms)))

    def _drain_socket(self) -> None:
        handle, carry_out, receive = self.core.handle, self._carry_out, self._receive
        size = 0
        for _ in range(MESSAGES_PER_TURN):
            try:
                event, length = receive()
            except zmq.Again:
                return
            if event is not None:
                carry_out(handle(event))
            size += length
            # What waits for the commit is held in memory meanwhile.
            if size > BYTES_PER_TURN:
                return

    def _receive(self) -> tuple[events.Event | None, int]:
        """Take one message off the socket; None for one that nobody could answer."""
        router = self._router
        first = router.recv(zmq.NOBLOCK, copy=self._authenticator is None)
        if isinstance(first, bytes):
            user, routing_id = b"", first
        else:
            user, routing_id = bytes.fromhex(str(first.get("User-Id"))), first.bytes
        head = router.recv() if router.rcvmore else b""
        bulk = len(head) == HEADER_BYTES and head[3] in _BULK
        frames: list[Any] = []
        size = len(head)
        while router.rcvmore:
            frame = router.recv(copy=not bulk)
            size += len(frame)
            if len(frames) <= limits.FRAMES_PER_MESSAGE:
                frames.append(frame)
        if len(routing_id) != _ASSIGNED_ID_BYTES or routing_id[0] != 0:
            # Not an id that our ROUTER assigned: its owner chose whose messages to receive.
            self.core.counters["peers.chosen_id"] += 1
            return None, size
        return _event((user, routing_id), head, frames, bulk=bulk), size

    # -- carrying out -----------------------------------------------------------------------------

    def _carry_out(self, instructions: list[do.Instruction]) -> None:
        """Write the spool now; keep the rest for the commit, or do it when there is none."""
        for instruction in instructions:
            kind = type(instruction)
            if kind is do.SpoolAppend or kind is do.SpoolSeal:
                self._write(instruction)  # type: ignore[arg-type]
            elif kind in _STORE:
                self._must_commit = True
                self._deferred.append(instruction)
            elif self._must_commit or self._poisoned:
                self._deferred.append(instruction)
            else:
                self._acts[kind](instruction)
        if self._follow_ups and not self._must_commit:
            self._flush()

    def _write(self, instruction: do.SpoolAppend | do.SpoolSeal) -> None:
        job_id = instruction.file.job_id
        if job_id in self._poisoned:
            return
        try:
            if isinstance(instruction, do.SpoolAppend):
                self._spool.append(instruction.file, _buffer(instruction.payload))
            else:
                self._spool.seal(instruction.file)
        except OSError as error:
            log.error("spool.refused", job_id=job_id.hex(), code=error.errno)  # noqa: TRY400
            self._poisoned.add(job_id)
            self._follow_ups.append(events.SpoolFailed(instruction.file))

    def _flush(self) -> None:
        """Commit what the turn decided, send, and tell the core what went wrong, until quiet."""
        while self._deferred or self._follow_ups:
            deferred, self._deferred = self._deferred, []
            self._commit(deferred)
            self._must_commit = False
            for instruction in deferred:
                act = self._acts.get(type(instruction))
                if act is not None and _job_of(instruction) not in self._poisoned:
                    act(instruction)
            self._poisoned.clear()
            follow_ups, self._follow_ups = self._follow_ups, []
            for event in follow_ups:
                instructions = self.core.handle(event)
                # Not `_carry_out`: it would come back here.
                self._deferred.extend(instructions)

    def _commit(self, deferred: list[do.Instruction]) -> None:
        writes: list[do.StoreInstruction] = [
            each
            for each in deferred
            if isinstance(each, _STORE) and each.job_id not in self._poisoned
        ]
        if not writes:
            return
        for failed in self._store.commit(writes):
            if isinstance(failed, do.MUST_BE_STORED):
                self._poisoned.add(failed.job_id)
            self._follow_ups.append(events.StoreFailed(failed))

    # -- sending ----------------------------------------------------------------------------------

    def _send(self, message: do.Send) -> None:
        self._transmit(message.peer, message.header, message.frames)

    def _transmit(self, peer: do.PeerKey, header: Header, frames: tuple[do.Payload, ...]) -> bool:
        send = self._router.send
        more = zmq.NOBLOCK | zmq.SNDMORE
        try:
            send(peer[1], more)
        except zmq.Again:
            return self._unsent(peer)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return self._unsent(peer)
        # The first frame found the peer and room; libzmq takes the others without asking again.
        last = len(frames) - 1
        send(header.to_bytes(), more if frames else zmq.NOBLOCK)
        frame: Any
        for index, frame in enumerate(frames):
            copy = isinstance(frame, bytes) and len(frame) < ZERO_COPY_BYTES
            send(frame, more if index < last else zmq.NOBLOCK, copy=copy)
        return True

    def _unsent(self, peer: do.PeerKey) -> bool:
        self._follow_ups.append(events.PeerLost(peer))
        return False

    def _send_spooled(self, message: do.SendSpooled) -> None:
        routing_id = message.peer[1]
        if routing_id in self._clogged:
            # A segment before this one did not go: order is kept by sending neither.
            self._follow_ups.append(events.Congested(message))
            return
        try:
            data = self._spool.read(message.file, message.offset, message.length)
        except OSError as error:
            log.error("spool.unreadable", code=error.errno)  # noqa: TRY400
            self._follow_ups.append(events.SpoolFailed(message.file))
            return
        try:
            self._router.send(routing_id, zmq.NOBLOCK | zmq.SNDMORE)
        except zmq.Again:
            self._clogged.add(routing_id)
            self._follow_ups.append(events.Congested(message))
        except zmq.ZMQError:
            self._unsent(message.peer)
        else:
            self._router.send(message.header.to_bytes(), zmq.NOBLOCK | zmq.SNDMORE)
            self._router.send(data, zmq.NOBLOCK, copy=len(data) < ZERO_COPY_BYTES)

    def _send_assign(self, message: do.SendStoredAssign) -> None:
        body = self._store.body(message.header.job_id)
        if body is not None:
            envelope, *segments = body
            self._transmit(message.peer, message.header, (envelope, message.wrap, *segments))

    def _send_result(self, message: do.SendStoredResult) -> None:
        if message.peer[1] in self._clogged:
            self._follow_ups.append(events.Congested(message))
            return
        frames = self._store.result(message.header.job_id)
        if frames is not None:
            self._transmit(message.peer, message.header, frames)

    def _delete_file(self, instruction: do.SpoolDelete) -> None:
        try:
            self._spool.delete(instruction.file)
        except OSError as error:
            # An orphan now, removed at the next start.
            log.warning("spool.undeleted", code=error.errno)

    def _note(self, note: do.Note) -> None:
        fields = {name: _plain(value) for name, value in note.fields.items()}
        getattr(log, note.level)(note.event, **fields)


def _event(peer: do.PeerKey, head: bytes, frames: list[Any], *, bulk: bool) -> events.Event:
    """Check the shape of a message before anything else sees it."""
    try:
        if not bulk:
            return events.Message(peer, check_message([head, *frames]), tuple(frames))
        if len(frames) == 1:
            return events.Segment(peer, Header.from_bytes(head), frames[0])
    except DecodeError as error:
        return events.Malformed(peer, str(error))
    return events.Malformed(peer, "a segment is one frame")


def _load_keys(settings: Settings) -> tuple[CurveKeys | None, dict[bytes, str]]:
    if settings.curve_key is None or settings.allow is None:
        return None, {}
    return load(settings.curve_key), load_allowed(settings.allow)


def _job_of(instruction: do.Instruction) -> JobId | None:
    """Return the job that an instruction is about."""
    match instruction:
        case do.Send() | do.SendSpooled() | do.SendStoredAssign() | do.SendStoredResult():
            return instruction.header.job_id
        case do.SpoolDelete():
            return instruction.file.job_id
        case _:
            return None


def _buffer(payload: Any) -> bytes | memoryview:
    return payload.buffer if isinstance(payload, zmq.Frame) else payload


def _plain(value: object) -> object:
    """Ids and keys as 16 hexadecimal characters, codes as their text."""
    return value.hex()[:16] if isinstance(value, bytes) else value
