"""Traces of jobs over client, coordinator and worker, for those who run OpenTelemetry.

Off unless OpenTelemetry's own environment variables ask for an exporter; nothing of it is loaded
then. Every span is made when its job has ended, from times that were noted, so a job that runs
does no more for a trace than read a clock.

The three parties agree about a trace without a word on the wire: its ids are digests of the job
id, which all of them know and which is random. So nobody learns anything by a trace that he did not
know by the job. What a span may hold is a job id, times, codes, and sizes of sealed bytes.
"""

import hashlib
import importlib
import os
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import field, frozen

from attestation.identifiers import JobId
from attestation.logging import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, SpanContext

log: Final = get_logger(__name__)

Attributes: TypeAlias = Mapping[str, str | int | bool]

_PREFIX: Final = b"enclave-worker/v1/trace"
_EXPORTERS: Final = "opentelemetry_traces_exporter"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SCOPE: Final = "enclave"


def trace_ids(job_id: JobId) -> tuple[int, int]:
    """Return the trace id of a job and the id of its first span, which is the client's."""
    value = hashlib.sha256(len(_PREFIX).to_bytes(1, "big") + _PREFIX + job_id).digest()
    return int.from_bytes(value[:16], "big"), int.from_bytes(value[16:24], "big")


@frozen(kw_only=True)
class Span:
    """One stretch of a job, in nanoseconds of Unix time."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes = field(factory=dict)
    code: str = ""
    """Of the error that ended it, if one did."""


class Tracer:
    """Exports spans of jobs. From any thread."""

    def __init__(self, provider: "TracerProvider", ids: "ChosenIds") -> None:
        """Export through `provider`, which takes its ids from `ids`."""
        self._provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer(_SCOPE)

    def job(
        self,
        job_id: JobId,
        span: Span,
        parts: Iterable[Span] = (),
        *,
        first: bool = False,
        links: Iterable["Link"] = (),
    ) -> None:
        """Export a span of a job and the parts of it; the client's is the `first` of all."""
        from opentelemetry import trace  # noqa: PLC0415 - loaded when traces are wanted
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import Decision  # noqa: PLC0415

        trace_id, first_id = trace_ids(job_id)
        # Asked by the trace id alone, all parties come to one decision without talking.
        sampling = self._provider.sampler.should_sample(None, trace_id, span.name)
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return
        if first:
            self._ids.choose(trace_id, first_id)
            parent = Context()
        else:
            parent = trace.set_span_in_context(
                trace.NonRecordingSpan(_elsewhere(trace_id, first_id)), Context()
            )
        attributes = {"enclave.job_id": job_id.hex(), **span.attributes}
        whole = self._tracer.start_span(
            span.name,
            context=parent,
            attributes=attributes,
            links=list(links),
            start_time=span.start_ns,
        )
        inside = trace.set_span_in_context(whole, Context())
        for part in parts:
            made = self._tracer.start_span(
                part.name, context=inside, attributes=part.attributes, start_time=part.start_ns
            )
            made.end(part.end_ns)
        if span.code:
            whole.set_attribute("enclave.code", span.code)
            whole.set_status(trace.Status(trace.StatusCode.ERROR, span.code))
        whole.end(span.end_ns)

    def close(self) -> None:
        """Export what waits."""
        self._provider.shutdown()


class ChosenIds:
    """An `IdGenerator` whose next ids are chosen, and random where nobody chose."""

    def __init__(self) -> None:
        self._chosen = threading.local()

    def choose(self, trace_id: int, span_id: int) -> None:
        """Let the next span of this thread, which has no parent, have these ids."""
        self._chosen.ids = [trace_id, span_id]

    def generate_trace_id(self) -> int:
        """Return the trace id for a span without a parent."""
        trace_id: int = self._chosen.ids[0]
        return trace_id

    def generate_span_id(self) -> int:
        """Return the chosen id once, then random ones."""
        ids: list[int] = getattr(self._chosen, "ids", [])
        if ids:
            self._chosen.ids = []
            return ids[1]
        return int.from_bytes(os.urandom(8), "big") or 1

    def is_trace_id_random(self) -> bool:
        """Tell samplers that any bits of a trace id are as good as random: it is a digest."""
        return True


def from_environment(service: str) -> Tracer | None:
    """Return a tracer if the environment asks for one, under `service` unless it names another.

    Raises nothing: where the environment asks for what is not installed, jobs go untraced and the
    log says so. The variables may be meant for the application around us.
    """
    if not _wanted():
        return None
    try:
        return export_to(
            (_load_exporter(name) for name in _exporter_names()), service=service, at_once=False
        )
    except Exception as error:  # noqa: BLE001 - an exporter's own settings may raise anything
        log.warning("tracing.unavailable", error=type(error).__name__, reason=str(error))
        return None


def export_to(exporters: Iterable["SpanExporter"], *, service: str, at_once: bool = True) -> Tracer:
    """Return a tracer over exporters of one's own; `at_once` or in batches from another thread."""
    sdk = importlib.import_module("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    resources = importlib.import_module("opentelemetry.sdk.resources")
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    ids = ChosenIds()
    provider = sdk.TracerProvider(resource=resources.Resource.create(named), id_generator=ids)
    processor = export.SimpleSpanProcessor if at_once else export.BatchSpanProcessor
    for exporter in exporters:
        provider.add_span_processor(processor(exporter))
    return Tracer(provider, ids)


def current_link() -> list["Link"]:
    """Return a link to the span that the calling application is in, if it traces itself."""
    from opentelemetry import trace  # noqa: PLC0415 - loaded when traces are wanted

    around = trace.get_current_span().get_span_context()
    return [trace.Link(around)] if around.is_valid else []


def _elsewhere(trace_id: int, span_id: int) -> "SpanContext":
    from opentelemetry import trace  # noqa: PLC0415 - loaded when traces are wanted

    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _wanted() -> bool:
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if "OTEL_TRACES_EXPORTER" in environment:
        return bool(set(_exporter_names()) - {"none"})
    return any(environment.get(name) for name in _ENDPOINTS)


def _exporter_names() -> list[str]:
    names = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    return [name.strip() for name in names if name.strip()]


def _load_exporter(name: str) -> "SpanExporter":
    """Return the exporter that OpenTelemetry's packages registered as `name`."""
    if name == "otlp":
        asked = (os.environ.get(each) for each in _PROTOCOLS)
        grpc = next((each for each in asked if each), "http/protobuf") == "grpc"
        name = "otlp_proto_grpc" if grpc else "otlp_proto_http"
    for point in entry_points(group=_EXPORTERS, name=name):
        exporter: SpanExporter = point.load()()
        return exporter
    raise LookupError(f"no exporter {name} is installed")
