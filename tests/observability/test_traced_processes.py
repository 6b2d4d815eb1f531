"""One job over three real processes, as a collector of traces gets to see it."""

from collections.abc import Iterator

import pytest

from attestation.client.client import Client
from attestation.client.errors import JobFailedError
from attestation.client.jobs import Job
from attestation.observability.tracing import trace_ids
from attestation.policy.loading import load_policy
from tests.observability.collector import Collector, Exported
from tests.observability.planted import Planted
from tests.scenarios.processes import Site

pytestmark = pytest.mark.scenario

RESULT_SECONDS = 60.0
LARGE = 12 << 20

CLIENT = {"client.job", "client.seal", "client.accept", "client.result"}
COORDINATOR = {"coordinator.queue", "coordinator.lease"}
WORKER = {
    "worker.job",
    "worker.admit",
    "worker.inputs",
    "worker.kernel",
    "worker.seal",
    "worker.receipt",
}


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def jobs(
    tmp_path_factory: pytest.TempPathFactory, planted: Planted, collector: Collector
) -> list[Job]:
    """A small, a large and a failed job; all parties ended, so that everything is exported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with Site(tmp_path_factory.mktemp("traced")) as site:
            coordinator, worker = site.coordinator(), site.worker()
            policy = load_policy(site.policy_file)
            with Client(site.url, policy=policy, key=planted.key) as client:
                jobs = [
                    planted.submit(client, 4096, durable=True),
                    planted.submit(client, LARGE, durable=False),
                    planted.fail(client),
                ]
                for job in jobs[:2]:
                    job.result(RESULT_SECONDS)
                with pytest.raises(JobFailedError):
                    jobs[2].result(RESULT_SECONDS)
            assert worker.terminate() == 0
            assert coordinator.terminate() == 0
    return jobs


def spans_of(job: Job, collector: Collector) -> dict[str, Exported]:
    trace_id = trace_ids(job.job_id)[0].to_bytes(16, "big")
    found = [span for span in collector.spans() if span.trace_id == trace_id]
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def test_one_trace_follows_a_job_through_all_three(jobs: list[Job], collector: Collector) -> None:
    for job in jobs:
        spans = spans_of(job, collector)
        assert spans.keys() == CLIENT | COORDINATOR | WORKER
        for names, service in (
            (CLIENT, "enclave-client"),
            (COORDINATOR, "enclave-coordinator"),
            (WORKER, "enclave-worker"),
        ):
            assert {spans[name].service for name in names} == {service}
        root = spans["client.job"]
        assert root.parent_id == b""
        for name in ("coordinator.queue", "coordinator.lease", "worker.job"):
            assert spans[name].parent_id == root.span_id
        for name in WORKER - {"worker.job"}:
            assert spans[name].parent_id == spans["worker.job"].span_id


def test_parts_lie_within_their_whole_and_in_order(jobs: list[Job], collector: Collector) -> None:
    for job in jobs:
        spans = spans_of(job, collector)
        for whole, parts in (
            ("client.job", ["client.seal", "client.accept", "client.result"]),
            (
                "worker.job",
                ["worker.admit", "worker.inputs", "worker.kernel", "worker.seal", "worker.receipt"],
            ),
        ):
            times = [(spans[part].start_ns, spans[part].end_ns) for part in parts]
            assert times == sorted(times)
            assert all(start <= end for start, end in times)
            # The two clocks of a process drift by a little while it reads them.
            assert times[0][0] >= spans[whole].start_ns - 1_000_000
            assert times[-1][1] <= spans[whole].end_ns + 1_000_000


def test_a_failed_job_says_by_which_code(jobs: list[Job], collector: Collector) -> None:
    good, _, failed = (spans_of(job, collector) for job in jobs)
    assert "enclave.code" not in good["worker.job"].attributes
    code = failed["worker.job"].attributes["enclave.code"]
    assert code == failed["client.job"].attributes["enclave.code"]
    assert code == jobs[2].claims.code


def test_nothing_confidential_is_exported(
    jobs: list[Job], planted: Planted, collector: Collector
) -> None:
    assert collector.bodies
    # Latin-1 keeps every byte, so that the search sees the message as it was sent.
    planted.assert_unseen(
        {str(n): body.decode("latin-1") for n, body in enumerate(collector.bodies)}
    )
    allowed = {
        "enclave.job_id",
        "enclave.attempt",
        "enclave.code",
        "enclave.bytes_in",
        "enclave.bytes_out",
    }
    ids = {job.job_id.hex() for job in jobs}
    for span in collector.spans():
        assert span.attributes.keys() <= allowed
        assert span.attributes.get("enclave.job_id") in {*ids, None}
