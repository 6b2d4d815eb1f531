"""Challenges in, evidence and sessions out (docs/protocol.md, steps 2, 3 and 5).

Runs on the loop's thread, except the collection itself, which waits for hardware on a thread of its
own while jobs go on. Keys are drawn inside that collection, after the challenges are known.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs
from attrs import frozen

from attestation.encoding.record import Record
from attestation.errors import DecodeError, EnclaveError, RemoteProtocolError
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, KeySetId
from attestation.logging import get_logger
from attestation.programs.catalogue import Catalogue
from attestation.receipts.receipt import CONFIDENTIAL_KINDS, DeviceClaims
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Frame
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    SessionOpen,
    SessionRefused,
    parse,
)
from attestation.wire.worker_session import WorkerSession
from enclave_worker.attester.collect import Attester, EvidenceCollector, GpuAttester, Window
from enclave_worker.device.confidential import Mode
from enclave_worker.issuing import IssuerIdentity, ReceiptIssuer
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import JobRefusedError, UnknownKeySetError, WorkerBusyError
from enclave_worker.sessions import SessionTable
from enclave_worker.windows import Asked, ChallengeWindow

log: Final = get_logger(__name__)


@frozen(kw_only=True)
class Reply:
    """A message for one client."""

    peer: bytes
    record: Record


@frozen(kw_only=True)
class Collected:
    """The end of a collection: a window, or none when the device failed."""

    asked: tuple[Asked, ...]
    window: Window | None


class Attestations:
    """The worker's half of every session, and the issuer of receipts for each key set."""

    def __init__(
        self,
        *,
        keystore: Keystore,
        sessions: SessionTable,
        attester: Attester,
        catalogue: Catalogue,
        device: DeviceClaims,
        now_ms: Callable[[], int],
        post: Callable[[Collected], None],
        gpu_attester: GpuAttester | None = None,
    ) -> None:
        """Answer with evidence of `attester`; `post` carries collections back to the loop."""
        self._keystore = keystore
        self._sessions = sessions
        self._catalogue = catalogue.to_bytes()
        self._catalogue_digest = catalogue.digest()
        self._device = device
        self._now_ms = now_ms
        self._post = post
        self._collector = EvidenceCollector(
            attester, draw_keyset=self._draw, gpu_attester=gpu_attester
        )
        self._window = ChallengeWindow()
        self._issuers: dict[KeySetId, ReceiptIssuer] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collect")
        self._collecting = False

    def receive(self, peer: bytes, frame: Frame, now_ms: int) -> list[Reply]:
        """Handle one session message of `peer`, which the coordinator relayed unread."""
        try:
            message = parse(bytes(frame))
        except DecodeError:
            return [_refused(peer, b"", RefusalCode.MALFORMED)]
        match message:
            case Challenge(nonce=nonce):
                return self._challenged(Asked(peer=peer, nonce=nonce), now_ms)
            case SessionOpen():
                return self._opened(peer, message, now_ms)
            case _:
                return [_refused(peer, b"", RefusalCode.MALFORMED)]

    def tick(self, now_ms: int) -> None:
        """Destroy what has expired, and begin the collection that is due."""
        if self._keystore.expire(now_ms):
            self._forget_dead()
        if self.due_in_ms(now_ms) == 0:
            self._collecting = True
            self._thread.submit(self._collect, self._window.close())

    def due_in_ms(self, now_ms: int) -> int | None:
        """Milliseconds until `tick` has something to do; none when it waits for an event."""
        window = None if self._collecting else self._window.due_in_ms(now_ms)
        return None if window is None else max(window, self._keystore.ready_in_ms(now_ms))

    def collected(self, event: Collected) -> list[Reply]:
        """Answer every challenge of a window."""
        self._collecting = False
        self._forget_dead()
        window = event.window
        if window is None:
            return [_refused(each.peer, each.nonce, RefusalCode.INTERNAL) for each in event.asked]
        keyset_id, evidence = window.keyset.keyset_id(), window.bundle.digest()
        self._issuers[keyset_id] = self._issuer(keyset_id, evidence, window.bundle)
        log.info(
            "evidence.collected",
            keyset_id=keyset_id,
            evidence_digest=evidence,
            kind=window.bundle.kind,
            challenges=len(event.asked),
        )
        bundle = window.bundle.to_bytes()
        replies = []
        for asked, proof in zip(event.asked, window.proofs, strict=True):
            reply = AttestationReply(
                bundle=bundle,
                leaf_index=proof.leaf_index,
                tree_size=proof.tree_size,
                path=proof.path,
                catalogue=self._catalogue,
            )
            session = WorkerSession(nonce=asked.nonce)
            session.attest(reply, keyset_id=keyset_id, evidence=evidence)
            self._sessions.add(asked.peer, keyset_id, session)
            replies.append(Reply(peer=asked.peer, record=reply))
        return replies

    def issuer(self, keyset_id: KeySetId) -> ReceiptIssuer:
        """Return the key set's issuer of receipts; raises `UnknownKeySetError`."""
        issuer = self._issuers.get(keyset_id)
        if issuer is None:
            raise UnknownKeySetError("the key set has ended")
        return issuer

    @property
    def live_keysets(self) -> int:
        """How many key sets are alive."""
        return len(self._keystore.keyset_ids)

    def close(self) -> None:
        """End every session and destroy every key."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._sessions.close()
        self._issuers.clear()
        self._keystore.destroy()

    def _challenged(self, asked: Asked, now_ms: int) -> list[Reply]:
        try:
            self._sessions.require_room(len(self._window) + 1)
            self._window.add(asked, now_ms=now_ms)
        except WorkerBusyError as error:
            return [_refused(asked.peer, asked.nonce, RefusalCode(error.code))]
        return []

    def _opened(self, peer: bytes, message: SessionOpen, now_ms: int) -> list[Reply]:
        def open_keys(enc: bytes, transcript: Transcript) -> SessionKeys:
            return self._keystore.open_session(message.keyset_id, enc, transcript, now_ms=now_ms)

        try:
            session = self._sessions.take_attested(peer, message)
            accepted = session.receive_open(message, open_keys=open_keys)
        except EnclaveError as error:
            code = _refusal_code(error)
            log.warning("session.refused", session_id=message.session_id, code=code)
            return [_refused(peer, message.session_id, code)]
        self._sessions.add_open(session)
        log.info("session.opened", session_id=message.session_id, keyset_id=message.keyset_id)
        return [Reply(peer=peer, record=accepted)]

    def _draw(self) -> KeySet:
        return self._keystore.draw_keyset(self._catalogue_digest, self._now_ms())

    def _collect(self, asked: Sequence[Asked]) -> None:
        window: Window | None = None
        try:
            window = self._collector.collect_window([each.nonce for each in asked])
        except EnclaveError as error:
            log.warning("evidence.failed", code=error.code)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            log.warning("evidence.failed", code="internal", error=type(error).__name__)
        self._post(Collected(asked=tuple(asked), window=window))

    def _issuer(
        self, keyset_id: KeySetId, evidence: Digest, bundle: EvidenceBundle
    ) -> ReceiptIssuer:
        identity = IssuerIdentity(
            keyset_id=keyset_id,
            evidence_digest=evidence,
            evidence_kind=bundle.kind,
            catalogue_digest=self._catalogue_digest,
            confidential=self._is_confidential(bundle),
            device=self._device,
        )
        return ReceiptIssuer(identity, sign=self._keystore.signer(keyset_id))

    def _is_confidential(self, bundle: EvidenceBundle) -> bool:
        # A GPU that nothing vouches for is read by its host, whatever the processor attests.
        on_processor = not self._device.cuda
        vouched_for = bundle.gpu_evidence is not None
        confidential_gpu = vouched_for and self._device.confidential_mode == Mode.ON
        return bundle.kind in CONFIDENTIAL_KINDS and (on_processor or confidential_gpu)

    def disclaim(self, mode: Mode) -> None:
        """From now on no receipt calls its job confidential: the GPUs left the mode they had."""
        self._device = attrs.evolve(self._device, confidential_mode=mode.value)
        for issuer in self._issuers.values():
            issuer.disclaim(self._device)

    def _forget_dead(self) -> None:
        alive = self._keystore.keyset_ids
        self._sessions.keep_only(alive)
        for keyset_id in [each for each in self._issuers if each not in alive]:
            del self._issuers[keyset_id]


def _refused(peer: bytes, subject: bytes, code: RefusalCode) -> Reply:
    return Reply(peer=peer, record=SessionRefused(subject=subject, code=code))


def _refusal_code(error: EnclaveError) -> RefusalCode:
    if isinstance(error, JobRefusedError):
        return RefusalCode(error.code)
    if isinstance(error, RemoteProtocolError | DecodeError):
        return RefusalCode.MALFORMED
    try:
        return RefusalCode(error.code)
    except ValueError:
        return RefusalCode.INTERNAL
