"""Jobs that are computed on segment by segment: what may leave before the input is whole (G4)."""

from types import ModuleType

import numpy as np
import pytest

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.programs.plan import Plan, make_plan
from attestation.programs.program import Program, Step
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Frame, Header, Kind
from attestation.wire.messages import ResultHeader
from enclave_worker.executor import JobExecution
from enclave_worker.kernels.registry import Registry
from enclave_worker.refusals import ExpiredError, JobNotAuthenticError, RevokedError
from enclave_worker.streaming import cut
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SEGMENT_BYTES, SimulatedClient, SimulatedJob
from tests.worker.site import Site, verified

ELEMENTS = SEGMENT_BYTES // 4


@pytest.fixture(scope="module")
def registry(kernels: ModuleType) -> Registry:
    modules = ("nn", "stats", "linalg_batched", "convert")
    return Registry([*(f"enclave_worker.kernels.{name}" for name in modules), kernels])


def plan_of(registry: Registry, *names: str, shape: tuple[int, ...]) -> Plan:
    """Return the plan of kernels with one input, one after the other."""
    catalogue, source, steps = registry.catalogue(), "x", []
    for number, name in enumerate(names):
        signature = catalogue.signature(name)
        steps.append(Step(id=f"s{number}", kernel=name, inputs={signature.inputs[0].name: source}))
        source = f"s{number}.{signature.outputs[0].name}"
    program = Program.of(inputs=["x"], steps=steps, outputs={"y": source})
    return make_plan(program, catalogue, {"x": TensorSpec(dtype="float32", shape=shape)})


