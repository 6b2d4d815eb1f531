"""The coordinator's core under any interleaving: deaths, restarts, lost and repeated messages.

The twin, in code, of the model in docs/models: OneReceipt, DoneHasResult, NeverUndone. Workers here
are slow, forgetful and wrong about what they hold; the network repeats; the coordinator is killed
at any point. `SimulatedBroker` checks `validate_state` after every event.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker

CLIENTS, WORKERS = 2, 3
MEMORY = 8 * SEALED + 4096
"""Room for two or three lanes: most transfers have to wait for one another."""

Lease = tuple[int, bytes, int]
"""(worker, job, attempt) as the worker believes, whatever the coordinator thinks."""

PICK = st.integers(0, 1000)
"""An index, taken modulo what there is."""

SHAPES = [(False, 1000), (False, 6 * SEALED), (True, 1000), (True, 6 * SEALED)]

ENDINGS = [RefusalCode.UNKNOWN_SESSION, RefusalCode.WORKER_LIMIT, RefusalCode.INTERNAL]


class CoordinatorMachine(RuleBasedStateMachine):
    """Random peers around one coordinator, and a book of what it promised."""

    def __init__(self) -> None:
        super().__init__()
        rules = Rules(memory_limit=MEMORY, window_bytes=2 * SEALED, lease_ms=5_000, max_attempts=50)
        self.broker = SimulatedBroker(rules)
        self.clients: list[SimulatedClient] = []
        self.workers: list[SimulatedWorker] = []
        self.owners: dict[bytes, int] = {}
        self.sent: dict[bytes, int] = {}
        self.credit: dict[bytes, int] = {}
        self.out_credit: dict[tuple[bytes, int], int] = {}
        self.out_sent: dict[tuple[bytes, int], int] = {}
        self.held: list[Lease] = []
        self.newest: dict[bytes, Lease] = {}
        self.assigned: set[tuple[bytes, int]] = set()
        self.accepted: set[bytes] = set()
        self.ended: set[bytes] = set()
        self.results: dict[bytes, tuple[int, bytes]] = {}
        self.recorded: dict[bytes, int] = {}
        self.segments: dict[tuple[bytes, int], int] = {}
        self.number = 0

    @initialize()
    def begin(self) -> None:
        self.clients = [SimulatedClient(self.broker, seed=n + 1) for n in range(CLIENTS)]
        self.workers = [
            SimulatedWorker(self.broker, instance=n, capacity=2) for n in range(WORKERS)
        ]

    # -- clients ----------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, CLIENTS - 1),
        shape=st.sampled_from(SHAPES),
        durable=st.booleans(),
        wrapped=st.sets(st.integers(0, WORKERS - 1), min_size=1),
    )
    def submit(
        self, *, who: int, shape: tuple[bool, int], durable: bool, wrapped: set[int]
    ) -> None:
        large, outputs = shape
        self.number += 1
        job_id = self.number.to_bytes(16, "big")
        self.owners[job_id] = who
        self.sent[job_id] = self.credit[job_id] = 0
        segments: int | tuple[bytes, ...] = 6 if large else (b"s" * 100,)
        record = submit_record(
            *(self.workers[n].worker_id for n in wrapped),
            segments=segments,
            durable=durable,
            output_bytes_max=outputs,
        )
        inline = () if isinstance(segments, int) else segments
        self.clients[who].submit(job_id, record, *inline, envelope=job_id)
        self.read()

    @rule(rounds=st.integers(1, 12))
    def traffic(self, rounds: int) -> None:
        """Everybody does its honest part for a while: inputs, credit, outputs."""
        for _ in range(rounds):
            for job_id in [job for job, credit in self.credit.items() if credit]:
                self.credit[job_id] -= 1
                self.sent[job_id] += 1
                index = self.sent[job_id] - 1
                self.clients[self.owners[job_id]].input(job_id, index, bytes(SEALED))
            self.read()
            for who, job_id, attempt in self.held:
                self.workers[who].credit(job_id, attempt, 2)
                key = (job_id, attempt)
                if self.out_sent.get(key, 0) < min(self.out_credit.get(key, 0), 6):
                    self.out_sent[key] = self.out_sent.get(key, 0) + 1
                    index = self.out_sent[key] - 1
                    self.workers[who].output(job_id, attempt, index, bytes(SEALED))
            self.read()

    @precondition(lambda self: self.owners)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job_id = sorted(self.owners)[pick % len(self.owners)]
        self.clients[self.owners[job_id]].send(Header(Kind.CANCEL, job_id))
        self.ended.add(job_id)
        self.credit[job_id] = 0
        self.read()

    @precondition(lambda self: self.results)
    @rule(pick=PICK)
    def acknowledge(self, pick: int) -> None:
        job_id = sorted(self.results)[pick % len(self.results)]
        self.clients[self.owners[job_id]].acknowledge(job_id)
        self.ended.add(job_id)
        self.read()

    # -- workers ----------------------------------------------------------------------------------

    @precondition(lambda self: self.held)
    @rule(pick=PICK, content=st.sampled_from([b"1", b"2"]))
    def finish(self, pick: int, content: bytes) -> None:
        """Also finishes twice, with another content, after losing the lease."""
        who, job_id, attempt = self.held[pick % len(self.held)]
        count = self.out_sent.get((job_id, attempt), 0)
        content = attempt.to_bytes(4, "big") + content
        self.workers[who].result(job_id, attempt, count=count, header=content)
        self.read()

    @precondition(lambda self: self.held)
    @rule(pick=PICK, thief=st.integers(0, WORKERS - 1))
    def finish_what_another_holds(self, pick: int, thief: int) -> None:
        who, job_id, attempt = self.held[pick % len(self.held)]
        if who != thief:
            self.workers[thief].result(job_id, attempt, header=bytes(4) + b"stolen")
            self.read()

    @precondition(lambda self: self.held)
    @rule(pick=PICK, code=st.sampled_from(ENDINGS))
    def decline(self, pick: int, code: RefusalCode) -> None:
        who, job_id, attempt = self.held.pop(pick % len(self.held))
        self.workers[who].decline(job_id, attempt, code)
        self.read()

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def forget(self, pick: int) -> None:
        """The worker crashed in the middle and knows nothing of it."""
        self.held.pop(pick % len(self.held))

    # -- the coordinator --------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 300, 300, 2_000, 6_000, 20_000]))
    def time_passes(self, ms: int) -> None:
        self.broker.tick(ms)
        for client in self.clients:
            client.heartbeat()
        for who, worker in enumerate(self.workers):
            worker.heartbeat(*((job, attempt) for at, job, attempt in self.held if at == who))
        for worker in self.workers:
            if RefusalCode.NOT_WELCOME in worker.refusals():
                worker.hello()
        for who, client in enumerate(self.clients):
            if RefusalCode.NOT_WELCOME in client.refusals():
                client.hello()
                self.forget_credit(who)
        self.read()

    # One rule, so that disasters are a part of the steps and not most of them.
    @rule(pick=PICK)
    def disaster(self, pick: int) -> None:
        match pick % 8:
            case 0 | 1:
                self.client_breaks(pick % CLIENTS)
            case 2 | 3:
                self.workers[pick % WORKERS].reconnect()
            case 4:
                self.restart()
            case 5:
                self.broker.disk_full = True
            case _:
                self.broker.disk_full = False
        self.read()

    def client_breaks(self, who: int) -> None:
        self.clients[who].reconnect()
        self.forget_credit(who)

    def forget_credit(self, who: int) -> None:
        """A client that says hello again begins anew with what is not accepted."""
        for job_id in (job for job, owner in self.owners.items() if owner == who):
            self.credit[job_id] = 0
        self.segments = {
            key: count for key, count in self.segments.items() if self.owners[key[0]] != who
        }

    def restart(self) -> None:
        self.broker.restart()
        self.credit = dict.fromkeys(self.credit, 0)
        self.segments.clear()
        for peer in (*self.clients, *self.workers):
            peer.reconnect()

    # -- the book ---------------------------------------------------------------------------------

    def read(self) -> None:
        """Read everybody's mail and check it against what was promised before."""
        for who, client in enumerate(self.clients):
            for header, frames in client.take():
                self.check_owner(who, header)
                self.read_client(header, frames)
        for who, worker in enumerate(self.workers):
            for header, _ in worker.take(
                Kind.ASSIGN, Kind.OUTPUT_CREDIT, Kind.RECORDED, Kind.INPUT
            ):
                self.read_worker(who, header)

    def read_worker(self, who: int, header: Header) -> None:
        lease, key = (who, header.job_id, header.attempt), (header.job_id, header.attempt)
        match header.kind:
            case Kind.ASSIGN:
                assert key not in self.assigned, "one attempt given twice"
                self.assigned.add(key)
                # Mail is read worker by worker, not in the order of sending.
                if header.attempt > self.newest.get(header.job_id, (0, b"", 0))[2]:
                    self.newest[header.job_id] = lease
                self.held.append(lease)
            case Kind.OUTPUT_CREDIT:
                self.out_credit[key] = self.out_credit.get(key, 0) + header.count
            case Kind.RECORDED:
                assert self.newest[header.job_id] == lease, "a result from behind the fence"
                stored = self.broker.store.result(header.job_id) is not None
                over = header.job_id in self.ended or not self.was_durable(header.job_id)
                assert stored or over, "recorded and not on the disk"
                assert self.recorded.setdefault(*key) == header.attempt, "two receipts"
                known = self.results.get(header.job_id)
                assert known is None or known[0] == header.attempt, "another result was delivered"

    def check_owner(self, who: int, header: Header) -> None:
        if header.kind in (Kind.RESULT, Kind.OUTPUT, Kind.ACCEPTED, Kind.INPUT_CREDIT, Kind.LOST):
            assert self.owners[header.job_id] == who, "another client's job"

    def read_client(self, header: Header, frames: tuple[bytes, ...]) -> None:
        job_id = header.job_id
        match header.kind:
            case Kind.ACCEPTED:
                self.accepted.add(job_id)
            case Kind.INPUT_CREDIT:
                self.credit[job_id] += header.count
            case Kind.OUTPUT:
                key = (job_id, header.attempt)
                assert header.index == self.segments.get(key, 0), "an output out of order"
                self.segments[key] = header.index + 1
                self.clients[self.owners[job_id]].credit(job_id, 1)
                self.read()
            case Kind.RESULT:
                content = (header.attempt, frames[0])
                assert self.results.setdefault(job_id, content) == content, "two results"
                made_in = int.from_bytes(frames[0][:4], "big")
                assert self.newest[job_id][2] == header.attempt == made_in, "behind the fence"
                if header.count:
                    assert self.segments[(job_id, header.attempt)] == header.count
                    del self.segments[(job_id, header.attempt)]
            case Kind.REFUSED | Kind.LOST:
                self.ended.add(job_id)
                self.credit[job_id] = 0
            case _:
                pass

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        durable = {job.job_id: job for job in self.broker.store.jobs()}
        known = self.broker.core.world.jobs
        for job_id in self.accepted - self.ended:
            if job_id in known and not known[job_id].durable:
                continue
            if job_id in durable:
                assert job_id in known, "stored and forgotten"
            else:
                assert job_id in self.results or not self.was_durable(job_id), "accepted and lost"

    def was_durable(self, job_id: bytes) -> bool:
        return job_id in self.broker.store_seen

    @invariant()
    def at_most_one_result_is_stored(self) -> None:
        for job in self.broker.store.jobs():
            if job.result is not None and job.job_id in self.recorded:
                assert self.recorded[job.job_id] == job.result.attempt

    @invariant()
    def clients_are_asked_for_no_more_than_the_budget(self) -> None:
        asked = sum(self.credit.values()) * SEALED
        assert asked <= MEMORY, "more credit than memory"

    @invariant()
    def what_the_store_names_is_on_stable_storage(self) -> None:
        assert self.broker.store.files() <= self.broker.sealed

    @invariant()
    def credit_stays_within_the_budget(self) -> None:
        budget = self.broker.core.world.budget
        assert budget.used <= MEMORY


TestCoordinator = pytest.mark.timeout(240)(CoordinatorMachine.TestCase)
TestCoordinator.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
