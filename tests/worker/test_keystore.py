"""Private keys stay where they are, and a flood of challenges does not push out keys in use."""

import contextlib
import copy
import pickle
import threading
from os import urandom

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.errors import LocalProtocolError, NotAuthenticError
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, JobId, KeySetId
from enclave_worker.keystore import IDLE_MS, UNANSWERED_MS, Keystore
from enclave_worker.refusals import (
    ReplayedError,
    RevokedError,
    UnknownKeySetError,
    WorkerBusyError,
)
from enclave_worker.replay import Claim
from tests.worker.simulated_client import SimulatedClient

NOW = 1_800_000_000_000
CATALOGUE = digest(Label.CATALOGUE, b"kernels")


def client_of(keyset: KeySet) -> SimulatedClient:
    return SimulatedClient(keyset=keyset, evidence_digest=Digest(bytes(32)))


def open_session(store: Keystore, keyset: KeySet, now_ms: int = NOW) -> SimulatedClient:
    client = client_of(keyset)
    message = client.open()
    keys = store.open_session(keyset.keyset_id(), message.enc, client.transcript(), now_ms=now_ms)
    client.keys.check_confirmation(keys.confirmation())
    return client


def test_each_key_set_has_keys_of_its_own() -> None:
    store = Keystore()
    sets = [store.draw_keyset(CATALOGUE, NOW) for _ in range(3)]
    assert len({each.kem_public_key for each in sets}) == 3
    assert len({each.receipt_key for each in sets}) == 3
    assert all(each.catalogue_digest == CATALOGUE for each in sets)


def test_a_signature_is_the_receipt_keys() -> None:
    store = Keystore()
    keyset = store.draw_keyset(CATALOGUE, NOW)
    signature = store.signer(keyset.keyset_id())(b"claims")
    Ed25519PublicKey.from_public_bytes(keyset.receipt_key).verify(signature, b"claims")


def test_private_keys_do_not_leave() -> None:
    """No pickle, no copy, no repr, and no public attribute that holds a key or bytes."""
    store = Keystore()
    keyset = store.draw_keyset(CATALOGUE, NOW)
    live = store._live[keyset.keyset_id()]
    for thing in (store, live):
        for leave in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises((LocalProtocolError, TypeError)):
                leave(thing)
    assert repr(store) == "Keystore(1 key sets)"
    assert repr(live) == "_LiveKeySet"
    public = {name: getattr(store, name) for name in dir(store) if not name.startswith("_")}
    values = [value for value in public.values() if not callable(value)]
    assert values == [frozenset({keyset.keyset_id()})]


def test_a_session_sealed_to_another_key_set_does_not_open() -> None:
    """A coordinator that swaps the keys of two honest workers gets nothing."""
    store = Keystore()
    first, second = (store.draw_keyset(CATALOGUE, NOW) for _ in range(2))
    client = client_of(first)
    message = client.open()
    with pytest.raises(NotAuthenticError):
        store.open_session(second.keyset_id(), message.enc, client.transcript(), now_ms=NOW)


def test_a_session_bound_to_another_transcript_does_not_open() -> None:
    store = Keystore()
    keyset = store.draw_keyset(CATALOGUE, NOW)
    client = client_of(keyset)
    message = client.open()
    client.nonce = urandom(32)
    with pytest.raises(NotAuthenticError):
        store.open_session(keyset.keyset_id(), message.enc, client.transcript(), now_ms=NOW)


def test_an_unknown_key_set_is_refused_everywhere() -> None:
    store = Keystore()
    unknown = KeySetId(bytes(32))
    client = client_of(Keystore().draw_keyset(CATALOGUE, NOW))
    with pytest.raises(UnknownKeySetError):
        store.signer(unknown)
    with pytest.raises(UnknownKeySetError):
        store.claim(unknown, JobId(bytes(16)), now_ms=NOW)
    with pytest.raises(UnknownKeySetError):
        store.open_session(unknown, b"", client.transcript(), now_ms=NOW)


def test_a_key_set_is_destroyed_at_its_end_and_its_signer_with_it() -> None:
    store = Keystore(lifetime_ms=1000)
    keyset = store.draw_keyset(CATALOGUE, NOW)
    sign = store.signer(keyset.keyset_id())
    assert store.expire(NOW + 999) == frozenset()
    assert store.expire(NOW + 1000) == {keyset.keyset_id()}
    with pytest.raises(UnknownKeySetError):
        sign(b"too late")
    assert store.keyset_ids == frozenset()


def test_a_key_set_past_its_end_takes_nothing_new_even_before_it_is_destroyed() -> None:
    store = Keystore(lifetime_ms=1000)
    keyset = store.draw_keyset(CATALOGUE, NOW)
    with pytest.raises(UnknownKeySetError):
        open_session(store, keyset, now_ms=NOW + 1000)
    with pytest.raises(UnknownKeySetError):
        store.claim(keyset.keyset_id(), JobId(bytes(16)), now_ms=NOW + 1000)


