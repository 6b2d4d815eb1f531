"""How fast the device is: kernels alone, the bus, whole jobs, beside a product, small tensors."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import attrs

from attestation.identifiers import SHORT_ID_BYTES, JobId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import TensorOpener, TensorSealer
from attestation.sealing.tensor_header import Direction, Place, TensorHeader
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu_aead import Batch, GpuAead
from enclave_worker.device.sealed_tensors import (
    DeviceInputs,
    DeviceOutputs,
    DeviceTensor,
    SealingDevice,
)
from enclave_worker.device.segment_table import Span
from tests.bench.gpu_rigs import Clocked, span
from tests.bench.gpu_run import KEY, Run, sealed_bytes, table_of
from tests.bench.spread import Spread

LANES: Final = 3


def rates(run: Run) -> dict[str, Any]:
    """Time the kernels alone, on the device's clock: open, verify and seal, in GB/s."""
    rows = []
    for tuning in run.right:
        for size in run.effort.sizes:
            rows.append({"tuning": tuning.name, "bytes": size, **_rate(run, tuning, size)})
            run.rig.release()
    largest = [row for row in rows if row["bytes"] == run.effort.sizes[-1]]
    best = max(largest, key=lambda row: row["open"]["median"])["tuning"]
    return {"rows": rows, "best": next(t for t in run.right if t.name == best)}


def _rate(run: Run, tuning: Tuning, size: int) -> dict[str, Any]:
    rig, effort = run.rig, run.effort
    clocked = Clocked(rig.launcher(tuning), rig.mark)
    aead, table = GpuAead(clocked), table_of(size, effort.segment)
    plain, sealed = rig.memory(size), rig.memory(sealed_bytes(table))
    for start in range(0, size, 1 << 24):
        part = Span(pointer=plain.pointer + start, nbytes=min(1 << 24, size - start))
        clocked.upload(part.pointer, os.urandom(part.nbytes))
    spans = {"plain": span(plain), "sealed": span(sealed)}
    begin: dict[str, Callable[[Batch], None]] = {
        "seal": lambda batch: batch.begin_seal(**spans),
        "open": lambda batch: batch.begin_open(**spans),
        "verify": lambda batch: batch.begin_verify(sealed=spans["sealed"]),
    }
    figures: dict[str, list[float]] = {what: [] for what in begin}

    for _ in range(effort.repeats + 1):
        with aead.batch(table, [KEY]) as batch:
            for what, start in begin.items():
                clocked.marks.clear()
                start(batch)
                batch.settle()
                figures[what].append(size / rig.seconds(*clocked.marks) / 1e9)
    # The first of each loads code and raises clocks.
    return {what: Spread.of(values[1:]).to_map() for what, values in figures.items()}


