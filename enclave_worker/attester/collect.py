"""Collect Evidence for a window of Challenges: keys after the nonces, attested once.

The order is the defence (docs/protocol.md, step 3). Re-attesting a key for a later Challenge is
what makes relay attacks work once that key has leaked, so nothing here takes a key or a key set:
the Challenges come in, a key set is drawn for them inside, and both leave together.

GPUs come before the CPU: their nonce is a digest of key set and Challenges, and the CPU signs a
digest of what they answer, so that neither can be shown beside another machine's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from attrs import frozen

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.evidence.binding import FreshnessProof, NonceTree, gpu_nonce, report_data
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.identifiers import KeySetId

_REMEMBERED: Final = 4 * limits.KEYSETS_PER_WORKER


class Attester(Protocol):
    """Something that can speak for this machine. Called from one worker thread or several."""

    @property
    def kind(self) -> str:
        """The kind of Evidence it makes."""
        ...

    def collect(self, report_data: bytes) -> bytes:
        """Return the body of a bundle over these 64 bytes, or raise `UnavailableError`."""
        ...


class GpuAttester(Protocol):
    """Something that can speak for the GPUs of this machine."""

    def collect(self, nonce: bytes) -> bytes:
        """Return GPU evidence that answers these 32 bytes, or raise `UnavailableError`."""
        ...


@frozen(kw_only=True)
class Window:
    """Evidence for one window. `proofs` are in the order of the Challenges."""

    bundle: EvidenceBundle
    keyset: KeySet
    proofs: tuple[FreshnessProof, ...]


class EvidenceCollector:
    """Answers windows of Challenges, each with keys of its own."""

    def __init__(
        self,
        attester: Attester,
        *,
        draw_keyset: Callable[[], KeySet],
        gpu_attester: GpuAttester | None = None,
    ) -> None:
        """Use `attester`; `draw_keyset` makes new keys and keeps their private halves."""
        self._attester = attester
        self._gpu_attester = gpu_attester
        self._draw_keyset = draw_keyset
        self._drawn: deque[KeySetId] = deque(maxlen=_REMEMBERED)

    @property
    def kind(self) -> str:
        """The kind of Evidence that windows carry."""
        return self._attester.kind

    def collect_window(self, nonces: Sequence[bytes]) -> Window:
        """Draw keys for `nonces` and have them attested.

        Raises `UnavailableError` when the device fails, and `LocalProtocolError` when `draw_keyset`
        gives out keys that it gave out before.
        """
        tree = NonceTree.over(nonces)
        keyset = self._draw_keyset()
        keyset_id = keyset.keyset_id()
        if keyset_id in self._drawn:
            raise LocalProtocolError("a key set was about to be attested a second time")
        self._drawn.append(keyset_id)
        gpu_evidence = None
        if self._gpu_attester is not None:
            gpu_evidence = self._gpu_attester.collect(gpu_nonce(keyset_id, tree.root))
        body = self._attester.collect(report_data(keyset_id, tree.root, gpu_evidence))
        bundle = EvidenceBundle(
            kind=self._attester.kind,
            keyset=keyset.to_bytes(),
            nonce_root=tree.root,
            gpu_evidence=gpu_evidence,
            body=body,
        )
        return Window(bundle=bundle, keyset=keyset, proofs=tree.proofs)
