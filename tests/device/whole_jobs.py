"""Jobs from their sealed segments to their verified outputs, whatever the worker computes on."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from attestation.identifiers import SHORT_ID_BYTES, JobId
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.content_key import ContentKey
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.messages import ResultHeader
from enclave_worker.buffers import BufferPool
from enclave_worker.device.sealed_tensors import DeviceOutputs, DeviceTensor, SealingDevice
from enclave_worker.tensors import HeldTensor, OutputTensors
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedJob


def run(
    workshop: Workshop,
    job: SimulatedJob,
    change: Callable[[list[bytearray]], None] = lambda _segments: None,
) -> tuple[ResultHeader, dict[str, np.ndarray[Any, Any]]]:
    """Return the result header and, unless the job failed, its opened outputs."""
    segments = job.segments()
    change(segments)
    with workshop.execution(job) as execution:
        for index, segment in enumerate(segments):
            execution.add_segment(index, segment)
        execution.run()
        outputs = [bytes(segment) for segment in execution.segments()]
        finished = execution.finish()
    draft = finished.draft
    assert draft.input_commitment == SegmentCommitment.over("tags", segments).root()
    assert draft.output_commitment == SegmentCommitment.over("tags", outputs).root()
    assert draft.metering.bytes_out == sum(map(len, outputs))
    opened = {} if finished.result.code else job.open_outputs(finished.result, outputs, attempt=1)
    return finished.result, opened


@contextmanager
def without_chance() -> Iterator[None]:
    """Have both ways of sealing draw the same IVs in the same order."""

    def drawing() -> Callable[[int], bytes]:
        counter = 0

        def draw(size: int) -> bytes:
            nonlocal counter
            if size % 12:
                return bytes(size)  # a message's IV
            ivs = [(counter + index).to_bytes(12, "big") for index in range(size // 12)]
            counter += len(ivs)
            return b"".join(ivs)

        return draw

    with ExitStack() as patches:
        patches.enter_context(patch("attestation.sealing.floe.urandom", drawing()))
        patches.enter_context(patch("enclave_worker.device.gpu_aead.urandom", drawing()))
        yield


def sealed_both_ways(
    sealing: SealingDevice, arrays: dict[str, np.ndarray[Any, Any]]
) -> tuple[list[Any], list[Any]]:
    """Return headers and segments of `arrays`: as the processor and as the device seals them."""
    specs = {n: TensorSpec(dtype=a.dtype.name, shape=a.shape) for n, a in arrays.items()}
    common: dict[str, Any] = {
        "content_key": ContentKey(bytes(range(32))),
        "job_id": JobId(bytes(SHORT_ID_BYTES)),
        "attempt": 1,
        "segment_bytes": 1 << 16,
        "kind": "tags",
    }
    pool = BufferPool(keep_bytes=0)
    held = {name: HeldTensor.allocate(spec, pool) for name, spec in specs.items()}
    for name, tensor in held.items():
        tensor.array()[...] = arrays[name]
    there = {}
    for name, spec in specs.items():
        data = sealing.empty(spec)
        span = sealing.span(data)
        sealing.launcher.upload(span.pointer, np.ascontiguousarray(arrays[name]).tobytes())
        there[name] = DeviceTensor(spec=spec, data=data)
    results = []
    for make in (
        lambda: OutputTensors(held, pool=pool, **common),
        lambda: DeviceOutputs(there, device=sealing, **common),
    ):
        with without_chance():
            outputs = make()
            segments = [bytes(segment) for segment in outputs.segments()]
        results.append([outputs.headers, outputs.sealed_length, outputs.commitment(), segments])
        outputs.close()
    return results[0], results[1]


TENSORS = {
    "a": np.arange(20_000, dtype=np.float64),
    "b": np.arange(7, dtype=np.int8),
    "c": np.full((3, 5), 1.5, dtype=np.float32),
    "d": np.arange(1 << 16, dtype=np.uint8),
}
"""Several segments, less than a block, a ragged end, one segment to the byte."""
