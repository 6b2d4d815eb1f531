"""What the device must not open, must not seal, and must not leave behind."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from attestation.errors import LocalProtocolError, NotAuthenticError
from enclave_worker.device.gpu_aead import Batch, GpuAead
from enclave_worker.device.scrub_pool import round_up
from enclave_worker.device.segment_table import ROW, Span, Table, in_place
from enclave_worker.errors import KernelError
from tests.gpu_aead.host_launcher import POISON, HostLauncher
from tests.gpu_aead.material import Sealed

SEGMENT = 1024
DATA = os.urandom(5 * SEGMENT + 77)


def refuse(
    launcher: HostLauncher, message: Sealed, wire: bytes, *, verify_first: bool = False
) -> None:
    """Open `wire` and see it refused, with nothing of the plaintext left."""
    aead, source, out = GpuAead(launcher), launcher.put(wire), launcher.allocate(len(message.data))
    with aead.batch(message.rows(), message.keys) as batch, pytest.raises(NotAuthenticError):
        aead.open_segments(batch, sealed=source.span, plain=out.span, verify_first=verify_first)
    # Verified first, nothing was ever written there.
    assert (out.array == (POISON if verify_first else 0)).all()


@pytest.mark.parametrize("verify_first", [False, True])
@pytest.mark.parametrize("segment", range(6))
def test_a_bad_tag_in_the_middle_takes_the_whole_batch_with_it(
    one: HostLauncher, segment: int, verify_first: bool
) -> None:
    message = Sealed(DATA, SEGMENT)
    wire = bytearray(message.wire)
    wire[segment * (SEGMENT + 32) + 16 + message.layout.plaintext_length(segment) + 3] ^= 0x10
    refuse(one, message, bytes(wire), verify_first=verify_first)


def test_every_flipped_byte_of_a_segment_is_refused(one: HostLauncher) -> None:
    """Length field, IV, ciphertext, ragged end and tag."""
    message = Sealed(os.urandom(70), 64)
    aead, wire = GpuAead(one), message.wire
    with aead.batch(message.rows(), message.keys) as batch:
        for at in range(len(wire)):
            flipped = one.put(wire[:at] + bytes([wire[at] ^ (1 << at % 8)]) + wire[at + 1 :])
            with pytest.raises(NotAuthenticError):
                aead.verify(batch, sealed=flipped.span)
        aead.verify(batch, sealed=one.put(wire).span)


def swapped(message: Sealed) -> bytes:
    first, second, *rest = message.segments
    return b"".join([second, first, *rest])


def repeated(message: Sealed) -> bytes:
    return b"".join([message.segments[0], message.segments[0], *message.segments[2:]])


def of_another_message(message: Sealed) -> bytes:
    other = Sealed(message.data, SEGMENT)
    return b"".join([*message.segments[:-1], other.segments[-1]])


def from_behind(message: Sealed) -> bytes:
    return b"".join(reversed(message.segments[:-1])) + message.segments[-1]


def zeros(message: Sealed) -> bytes:
    return bytes(len(message.wire))


@pytest.mark.parametrize("change", [swapped, repeated, of_another_message, from_behind, zeros])
def test_segments_in_other_places_are_refused(
    one: HostLauncher, change: Callable[[Sealed], bytes]
) -> None:
    message = Sealed(DATA, SEGMENT)
    refuse(one, message, change(message))


def test_a_message_cut_at_a_segments_end_is_refused(one: HostLauncher) -> None:
    """What is left has right tags everywhere; its last segment says that it is not the last."""
    message, longer = Sealed(DATA[: 2 * SEGMENT], SEGMENT), Sealed(DATA[: 3 * SEGMENT], SEGMENT)
    message.keys, message.segments = longer.keys, longer.segments[:2]
    refuse(one, message, message.wire)


def test_another_key_opens_nothing(one: HostLauncher) -> None:
    message = Sealed(DATA, SEGMENT)
    message.keys = (bytearray(os.urandom(32)),)
    refuse(one, message, message.wire)


def test_rotated_keys_in_the_wrong_order_open_nothing(one: HostLauncher) -> None:
    message = Sealed(DATA, SEGMENT, rotation_mask=1)
    assert len(message.keys) == 3
    message.keys = message.keys[::-1]
    refuse(one, message, message.wire)


@pytest.mark.parametrize("kernel", ["gcm_setup", "gcm_body", "gcm_finish"])
def test_a_kernel_that_does_not_run_opens_nothing(
    one: HostLauncher, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status is a refusal until the last kernel has decided otherwise."""
    skip(one, kernel, monkeypatch)
    message = Sealed(DATA, SEGMENT)
    refuse(one, message, message.wire)


