"""Parts of a worker, real except for the evidence, which nothing here needs to believe."""

import importlib
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import numpy as np
import pytest
from attrs import define

from attestation.identifiers import Digest
from attestation.programs.catalogue import Catalogue
from attestation.programs.program import Program
from attestation.receipts.receipt import DeviceClaims
from attestation.wire.messages import AttestationReply, SessionAccepted
from attestation.wire.messages import parse as parse_message
from enclave_worker.admission import Admission, AdmittedJob, JobOffer, Terms
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attesting import Attestations, Collected
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.engine import ProgramEngine
from enclave_worker.executor import Clock, JobExecution
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.sessions import SessionTable
from tests.worker.simulated_client import SimulatedClient, SimulatedJob
from tests.worker.site import Site, standing_site

NOW_MS = 1_800_000_000_000


@define(kw_only=True)
class Workshop:
    """A worker without sockets and threads; the clock stands still unless a test moves it."""

    registry: Registry
    catalogue: Catalogue
    keystore: Keystore
    sessions: SessionTable
    pool: BufferPool
    engine: ProgramEngine
    terms: Terms
    now_ms: int = NOW_MS
    collected: queue.SimpleQueue[Collected] = attrs.field(factory=queue.SimpleQueue)
    attestations: Attestations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.attestations = Attestations(
            keystore=self.keystore,
            sessions=self.sessions,
            attester=InsecureAttester(),
            catalogue=self.catalogue,
            device=DeviceClaims(backend="numpy", name="cpu", sm_count=0, cuda="", libraries={}),
            now_ms=lambda: self.now_ms,
            post=self.collected.put,
        )

    @property
    def catalogue_digest(self) -> Digest:
        return self.catalogue.digest()

    @property
    def clock(self) -> Clock:
        return Clock(now_ms=lambda: self.now_ms, monotonic_ns=lambda: self.now_ms * 1_000_000)

    @property
    def admission(self) -> Admission:
        return Admission(
            keystore=self.keystore,
            find_session=self.sessions.find,
            catalogue=self.catalogue,
            terms=self.terms,
        )

    def attest(self, *clients: SimulatedClient) -> None:
        """Challenge for every client at once and give each its reply: one window."""
        for client in clients:
            peer = client.public_key[:16]
            message = client.challenge().to_bytes()
            assert self.attestations.receive(peer, message, self.now_ms) == []
        self.now_ms += 1000
        self.attestations.tick(self.now_ms)
        replies = self.attestations.collected(self.wait_for_collection())
        by_peer = {reply.peer: reply.record for reply in replies}
        for client in clients:
            record = by_peer[client.public_key[:16]]
            assert isinstance(record, AttestationReply)
            client.take_reply(record)

    def wait_for_collection(self) -> Collected:
        """Return what the collection thread posts."""
        return self.collected.get(timeout=10)

    def connect(self) -> SimulatedClient:
        """Return a client with an open session."""
        client = SimulatedClient()
        self.attest(client)
        peer = client.public_key[:16]
        (reply,) = self.attestations.receive(peer, client.open().to_bytes(), self.now_ms)
        accepted = parse_message(reply.record.to_bytes())
        assert isinstance(accepted, SessionAccepted), accepted
        client.take_accepted(accepted)
        return client

    def job(
        self, client: SimulatedClient, kernel: str = "test.twice", **changes: object
    ) -> SimulatedJob:
        """Return an honest job of one kernel over `x`, unless `changes` say otherwise."""
        values = {
            "client": client,
            "program": Program.single(self.catalogue.signature(kernel)),
            "catalogue_digest": self.catalogue_digest,
            "arrays": {"x": np.arange(20_000, dtype=np.float64)},
        }
        return SimulatedJob(**(values | changes))

    def offer(self, job: SimulatedJob, *, attempt: int = 1, **changes: object) -> JobOffer:
        """Return what a coordinator hands over for `job`."""
        offer = JobOffer(
            job_id=job.job_id,
            attempt=attempt,
            input_segments=sum(sealer.segment_count for sealer in job.sealers),
            envelope=job.envelope(),
            wrap=job.wrap(),
        )
        return attrs.evolve(offer, **changes)

    def admit(self, job: SimulatedJob, *, attempt: int = 1, **changes: object) -> AdmittedJob:
        """Admit `job`, or raise why not."""
        return self.admission.admit(self.offer(job, attempt=attempt, **changes), now_ms=self.now_ms)

    def execution(self, job: SimulatedJob, *, attempt: int = 1) -> JobExecution:
        """Admit `job` and allocate for it."""
        return JobExecution(
            self.admit(job, attempt=attempt), engine=self.engine, pool=self.pool, clock=self.clock
        )


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    """The module of kernels that misbehave, importable as a third party's would be."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        # By its bare name: a source digest covers parent packages, and `tests` is not one.
        return importlib.import_module("misbehaving_kernels")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def registry(kernels: ModuleType) -> Registry:
    """Some of our kernels, and those that misbehave."""
    return Registry(["enclave_worker.kernels.stats", kernels])


@pytest.fixture
def workshop(registry: Registry) -> Workshop:
    """A worker without sockets."""
    pool = BufferPool(keep_bytes=1 << 26)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(select_device("cpu"), registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 26),
    )


@pytest.fixture
def client(workshop: Workshop) -> SimulatedClient:
    """A client with an open session at `workshop`."""
    return workshop.connect()


@pytest.fixture
def site(registry: Registry) -> Iterator[Site]:
    """A coordinator that the test plays, and a worker over `registry` that joined it."""
    with standing_site(registry) as site:
        yield site
