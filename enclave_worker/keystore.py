"""The only place with private keys. It draws them, uses them, and destroys them; it never shows.

Everything outside gets handles: a session's keys, a function that signs. There is no accessor for
private bytes, no function that takes an existing key to attest it, and no way to pickle or copy.

Key sets are bounded. A flood of challenges must not push out a key set that clients use, so room is
made in this order: expired ones; then those that nobody answered for `UNANSWERED_MS`; then the one
whose last use is longest ago, if that is more than `IDLE_MS`. When none of these exists there is no
room, and challenges wait.

That does not happen while clients come at any pace: the first half of the places is given out as it
is asked for, and once so many are in use a draw has to wait until the second half would last for
the life of a key set. Those who come meanwhile share one.
"""

import threading
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, JobId, KeySetId
from attestation.sealing import hybrid_kem
from attestation.sealing.session_keys import SessionKeys, Transcript
from enclave_worker.refusals import UnknownKeySetError, WorkerBusyError
from enclave_worker.replay import Claim, ReplayCache

UNANSWERED_MS: Final = 10_000
"""A client has this long between its challenge and its session before its key set may go."""

IDLE_MS: Final = 600_000
"""A key set without a new session or job for this long may go when room is needed."""

_NO_ROOM_MS: Final = 1_000
"""When there is no room, look again after this long."""


