"""The one command for a machine with a GPU: is it right, how fast is it, what does it leave.

    python -m tests.bench.gpu [--dry-run] [--quick] [--output bench-output]

First every tuning has to compute the processor's bytes and refuse what it must; only those that do
are timed. Each measurement stands alone: one that fails is reported, the others go on. Prints
Markdown, writes gpu.json and gpu.md, and ends with 1 if anything failed. `--dry-run` goes through
all of it on a machine without a GPU, at small sizes, through the host shim.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from attrs import define, field, frozen

from attestation import limits
from attestation.errors import EnclaveError, NotAuthenticError
from attestation.sealing.segments import Layout, segment_count
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu_aead import Batch, GpuAead
from enclave_worker.device.segment_table import Span, Table, in_place, tensor_rows
from tests.bench import gpu_report, gpu_residue
from tests.bench.gpu_rigs import Clocked, GpuRig, HostRig, Rig, span
from tests.bench.spread import Spread
from tests.gpu_aead.material import Sealed, drawing

KEY: Final = bytes(range(32))
LANES: Final = 3


@frozen(kw_only=True)
class Effort:
    """How much of everything."""

    sizes: tuple[int, ...]
    segment: int
    repeats: int
    batch: int
    """Bytes of one crossing of the bus."""
    rounds: int
    small: int
    products: int


FULL: Final = Effort(
    sizes=tuple(n * limits.MIB for n in (1, 16, 64, 256, 1024)),
    segment=limits.MIB,
    repeats=15,
    batch=64 * limits.MIB,
    rounds=48,
    small=64 * limits.KIB,
    products=60,
)
QUICK: Final = Effort(
    sizes=(64 * limits.MIB, 256 * limits.MIB),
    segment=limits.MIB,
    repeats=7,
    batch=64 * limits.MIB,
    rounds=16,
    small=64 * limits.KIB,
    products=30,
)
DRY: Final = Effort(
    sizes=(4096, 16384), segment=4096, repeats=2, batch=8192, rounds=4, small=4096, products=3
)


@define
class Run:
    """One run: what it measures on, and what came out so far."""

    rig: Rig
    effort: Effort
    results: dict[str, Any] = field(factory=dict)
    failures: dict[str, str] = field(factory=dict)

    def section(self, name: str, measure: Callable[["Run"], Any]) -> None:
        """Run one part; what it raises is written down, and the next part runs."""
        sys.stderr.write(f"{name} ...\n")
        try:
            self.results[name] = measure(self)
        except Exception as error:  # noqa: BLE001 - whatever fails must not take the rest along
            self.failures[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()

    @property
    def tuning(self) -> Tuning:
        """The fastest of those that are right, or the first of them."""
        return self.results["rates"]["best"] if "rates" in self.results else self.right[0]

    @property
    def right(self) -> list[Tuning]:
        """The tunings that computed the right bytes; raises `RuntimeError` if there are none."""
        found = [t for t in self.rig.tunings() if self.results["right"].get(t.name) == "yes"]
        if not found:
            raise RuntimeError("no tuning computes the right bytes")
        return found


# -- right first ----------------------------------------------------------------------------------


def right(run: Run) -> dict[str, str]:
    """Hold every tuning against the processor's FLOE; a wrong one is a failure of the run."""
    found = {}
    for tuning in run.rig.tunings():
        try:
            _check(run.rig, GpuAead(run.rig.launcher(tuning)), run.rig.dry)
            found[tuning.name] = "yes"
        except (AssertionError, EnclaveError, RuntimeError) as error:
            found[tuning.name] = f"NO: {type(error).__name__} {error}"
            run.failures[f"right {tuning.name}"] = found[tuning.name]
    return found


def _check(rig: Rig, aead: GpuAead, small: bool) -> None:
    cases = [(0, 64), (1, 64), (17, 64), (4096, 4096), (70_001, 16384)]
    if not small:
        cases += [(1 << 20, 1 << 20), ((5 << 20) + 13, 1 << 20), ((33 << 20) + 1, 4 << 20)]
    for size, segment in cases:
        message = Sealed(os.urandom(size), segment)
        rows, keys = message.rows(), message.keys
        wire, out = _put(rig, message.wire), rig.memory(max(size, 1))
        for verify_first in (False, True):
            with aead.batch(rows, keys) as batch:
                aead.open_segments(
                    batch, sealed=span(wire), plain=span(out), verify_first=verify_first
                )
            _require(_get(rig, out, size) == message.data, f"opened {size}/{segment}")
        target = rig.memory(len(message.wire))
        with aead.batch(rows, keys) as batch, drawing(message.ivs):
            aead.seal_segments(batch, plain=span(out), sealed=span(target))
        _require(_get(rig, target, target.nbytes) == message.wire, f"sealed {size}/{segment}")
        _check_in_place(rig, aead, message, wire)
        _check_refusal(rig, aead, message, out)


