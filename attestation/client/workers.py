"""Sessions with every worker the coordinator lists, made and renewed in the background.

A worker whose evidence the policy refuses, or whose receipts do not verify, is fenced: it gets no
key from us, and the others go on. It is asked again later, at growing intervals, since collateral
and firmware change.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from os import urandom
from typing import Final, TypeAlias

from attrs import define, field, frozen

from attestation import limits
from attestation.appraisal.result import AppraisalRefusedError, Check
from attestation.client.keys import ClientKey
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import EnclaveError
from attestation.identifiers import SHORT_ID_BYTES, SessionId, WorkerId
from attestation.logging import get_logger
from attestation.policy.policy import Policy
from attestation.wire.client_session import AcceptedWorker, ClientSession, State
from attestation.wire.control import RefusalCode, WorkerDescription, WorkerEntry, WorkerListing
from attestation.wire.messages import (
    AttestationReply,
    SessionAccepted,
    SessionRefused,
    parse,
)

ANSWER_SECONDS: Final = 15.0
"""A worker may take this long to answer: a hardware signature takes up to a few seconds."""

RETRY_SECONDS: Final = 2.0
RETRY_SECONDS_MAX: Final = 600.0
FENCE_SECONDS: Final = 60.0

RENEW_AT: Final = 0.75
"""Part of a key set's life after which a successor is made."""

Reason: TypeAlias = Check | str

log = get_logger(__name__)


@frozen(kw_only=True)
class ReadyWorker:
    """A worker that content keys can be wrapped for."""

    worker_id: WorkerId
    description: WorkerDescription
    session: ClientSession = field(repr=False)
    accepted: AcceptedWorker = field(repr=False)


@define
class _Known:
    entry: WorkerEntry
    current: ClientSession | None = None
    pending: ClientSession | None = None
    renew_at_ms: float = float("inf")
    ends_at_ms: float = float("inf")
    answer_by: float = float("inf")
    retry_at: float = float("-inf")
    failures: int = 0
    refusal: tuple[Reason, ...] | None = None
    fenced: bool = False


@frozen(kw_only=True)
class Surroundings:
    """What the user's threads may know of the workers; replaced as a whole at every change."""

    heard: bool = False
    """Whether a listing has come at all."""
    listed: int = 0
    undecided: int = 0
    """Workers that are still being asked, or asked again because they did not answer."""
    ready: tuple[ReadyWorker, ...] = ()
    refusals: Mapping[WorkerId, Sequence[Reason]] = field(factory=dict)


