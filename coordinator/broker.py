"""The broker: one thread, one ROUTER socket, no decisions.

A turn is: take every message that is there (up to a bound), let the core decide, write the spool as
it says, commit all store instructions of the turn in one transaction, then send. Nothing that
depends on the disk leaves before the disk has it; while a turn has nothing to commit, sends leave
at once, so that a relayed segment waits for nobody.

Written as a lean blocking loop: frame by frame, received `Frame` objects passed on without a copy.
`recv_multipart` costs four times as much per message and asyncio six times.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
import zmq

from attestation import limits
from attestation.errors import DecodeError
from attestation.identifiers import JobId
from attestation.observability.exposition import Family
from attestation.observability.tracing import Tracer
from attestation.wire.frames import Kind, check_message
from coordinator.broker_sockets import (
    NOW,
    ZERO_COPY_BYTES,
    Outbox,
    Wakeup,
    buffer_of,
    open_router,
)
from coordinator.connections import LOOK_MS, Connections
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.core import Core
from coordinator.keys import AllowList, CurveKeys, load
from coordinator.metrics import Traffic, families
from coordinator.settings import Settings
from coordinator.storage import open_storage
from coordinator.tracing import JobTraces
from coordinator.zap import Authenticator

MESSAGES_PER_TURN: Final = 256
BYTES_PER_TURN: Final = 16 * limits.MIB
TURN_MS: Final = 20
"""A turn ends after so long, however dear each of its messages was: then the sends go out."""
MESSAGE_BYTES: Final = limits.FRAME_BYTES
"""All frames of one message together: a segment of 16 MiB is the largest that anybody sends."""
LISTENING_MS: Final = 2 * LOOK_MS
"""The most that a turn moves the core's clock: while a slow disk or a paused machine held us up
nobody could be heard, and leases do not end for it."""
REREAD_MS: Final = 1_000
"""How soon a change of the allow-list is noticed."""

_BULK: Final = frozenset({Kind.INPUT, Kind.OUTPUT})
_READ: Final = 2
"""Frames behind the header that the core may read: what follows them are sealed segments."""
_ASSIGNED_ID_BYTES: Final = 5

log = structlog.get_logger("coordinator")


class Broker:
    """A coordinator that listens. Make it, `run` it in one thread, `stop` it from any."""

    def __init__(self, settings: Settings, *, tracer: Tracer | None = None) -> None:
        """Open the state directory and bind; raises `CoordinatorError` when it may not."""
        self._traces = None if tracer is None else JobTraces(tracer)
        keys, self._allowed = _load_keys(settings)
        self._settings = settings
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._authenticator: Authenticator | None = None
        if self._allowed is not None:
            self._authenticator = Authenticator(self._context, self._allowed)
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
        rules = settings.rules
        self._connections = Connections(
            self.address, hello_ms=rules.hello_ms, memory_limit=rules.memory_limit
        )
        self._taken = 0
        self._ticked_ms = self._clock_ms = time.monotonic_ns() // 1_000_000 - 1
        self._reread_ms = 0
        self._wakeup = Wakeup()
        self._verbose = logging.getLogger("coordinator").isEnabledFor(logging.DEBUG)
        self.core.world.verbose = self._verbose or self._traces is not None
        self._stops = 0
        self._drain_ends: float | None = None
        self._deferred: list[do.Instruction] = []
        self._must_commit = False
        self._poisoned: set[JobId] = set()
        self._unstored: set[JobId] = set()
        self._clogged: set[bytes] = set()
        self._follow_ups: list[events.Event] = []
        self._traffic = Traffic()
        self._outbox = Outbox(
            self._router, self._connections, rules, self._follow_ups.append, self._traffic
        )
        self._acts: Mapping[type, Callable[[Any], None]] = {
            do.Send: self._outbox.send,
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

    def metrics(self) -> Iterable[Family]:
        """Return the numbers of this moment (docs/observability.md). From any thread."""
        return families(self.core, self._traffic)

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
        ready = dict(poller.poll(min(LOOK_MS, self.core.wait_ms())))
        if self._wakeup.descriptor in ready:
            self._wakeup.clear()
        if self._authenticator is not None and self._authenticator.socket in ready:
            self._authenticator.answer()
        self._clogged.clear()
        now_ms = self._tick()
        everything = self._router not in ready or self._drain_socket(now_ms)
        self._flush()
        if self._connections.due(now_ms):
            self._look_around(now_ms, everything=everything)

    def _tick(self) -> int:
        now_ms = time.monotonic_ns() // 1_000_000
        if now_ms != self._ticked_ms:
            self._clock_ms += min(now_ms - self._ticked_ms, LISTENING_MS)
            self._ticked_ms = now_ms
            tick = events.Tick(self._clock_ms, time.time_ns() // 1_000_000)
            self._carry_out(self.core.handle(tick))
        return now_ms

    def _look_around(self, now_ms: int, *, everything: bool) -> None:
        """Bound what libzmq holds for us, and notice keys that are no longer allowed."""
        if self._allowed is not None and now_ms - self._reread_ms >= REREAD_MS:
            self._reread_ms = now_ms
            self._bar(self._allowed.refresh())
        welcome = {routing_id for _, routing_id in self.core.world.peers}
        # Peers are served in turn: after as many messages as there are peers, whoever had a
        # complete one waiting has had it taken.
        if everything or self._taken > len(self._connections):
            self._taken = 0
            self._connections.look(now_ms, welcome)
        self._outbox.prune(self.core.world.peers)

    def _bar(self, removed: frozenset[bytes]) -> None:
        """End every connection of a key that lost its place on the allow-list."""
        for peer in [each for each in self.core.world.peers if each[0] in removed]:
            self._connections.cut(peer[1], "key-removed")
            self._follow_ups.append(events.PeerLost(peer))
        self._flush()

    def _drain_socket(self, now_ms: int) -> bool:
        """Take what is there, up to a bound; return whether that was everything."""
        handle, carry_out, receive = self.core.handle, self._carry_out, self._receive
        traffic, size = self._traffic, 0
        for _ in range(MESSAGES_PER_TURN):
            try:
                event, length = receive()
            except zmq.Again:
                return True
            self._taken += 1
            traffic.messages_in += 1
            traffic.bytes_in += length
            if event is not None:
                carry_out(handle(event))
            size += length
            # What waits for the commit is held in memory meanwhile.
            if size > BYTES_PER_TURN or time.monotonic_ns() // 1_000_000 - now_ms > TURN_MS:
                return False
        return False

    def _receive(self) -> tuple[events.Event | None, int]:
        """Take one message off the socket; None for one that nobody could answer."""
        # As frames: to ask one whether more follow is a hundredth of asking the socket.
        first = self._router.recv(NOW, copy=False)
        routing_id = first.bytes
        user = b""
        if self._authenticator is not None:
            user = bytes.fromhex(str(first.get("User-Id")))
        self._connections.spoke.add(routing_id)
        frames: list[Any] = []
        head, size = b"", 0
        if first.more:
            second = self._router.recv(copy=False)
            self._note_sender(routing_id, second)
            head = second.bytes
            frames, size = self._receive_rest(second)
        if len(routing_id) != _ASSIGNED_ID_BYTES or routing_id[0] != 0:
            # Not an id that our ROUTER assigned: its owner chose whose messages to receive.
            self.core.counters["peers.chosen_id"] += 1
            self._connections.cut(routing_id, "chosen-routing-id")
            return None, size
        if self._allowed is not None and user not in self._allowed.admitted:
            return None, size
        if size > MESSAGE_BYTES:
            return events.Malformed((user, routing_id), "a message is too large"), size
        return _event((user, routing_id), head, frames), size

    def _note_sender(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """Take from a connection's first message who sent it."""
        if routing_id not in self._connections:
            with suppress(zmq.ZMQError):
                # A peer of ZMTP 1 or 2 has no such thing: its connection stays a stranger's.
                self._connections.note(routing_id, int(frame.get(zmq.SRCFD)))

    def _receive_rest(self, frame: zmq.Frame) -> tuple[list[Any], int]:
        """Take the frames behind the header; return them, if they are not too many, and all bytes.

        Large ones stay frames and are passed on as such: nobody here looks inside.
        """
        frames: list[Any] = []
        size = len(frame)
        while frame.more:
            frame = self._router.recv(copy=False)
            length = len(frame)
            size += length
            if len(frames) <= limits.FRAMES_PER_MESSAGE and size <= MESSAGE_BYTES:
                frames.append(frame if length >= ZERO_COPY_BYTES else frame.bytes)
        return frames, size

    # -- carrying out -----------------------------------------------------------------------------

    def _carry_out(self, instructions: list[do.Instruction]) -> None:
        """Write the spool now; keep the rest for the commit, or do it when there is none."""
        for instruction in instructions:
            kind = type(instruction)
            if kind is do.SpoolAppend or kind is do.SpoolSeal:
                self._write(instruction)  # type: ignore[arg-type]
            elif kind in do.STORED:
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
                self._spool.append(instruction.file, buffer_of(instruction.payload))
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
            self._unstored.clear()
            follow_ups = self._follow_ups.copy()
            self._follow_ups.clear()
            for event in follow_ups:
                instructions = self.core.handle(event)
                # Not `_carry_out`: it would come back here.
                self._deferred.extend(instructions)

    def _commit(self, deferred: list[do.Instruction]) -> None:
        writes: list[do.StoreInstruction] = [
            each
            for each in deferred
            if isinstance(each, do.STORED) and each.job_id not in self._poisoned
        ]
        if not writes:
            return
        began = time.perf_counter()
        failures = self._store.commit(writes)
        self._traffic.commits.observe(time.perf_counter() - began)
        for failed in failures:
            self._unstored.add(failed.job_id)
            if isinstance(failed, do.MUST_BE_STORED):
                self._poisoned.add(failed.job_id)
            self._follow_ups.append(events.StoreFailed(failed))

    # -- sending ----------------------------------------------------------------------------------

    def _send_spooled(self, message: do.SendSpooled) -> None:
        routing_id = message.peer[1]
        if routing_id in self._clogged or self._outbox.full(message.peer):
            # A segment before this one did not go: order is kept by sending neither.
            self._clog(message)
            return
        try:
            data = self._spool.read(message.file, message.offset, message.length)
        except OSError as error:
            self._unreadable(message.file, error)
            return
        if not self._outbox.send_segment(message.peer, message.header, data):
            self._clog(message)

    def _unreadable(self, file: do.SpoolFile, error: OSError) -> None:
        log.error("spool.unreadable", code=error.errno)
        self._follow_ups.append(events.SpoolFailed(file, reading=True))

    def _clog(self, message: do.SendSpooled) -> None:
        self._clogged.add(message.peer[1])
        self._follow_ups.append(events.Congested(message))

    def _send_assign(self, message: do.SendStoredAssign) -> None:
        job_id = message.header.job_id
        try:
            body = self._store.body(job_id)
        except OSError as error:
            self._unreadable(do.SpoolFile(job_id), error)
            return
        if body is not None:
            envelope, *segments = body
            self._outbox.transmit(message.peer, message.header, (envelope, message.wrap, *segments))

    def _send_result(self, message: do.SendStoredResult) -> None:
        announcing = message.header.kind is Kind.OUTPUT_HEADERS
        if message.peer[1] in self._clogged:
            # An announcement that does not go with its first segment is of no use.
            if not announcing:
                self._follow_ups.append(events.Congested(message))
            return
        job_id, attempt = message.header.job_id, message.header.attempt
        try:
            frames = self._store.result(job_id)
        except OSError as error:
            self._unreadable(do.SpoolFile(job_id, attempt), error)
            return
        if frames is not None:
            wanted = frames[:1] if announcing else frames
            self._outbox.transmit(message.peer, message.header, wanted)

    def _delete_file(self, instruction: do.SpoolDelete) -> None:
        if instruction.file.job_id in self._unstored:
            return  # the store still names it; the core deletes both again later
        try:
            self._spool.delete(instruction.file)
        except OSError as error:
            # An orphan now, removed at the next start.
            log.warning("spool.undeleted", code=error.errno)

    def _note(self, note: do.Note) -> None:
        if self._traces is not None:
            self._traces.note(note)
        if note.level == "debug" and not self._verbose:
            return  # three a job: formatting what nobody reads costs a tenth of a small job
        fields = {name: _plain(value) for name, value in note.fields.items()}
        getattr(log, note.level)(note.event, **fields)


