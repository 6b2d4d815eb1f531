"""How many hardware reports clients cost, by the worker's own window code and a counting device.

Time is simulated for the counts, so that they do not depend on the machine; one test runs in real
time with a device that takes its time.
"""

import queue
import threading
import time
from os import urandom

import pytest
from attrs import define, field

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.evidence.bundle import EvidenceBundle
from attestation.identifiers import Digest
from attestation.programs.catalogue import Catalogue
from attestation.receipts.receipt import DeviceClaims
from attestation.wire.messages import AttestationReply, Challenge
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attesting import Attestations, Collected
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.sessions import SessionTable

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
CATALOGUE: Catalogue = Registry(["enclave_worker.kernels.stats"]).catalogue()
PATIENCE_MS = 15_000
"""How long a client waits for an answer (`attestation.client.workers.ANSWER_SECONDS`)."""


class CountingDevice(InsecureAttester):
    """Hardware that counts what it signs, and takes its time for it."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.reports = 0
        self._seconds = seconds

    def collect(self, report_data: bytes) -> bytes:
        self.reports += 1
        time.sleep(self._seconds)
        return super().collect(report_data)


@define(kw_only=True)
class Clock:
    now_ms: int = NOW_MS


@define(kw_only=True, eq=False)
class Worker:
    """The parts that answer challenges, driven as the loop drives them. Every client opens."""

    device: CountingDevice
    clock: Clock = field(factory=Clock)
    report_ms: int = 0
    keystore: Keystore = field(factory=Keystore)
    asked_ms: dict[bytes, int] = field(factory=dict)
    answered_ms: dict[bytes, int] = field(factory=dict)
    nonces: dict[bytes, bytes] = field(factory=dict)
    _posted: "queue.SimpleQueue[Collected]" = field(factory=queue.SimpleQueue)
    _attestations: Attestations = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._attestations = Attestations(
            keystore=self.keystore,
            sessions=SessionTable(unopened=20_000),
            attester=self.device,
            catalogue=CATALOGUE,
            device=DeviceClaims(backend="numpy", name="cpu", sm_count=0, cuda="", libraries={}),
            now_ms=lambda: self.clock.now_ms,
            post=self._posted.put,
        )

    def challenge(self) -> None:
        peer, nonce = urandom(16), urandom(32)
        self.nonces[peer], self.asked_ms[peer] = nonce, self.clock.now_ms
        message = Challenge(nonce=nonce).to_bytes()
        assert self._attestations.receive(peer, message, self.clock.now_ms) == []

    def turn(self) -> None:
        """Do what is due; a collection takes `report_ms` of the simulated time."""
        self._attestations.tick(self.clock.now_ms)
        if self._attestations.due_in_ms(self.clock.now_ms) is None and self.waiting:
            posted = self._posted.get(timeout=10)
            self.clock.now_ms += self.report_ms
            self._answer(posted)

    def run_until(self, moment_ms: int) -> None:
        while True:
            due = self._attestations.due_in_ms(self.clock.now_ms)
            if due is None or self.clock.now_ms + due > moment_ms:
                self.clock.now_ms = max(self.clock.now_ms, moment_ms)
                return
            self.clock.now_ms += due
            self.turn()

    @property
    def waiting(self) -> int:
        return len(self.asked_ms) - len(self.answered_ms)

    @property
    def longest_wait_ms(self) -> int:
        return max(self.answered_ms[peer] - asked for peer, asked in self.asked_ms.items())

    def _answer(self, collected: Collected) -> None:
        assert collected.window is not None
        keyset_id = collected.window.keyset.keyset_id()
        for reply in self._attestations.collected(collected):
            assert isinstance(reply.record, AttestationReply)
            bundle = EvidenceBundle.from_bytes(reply.record.bundle)
            place = (reply.record.leaf_index, reply.record.tree_size)
            proof = collected.window.proofs[place[0]]
            proof.verify(self.nonces[reply.peer], nonce_root=bundle.nonce_root)
            self.answered_ms[reply.peer] = self.clock.now_ms
        self.keystore._live[keyset_id].sessions = len(collected.asked)


def keep_in_use(worker: Worker) -> None:
    """Every client so far begins a job: no key set is idle."""
    for live in worker.keystore._live.values():
        live.used_ms = worker.clock.now_ms


def test_a_thousand_clients_at_once_cost_one_report() -> None:
    worker = Worker(device=CountingDevice())
    for _ in range(1000):
        worker.challenge()
    worker.run_until(NOW_MS + 1000)
    assert worker.waiting == 0
    assert worker.device.reports == 1


@pytest.mark.parametrize(("report_ms", "most"), [(5, 45), (100, 12), (1000, 3)])
def test_a_thousand_clients_within_a_second_share_windows_that_grow_with_the_device(
    report_ms: int, most: int
) -> None:
    """SNP takes 5 ms, a TPM or a TDX quote 100 ms, eight GPUs a second: windows grow with it."""
    worker = Worker(device=CountingDevice(), report_ms=report_ms)
    for number in range(1000):
        worker.run_until(NOW_MS + number)
        worker.challenge()
    worker.run_until(NOW_MS + 10_000)
    assert worker.waiting == 0
    assert worker.device.reports <= most
    assert worker.longest_wait_ms <= 2 * report_ms + 50


def test_a_thousand_clients_in_real_time_cost_a_handful() -> None:
    """Threads, the wall clock, and a device that takes 50 ms."""
    device = CountingDevice(seconds=0.05)
    worker = Worker(device=device, clock=Clock(now_ms=0))
    began = time.monotonic()

    def milliseconds() -> int:
        return int((time.monotonic() - began) * 1000)

    while worker.waiting or len(worker.asked_ms) < 1000:
        worker.clock.now_ms = milliseconds()
        for _ in range(min(50, 1000 - len(worker.asked_ms))):
            worker.challenge()
        worker._attestations.tick(worker.clock.now_ms)
        try:
            worker._answer(worker._posted.get(timeout=0.005))
        except queue.Empty:
            continue
    assert device.reports <= 8
    assert threading.active_count() < 50


SIXTEENTH_MS = HOUR_MS // 16


def small_store() -> Keystore:
    """A sixteenth of a worker's places for a sixteenth of the time: the same pace."""
    store = Keystore(lifetime_ms=SIXTEENTH_MS, capacity=limits.KEYSETS_PER_WORKER // 16)
    assert abs(store._pace_ms - Keystore()._pace_ms) <= 1
    return store


def test_clients_one_by_one_are_all_answered_in_time() -> None:
    """1,500 in an hour, who each come alone and stay: no standstill, and no one waits too long."""
    worker = Worker(device=CountingDevice(), keystore=small_store())
    for moment in range(0, SIXTEENTH_MS, HOUR_MS // 1_500):
        worker.run_until(NOW_MS + moment)
        keep_in_use(worker)
        worker.challenge()
    worker.run_until(NOW_MS + SIXTEENTH_MS + PATIENCE_MS)
    assert worker.waiting == 0
    assert worker.longest_wait_ms < PATIENCE_MS // 2
    assert worker.device.reports <= limits.KEYSETS_PER_WORKER // 16 + 2


def test_without_the_pace_the_same_clients_find_a_worker_that_stands_still() -> None:
    """Why there is one: the 65th of a store for 64 waits for ten minutes, and gives up."""
    store = Keystore(capacity=64)
    store._pace_ms = 0
    worker = Worker(device=CountingDevice(), keystore=store)
    for number in range(100):
        worker.run_until(NOW_MS + number * 1000)
        keep_in_use(worker)
        worker.challenge()
    worker.run_until(worker.clock.now_ms + PATIENCE_MS)
    assert worker.waiting == 100 - 64


def test_later_hours_find_room_as_well() -> None:
    """The pace is such that as many key sets expire as are drawn."""
    worker = Worker(device=CountingDevice(), keystore=small_store())
    for moment in range(0, 4 * SIXTEENTH_MS, 3_000):
        worker.run_until(NOW_MS + moment)
        keep_in_use(worker)
        worker.challenge()
    worker.run_until(worker.clock.now_ms + PATIENCE_MS)
    assert worker.waiting == 0
    assert worker.longest_wait_ms < PATIENCE_MS


def test_a_store_that_is_full_of_used_keys_is_looked_at_again_later_and_not_at_once() -> None:
    """A loop that asked again without a pause would keep a processor busy with waiting."""
    worker = Worker(device=CountingDevice(), keystore=Keystore(capacity=2))
    worker.challenge()
    worker.run_until(worker.clock.now_ms + 1000)
    keep_in_use(worker)
    worker.challenge()
    worker.run_until(worker.clock.now_ms + 20)
    due = worker._attestations.due_in_ms(worker.clock.now_ms)
    assert due is not None
    assert due > 20


def test_a_clock_that_was_set_back_makes_nobody_wait_for_it() -> None:
    store = Keystore(capacity=4)
    catalogue = Digest(digest(Label.CATALOGUE, b""))
    for number in range(2):
        store.draw_keyset(catalogue, NOW_MS + number)
    assert 0 < store.ready_in_ms(NOW_MS) <= HOUR_MS // 2 + 1
    assert store.ready_in_ms(NOW_MS - 10 * HOUR_MS) <= HOUR_MS // 2
    assert store.ready_in_ms(NOW_MS + HOUR_MS) == 0