def _check_in_place(rig: Rig, aead: GpuAead, message: Sealed, wire: Any) -> None:
    rows = in_place(message.rows())
    inside = Span(pointer=wire.pointer + 16, nbytes=wire.nbytes - 16)
    with aead.batch(rows, message.keys) as batch:
        aead.open_segments(batch, sealed=span(wire), plain=inside)
    with aead.batch(rows, message.keys) as batch, drawing(message.ivs):
        aead.seal_segments(batch, plain=inside, sealed=span(wire))
    _require(_get(rig, wire, wire.nbytes) == message.wire, "in place and back")


def _check_refusal(rig: Rig, aead: GpuAead, message: Sealed, out: Any) -> None:
    changed = bytearray(message.wire)
    changed[len(changed) // 2] ^= 4
    wire = _put(rig, bytes(changed))
    with aead.batch(message.rows(), message.keys) as batch:
        try:
            aead.open_segments(batch, sealed=span(wire), plain=span(out))
        except NotAuthenticError:
            _require(not any(_get(rig, out, len(message.data))), "plaintext left after a refusal")
            return
    raise AssertionError("a changed byte was accepted")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


# -- then fast ------------------------------------------------------------------------------------


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
    aead, table = GpuAead(clocked), _table(size, effort.segment)
    plain, sealed = rig.memory(size), rig.memory(_sealed_bytes(table))
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
        self.table = _table(run.effort.batch, run.effort.segment)
        sealed = _sealed_bytes(self.table)
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
            with run.rig.thread(), lane.stream:
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
        with run.rig.thread(), lane.stream:
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
    aead, table = GpuAead(rig.launcher(run.tuning)), _table(effort.small, effort.small)
    whole: dict[str, list[float]] = {"launches": [], "graph": []}
    marks: list[tuple[Any, Any]] = []
    with rig.lane():
        sealed, plain = rig.memory(_sealed_bytes(table)), rig.memory(effort.small)
        spans = {"sealed": span(sealed), "plain": span(plain)}
        with aead.batch(table, [KEY]) as batch:
            aead.seal_segments(batch, **spans)
            replay = rig.record(lambda: batch.record_open(**spans))

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


def residue(run: Run) -> dict[str, int]:
    """Let a process open and seal a job, and look for it in that process and on the device."""
    return gpu_residue.measure(dry=run.rig.dry)


# -- small parts ----------------------------------------------------------------------------------


def _table(size: int, segment: int) -> Table:
    segment = min(segment, size)
    count = segment_count(size, segment) if segment >= limits.SEGMENT_BYTES_MIN else 0
    return tensor_rows(Layout(size, segment, count or max(1, -(-size // segment))))


def _sealed_bytes(table: Table) -> int:
    return int(table["sealed"][-1]) + int(table["length"][-1]) + 32


def _put(rig: Rig, data: bytes) -> Any:
    memory = rig.memory(max(len(data), 1))
    if data:
        rig.copy_in(memory, np.frombuffer(data, np.uint8))
    rig.synchronize()
    return memory


def _get(rig: Rig, memory: Any, size: int) -> bytes:
    host = np.zeros(size, np.uint8)
    if size:
        rig.copy_out(host, memory)
    rig.synchronize()
    return host.tobytes()


SECTIONS: Final[dict[str, Callable[[Run], Any]]] = {
    "right": right,
    "rates": rates,
    "bus": bus,
    "beside": beside,
    "small": small,
    "residue": residue,
}


def main() -> int:
    """Run everything as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="on this processor, small sizes")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rig: Rig = HostRig(Path(folder)) if arguments.dry_run else GpuRig()
        effort = DRY if rig.dry else QUICK if arguments.quick else FULL
        run = Run(rig, effort)
        for name, measure in SECTIONS.items():
            run.section(name, measure)
        if "rates" in run.results:
            run.results["rates"]["best"] = run.tuning.name
        results = {"about": rig.about(), **run.results, "failures": run.failures}
    table = gpu_report.markdown(results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "gpu.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "gpu.md").write_text(table + "\n")
    sys.stdout.write(f"{table}\n\nwritten to {arguments.output}/gpu.json and gpu.md\n")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