def _event(peer: do.PeerKey, head: bytes, frames: list[Any]) -> events.Event:
    """Check the shape of a message before anything else sees it."""
    try:
        header = check_message([head, *frames])
    except DecodeError as error:
        return events.Malformed(peer, str(error))
    if header.kind not in _BULK:
        # What the core may read is bytes.
        read = (bytes(buffer_of(frame)) for frame in frames[:_READ])
        return events.Message(peer, header, (*read, *frames[_READ:]))
    if len(frames) == 1:
        return events.Segment(peer, header, frames[0])
    return events.Malformed(peer, "a segment is one frame")


def _load_keys(settings: Settings) -> tuple[CurveKeys | None, AllowList | None]:
    if settings.curve_key is None or settings.allow is None:
        return None, None
    return load(settings.curve_key), AllowList(settings.allow)


def _job_of(instruction: do.Instruction) -> JobId | None:
    """Return the job that an instruction is about."""
    match instruction:
        case do.Send() | do.SendSpooled() | do.SendStoredAssign() | do.SendStoredResult():
            return instruction.header.job_id
        case do.SpoolDelete():
            return instruction.file.job_id
        case _:
            return None


def _plain(value: object) -> object:
    """Ids and keys as 16 hexadecimal characters, codes as their text."""
    return value.hex()[:16] if isinstance(value, bytes) else value