def bus(run: Run) -> dict[str, Any]:
    """Compare raw copies, copies with opening, and both directions with opening and sealing."""
    lanes = [_Lane(run) for _ in range(LANES)]
    ways: dict[str, Callable[[_Lane], None]] = {
        "copy_in": _Lane.copy_in,
        "copy_open": _Lane.copy_open,
        "duplex": _Lane.duplex,
        "round_trip": _Lane.round_trip,
    }
    figures: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(max(3, run.effort.repeats // 3)):
        for way, step in ways.items():  # interleaved: all meet the same machine
            figures[way].append(_drive(run, lanes, step))
    spreads = {way: Spread.of(values).to_map() for way, values in figures.items()}
    return {
        "batch": run.effort.batch,
        "gb_s": spreads,
        "copy_open_part": Spread.of_ratios(figures["copy_open"], figures["copy_in"]).to_map(),
        "round_trip_part": Spread.of_ratios(figures["round_trip"], figures["duplex"]).to_map(),
    }


class _Lane:
    """One job at a time: its buffers on both sides, and a stream."""

    def __init__(self, run: Run) -> None:
        rig = self.rig = run.rig
        self.aead = GpuAead(rig.launcher(run.tuning))
        self.table = table_of(run.effort.batch, run.effort.segment)
        sealed = sealed_bytes(self.table)
        self.stream = rig.lane()
        self.incoming, self.outgoing = rig.staging(sealed), rig.staging(sealed)
        # Memory is zeroed on the stream that takes it, so everything is taken on the lane's own.
        with self.stream:
            self.sealed, self.plain = rig.memory(sealed), rig.memory(run.effort.batch)
            self.result = rig.memory(sealed)
            with self.aead.batch(self.table, [KEY]) as batch:
                self.aead.seal_segments(batch, plain=span(self.plain), sealed=span(self.sealed))
            rig.copy_out(self.incoming, self.sealed)
            rig.synchronize()

    def copy_in(self) -> None:
        self.rig.copy_in(self.sealed, self.incoming)
        self.rig.synchronize()

    def copy_open(self) -> None:
        self.rig.copy_in(self.sealed, self.incoming)
        with self.aead.batch(self.table, [KEY]) as batch:
            self.aead.open_segments(batch, sealed=span(self.sealed), plain=span(self.plain))

    def duplex(self) -> None:
        self.rig.copy_in(self.sealed, self.incoming)
        self.rig.copy_out(self.outgoing, self.result)
        self.rig.synchronize()

    def round_trip(self) -> None:
        self.copy_open()
        with self.aead.batch(self.table, [KEY]) as batch:
            self.aead.seal_segments(batch, plain=span(self.plain), sealed=span(self.result))
        self.rig.copy_out(self.outgoing, self.result)
        self.rig.synchronize()


def _drive(run: Run, lanes: list[_Lane], step: Callable[[_Lane], None]) -> float:
    """Return GB/s of sealed bytes in, every lane on a thread of its own."""
    failed: list[BaseException] = []

    def work(lane: _Lane) -> None:
        try:
            run.rig.device.use()
            with lane.stream:
                for _ in range(run.effort.rounds // LANES):
                    step(lane)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    if failed:
        raise failed[0]
    moved = lanes[0].incoming.nbytes * LANES * (run.effort.rounds // LANES)
    return moved / taken / 1e9


def beside(run: Run) -> dict[str, Any]:
    """Measure a matrix product alone, and beside jobs that are copied in and opened."""
    product, operations = run.rig.product()

    def rate() -> float:
        product()
        run.rig.synchronize()
        begun = time.perf_counter()
        for _ in range(run.effort.products):
            product()
        run.rig.synchronize()
        return run.effort.products * operations / (time.perf_counter() - begun) / 1e12

    rate()
    alone, lane, stop, moved = rate(), _Lane(run), threading.Event(), [0]

    def feed() -> None:
        run.rig.device.use()
        with lane.stream:
            while not stop.is_set():
                lane.copy_open()
                moved[0] += lane.incoming.nbytes

    thread = threading.Thread(target=feed)
    thread.start()
    time.sleep(0.2)
    before, begun = moved[0], time.perf_counter()
    together = rate()
    fed = (moved[0] - before) / (time.perf_counter() - begun) / 1e9
    stop.set()
    thread.join()
    return {"alone_tflops": alone, "beside_tflops": together, "part": together / alone, "fed": fed}


def small(run: Run) -> dict[str, Any]:
    """Time a small tensor, keys included: launches, and one graph that is replayed."""
    rig, effort = run.rig, run.effort
    aead, table = GpuAead(rig.launcher(run.tuning)), table_of(effort.small, effort.small)
    whole: dict[str, list[float]] = {"launches": [], "graph": []}
    marks: list[tuple[Any, Any]] = []
    with rig.lane():
        sealed, plain = rig.memory(sealed_bytes(table)), rig.memory(effort.small)
        spans = {"sealed": span(sealed), "plain": span(plain)}
        with aead.batch(table, [KEY]) as batch:
            aead.seal_segments(batch, **spans)
            replay = rig.launcher(run.tuning).record(lambda: batch.record_open(**spans))

            def marked() -> None:
                start = rig.mark()
                replay()
                marks.append((start, rig.mark()))

            for _ in range(10 * effort.repeats):
                for way, taken in whole.items():
                    begun = time.perf_counter()
                    if way == "graph":
                        batch.upload_keys([KEY])
                        batch.begin_open(**spans, replay=marked)
                    else:
                        batch.load_keys([KEY])
                        batch.begin_open(**spans)
                    batch.settle()
                    taken.append((time.perf_counter() - begun) * 1e6)
            device = [rig.seconds(*pair) * 1e6 for pair in marks]
    return {
        "bytes": effort.small,
        "replay_on_device_us": Spread.of(device[1:]).to_map(),
        **{f"{way}_us": Spread.of(values[1:]).to_map() for way, values in whole.items()},
    }


# -- whole jobs -----------------------------------------------------------------------------------


def job(run: Run) -> dict[str, Any]:
    """Time one job alone, as a worker runs it: in chunks over the lane's sides, both ways."""
    sealing = run.rig.sealing
    if run.effort.chunk:
        sealing = attrs.evolve(sealing, chunk_bytes=run.effort.chunk)
    rows = []
    for size in (run.effort.small, *run.effort.jobs):
        figures: dict[str, list[float]] = {"open": [], "seal": [], "in": [], "out": []}
        for _ in range(run.effort.repeats + 2):
            for what, seconds in _one_job(run, sealing, size).items():
                figures[what].append(seconds)
        # The first notes a small shape, and loads code; the second records it.
        kept = {what: values[2:] for what, values in figures.items()}
        rows.append(
            {
                "bytes": size,
                **{f"{w}_us": Spread.of([s * 1e6 for s in v]).to_map() for w, v in kept.items()},
                "open_part": Spread.of_ratios(kept["in"], kept["open"]).to_map(),
                "seal_part": Spread.of_ratios(kept["out"], kept["seal"]).to_map(),
            }
        )
        run.rig.release()
    return {"rows": rows}


def _one_job(run: Run, sealing: SealingDevice, size: int) -> dict[str, float]:
    rig, spec = run.rig, TensorSpec(dtype="uint8", shape=(size,))
    key, job_id = ContentKey.generate(), JobId(bytes(SHORT_ID_BYTES))
    place = Place(job_id=job_id, direction=Direction.INPUT, attempt=0, index=0)
    segment = max(run.effort.segment, 1 << 16)
    header = TensorHeader.for_tensor(spec, name="x", place=place, segment_bytes=segment)
    sealer, data = TensorSealer(key, header), memoryview(bytes(size))
    opener = TensorOpener(key, sealer.sealed_header, expected=place)
    inputs = DeviceInputs([opener], kind="tags", device=sealing)
    for index in range(sealer.segment_count):
        inputs.add(index, sealer.segment(index, data))
    need = 2 * size + sealing.need([size], [size])
    whole = sealing.staging.take(inputs.sealed_bytes)
    stage = whole[: inputs.sealed_bytes]
    with rig.device.turn(need, require_wanted=lambda: None):
        raw = rig.memory(stage.nbytes)
        taken = {
            "in": _timed(run, lambda: rig.copy_in(raw, stage)),
            "out": _timed(run, lambda: rig.copy_out(stage, raw)),
            "open": _timed(run, inputs.open),
        }
        held = DeviceTensor(spec=spec, data=sealing.empty(spec))
        outputs: list[DeviceOutputs] = []

        def seal() -> None:
            outputs.append(
                DeviceOutputs(
                    {"y": held},
                    content_key=key,
                    job_id=job_id,
                    attempt=1,
                    segment_bytes=segment,
                    kind="tags",
                    device=sealing,
                )
            )

        taken["seal"] = _timed(run, seal)
        inputs.close()
    outputs[0].close()
    sealing.staging.give_back(whole)
    return taken


def _timed(run: Run, act: Callable[[], None]) -> float:
    run.rig.synchronize()
    begun = time.perf_counter()
    act()
    run.rig.synchronize()
    return time.perf_counter() - begun