# -- which programs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "shape", "rows"),
    [
        (["nn.affine"], (3 * ELEMENTS + 5,), (ELEMENTS,)),
        (["nn.affine", "nn.gelu", "nn.affine"], (7, 3, ELEMENTS), (ELEMENTS,)),
        (["nn.softmax"], (5, 256, 128), (ELEMENTS // 128, 128)),
        (["nn.affine", "nn.softmax"], (1000, 64), (ELEMENTS // 64, 64)),
        (["linalg.cholesky"], (1000, 16, 16), (ELEMENTS // 256, 16, 16)),
    ],
)
def test_programs_on_slices_are_cut_at_whole_slices(
    registry: Registry, names: list[str], shape: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    plan = plan_of(registry, *names, shape=shape)
    pieces = cut(plan, segment_bytes=SEGMENT_BYTES)
    assert pieces is not None
    assert pieces.whole.inputs["x"].shape == rows
    assert pieces.whole.outputs["y"].shape == rows
    count = -(-plan.input_bytes // SEGMENT_BYTES)
    assert (count - 1) * pieces.whole.input_bytes + pieces.final.input_bytes == plan.input_bytes


@pytest.mark.parametrize(
    ("names", "shape", "why"),
    [
        (["nn.affine"], (2 * ELEMENTS - 1,), "one segment and a part of one"),
        (["nn.softmax"], (4096, 100), "rows that a segment cuts"),
        (["nn.softmax"], (4 * ELEMENTS,), "one row, longer than a segment"),
        (["linalg.cholesky"], (9, 256, 256), "matrices larger than a segment"),
        (["stats.standardize"], (4 * ELEMENTS, 1), "columns, each of which needs every row"),
        (["nn.affine", "stats.standardize"], (4 * ELEMENTS, 1), "one such step is enough"),
        (["convert.to_bfloat16"], (4 * ELEMENTS,), "an output of another size"),
    ],
)
def test_programs_that_mean_something_else_for_a_segment_are_not_cut(
    registry: Registry, names: list[str], shape: tuple[int, ...], why: str
) -> None:
    plan = plan_of(registry, *names, shape=shape)
    assert cut(plan, segment_bytes=SEGMENT_BYTES) is None, why


def test_two_inputs_are_not_cut(registry: Registry) -> None:
    """Their segments travel one tensor after the other, so none has its partner in time."""
    catalogue = registry.catalogue()
    program = Program.single(catalogue.signature("nn.layernorm"))
    specs = {
        "x": TensorSpec(dtype="float32", shape=(4096, 64)),
        "gamma": TensorSpec(dtype="float32", shape=(64,)),
        "beta": TensorSpec(dtype="float32", shape=(64,)),
    }
    assert cut(make_plan(program, catalogue, specs), segment_bytes=SEGMENT_BYTES) is None


# -- one job --------------------------------------------------------------------------------------


def job_of(workshop: Workshop, client: SimulatedClient, kernel: str, x: np.ndarray) -> SimulatedJob:
    return workshop.job(client, kernel, arrays={"x": x})


def stream(execution: JobExecution, segments: list[Frame]) -> list[bytes]:
    """Pass every segment through, as `RunningJob` does."""
    assert execution.streamed
    out = []
    for index, segment in enumerate(segments):
        execution.add_segment(index, segment)
        execution.run_segment()
        sealed = execution.seal_segment(segment)
        if sealed is not None:
            out.append(bytes(sealed))
    return out


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [("nn.affine", (3 * ELEMENTS,)), ("nn.gelu", (2 * ELEMENTS + 7,)), ("nn.softmax", (1100, 64))],
)
def test_a_streamed_job_gives_the_bits_of_the_whole_tensor(
    workshop: Workshop, client: SimulatedClient, kernel: str, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    job = job_of(workshop, client, kernel, x)
    segments = job.segments()
    originals = [bytes(segment) for segment in segments]
    with workshop.execution(job, attempt=2) as execution:
        sealed = stream(execution, segments)
        finished = execution.finish()
    y = job.open_outputs(finished.result, sealed, attempt=2)["y"]
    values = workshop.registry[kernel].signature.resolve({})
    whole = workshop.registry[kernel].run(np, {"x": x}, values)["y"]
    assert y.tobytes() == whole.tobytes()
    draft = finished.draft
    assert draft.input_commitment == SegmentCommitment.over("tags", originals).root()
    assert draft.output_commitment == SegmentCommitment.over("tags", sealed).root()
    assert draft.metering.bytes_in == draft.metering.bytes_out == sum(map(len, sealed))
    assert draft.metering.peak_device_bytes == 2 * SEGMENT_BYTES


def test_a_segment_is_sealed_where_it_was_received_and_nowhere_else(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """Memory of ZeroMQ is written to; what a caller merely lends is not."""
    job = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    first, second, third = job.segments()
    kept = bytes(second)
    with workshop.execution(job) as execution:
        outputs = []
        for index, segment in enumerate([memoryview(first), second, bytes(third)]):
            execution.add_segment(index, segment)
            execution.run_segment()
            outputs.append(execution.seal_segment(segment))
        assert isinstance(outputs[0], memoryview)
        assert outputs[0].obj is first
        assert outputs[1] is not second
        assert bytes(second) == kept
        finished = execution.finish()
    arrays = job.open_outputs(finished.result, [bytes(each) for each in outputs], attempt=1)
    np.testing.assert_array_equal(arrays["y"], np.ones(3 * ELEMENTS, np.float32))


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_nothing_leaves_for_a_segment_that_is_not_authentic(
    workshop: Workshop, client: SimulatedClient, bad: int
) -> None:
    """G4: no kernel sees it, and of the last one no output leaves, so no result can be whole."""
    job = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    segments = job.segments()
    segments[bad][-1] ^= 1
    execution = workshop.execution(job)
    with execution:
        stream(execution, segments[:bad])
        with pytest.raises(JobNotAuthenticError):
            execution.add_segment(bad, segments[bad])
    for pooled in [each for shelf in workshop.pool._idle.values() for each in shelf]:
        pooled.take(pooled.capacity)
        assert not any(bytes(pooled.view()).strip(b"\0"))


@pytest.mark.parametrize(("before", "bad"), [(0, 1), (1, 0), (1, 2), (3, 2)])
def test_segments_out_of_order_are_refused(
    workshop: Workshop, client: SimulatedClient, before: int, bad: int
) -> None:
    job = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    segments = [bytes(segment) for segment in job.segments()]
    with workshop.execution(job) as execution:
        stream(execution, segments[:before])
        with pytest.raises(JobNotAuthenticError):
            execution.add_segment(bad, segments[bad])


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_kernel_that_fails_on_any_segment_gives_a_failure_without_outputs(
    workshop: Workshop, client: SimulatedClient, bad: int
) -> None:
    """Outputs may have left by then; the receipt says there are none, and covers all inputs."""
    x = np.ones(3 * SEGMENT_BYTES // 8)
    x[bad * SEGMENT_BYTES // 8 + 3] = -1
    job = job_of(workshop, client, "test.root", x)
    segments = [bytes(segment) for segment in job.segments()]
    with workshop.execution(job) as execution:
        assert len(stream(execution, segments)) == bad
        assert execution.output_segments == 0
        finished = execution.finish()
    assert finished.result == ResultHeader(code="input-out-of-domain", outputs=(), failures=())
    assert finished.draft.input_commitment == SegmentCommitment.over("tags", segments).root()
    assert finished.draft.output_commitment == SegmentCommitment("tags").root()


def test_a_streamed_job_ends_when_nobody_wants_it(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    segments = job.segments()
    with workshop.execution(job) as execution:
        execution.add_segment(0, segments[0])
        execution.run_segment()
        execution.revoke()
        with pytest.raises(RevokedError):
            execution.seal_segment(segments[0])
    late = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    late.change_header(not_after_ms=workshop.now_ms + 10)
    with workshop.execution(late) as execution:
        execution.add_segment(0, late.segments()[0])
        workshop.now_ms += 11
        with pytest.raises(ExpiredError):
            execution.run_segment()


def test_a_streamed_job_is_not_run_whole(workshop: Workshop, client: SimulatedClient) -> None:
    job = job_of(workshop, client, "nn.affine", np.ones(3 * ELEMENTS, np.float32))
    with workshop.execution(job) as execution, pytest.raises(LocalProtocolError):
        execution.run()


# -- over a socket --------------------------------------------------------------------------------


def test_outputs_leave_while_inputs_arrive_and_the_last_one_waits(site: Site) -> None:
    """Of five segments, four come back before the fifth was sent; no result before it."""
    x = np.arange(4 * limits.SEGMENT_BYTES // 4 + 9, dtype=np.float32)
    job = site.job(site.connect(), "nn.affine", arrays={"x": x}, segment_bytes=limits.SEGMENT_BYTES)
    segments, coordinator = job.segments(), site.coordinator
    site.assign(job, inline=False)
    coordinator.expect(Kind.INPUT_CREDIT)
    coordinator.send(Header(Kind.OUTPUT_CREDIT, job.job_id, 1, count=5))
    outputs = []
    for index, segment in enumerate(segments[:4]):
        coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=index), segment)
        header, (sealed,) = coordinator.expect(Kind.OUTPUT)
        assert header.index == index
        outputs.append(sealed)
    coordinator.pump(0.2)
    assert not [header for header, _ in coordinator.kept if header.kind is Kind.RESULT]
    coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=4), segments[4])
    outputs.append(coordinator.expect(Kind.OUTPUT)[1][0])
    header, (result, receipt) = coordinator.expect(Kind.RESULT)
    assert header.count == 5
    parsed = ResultHeader.from_bytes(result)
    assert verified(job.client.keyset, receipt).result_digest == parsed.digest()
    y = job.open_outputs(parsed, outputs, attempt=1)["y"]
    np.testing.assert_array_equal(y, x)


def test_a_bad_last_segment_leaves_a_refusal_and_no_result(site: Site) -> None:
    x = np.arange(3 * limits.SEGMENT_BYTES // 4, dtype=np.float32)
    job = site.job(site.connect(), "nn.affine", arrays={"x": x}, segment_bytes=limits.SEGMENT_BYTES)
    segments, coordinator = job.segments(), site.coordinator
    segments[2][5] ^= 1
    site.assign(job, inline=False)
    coordinator.send(Header(Kind.OUTPUT_CREDIT, job.job_id, 1, count=5))
    coordinator.expect(Kind.INPUT_CREDIT)
    for index, segment in enumerate(segments):
        coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=index), segment)
    _, (refusal,) = coordinator.expect(Kind.JOB_REFUSED)
    assert RefusalCode.NOT_AUTHENTIC.value.encode() in refusal
    kinds = [header.kind for header, _ in coordinator.kept]
    assert kinds.count(Kind.OUTPUT) <= 2, "what the job had made goes with it, if it has not left"
    assert Kind.RESULT not in kinds


def test_a_small_job_of_several_segments_streams_inside_its_message(site: Site) -> None:
    """Inline outputs are held until all of them are there."""
    x = np.arange(5 * ELEMENTS + 1, dtype=np.float32)
    job = site.job(site.connect(), "nn.affine", arrays={"x": x})
    site.assign(job)
    outputs, claims = site.result(job)
    np.testing.assert_array_equal(outputs["y"], x)
    assert claims.code == ""
    failing = -np.ones(3 * SEGMENT_BYTES // 8)
    failing[: 2 * SEGMENT_BYTES // 8] = 1
    bad = site.job(site.connect(), "test.root", arrays={"x": failing})
    site.assign(bad)
    header, (result, _) = site.coordinator.expect(Kind.RESULT)
    assert header.count == 0
    assert ResultHeader.from_bytes(result).code == "input-out-of-domain"