class WorkerBook:
    """One connection's sessions. Used by its thread alone; `surroundings` may be read by any."""

    def __init__(
        self,
        *,
        policy: Policy,
        key: ClientKey,
        send: Callable[[WorkerId, bytes], None],
        changed: Callable[[Surroundings], None],
        collateral: Collateral = NO_COLLATERAL,
    ) -> None:
        """`send` delivers end to end; `changed` hears of every new `Surroundings`."""
        self._policy = policy
        self._collateral = collateral
        self._key = key
        self._send = send
        self._changed = changed
        self._known: dict[WorkerId, _Known] = {}
        self._heard = False

    def listed(self, listing: WorkerListing, now: float) -> None:
        """Take the coordinator's listing: meet new workers, forget those that left."""
        self._heard = True
        entries = {entry.worker_id: entry for entry in listing.workers}
        for worker_id in self._known.keys() - entries.keys():
            del self._known[worker_id]
        for worker_id, entry in entries.items():
            known = self._known.setdefault(worker_id, _Known(entry))
            known.entry = entry
        self.tick(now)
        self._publish()

    def tick(self, now: float) -> None:
        """Begin, repeat, renew and give up sessions as `now` (monotonic seconds) asks."""
        clock_ms = _unix_ms()
        for worker_id, known in list(self._known.items()):
            if known.current is not None and clock_ms >= known.ends_at_ms:
                known.current = None
                self._publish()
            if known.pending is not None:
                if now >= known.answer_by:
                    self._failed(worker_id, known, ("no-answer",), now, RETRY_SECONDS)
            elif now >= known.retry_at and (known.current is None or clock_ms >= known.renew_at_ms):
                self._challenge(worker_id, known, now)

    def receive(self, worker_id: WorkerId, data: bytes | memoryview, now: float) -> None:
        """Take one end-to-end message. What does not verify fences the worker, nothing else."""
        known = self._known.get(worker_id)
        if known is None or known.pending is None:
            return
        session = known.pending
        try:
            self._step(worker_id, known, session, data, now)
        except AppraisalRefusedError as error:
            self._failed(worker_id, known, error.result.refusals, now, FENCE_SECONDS)
        except EnclaveError as error:
            self._failed(worker_id, known, (error.code,), now, FENCE_SECONDS)

    def unreachable(self, worker_id: WorkerId, now: float) -> None:
        """Note that the coordinator has no such worker (any more)."""
        known = self._known.get(worker_id)
        if known is not None and known.pending is not None:
            self._failed(worker_id, known, (RefusalCode.NO_SUCH_WORKER,), now, RETRY_SECONDS)

    def fence(self, worker_id: WorkerId, code: str, now: float) -> None:
        """Give the worker no more keys for a while: something it signed or sent was false."""
        known = self._known.get(worker_id)
        if known is not None:
            known.current = None
            self._failed(worker_id, known, (code,), now, FENCE_SECONDS)

    def session_lost(self, ready: ReadyWorker, now: float) -> None:
        """Make a new session in place of `ready`, which the worker no longer knows."""
        known = self._known.get(ready.worker_id)
        if known is not None and known.current is ready.session:
            known.current = None
            self._publish()
            if known.pending is None:
                self._challenge(ready.worker_id, known, now)

    def use_collateral(self, collateral: Collateral) -> None:
        """Judge with `collateral` from now on, and ask refused workers again at once.

        Sessions that are there stay: they were accepted with what was current then.
        """
        self._collateral = collateral
        for known in self._known.values():
            if known.current is None:
                known.pending, known.retry_at, known.failures = None, float("-inf"), 0

    def lists(self, worker_id: WorkerId) -> bool:
        """Tell whether the coordinator's last listing has this worker."""
        return worker_id in self._known

    def ready(self, worker_id: WorkerId) -> ReadyWorker | None:
        """Return the worker if keys can be wrapped for it now."""
        known = self._known.get(worker_id)
        if known is None or known.current is None:
            return None
        return ReadyWorker(
            worker_id=worker_id,
            description=known.entry.description,
            session=known.current,
            accepted=known.current.accepted,
        )

    def restart(self) -> None:
        """Forget unanswered challenges: the coordinator that would relay the answers is gone."""
        for known in self._known.values():
            known.pending, known.retry_at = None, float("-inf")

    def _challenge(self, worker_id: WorkerId, known: _Known, now: float) -> None:
        session = ClientSession(
            policy=self._policy, client_key=self._key.public_bytes, collateral=self._collateral
        )
        known.pending = session
        known.answer_by = now + ANSWER_SECONDS
        self._send(worker_id, session.challenge(urandom(limits.NONCE_BYTES)).to_bytes())

    def _step(
        self,
        worker_id: WorkerId,
        known: _Known,
        session: ClientSession,
        data: bytes | memoryview,
        now: float,
    ) -> None:
        match parse(data):
            case AttestationReply() as reply if session.state is State.CHALLENGED:
                accepted = session.receive_attestation(reply, now=datetime.now(UTC))
                log.debug(
                    "worker.accepted",
                    worker_id=worker_id,
                    evidence_digest=accepted.result.evidence_digest,
                    insecure=accepted.result.insecure,
                )
                opening = session.open(SessionId(urandom(SHORT_ID_BYTES)), sign=self._key.sign)
                known.answer_by = now + ANSWER_SECONDS
                self._send(worker_id, opening.to_bytes())
            case SessionAccepted() as message if session.state is State.OPENING:
                session.receive_accepted(message)
                self._opened(worker_id, known, session)
            case SessionRefused() as message if session.concerns(message.subject):
                session.receive_refused(message)
                self._failed(worker_id, known, (message.code,), now, RETRY_SECONDS)
            case _:
                # The late answer to a challenge that we gave up: not this session's business.
                log.debug("session.stale", worker_id=worker_id)

    def _opened(self, worker_id: WorkerId, known: _Known, session: ClientSession) -> None:
        keyset = session.accepted.keyset
        known.current, known.pending = session, None
        known.renew_at_ms = _unix_ms() + RENEW_AT * (keyset.not_after_ms - _unix_ms())
        known.ends_at_ms = keyset.not_after_ms
        known.failures, known.refusal, known.fenced = 0, None, False
        log.debug("session.ready", worker_id=worker_id, keyset_id=session.accepted.keyset_id)
        self._publish()

    def _failed(
        self,
        worker_id: WorkerId,
        known: _Known,
        reasons: Sequence[Reason],
        now: float,
        pause: float,
    ) -> None:
        if known.pending is not None:
            known.pending.fail()
        known.pending = None
        known.retry_at = now + min(pause * 2**known.failures, RETRY_SECONDS_MAX)
        known.failures = min(known.failures + 1, 16)
        known.refusal, known.fenced = tuple(reasons), pause >= FENCE_SECONDS
        codes = [reason.code if isinstance(reason, Check) else str(reason) for reason in reasons]
        log.warning("worker.refused", worker_id=worker_id, codes=codes)
        self._publish()

    def _publish(self) -> None:
        ready = [self.ready(worker_id) for worker_id in self._known]
        refusals = {
            worker_id: known.refusal
            for worker_id, known in self._known.items()
            if known.refusal is not None and known.current is None
        }
        self._changed(
            Surroundings(
                heard=self._heard,
                listed=len(self._known),
                undecided=sum(
                    known.current is None and not known.fenced for known in self._known.values()
                ),
                ready=tuple(
                    worker
                    for worker in ready
                    if worker is not None and self._known[worker.worker_id].entry.state == "ready"
                ),
                refusals=refusals,
            )
        )


def _unix_ms() -> float:
    return datetime.now(UTC).timestamp() * 1000
