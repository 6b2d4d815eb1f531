"""Trace ids, what decides whether anything is traced, and what a trace costs when nothing is."""

import subprocess
import sys

import pytest

from attestation.client.tracing import JobTrace
from attestation.identifiers import JobId
from attestation.observability import tracing
from attestation.observability.tracing import Span, Tracer, export_to, from_environment, trace_ids
from coordinator.core.instructions import Note
from coordinator.tracing import REMEMBERED, JobTraces
from enclave_worker.metrics import Laps, Phase
from enclave_worker.tracing import trace_job

memory = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="needs opentelemetry-sdk"
)
JOB = JobId(bytes(range(16)))
IDS_OF_JOB = (0x7F69DF6131FBAACB69E867DC13A3C8E8, 0x3FDAFAF370A27058)
"""SHA-256 of 0x17, `enclave-worker/v1/trace` and the job id: 16 bytes, then 8."""


@pytest.fixture
def exporter() -> "memory.InMemorySpanExporter":
    return memory.InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: "memory.InMemorySpanExporter") -> Tracer:
    return export_to([exporter], service="test")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", *tracing._ENDPOINTS):
        monkeypatch.delenv(name, raising=False)


# -- ids -------------------------------------------------------------------------------------------


def test_the_ids_of_a_trace_are_a_digest_of_the_job_id_alone() -> None:
    """A known answer: a change would tear traces over parties of different versions apart."""
    assert trace_ids(JOB) == IDS_OF_JOB
    assert trace_ids(JobId(bytes(16))) != trace_ids(JOB)


def test_all_parties_come_to_one_trace_without_a_word(
    tracer: Tracer, exporter: "memory.InMemorySpanExporter"
) -> None:
    trace = JobTrace(tracer)
    job = trace.job(JOB, None, lambda _job: None)  # type: ignore[arg-type]
    job.accept()
    traces = JobTraces(tracer)
    for event in ("job.accepted", "job.assigned", "job.done"):
        traces.note(Note(event=event, fields={"job_id": JOB, "attempt": 3}))
    trace_job(tracer, JOB, _laps(), attempt=3)
    job.cancel()
    spans = exporter.get_finished_spans()
    assert {span.context.trace_id for span in spans} == {trace_ids(JOB)[0]}
    (first,) = (span for span in spans if span.parent is None)
    assert (first.name, first.context.span_id) == ("client.job", trace_ids(JOB)[1])
    for name in ("coordinator.queue", "coordinator.lease", "worker.job"):
        (span,) = (span for span in spans if span.name == name)
        assert span.parent.span_id == first.context.span_id
    assert first.attributes["enclave.code"] == "cancelled"


def test_every_span_has_an_id_of_its_own(
    tracer: Tracer, exporter: "memory.InMemorySpanExporter"
) -> None:
    part = Span(name="part", start_ns=1, end_ns=2)
    for number in range(50):
        job_id = JobId(number.to_bytes(16, "big"))
        tracer.job(job_id, Span(name="whole", start_ns=1, end_ns=2), [part] * 3, first=True)
        tracer.job(job_id, Span(name="other", start_ns=1, end_ns=2))
    spans = exporter.get_finished_spans()
    assert len({span.context.span_id for span in spans}) == len(spans) == 250


def test_all_parties_sample_the_same_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the client, who is first, or another party asks: the trace id decides."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    chosen = []
    for first in (True, False):
        exporter = memory.InMemorySpanExporter()
        tracer = export_to([exporter], service="test")
        for number in range(200):
            job_id = JobId(number.to_bytes(16, "big"))
            tracer.job(job_id, Span(name="whole", start_ns=1, end_ns=2), first=first)
        chosen.append({span.context.trace_id for span in exporter.get_finished_spans()})
    assert chosen[0] == chosen[1]
    assert 50 < len(chosen[0]) < 150


# -- the coordinator -------------------------------------------------------------------------------


def test_a_lost_lease_is_a_span_with_its_reason(
    tracer: Tracer, exporter: "memory.InMemorySpanExporter"
) -> None:
    traces = JobTraces(tracer)
    for event, fields in (
        ("job.accepted", {}),
        ("job.assigned", {"attempt": 1, "worker_id": b"w" * 16}),
        ("lease.lost", {"attempt": 1, "code": "lease-expired"}),
        ("job.assigned", {"attempt": 2, "worker_id": b"w" * 16}),
        ("job.done", {"attempt": 2}),
    ):
        traces.note(Note(event=event, fields={"job_id": JOB, **fields}))
    found = [
        (span.name, span.attributes.get("enclave.attempt"), span.attributes.get("enclave.code"))
        for span in exporter.get_finished_spans()
    ]
    assert found == [
        ("coordinator.queue", None, None),
        ("coordinator.lease", 1, "lease-expired"),
        ("coordinator.queue", None, None),
        ("coordinator.lease", 2, None),
    ]


def test_jobs_that_never_end_do_not_fill_the_memory(tracer: Tracer) -> None:
    traces = JobTraces(tracer)
    for number in range(REMEMBERED + 10):
        job_id = number.to_bytes(16, "big")
        traces.note(Note(event="job.accepted", fields={"job_id": job_id}))
    assert len(traces._open) == REMEMBERED


def test_notes_about_anything_else_are_passed_over(
    tracer: Tracer, exporter: "memory.InMemorySpanExporter"
) -> None:
    traces = JobTraces(tracer)
    for event in ("client.welcomed", "worker.left", "store.failed", "job.done", "job.refused"):
        traces.note(Note(event=event, fields={"job_id": JOB}))
    assert not exporter.get_finished_spans()


# -- the worker ------------------------------------------------------------------------------------


def test_a_job_that_ended_early_has_the_parts_that_it_got_through(
    tracer: Tracer, exporter: "memory.InMemorySpanExporter"
) -> None:
    laps = _laps(Phase.WAIT, Phase.ADMIT, Phase.WAIT, Phase.OPEN)
    trace_job(tracer, JOB, laps, attempt=1, code="not-authentic")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans.keys() == {"worker.job", "worker.admit", "worker.inputs"}
    assert spans["worker.job"].attributes["enclave.code"] == "not-authentic"
    assert not spans["worker.job"].status.is_ok
    assert not spans["worker.job"].events


def _laps(*phases: Phase) -> Laps:
    now = iter(range(1000))
    laps = Laps(lambda: next(now))
    for phase in phases:
        laps.lap(phase)
    return laps


# -- whether anything is traced --------------------------------------------------------------------


def test_nothing_is_traced_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment("test") is None
    monkeypatch.setenv("OTEL_SERVICE_NAME", "an application of somebody's")
    assert from_environment("test") is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert from_environment("test") is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert from_environment("test") is None


def test_the_standard_variables_turn_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            tracer = from_environment("test")
            assert tracer is not None
            tracer.close()


def test_an_exporter_that_is_missing_costs_traces_and_not_jobs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The variables may be there for the application around a client."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nobody-has-this")
    assert from_environment("test") is None
    assert "tracing.unavailable" in caplog.text


@pytest.mark.parametrize(
    "module", ["attestation.client.client", "coordinator.broker", "enclave_worker.assembly"]
)
def test_nothing_of_it_is_loaded_when_it_is_off(module: str) -> None:
    probe = (
        f"import sys, {module}\n"
        "from attestation.observability.tracing import from_environment\n"
        "assert from_environment('test') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
