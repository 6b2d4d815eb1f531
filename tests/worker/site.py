"""A whole worker over a real socket, and the coordinator that a test plays."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from attrs import define, field

from attestation.encoding.digests import Label
from attestation.evidence.keyset import KeySet
from attestation.programs.catalogue import Catalogue
from attestation.programs.program import Program
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.receipts.signed_batch import SignedLeaf
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import AttestationReply, ResultHeader, SessionAccepted
from enclave_worker.assembly import assemble
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.device.backend import select_device
from enclave_worker.kernels.registry import Registry
from enclave_worker.runtime import Runtime
from enclave_worker.settings import WorkerSettings
from enclave_worker.transport import Transport
from tests.worker.simulated_client import SimulatedClient, SimulatedJob
from tests.worker.simulated_coordinator import SimulatedCoordinator

PEER = b"p" * 16


@define
class Site:
    """A coordinator and the worker that joined it."""

    coordinator: SimulatedCoordinator
    runtime: Runtime
    thread: threading.Thread
    catalogue: Catalogue
    ready: list[bytes] = field(factory=list)

    def connect(self, peer: bytes = PEER) -> SimulatedClient:
        client = SimulatedClient()
        reply = self.coordinator.ask(peer, client.challenge())
        assert isinstance(reply, AttestationReply)
        client.take_reply(reply)
        accepted = self.coordinator.ask(peer, client.open())
        assert isinstance(accepted, SessionAccepted)
        client.take_accepted(accepted)
        return client

    def job(
        self,
        client: SimulatedClient,
        kernel: str = "test.twice",
        size: int = 100,
        **changes: object,
    ) -> SimulatedJob:
        values = {
            "client": client,
            "program": Program.single(self.catalogue.signature(kernel)),
            "catalogue_digest": self.catalogue.digest(),
            "arrays": {"x": np.arange(size, dtype=np.float64)},
        }
        return SimulatedJob(**(values | changes))

    def assign(self, job: SimulatedJob, *, attempt: int = 1, inline: bool = True) -> None:
        segments = job.segments() if inline else []
        count = sum(sealer.segment_count for sealer in job.sealers)
        header = Header(Kind.ASSIGN, job.job_id, attempt, count=count, peer=PEER)
        self.coordinator.send(header, job.envelope(), job.wrap(), *segments)

    def result(self, job: SimulatedJob, *, attempt: int = 1) -> tuple[dict, ReceiptClaims]:
        """Take the next inline RESULT, which must be the job's, and verify its receipt."""
        header, (result, receipt, *segments) = self.coordinator.expect(Kind.RESULT)
        assert (header.job_id, header.attempt, header.count) == (job.job_id, attempt, len(segments))
        parsed = ResultHeader.from_bytes(result)
        claims = verified(job.client.keyset, receipt)
        assert claims.result_digest == parsed.digest()
        assert claims.job_id == job.job_id
        return job.open_outputs(parsed, segments, attempt=attempt), claims

    def stop(self) -> None:
        self.runtime.request_stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def verified(keyset: KeySet, receipt: bytes) -> ReceiptClaims:
    parsed = Receipt.from_bytes(receipt)
    leaf = SignedLeaf.from_bytes(parsed.proof)
    leaf.verify(parsed.claims, label=Label.RECEIPT, public_key=keyset.receipt_key)
    return ReceiptClaims.from_bytes(parsed.claims)


@contextmanager
def standing_site(registry: Registry) -> Iterator[Site]:
    """Run a worker over `registry` until the end of the block."""
    with SimulatedCoordinator() as coordinator:
        ready: list[bytes] = []
        runtime = assemble(
            WorkerSettings(coordinator=coordinator.url, capacity=2, max_job_bytes=1 << 27),
            transport=Transport(coordinator.url),
            device=select_device("cpu"),
            attester=InsecureAttester(),
            registry=registry,
            ready=ready.append,
        )
        thread = threading.Thread(target=runtime.run)
        thread.start()
        site = Site(coordinator, runtime, thread, registry.catalogue(), ready)
        try:
            coordinator.wait(lambda: bool(ready))
            yield site
        finally:
            runtime.request_stop()
            runtime.request_stop()
            thread.join(20)