def test_a_flood_of_challenges_takes_unanswered_key_sets_first() -> None:
    """A key set with a session survives any number of challenges that nobody follows up."""
    store = Keystore(capacity=3)
    used = store.draw_keyset(CATALOGUE, NOW)
    open_session(store, used)
    now = NOW
    for _ in range(10):
        now += UNANSWERED_MS
        store.draw_keyset(CATALOGUE, now)
    assert used.keyset_id() in store.keyset_ids
    assert len(store.keyset_ids) == 3


def test_a_flood_does_not_take_a_key_set_whose_client_is_still_appraising() -> None:
    store = Keystore(capacity=2)
    store.draw_keyset(CATALOGUE, NOW)
    store.draw_keyset(CATALOGUE, NOW)
    later = NOW + UNANSWERED_MS - 1
    assert not store.has_room(later)
    with pytest.raises(WorkerBusyError):
        store.draw_keyset(CATALOGUE, later)
    assert store.has_room(later + 1)


def test_an_idle_key_set_makes_room_and_one_with_a_running_job_does_not() -> None:
    store = Keystore(capacity=1)
    keyset = store.draw_keyset(CATALOGUE, NOW)
    open_session(store, keyset)
    claim = store.claim(keyset.keyset_id(), JobId(bytes(16)), now_ms=NOW)
    claim.spend()
    assert not store.has_room(NOW + IDLE_MS)
    claim.finish()
    assert store.has_room(NOW + IDLE_MS)
    store.draw_keyset(CATALOGUE, NOW + IDLE_MS)
    assert keyset.keyset_id() not in store.keyset_ids


def test_a_key_set_has_a_bounded_number_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_KEYSET", 1)
    store = Keystore()
    keyset = store.draw_keyset(CATALOGUE, NOW)
    open_session(store, keyset)
    with pytest.raises(WorkerBusyError):
        open_session(store, keyset)


# -- replay ---------------------------------------------------------------------------------------


@pytest.fixture
def store() -> Keystore:
    return Keystore(jobs_per_keyset=3)


@pytest.fixture
def keyset_id(store: Keystore) -> KeySetId:
    return store.draw_keyset(CATALOGUE, NOW).keyset_id()


def test_a_job_id_is_claimed_once(store: Keystore, keyset_id: KeySetId) -> None:
    claim = store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW)
    with pytest.raises(ReplayedError):
        store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW)
    claim.spend()
    claim.finish()
    with pytest.raises(ReplayedError):
        store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW)


def test_a_released_job_id_may_come_again(store: Keystore, keyset_id: KeySetId) -> None:
    claim = store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW)
    claim.release()
    again = store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW)
    with pytest.raises(RevokedError):
        claim.spend()
    claim.finish()
    again.spend()


def test_a_full_cache_ends_the_key_set_for_new_jobs_and_not_for_receipts(
    store: Keystore, keyset_id: KeySetId
) -> None:
    """Forgetting an old job would let it run again: the key set ends instead."""
    for number in range(3):
        store.claim(keyset_id, JobId(bytes([number]) * 16), now_ms=NOW).spend()
    with pytest.raises(UnknownKeySetError):
        store.claim(keyset_id, JobId(b"4" * 16), now_ms=NOW)
    assert store.signer(keyset_id)(b"a receipt of a job that ran")


def test_the_same_job_may_run_under_another_key_set(store: Keystore, keyset_id: KeySetId) -> None:
    """The client wraps its key again, knowingly; the cache dies with its key set."""
    store.claim(keyset_id, JobId(bytes(16)), now_ms=NOW).spend()
    other = store.draw_keyset(CATALOGUE, NOW).keyset_id()
    store.claim(other, JobId(bytes(16)), now_ms=NOW)


def test_of_a_kernel_start_and_a_revocation_at_once_exactly_one_wins() -> None:
    """Never both: a job that may come again has not run, and one that ran may not come again."""
    store = Keystore()
    keyset_id = store.draw_keyset(CATALOGUE, NOW).keyset_id()
    for number in range(300):
        job_id = JobId(number.to_bytes(16, "big"))
        claim = store.claim(keyset_id, job_id, now_ms=NOW)
        ran = race(claim)
        if ran:
            with pytest.raises(ReplayedError):
                store.claim(keyset_id, job_id, now_ms=NOW)
        else:
            store.claim(keyset_id, job_id, now_ms=NOW)


def race(claim: Claim) -> bool:
    """Start the kernel and revoke at once; return whether the kernel started."""
    barrier = threading.Barrier(2)
    started = []

    def spend() -> None:
        barrier.wait()
        with contextlib.suppress(RevokedError):
            claim.spend()
            started.append(True)

    thread = threading.Thread(target=spend)
    thread.start()
    barrier.wait()
    claim.release()
    thread.join()
    return bool(started)