class Keystore:
    """The live key sets of one worker. Safe to use from several threads."""

    def __init__(
        self,
        *,
        lifetime_ms: int = limits.KEYSET_SECONDS * 1000,
        capacity: int = limits.KEYSETS_PER_WORKER,
        jobs_per_keyset: int = limits.JOBS_PER_KEYSET,
    ) -> None:
        """Keep at most `capacity` key sets, each for at most `lifetime_ms`."""
        self._lifetime_ms = lifetime_ms
        self._capacity = capacity
        self._at_once = max(1, capacity // 2)
        self._pace_ms = -(-lifetime_ms // max(1, capacity - self._at_once))
        self._next_ms = 0
        self._jobs_per_keyset = jobs_per_keyset
        self._live: dict[KeySetId, _LiveKeySet] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Keystore({len(self._live)} key sets)"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("private keys do not leave their process")

    @property
    def keyset_ids(self) -> frozenset[KeySetId]:
        """The key sets that are alive."""
        return frozenset(self._live)

    def has_room(self, now_ms: int) -> bool:
        """Whether `draw_keyset` would succeed now."""
        return len(self._live) < self._capacity or self._evictable(now_ms) is not None

    def ready_in_ms(self, now_ms: int) -> int:
        """Milliseconds until the next key set should be drawn, 0 for now."""
        if self._next_ms <= now_ms and not self.has_room(now_ms):
            self._next_ms = now_ms + _NO_ROOM_MS
        # A clock that was set back must not make anybody wait longer than these.
        return min(max(self._pace_ms, _NO_ROOM_MS), max(0, self._next_ms - now_ms))

    def draw_keyset(self, catalogue_digest: Digest, now_ms: int) -> KeySet:
        """Draw fresh keys, keep their private halves, return the public ones.

        Raises `WorkerBusyError` when every key set is in use.
        """
        with self._lock:
            if len(self._live) >= self._capacity:
                victim = self._evictable(now_ms)
                if victim is None:
                    raise WorkerBusyError("every key set is in use")
                del self._live[victim]
            live = _LiveKeySet(catalogue_digest, now_ms, self._lifetime_ms, self._jobs_per_keyset)
            self._live[live.keyset.keyset_id()] = live
            paced = self._in_use(now_ms) >= self._at_once
            self._next_ms = now_ms + self._pace_ms if paced else now_ms
            return live.keyset

    def open_session(
        self, keyset_id: KeySetId, enc: bytes, transcript: Transcript, *, now_ms: int
    ) -> SessionKeys:
        """Open a session secret that was sealed to this key set.

        Raises `UnknownKeySetError`, `WorkerBusyError` when the key set has as many sessions as it
        may, and `NotAuthenticError` for a secret sealed to another key or transcript.
        """
        with self._lock:
            live = self._usable(keyset_id, now_ms)
            if live.sessions >= limits.SESSIONS_PER_KEYSET:
                raise WorkerBusyError("the key set has as many sessions as it may")
        keys = live.open(enc, transcript)
        with self._lock:
            live.sessions += 1
            live.used_ms = now_ms
        return keys

    def claim(self, keyset_id: KeySetId, job_id: JobId, *, now_ms: int) -> Claim:
        """Take a job id for its one execution; `ReplayedError` when it had its turn.

        A full replay cache ends its key set: running jobs still get receipts, nothing new starts.
        """
        with self._lock:
            live = self._usable(keyset_id, now_ms)
            live.used_ms = now_ms
            return live.replay.claim(job_id)

    def signer(self, keyset_id: KeySetId) -> Callable[[bytes], bytes]:
        """Return the function that signs with the receipt key while the key set lives.

        It raises `UnknownKeySetError` once the key set is destroyed.
        """

        def sign(data: bytes) -> bytes:
            return self._get(keyset_id).sign(data)

        self._get(keyset_id)
        return sign

    def expire(self, now_ms: int) -> frozenset[KeySetId]:
        """Destroy every key set past its `not_after_ms`; return which."""
        with self._lock:
            gone = {
                keyset_id
                for keyset_id, live in self._live.items()
                if now_ms >= live.keyset.not_after_ms
            }
            for keyset_id in gone:
                del self._live[keyset_id]
        return frozenset(gone)

    def destroy(self) -> None:
        """Destroy every key set: the worker stops."""
        with self._lock:
            self._live.clear()

    def _get(self, keyset_id: KeySetId) -> "_LiveKeySet":
        live = self._live.get(keyset_id)
        if live is None:
            raise UnknownKeySetError("the key set has expired or is another worker's")
        return live

    def _usable(self, keyset_id: KeySetId, now_ms: int) -> "_LiveKeySet":
        live = self._get(keyset_id)
        if now_ms >= live.keyset.not_after_ms or live.replay.full:
            raise UnknownKeySetError("the key set has expired")
        return live

    def _in_use(self, now_ms: int) -> int:
        return sum(not live.may_go(now_ms) for live in self._live.values())

    def _evictable(self, now_ms: int) -> KeySetId | None:
        def rank(entry: tuple[KeySetId, _LiveKeySet]) -> tuple[int, int]:
            live = entry[1]
            if now_ms >= live.keyset.not_after_ms:
                return (0, live.used_ms)
            return (1 if not live.sessions else 2, live.used_ms)

        for keyset_id, live in sorted(self._live.items(), key=rank):
            if live.may_go(now_ms):
                return keyset_id
        return None


class _LiveKeySet:
    """One key set's private halves, reachable through `open` and `sign` only."""

    __slots__ = ("keyset", "open", "replay", "sessions", "sign", "used_ms")

    def __init__(self, catalogue_digest: Digest, now_ms: int, lifetime_ms: int, jobs: int) -> None:
        kem, kem_public_key = hybrid_kem.generate_key_pair()
        receipt = Ed25519PrivateKey.generate()

        def open_secret(enc: bytes, transcript: Transcript) -> SessionKeys:
            return hybrid_kem.open_session(kem, enc, transcript)

        self.open = open_secret
        self.sign = receipt.sign
        self.keyset = KeySet(
            kem_public_key=kem_public_key,
            receipt_key=receipt.public_key().public_bytes_raw(),
            not_before_ms=now_ms,
            not_after_ms=now_ms + lifetime_ms,
            catalogue_digest=catalogue_digest,
        )
        self.replay = ReplayCache(capacity=jobs)
        self.sessions = 0
        self.used_ms = now_ms

    def __repr__(self) -> str:
        return "_LiveKeySet"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("private keys do not leave their process")

    def may_go(self, now_ms: int) -> bool:
        if now_ms >= self.keyset.not_after_ms:
            return True
        idle = now_ms - self.used_ms
        if self.sessions:
            return idle >= IDLE_MS and not self.replay.active
        return idle >= UNANSWERED_MS
