"""The CUDA kernels, run on the processor, compute what the processor's FLOE does, byte for byte."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation import limits
from attestation.identifiers import JobId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import HEADER_BYTES, FloeOpener
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    TensorHeader,
    TensorOpener,
    TensorSealer,
)
from enclave_worker.device.cubins import TUNINGS as SHIPPED
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu_aead import GpuAead
from enclave_worker.device.segment_table import ROW, Span, in_place, tensor_rows
from tests.gpu_aead.host_launcher import COMPILER, HostLauncher
from tests.gpu_aead.material import Sealed, drawing

KATS = Path(__file__).resolve().parents[2] / ".." / "shared" / "floe-kats"
NAMES = sorted(path.name.removesuffix("_ct.txt") for path in KATS.glob("*_ct.txt"))

# Around AES blocks, rows, pieces and segments, of all tunings; a last segment of every raggedness.
SIZES = [(0, 64), (1, 64), (15, 64), (16, 64), (17, 64), (63, 4096), (65, 4096), (4096, 4096)]
SIZES += [(4097, 4096), (16384 - 16, 16384), (16384, 16384), (70_001, 16384), (200_000, 65536)]


# How many blocks a multiprocessor holds means nothing to a processor.
DISTINCT = sorted(
    {attrs.evolve(t, blocks_per_sm=1) for tunings in SHIPPED.values() for t in tunings},
    key=lambda tuning: tuning.name,
)


def opened(launcher: HostLauncher, message: Sealed, *, log_rows: int | None = None) -> bytes:
    aead = GpuAead(launcher)
    source, target = launcher.put(message.wire), launcher.allocate(len(message.data))
    with aead.batch(message.rows(), message.keys, log_rows=log_rows) as batch:
        aead.open_segments(batch, sealed=source.span, plain=target.span)
    return target.array.tobytes()


def sealed(launcher: HostLauncher, message: Sealed, *, log_rows: int | None = None) -> bytes:
    aead = GpuAead(launcher)
    source, target = launcher.put(message.data), launcher.allocate(len(message.wire))
    batch = aead.batch(message.rows(), message.keys, log_rows=log_rows)
    with batch, drawing(message.ivs):
        aead.seal_segments(batch, plain=source.span, sealed=target.span)
    return target.array.tobytes()


@pytest.mark.parametrize(("size", "segment"), SIZES)
def test_opened_and_sealed_bytes_are_the_processors(
    launcher: HostLauncher, size: int, segment: int
) -> None:
    message, log_rows = Sealed(os.urandom(size), segment), size % 3
    assert opened(launcher, message, log_rows=log_rows) == message.data
    assert sealed(launcher, message, log_rows=log_rows) == message.wire


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=2000),
    blocks=st.integers(1, 80),
    key=st.binary(min_size=32, max_size=32),
    log_rows=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_any_message_is_the_processors(
    one: HostLauncher, data: bytes, blocks: int, key: bytes, log_rows: int, seed: int
) -> None:
    """Under any order of the threads: a missing barrier would show."""
    one.seed = seed
    message = Sealed(data, 16 * blocks, key=key)
    assert opened(one, message, log_rows=log_rows) == data
    assert sealed(one, message, log_rows=log_rows) == message.wire


@pytest.mark.parametrize("tuning", DISTINCT, ids=lambda tuning: tuning.name)
def test_every_shipped_tuning_computes_the_same(
    tuning: Tuning, compiled: Callable[[Tuning], Path]
) -> None:
    """With all its threads, over more than one piece."""
    host = HostLauncher(compiled(tuning), tuning)
    constants = host.constants()
    assert constants["context"] * 4 == tuning.context_bytes
    assert constants["shared"] == tuning.shared_bytes
    assert (constants["setup"], constants["finish"]) == (
        tuning.setup_threads,
        tuning.finish_threads,
    )
    assert (constants["setup_shared"], constants["row"]) == (tuning.setup_bytes, ROW.itemsize)
    message = Sealed(os.urandom(50_001), 32768)
    assert opened(host, message, log_rows=0) == message.data
    assert sealed(host, message, log_rows=1) == message.wire
    assert host.left_in_shared_memory == 0


def test_several_tensors_under_their_own_keys_are_one_batch(launcher: HostLauncher) -> None:
    messages = [Sealed(os.urandom(n), 1024, key=os.urandom(32)) for n in (5000, 1, 0, 2048)]
    table, keys, source, starts = [], [], bytearray(), []
    plain = 0
    for message in messages:
        source += bytes(-len(source) % 16)
        starts.append(plain)
        table.append(message.rows(sealed_at=len(source), plain_at=plain, first_key=len(keys)))
        keys += message.keys
        source += message.wire
        plain += -(-len(message.data) // 16) * 16
    aead = GpuAead(launcher)
    buffer, out = launcher.put(bytes(source)), launcher.allocate(plain)
    with aead.batch(np.concatenate(table), keys) as batch:
        aead.open_segments(batch, sealed=buffer.span, plain=out.span)
    for message, start in zip(messages, starts, strict=True):
        assert out.array[start : start + len(message.data)].tobytes() == message.data


@pytest.mark.parametrize("verify_first", [False, True])
def test_in_place(launcher: HostLauncher, verify_first: bool) -> None:
    """Each plaintext replaces its ciphertext, and the other way round."""
    message = Sealed(os.urandom(10_007), 4096)
    aead, rows = GpuAead(launcher), in_place(message.rows())
    buffer = launcher.put(message.wire)
    inside = Span(pointer=buffer.pointer + 16, nbytes=buffer.nbytes - 16)
    with aead.batch(rows, message.keys) as batch:
        aead.open_segments(batch, sealed=buffer.span, plain=inside, verify_first=verify_first)
    pieces = [
        buffer.array[16 + start : 16 + start + length].tobytes()
        for start, length in zip(rows["plain"].tolist(), rows["length"].tolist(), strict=True)
    ]
    assert b"".join(pieces) == message.data
    with aead.batch(rows, message.keys) as batch, drawing(message.ivs):
        aead.seal_segments(batch, plain=inside, sealed=buffer.span)
    assert buffer.array.tobytes() == message.wire


def test_a_tensor_opens_and_seals_through_its_session_objects(one: HostLauncher) -> None:
    """What the worker does: keys from `delegate`, and `finish` only after the device agreed."""
    place = Place(job_id=JobId(os.urandom(16)), direction=Direction.INPUT, attempt=0, index=0)
    header = TensorHeader(
        name="x",
        dtype="uint8",
        shape=(limits.SEGMENT_BYTES_MIN + 5,),
        job_id=place.job_id,
        direction=place.direction,
        attempt=0,
        index=0,
        segment_bytes=limits.SEGMENT_BYTES_MIN,
    )
    content_key, data = ContentKey.generate(), os.urandom(limits.SEGMENT_BYTES_MIN + 5)
    aead, plain = GpuAead(one), one.put(data)

    sealer = TensorSealer(content_key, header)
    rows = tensor_rows(sealer.layout)
    target = one.allocate(sum(map(sealer.segment_length, range(sealer.segment_count))))
    with aead.batch(rows, sealer.delegate()) as batch:
        aead.seal_segments(batch, plain=plain.span, sealed=target.span)

    on_processor = TensorOpener(content_key, sealer.sealed_header, expected=place)
    out, start = bytearray(len(data)), 0
    for index in range(on_processor.segment_count):
        end = start + on_processor.segment_length(index)
        on_processor.open_into(index, target.array[start:end].tobytes(), out)
        start = end
    on_processor.finish()
    assert bytes(out) == data

    opener = TensorOpener(content_key, sealer.sealed_header, expected=place)
    back = one.allocate(len(data))
    with aead.batch(rows, opener.delegate()) as batch:
        aead.open_segments(batch, sealed=target.span, plain=back.span, verify_first=True)
    opener.delegated()
    opener.finish()
    assert back.array.tobytes() == data


@pytest.mark.skipif(not NAMES, reason=f"the FLOE vectors are not at {KATS}")
@pytest.mark.parametrize("name", NAMES)
def test_published_floe_vectors_open_and_are_what_is_sealed(one: HostLauncher, name: str) -> None:
    """Rotated keys and segments of odd sizes included; each is laid at a multiple of 16 bytes."""
    ciphertext = bytes.fromhex((KATS / f"{name}_ct.txt").read_text())
    plaintext = bytes.fromhex((KATS / f"{name}_pt.txt").read_text())
    length = int.from_bytes(ciphertext[2:6], "big")
    mask = 2 if name.endswith("_rotation") else 20
    segments = _split(ciphertext[HEADER_BYTES:], length)
    opener = FloeOpener(
        bytes(32),
        b"This is AAD",
        ciphertext[:HEADER_BYTES],
        segment_length=length,
        rotation_mask=mask,
    )
    rows = np.zeros(len(segments), ROW)
    stride = -(-length // 16) * 16
    for index, segment in enumerate(segments):
        rows[index]["sealed"] = rows[index]["plain"] = index * stride
        rows[index]["position"] = index
        rows[index]["length"] = len(segment) - 32
        rows[index]["key"] = index >> mask
    rows["final"][-1] = 1
    laid_out = b"".join(segment.ljust(stride, b"\0") for segment in segments)
    aead, keys = GpuAead(one), opener.epoch_keys(len(segments))

    source, out = one.put(laid_out), one.allocate(len(laid_out))
    out.array[:] = 0
    with aead.batch(rows, keys) as batch:
        aead.open_segments(batch, sealed=source.span, plain=out.span)
    parts = [
        out.array[index * stride :][: len(segment) - 32].tobytes()
        for index, segment in enumerate(segments)
    ]
    assert b"".join(parts) == plaintext

    again = one.allocate(len(laid_out))
    again.array[:] = 0
    with aead.batch(rows, keys) as batch, drawing(b"".join(s[4:16] for s in segments)):
        aead.seal_segments(batch, plain=out.span, sealed=again.span)
    assert again.array.tobytes() == laid_out


def _split(body: bytes, length: int) -> list[bytes]:
    segments = []
    while body:
        field = int.from_bytes(body[:4], "big")
        end = length if field == 0xFFFFFFFF else field
        segments.append(body[:end])
        body = body[end:]
    return segments


def test_the_shim_sees_a_barrier_that_half_a_block_misses(one: HostLauncher) -> None:
    """Without this the shim's silence would mean little."""
    assert one.divergent_barrier()


def test_positions_beyond_32_bits_are_bound(one: HostLauncher) -> None:
    """The kernels hold a position in two words; the processor's AEAD is asked for the same one."""
    key, iv, position, data = os.urandom(32), os.urandom(12), (7 << 32) + 5, os.urandom(1000)
    rows = np.zeros(1, ROW)
    rows["position"], rows["length"] = position, len(data)
    place = position.to_bytes(8, "big") + b"\0"
    expected = b"\xff" * 4 + iv + AESGCM(key).encrypt(iv, data, place)
    aead, source, out = GpuAead(one), one.put(data), one.allocate(len(expected))
    with aead.batch(rows, [key]) as batch, drawing(iv):
        aead.seal_segments(batch, plain=source.span, sealed=out.span)
    assert out.array.tobytes() == expected


@pytest.mark.skipif(COMPILER is None, reason="there is no g++")
def test_the_kernels_do_nothing_that_c_leaves_undefined(tmp_path: Path) -> None:
    """Shifts, overflows, misaligned loads: what one compiler makes of them another need not."""
    command = [sys.executable, "-m", "tests.gpu_aead.sanitized", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