def test_what_the_device_did_not_seal_is_not_sent(
    one: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip(one, "gcm_finish", monkeypatch)
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, out = one.put(message.data), one.allocate(len(message.wire))
    with aead.batch(message.rows(), message.keys) as batch, pytest.raises(KernelError):
        aead.seal_segments(batch, plain=source.span, sealed=out.span)


def skip(launcher: HostLauncher, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = launcher.launch
    monkeypatch.setattr(
        launcher, "launch", lambda name, *rest: None if name == kernel else launch(name, *rest)
    )


# -- one IV, one plaintext ------------------------------------------------------------------------


def test_a_batch_is_sealed_once_and_every_segment_under_its_own_iv(one: HostLauncher) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, out = one.put(message.data), one.allocate(len(message.wire))
    with aead.batch(message.rows(), message.keys) as batch:
        aead.seal_segments(batch, plain=source.span, sealed=out.span)
        first = out.array.tobytes()
        with pytest.raises(LocalProtocolError):
            aead.seal_segments(batch, plain=source.span, sealed=out.span)
    assert out.array.tobytes() == first
    ivs = {first[n * (SEGMENT + 32) + 4 : n * (SEGMENT + 32) + 16] for n in range(6)}
    assert len(ivs) == 6


# -- the order of things --------------------------------------------------------------------------


@pytest.fixture
def batch(one: HostLauncher) -> Batch:
    message = Sealed(DATA, SEGMENT)
    return GpuAead(one).batch(message.rows(), message.keys)


def test_nothing_is_decrypted_that_was_not_verified(one: HostLauncher, batch: Batch) -> None:
    source, out = one.allocate(8192), one.allocate(8192)
    with pytest.raises(LocalProtocolError):
        batch.begin_decrypt(sealed=source.span, plain=out.span)
    batch.begin_verify(sealed=source.span)
    with pytest.raises(NotAuthenticError):
        batch.settle()
    with pytest.raises(LocalProtocolError):
        batch.begin_decrypt(sealed=source.span, plain=out.span)


def test_a_verified_batch_is_decrypted_from_the_same_bytes_once(one: HostLauncher) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, copy = one.put(message.wire), one.put(message.wire)
    out = one.allocate(len(DATA))
    with aead.batch(message.rows(), message.keys) as batch:
        aead.verify(batch, sealed=source.span)
        with pytest.raises(LocalProtocolError):
            batch.begin_decrypt(sealed=copy.span, plain=out.span)
        batch.begin_decrypt(sealed=source.span, plain=out.span)
        batch.settle()
        assert out.array.tobytes() == DATA
        with pytest.raises(LocalProtocolError):
            batch.begin_decrypt(sealed=source.span, plain=out.span)
        aead.verify(batch, sealed=source.span)
        batch.load_keys([os.urandom(32)])
        with pytest.raises(LocalProtocolError):
            batch.begin_decrypt(sealed=source.span, plain=out.span)


def test_nothing_is_begun_over_what_is_not_settled(one: HostLauncher, batch: Batch) -> None:
    source, out = one.allocate(8192), one.allocate(8192)
    with pytest.raises(LocalProtocolError):
        batch.settle()
    batch.begin_open(sealed=source.span, plain=out.span)
    for begin in (batch.begin_open, batch.begin_seal):
        with pytest.raises(LocalProtocolError):
            begin(sealed=source.span, plain=out.span)
    with pytest.raises(LocalProtocolError):
        batch.load_keys([bytes(32)])


def test_a_graph_that_replays_without_new_keys_opens_nothing(one: HostLauncher) -> None:
    """The kernel that derives has overwritten them."""
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, out = one.put(message.wire), one.allocate(len(DATA))
    with aead.batch(message.rows(), message.keys) as batch:

        def replay() -> None:
            batch.record_open(sealed=source.span, plain=out.span)

        batch.upload_keys(message.keys)
        batch.begin_open(sealed=source.span, plain=out.span, replay=replay)
        batch.settle()
        assert out.array.tobytes() == DATA
        batch.begin_open(sealed=source.span, plain=out.span, replay=replay)
        with pytest.raises(NotAuthenticError):
            batch.settle()
        assert not out.array.any()


# -- tables that would have kernels read or write elsewhere ---------------------------------------


def bent(field: str, value: int, row: int = 1) -> Callable[[Table], None]:
    def bend(table: Table) -> None:
        table[field][row] = value

    return bend


@pytest.mark.parametrize(
    "bend",
    [
        bent("sealed", 8),
        bent("plain", 8),
        bent("sealed", 16),
        bent("plain", 16),
        bent("sealed", (1 << 64) - 16),
        bent("plain", (1 << 64) - 16),
        bent("key", 1),
        bent("final", 2),
        bent("length", 0xFFFFFFFF),
        bent("length", 1 << 30),
    ],
)
def test_a_table_that_no_tensor_has_is_refused(
    one: HostLauncher, bend: Callable[[Table], None]
) -> None:
    message = Sealed(DATA, SEGMENT)
    rows = message.rows()
    bend(rows)
    with pytest.raises(LocalProtocolError):
        GpuAead(one).batch(rows, message.keys)
    assert one.launched == []


@pytest.mark.parametrize("rows", [np.zeros(0, ROW), np.zeros((2, 2), ROW), np.zeros(2, np.uint8)])
def test_what_is_no_table_is_refused(one: HostLauncher, rows: Table) -> None:
    with pytest.raises(LocalProtocolError):
        GpuAead(one).batch(rows, [bytes(32)])


@pytest.mark.parametrize("keys", [[], [bytes(31)], [bytes(32), bytes(33)]])
def test_keys_of_another_number_or_length_are_refused(one: HostLauncher, keys: list[bytes]) -> None:
    with pytest.raises(LocalProtocolError):
        GpuAead(one).batch(Sealed(DATA, SEGMENT).rows(), keys)


def test_buffers_that_are_too_small_or_overlap_are_refused(one: HostLauncher, batch: Batch) -> None:
    buffer, size = one.allocate(3 * 8192), len(DATA)
    sealed = Span(pointer=buffer.pointer, nbytes=size + 6 * 32)
    launched = len(one.launched)
    for source, target in [
        (Span(pointer=sealed.pointer, nbytes=sealed.nbytes - 1), (8192, size)),
        (sealed, (8192, size - 1)),
        (sealed, (8192 + 8, size)),
        (Span(pointer=sealed.pointer + 4, nbytes=sealed.nbytes), (16384, size)),
        (sealed, (0, size)),
        (sealed, (16, size)),
        (sealed, (32, size)),
    ]:
        plain = Span(pointer=buffer.pointer + target[0], nbytes=target[1])
        for begin in (batch.begin_open, batch.begin_seal):
            with pytest.raises(LocalProtocolError):
                begin(sealed=source, plain=plain)
    assert len(one.launched) == launched


# -- residue --------------------------------------------------------------------------------------


def test_keys_and_what_is_derived_from_them_are_gone_afterwards(launcher: HostLauncher) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(launcher)
    key = bytes(message.keys[0])
    source, out = launcher.put(message.wire), launcher.allocate(len(DATA))
    batch = aead.batch(message.rows(), message.keys)
    assert not any(key in m.array.tobytes() for m in launcher.memory), "wiped by gcm_setup"
    contexts = [m for m in launcher.memory if m.nbytes == launcher.tuning.context_bytes]
    assert contexts
    assert all(m.array.any() for m in contexts)
    with batch:
        aead.open_segments(batch, sealed=source.span, plain=out.span)
    assert not any(m.array.any() for m in contexts)
    assert launcher.left_in_shared_memory == 0, "the next block on the multiprocessor reads it"
    with pytest.raises(LocalProtocolError):
        aead.open_segments(batch, sealed=source.span, plain=out.span)


def test_plaintext_that_nobody_settled_is_wiped_with_the_batch(one: HostLauncher) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, out = one.put(message.wire), one.allocate(len(DATA))
    with aead.batch(message.rows(), message.keys) as batch:
        batch.begin_open(sealed=source.span, plain=out.span)
        assert out.array.tobytes() == DATA
    assert not out.array.any()


def test_a_failed_copy_of_the_statuses_leaves_no_plaintext(
    one: HostLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    source, out = one.put(message.wire), one.allocate(len(DATA))

    def fail(pointer: int, out: object) -> None:
        raise OSError("the bus")

    monkeypatch.setattr(one, "download", fail)
    with aead.batch(message.rows(), message.keys) as batch, pytest.raises(OSError, match="bus"):
        aead.open_segments(batch, sealed=source.span, plain=out.span)
    assert not out.array.any()


def test_refused_plaintext_in_place_leaves_nothing_either(one: HostLauncher) -> None:
    message, aead = Sealed(DATA, SEGMENT), GpuAead(one)
    wire = bytearray(message.wire)
    wire[20] ^= 1
    rows, buffer = in_place(message.rows()), one.put(bytes(wire))
    inside = Span(pointer=buffer.pointer + 16, nbytes=buffer.nbytes - 16)
    with aead.batch(rows, message.keys) as batch, pytest.raises(NotAuthenticError):
        aead.open_segments(batch, sealed=buffer.span, plain=inside)
    for start, length in zip(rows["plain"].tolist(), rows["length"].tolist(), strict=True):
        assert not buffer.array[16 + start : 16 + start + length].any()


@pytest.mark.parametrize("size", [0, 1, 1000, 1024, 5 * 1024 + 77, 20 * 1024])
@pytest.mark.parametrize("at_once", [None, 2048])
def test_no_batch_allocates_more_than_a_job_reserves_for_it(
    one: HostLauncher, size: int, at_once: int | None
) -> None:
    """A job's reservation is made before there is a batch, from the sizes of its tensors alone."""
    message = Sealed(bytes(size), SEGMENT)
    before = len(one.memory)
    GpuAead(one).batch(message.rows(), message.keys, at_once=at_once).wipe()
    taken = sum(round_up(memory.nbytes) for memory in one.memory[before:])
    reserved = GpuAead.scratch_bytes(
        one.tuning, nbytes=size, segments=message.layout.count, keys=len(message.keys)
    )
    assert taken <= reserved <= 2 * taken
