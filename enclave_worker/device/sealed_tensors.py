"""A job's tensors on a device: ciphertext crosses the bus, plaintext exists in device memory alone.

The same faces as `enclave_worker.tensors` has for the host, so that a job does not notice:

    segments arrive    into one staging buffer, ciphertext as it came, counted and committed to
    `open`             copied to the device chunk by chunk, each opened while the next one is on
                       the bus; every tag checked: only then is there an array that a kernel
                       could read
    kernels            on arrays of the device's pool
    `DeviceOutputs`    sealed on the device from where the kernels left them, each chunk copied back
                       while the next one is sealed
    `segments`         out of the staging buffer

Small inputs of a shape that was seen before are opened by one graph instead (`replays.py`). Where
memory is not pinned, as in confidential mode, all is one chunk: each crossing costs the same there.

Between `open` and the end of the sealing a job has its turn on the device; before and after it
holds nothing there. Keys are derived on the host, wiped there after the upload, and on the device
when a batch ends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, TypeAlias

import attrs
import numpy as np
from attrs import frozen

from attestation import limits
from attestation.errors import DecodeError, LocalProtocolError, NotAuthenticError
from attestation.identifiers import JobId
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import ROTATION_MASK, SEGMENT_OVERHEAD, wipe
from attestation.sealing.sealed_tensor import TensorOpener, TensorSealer
from attestation.sealing.segments import Layout
from attestation.sealing.tensor_header import Direction, Place, TensorHeader
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.frames import Frame
from enclave_worker.device.chunks import Chunk, Places, sealed_bytes_of
from enclave_worker.device.gpu_aead import Batch, GpuAead
from enclave_worker.device.lanes import SIDES
from enclave_worker.device.launcher import Launcher, Memory
from enclave_worker.device.pipeline import Pipeline
from enclave_worker.device.replays import Replay, Replays
from enclave_worker.device.scrub_pool import round_up
from enclave_worker.device.segment_table import ALIGNMENT, Span, Window, tensor_rows
from enclave_worker.device.staging import Ciphertext, StagingBuffers
from enclave_worker.refusals import JobNotAuthenticError

DeviceArray: TypeAlias = Any

CHUNK_BYTES: Final = 8 * limits.MIB
"""What crosses the bus at once: long beside the few launches it costs, short beside a large job."""


def _no_view(_memory: Memory) -> DeviceArray:
    raise LocalProtocolError("this device keeps no memory for its jobs")


@frozen(kw_only=True)
class SealingDevice:
    """A device that opens and seals by itself."""

    xp: Any = attrs.field(repr=False)
    launcher: Launcher = attrs.field(repr=False)
    staging: StagingBuffers = attrs.field(repr=False)
    address: Callable[[DeviceArray], int] = attrs.field(repr=False)
    """Where an array of `xp` lies on the device."""
    view: Callable[[Memory], DeviceArray] = attrs.field(default=_no_view, repr=False)
    """Returns all bytes of memory of `launcher` as an array of `xp`."""
    replays: Callable[[], Replays | None] = attrs.field(default=lambda: None, repr=False)
    """What the calling thread's lane has recorded; none outside of a job's turn."""
    chunk_bytes: int = CHUNK_BYTES

    def batch(self, layout: Layout, keys: tuple[bytearray, ...], *, sealed_at: int) -> Batch:
        """Return a batch of one tensor whose segments begin at `sealed_at`; wipes `keys`."""
        try:
            table = tensor_rows(layout, sealed_at=sealed_at)
            return GpuAead(self.launcher).batch(table, keys, at_once=self.chunk_bytes)
        finally:
            for key in keys:
                wipe(key)

    def chunks(self, places: Places) -> list[Chunk]:
        """Return what crosses the bus at once, in order: everything where nothing is pinned."""
        return places.chunks(self.chunk_bytes if self.staging.pinned else places.size)

    def need(self, *sizes: Sequence[int]) -> int:
        """Return the most that opening or sealing tensors of `sizes` takes beside them.

        Each of `sizes` is one direction of a job; one ends before the other begins.
        """
        return max(map(self._need, sizes))

    def _need(self, sizes: Sequence[int]) -> int:
        tuning, need, together = self.launcher.tuning, 0, 0
        for nbytes in sizes:
            segments = -(-nbytes // limits.SEGMENT_BYTES_MIN) or 1
            together += nbytes + segments * SEGMENT_OVERHEAD + ALIGNMENT
            keys = -(-segments // (1 << ROTATION_MASK))
            need += GpuAead.scratch_bytes(tuning, nbytes=nbytes, segments=segments, keys=keys)
        if not self.staging.pinned:
            return need + round_up(together)
        largest = max(self.chunk_bytes, limits.SEGMENT_BYTES_MAX + SEGMENT_OVERHEAD)
        return need + min(SIDES * round_up(largest), SIDES * round_up(together))

    def empty(self, spec: TensorSpec) -> DeviceArray:
        """Return a zeroed array for `spec`, at a place where the kernels can write it."""
        flat = self.xp.empty(max(spec.nbytes, ALIGNMENT), dtype="uint8")
        return flat[: spec.nbytes].view(spec.dtype).reshape(spec.shape)

    def array(self, memory: Memory, start: int, spec: TensorSpec) -> DeviceArray:
        """Return a view of device memory of `launcher` as a tensor."""
        flat = self.view(memory)[start : start + spec.nbytes]
        return flat.view(spec.dtype).reshape(spec.shape)

    def span(self, array: DeviceArray) -> Span:
        """Return where an array lies. One of no bytes lies nowhere."""
        return Span(pointer=self.address(array) if array.nbytes else 0, nbytes=int(array.nbytes))

    def ciphertext(self, size: int) -> DeviceArray:
        """Return device memory for `size` sealed bytes."""
        return self.xp.empty(size, dtype="uint8")


@frozen(kw_only=True)
class DeviceTensor:
    """An output on the device, until it is sealed."""

    spec: TensorSpec
    data: DeviceArray = attrs.field(repr=False)

    def array(self) -> DeviceArray:
        """Return the tensor itself."""
        return self.data


class DeviceInputs:
    """The inputs of one job, staged as they come and opened on the device in one go."""

    def __init__(
        self, openers: Sequence[TensorOpener], *, kind: str, device: SealingDevice
    ) -> None:
        """Stage for `openers`, whose headers are authentic; commit to segments as `kind`."""
        self._openers = openers
        self._device = device
        self._commitment = SegmentCommitment(kind)
        self._places = Places([opener.layout for opener in openers])
        self._next = 0
        self._arrays: dict[str, DeviceArray] = {}
        self._replay: Replay | None = None
        self.sealed_bytes = 0
        self._stage: Ciphertext | None = device.staging.take(self._places.size)

    @property
    def segment_count(self) -> int:
        """Segments of all inputs together."""
        return len(self._places.order)

    @property
    def complete(self) -> bool:
        """Whether every segment is here."""
        return self._next == self.segment_count

    def add(self, index: int, segment: Frame) -> None:
        """Stage segment `index`; raises `JobNotAuthenticError` unless it can be the next one."""
        if index != self._next or self.complete or self._stage is None:
            raise JobNotAuthenticError("a segment is repeated, missing or out of order")
        place = self._places.of(index)
        if len(segment) != place.stop - place.start:
            raise JobNotAuthenticError("a segment has not the length that the header implies")
        self._stage[place] = np.frombuffer(segment, dtype=np.uint8)
        try:
            self._commitment.add(index, segment)
        except DecodeError as error:
            raise JobNotAuthenticError(str(error)) from error
        self._next += 1
        self.sealed_bytes += len(segment)

    def finish(self) -> None:
        """Raise `JobNotAuthenticError` unless every segment is here; `open` looks at them."""
        if not self.complete:
            raise JobNotAuthenticError("the inputs are not complete")

    def open(self) -> None:
        """Copy and open everything; raises `JobNotAuthenticError`, with nothing left behind."""
        replays = self._device.replays()
        shape = tuple(opener.layout for opener in self._openers)
        replay = replays.of(shape, self._places.size) if replays else None
        try:
            if replay is None:
                self._open_in_chunks()
            else:
                self._open_at_once(replay)
        except NotAuthenticError as error:
            self._wipe()
            raise JobNotAuthenticError(str(error)) from error
        except BaseException:
            self._wipe()
            raise
        self._unstage()

    def _open_at_once(self, replay: Replay) -> None:
        assert self._stage is not None  # noqa: S101 - `close` comes last
        self._replay = replay
        keys = [key for opener in self._openers for key in opener.delegate()]
        try:
            replay.open(keys, self._stage)
        finally:
            for key in keys:
                wipe(key)
        for opener, start in zip(self._openers, replay.plain_at, strict=True):
            opener.delegated()
            opener.finish()
            spec = opener.header.spec
            self._arrays[opener.header.name] = self._device.array(replay.plain, start, spec)

    def _open_in_chunks(self) -> None:
        launcher, chunks = self._device.launcher, self._device.chunks(self._places)
        windows = _Windows(launcher, chunks)
        with ExitStack() as batches:
            # Left before the batches are: what they wipe is behind every side.
            with Pipeline(launcher) as pipeline:
                ahead = chunks[: pipeline.width]
                for number, chunk in enumerate(ahead):
                    with pipeline.step(number) as side:
                        self._copy_in(windows.of(side, chunk), chunk)
                begun = [batches.enter_context(batch) for batch in self._begin()]
                pipeline.begin()
                for number, chunk in enumerate(chunks):
                    with pipeline.step(number) as side:
                        window = windows.of(side, chunk)
                        if number >= len(ahead):
                            self._copy_in(window, chunk)
                        for part in chunk.parts:
                            begun[part.tensor].open_part(part.rows, sealed=window)
            for opener, batch in zip(self._openers, begun, strict=True):
                batch.settle()
                opener.delegated()
                opener.finish()

    def _copy_in(self, window: Window, chunk: Chunk) -> None:
        assert self._stage is not None  # noqa: S101 - `close` comes last
        self._device.launcher.copy_in(window.span.pointer, self._stage[chunk.where].data)

    def _begin(self) -> Iterator[Batch]:
        device = self._device
        for opener, start in zip(self._openers, self._places.starts, strict=True):
            array = self._arrays[opener.header.name] = device.empty(opener.header.spec)
            batch = device.batch(opener.layout, opener.delegate(), sealed_at=start)
            yield batch
            batch.begin_parts_to_open(device.span(array))

    def array(self, name: str) -> DeviceArray:
        """Return one input."""
        return self._arrays[name]

    def release(self, name: str) -> None:
        """Wipe one input, which no step reads any more."""
        self._arrays.pop(name).fill(0)

    def commitment(self) -> bytes:
        """Return the commitment to every input segment, for the receipt."""
        return self._commitment.root()

    def close(self) -> None:
        """Wipe every input. Safe to call twice."""
        self._wipe()
        self._unstage()

    def _wipe(self) -> None:
        for name in list(self._arrays):
            self.release(name)
        if self._replay is not None:
            self._replay.wipe()
            self._replay = None

    def _unstage(self) -> None:
        if self._stage is not None:
            self._device.staging.give_back(self._stage)
            self._stage = None


class DeviceOutputs:
    """The outputs of one job, sealed where the kernels left them, then staged."""

    def __init__(
        self,
        outputs: Mapping[str, DeviceTensor],
        *,
        content_key: ContentKey,
        job_id: JobId,
        attempt: int,
        segment_bytes: int,
        kind: str,
        device: SealingDevice,
    ) -> None:
        """Seal `outputs` in their order and wipe them, in the job's turn on the device."""
        self._device = device
        self._commitment = SegmentCommitment(kind)
        self._sealers: list[TensorSealer] = []
        self._stage: Ciphertext | None = None
        self.sealed_bytes = 0
        try:
            for index, (name, held) in enumerate(outputs.items()):
                place = Place(
                    job_id=job_id, direction=Direction.OUTPUT, attempt=attempt, index=index
                )
                header = TensorHeader.for_tensor(
                    held.spec, name=name, place=place, segment_bytes=segment_bytes
                )
                self._sealers.append(TensorSealer(content_key, header))
            self._places = Places([sealer.layout for sealer in self._sealers])
            self._seal([held.data for held in outputs.values()])
        finally:
            for held in outputs.values():
                held.data.fill(0)

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The sealed tensor headers, for the result header."""
        return tuple(sealer.sealed_header.to_bytes() for sealer in self._sealers)

    @property
    def segment_count(self) -> int:
        """Segments of all outputs together."""
        return len(self._places.order)

    @property
    def sealed_length(self) -> int:
        """Sealed bytes of all outputs together."""
        return sum(sealed_bytes_of(layout) for layout in self._places.layouts)

    def segments(self) -> Iterator[bytearray]:
        """Return one segment after the other."""
        for index in range(self.segment_count):
            assert self._stage is not None  # noqa: S101 - `close` comes last
            segment = bytearray(self._stage[self._places.of(index)])
            self._commitment.add(index, segment)
            self.sealed_bytes += len(segment)
            yield segment

    def commitment(self) -> bytes:
        """Return the commitment to every output segment returned so far."""
        return self._commitment.root()

    def close(self) -> None:
        """Give the staging buffer back. Safe to call twice."""
        if self._stage is not None:
            self._device.staging.give_back(self._stage)
            self._stage = None

    def _seal(self, arrays: Sequence[DeviceArray]) -> None:
        device, places = self._device, self._places
        spans = [device.span(array) for array in arrays]
        with ExitStack() as batches:
            begun = []
            for sealer, start in zip(self._sealers, places.starts, strict=True):
                batch = device.batch(sealer.layout, sealer.delegate(), sealed_at=start)
                begun.append(batches.enter_context(batch))
                batch.begin_parts_to_seal()
            stage = device.staging.take(places.size)
            self._seal_chunks(begun, spans, stage)
            for batch in begun:
                batch.settle()
        self._stage = stage

    def _seal_chunks(
        self, begun: Sequence[Batch], spans: Sequence[Span], stage: Ciphertext
    ) -> None:
        launcher, chunks = self._device.launcher, self._device.chunks(self._places)
        windows = _Windows(launcher, chunks)
        with Pipeline(launcher) as pipeline:
            pipeline.begin()
            for number, chunk in enumerate(chunks):
                with pipeline.step(number) as side:
                    window = windows.of(side, chunk)
                    for part in chunk.parts:
                        batch = begun[part.tensor]
                        batch.seal_part(part.rows, plain=spans[part.tensor], sealed=window)
                    launcher.copy_out(window.span.pointer, stage[chunk.where].data)


class _Windows:
    """Device memory for one chunk on each side: taken there, and zeroed there in the end."""

    def __init__(self, launcher: Launcher, chunks: Sequence[Chunk]) -> None:
        self._launcher = launcher
        self._size = max(chunk.nbytes for chunk in chunks)
        self._taken: dict[int, Memory] = {}

    def of(self, side: int, chunk: Chunk) -> Window:
        """Return where `chunk` lies on `side`, which is current, once what was there is done."""
        if side not in self._taken:
            self._taken[side] = self._launcher.allocate(self._size)
        span = Span(pointer=self._taken[side].pointer, nbytes=chunk.nbytes)
        return Window(span=span, start=chunk.start)
