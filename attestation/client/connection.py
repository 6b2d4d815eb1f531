"""The one thread that owns the socket. Other threads hand it functions and wait on its promises."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from attestation.client.engine import Engine
from attestation.client.errors import (
    ClientClosedError,
    CoordinatorUnreachableError,
    NoWorkerError,
    PolicyUnmetError,
)
from attestation.client.keys import ClientKey
from attestation.client.link import LinkState
from attestation.client.transport import Transport
from attestation.client.workers import ReadyWorker, Surroundings
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import EnclaveError
from attestation.logging import get_logger
from attestation.policy.policy import Policy

TICK_SECONDS: Final = 0.1
BURST: Final = 256
"""Messages taken before the wishes of other threads get their turn."""

NOTICE_SECONDS: Final = 0.5
"""Sessions take a moment; only a longer wait for a worker is worth a line in the log."""

SETTLE_SECONDS: Final = 2.0
"""The others get this long once one is ready, so that a job can move on to them if it dies."""

OPENERS: Final = 2
"""Large results that are verified and opened at once."""

log = get_logger(__name__)


class Connection:
    """Runs an `Engine` over a `Transport` on a thread of its own."""

    def __init__(
        self,
        transport: Transport,
        *,
        policy: Policy,
        key: ClientKey,
        collateral: Collateral = NO_COLLATERAL,
    ) -> None:
        """Take the transport over: `close` closes it."""
        self._transport = transport
        self._commands: deque[Callable[[float], None]] = deque()
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="enclave-result")
        self._condition = threading.Condition()
        self._surroundings = Surroundings()
        self._first_ready_at: float | None = None
        self._stopping = False
        self._waiting = False
        self._gate = threading.Lock()
        self._ended = False
        self._error: EnclaveError | None = None
        self.engine = Engine(
            policy=policy,
            key=key,
            collateral=collateral,
            channel_binding=transport.channel_binding,
            outgoing=transport,
            changed=self._changed,
            openers=self._openers,
            later=self.call,
        )
        # A daemon: a program that forgets to close its client must still be able to end.
        self._thread = threading.Thread(target=self._run, name="enclave-client", daemon=True)

    def start(self, timeout: float) -> None:
        """Say hello and wait to be welcomed; raises `CoordinatorUnreachableError`."""
        self._thread.start()
        with self._condition:
            self._condition.wait_for(
                lambda: self.engine.link.state is LinkState.WELCOME or self.engine.rejected,
                timeout,
            )
        if self.engine.link.state is LinkState.WELCOME:
            return
        rejected = self.engine.rejected
        self.close()
        raise CoordinatorUnreachableError(
            f"the coordinator refused us: {rejected}"
            if rejected
            else f"no coordinator answered within {timeout:g} s"
        )

    def call(self, command: Callable[[float], None]) -> None:
        """Run `command(now)` on the connection's thread; raises `ClientClosedError`."""
        with self._gate:
            if self._ended:
                raise self._error or _closed()
            self._commands.append(command)
        if self._waiting:
            self._transport.wake()

    def wait_ready(self, timeout: float) -> tuple[ReadyWorker, ...]:
        """Wait for accepted workers; raises `PolicyUnmetError` as soon as there can be none.

        Raises `NoWorkerError` after `timeout` seconds without any, and says in the log that it
        waits.
        """
        deadline = time.monotonic() + timeout
        told = False
        tell_at = time.monotonic() + NOTICE_SECONDS
        with self._condition:
            while True:
                now = time.monotonic()
                state = self._surroundings
                if self._error is not None:
                    raise self._error
                if state.ready and (not state.undecided or self._settled(now)):
                    return state.ready
                if state.listed and not state.ready and not state.undecided:
                    raise PolicyUnmetError(state.refusals)
                if now >= deadline:
                    break
                if not told and not state.ready and now >= tell_at:
                    log.warning("worker.waiting", listed=state.listed, timeout=timeout)
                    told = True
                self._condition.wait(min(deadline - now, 0.2))
        if state.refusals:
            raise PolicyUnmetError(state.refusals)
        raise NoWorkerError(
            f"no worker within {timeout:g} s ({state.listed} listed by the coordinator)"
        )

    def wait_decided(self, timeout: float) -> Surroundings:
        """Wait until every listed worker is accepted or refused, at most `timeout` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: not self._surroundings.undecided, timeout)
            return self._surroundings

    def close(self) -> None:
        """Stop the thread, end what is undone with `ClientClosedError`, close the socket."""
        if not self._stopping:
            self._error = self._error or _closed()
            self._stopping = True
            self._transport.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._openers.shutdown(wait=True, cancel_futures=True)

    @property
    def surroundings(self) -> Surroundings:
        """What is known of the workers now."""
        return self._surroundings

    def _settled(self, now: float) -> bool:
        return self._first_ready_at is not None and now - self._first_ready_at > SETTLE_SECONDS

    def _changed(self, surroundings: Surroundings) -> None:
        with self._condition:
            self._surroundings = surroundings
            if surroundings.ready and self._first_ready_at is None:
                self._first_ready_at = time.monotonic()
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            # A traceback would hold the message, and that could hold values.
            log.error("client.failed", error=type(error).__name__)  # noqa: TRY400
            self._error = ClientClosedError(f"the client's thread ended: {type(error).__name__}")
            raise
        finally:
            self._stopping = True
            with self._gate:
                self._ended = True
            # What was asked for before the gate fell still reaches the engine, to be ended by it.
            while self._commands:
                self._commands.popleft()(time.monotonic())
            self.engine.abandon(self._error or _closed())
            self._transport.close()
            with self._condition:
                self._condition.notify_all()

    def _loop(self) -> None:
        next_tick = 0.0
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                self.engine.tick(now)
                next_tick = now + TICK_SECONDS
            busy = self._run_commands(now) + self._receive(now) + self.engine.upload()
            if busy:
                # Only to let what waits leave.
                self._transport.wait(0.0)
                continue
            # In this order: a command appended before the flag is seen below, one after it wakes.
            self._waiting = True
            if not self._commands:
                self._transport.wait(max(0.0, next_tick - now))
            self._waiting = False

    def _run_commands(self, now: float) -> int:
        count = 0
        while self._commands and count < BURST:
            self._commands.popleft()(now)
            count += 1
        return count

    def _receive(self, now: float) -> int:
        count = 0
        while count < BURST and (frames := self._transport.receive()) is not None:
            self.engine.receive(frames, now)
            count += 1
        return count


def _closed() -> ClientClosedError:
    return ClientClosedError("the client was closed")
