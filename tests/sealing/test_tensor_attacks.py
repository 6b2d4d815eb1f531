"""G4 at the tensor: everything a coordinator can do to segments is refused, and nothing remains.

Each test is an attack of whoever carries the bytes, or of whoever sealed another tensor.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve

from attestation import limits
from attestation.errors import EnclaveError, LocalProtocolError, NotAuthenticError
from attestation.identifiers import JobId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import Buffer, FloeOpener
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    SealedTensorHeader,
    TensorHeader,
    TensorOpener,
    TensorSealer,
    open_bytes,
    seal_bytes,
)
from attestation.sealing.tensor_spec import TensorSpec

SEGMENT = limits.SEGMENT_BYTES_MIN
SIZE = 2 * SEGMENT + 1000
KEY = ContentKey.from_bytes(b"k" * 32)
INPUT = Place(job_id=JobId(b"j" * 16), direction=Direction.INPUT, attempt=0, index=0)
PLAINTEXT = hashlib.shake_128(b"one tensor").digest(SIZE)


def describe(place: Place = INPUT, *, size: int = SIZE, name: str = "x") -> TensorHeader:
    spec = TensorSpec(dtype="uint8", shape=(size,))
    return TensorHeader.for_tensor(spec, name=name, place=place, segment_bytes=SEGMENT)


def seal(
    header: TensorHeader, *, key: ContentKey = KEY, plaintext: bytes = PLAINTEXT
) -> tuple[SealedTensorHeader, list[bytes]]:
    sealer = TensorSealer(key, header)
    segments = [bytes(sealer.segment(i, plaintext)) for i in range(sealer.segment_count)]
    return sealer.sealed_header, segments


@pytest.fixture(scope="module")
def sealed() -> tuple[SealedTensorHeader, list[bytes]]:
    return seal(describe())


def open_all(
    header: SealedTensorHeader,
    segments: list[bytes],
    *,
    key: ContentKey = KEY,
    expected: Place = INPUT,
) -> bytes:
    opener = TensorOpener(key, header, expected=expected)
    out = bytearray(SIZE)
    for index, segment in enumerate(segments):
        opener.open_into(index, segment, out)
    opener.finish()
    return bytes(out)


def refuse_segment(opener: TensorOpener, index: int, segment: bytes) -> None:
    """The segment is refused, its buffer is all zero, and the tensor cannot be finished."""
    out = bytearray(b"\xaa" * SIZE)
    with pytest.raises(NotAuthenticError):
        opener.open_into(index, segment, out)
    assert not any(out)
    with pytest.raises(NotAuthenticError):
        opener.finish()


def test_tensor_survives_sealing(sealed: tuple[SealedTensorHeader, list[bytes]]) -> None:
    header, segments = sealed
    assert open_all(header, segments) == PLAINTEXT


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1])
def test_tensor_of_any_size_survives_sealing(size: int) -> None:
    header, segments = seal(describe(size=size), plaintext=PLAINTEXT[:size])
    opener = TensorOpener(KEY, header, expected=INPUT)
    out = bytearray(size)
    for index, segment in enumerate(segments):
        opener.open_into(index, segment, out)
    opener.finish()
    assert bytes(out) == PLAINTEXT[:size]


def test_segments_are_opened_one_part_at_a_time(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    header, segments = sealed
    opener = TensorOpener(KEY, header, expected=INPUT)
    parts = []
    for index, segment in enumerate(segments):
        parts.append(bytearray(len(segment) - 32))
        opener.open_into(index, segment, parts[-1])
    opener.finish()
    assert b"".join(parts) == PLAINTEXT


def test_threads_seal_and_open_segments_of_one_tensor() -> None:
    size = 16 * SEGMENT + 5
    plaintext = hashlib.shake_128(b"a larger one").digest(size)
    sealer = TensorSealer(KEY, describe(size=size))
    with ThreadPoolExecutor(4) as pool:
        segments = list(
            pool.map(lambda i: sealer.segment(i, plaintext), range(sealer.segment_count))
        )
        opener = TensorOpener(KEY, sealer.sealed_header, expected=INPUT)
        out = bytearray(size)
        list(pool.map(lambda i: opener.open_into(i, segments[i], out), range(len(segments))))
    opener.finish()
    assert bytes(out) == plaintext


# -- headers --------------------------------------------------------------------------------------


def test_any_flipped_byte_of_the_sealed_header_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    data = sealed[0].to_bytes()
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= 0x01
        with pytest.raises(EnclaveError) as refusal:
            TensorOpener(KEY, SealedTensorHeader.from_bytes(bytes(changed)), expected=INPUT)
        assert refusal.value.code in ("malformed", "not-authentic")


def test_header_that_claims_another_shape_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    """Nothing is allocated for a size that the key does not vouch for."""
    claimed = describe(size=SIZE * 1000).to_bytes()
    with pytest.raises(NotAuthenticError):
        TensorOpener(KEY, evolve(sealed[0], header=claimed), expected=INPUT)


def test_header_of_another_tensor_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    other, _ = seal(describe(name="y"))
    for mixed in (
        evolve(other, floe_header=sealed[0].floe_header),
        evolve(sealed[0], floe_header=other.floe_header),
    ):
        with pytest.raises(NotAuthenticError):
            TensorOpener(KEY, mixed, expected=INPUT)


@pytest.mark.parametrize(
    "place",
    [
        evolve(INPUT, job_id=JobId(b"k" * 16)),
        evolve(INPUT, direction=Direction.OUTPUT),
        evolve(INPUT, direction=Direction.OUTPUT, attempt=1),
        evolve(INPUT, index=1),
    ],
)
def test_whole_tensor_of_another_place_is_refused(place: Place) -> None:
    """An authentic tensor of this very job is no answer to a request for another one."""
    header, _ = seal(describe(place))
    with pytest.raises(NotAuthenticError):
        TensorOpener(KEY, header, expected=INPUT)


def test_output_of_an_earlier_attempt_is_refused() -> None:
    first = Place(job_id=INPUT.job_id, direction=Direction.OUTPUT, attempt=1, index=0)
    header, _ = seal(describe(first))
    with pytest.raises(NotAuthenticError):
        TensorOpener(KEY, header, expected=evolve(first, attempt=2))


def test_wrong_content_key_is_refused_by_the_header(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    with pytest.raises(NotAuthenticError):
        TensorOpener(ContentKey.generate(), sealed[0], expected=INPUT)


# -- segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("part", ["length", "iv", "ciphertext", "tag"])
def test_flipped_byte_of_a_segment_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]], index: int, part: str
) -> None:
    header, segments = sealed
    size = len(segments[index])
    offsets = {
        "length": range(4),
        "iv": range(4, 16),
        "ciphertext": [16, size // 2, size - 17],
        "tag": range(size - 16, size),
    }
    for offset in offsets[part]:
        changed = bytearray(segments[index])
        changed[offset] ^= 0x80
        refuse_segment(TensorOpener(KEY, header, expected=INPUT), index, bytes(changed))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_truncated_segment_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]], index: int
) -> None:
    header, segments = sealed
    for length in (0, 3, 4, 16, 31, 32, len(segments[index]) - 16, len(segments[index]) - 1):
        refuse_segment(TensorOpener(KEY, header, expected=INPUT), index, segments[index][:length])


def test_truncated_final_segment_with_rewritten_framing_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    header, segments = sealed
    cut = segments[2][:-1]
    refuse_segment(
        TensorOpener(KEY, header, expected=INPUT), 2, len(cut).to_bytes(4, "big") + cut[4:]
    )


def test_segment_with_a_byte_more_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    header, segments = sealed
    refuse_segment(TensorOpener(KEY, header, expected=INPUT), 2, segments[2] + b"\0")


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_tensor_cut_at_a_segment_edge_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]], kept: int
) -> None:
    header, segments = sealed
    with pytest.raises(NotAuthenticError):
        open_all(header, segments[:kept])


def test_tensor_with_its_first_or_middle_segment_dropped_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    header, segments = sealed
    for dropped in (0, 1):
        opener = TensorOpener(KEY, header, expected=INPUT)
        out = bytearray(SIZE)
        for index in {0, 1, 2} - {dropped}:
            opener.open_into(index, segments[index], out)
        with pytest.raises(NotAuthenticError):
            opener.finish()


def test_swapped_segments_are_refused(sealed: tuple[SealedTensorHeader, list[bytes]]) -> None:
    header, segments = sealed
    refuse_segment(TensorOpener(KEY, header, expected=INPUT), 0, segments[1])
    refuse_segment(TensorOpener(KEY, header, expected=INPUT), 1, segments[0])


def test_final_segment_as_one_before_it_is_refused() -> None:
    size = 2 * SEGMENT
    header, segments = seal(describe(size=size), plaintext=PLAINTEXT[:size])
    for segment in (segments[1], b"\xff" * 4 + segments[1][4:]):
        opener = TensorOpener(KEY, header, expected=INPUT)
        out = bytearray(b"\xaa" * size)
        with pytest.raises(NotAuthenticError):
            opener.open_into(0, segment, out)
        assert not any(out)


def test_segment_before_the_end_as_the_final_one_is_refused() -> None:
    size = 2 * SEGMENT
    header, segments = seal(describe(size=size), plaintext=PLAINTEXT[:size])
    length = (SEGMENT + 32).to_bytes(4, "big")
    for segment in (segments[0], length + segments[0][4:]):
        opener = TensorOpener(KEY, header, expected=INPUT)
        out = bytearray(b"\xaa" * size)
        with pytest.raises(NotAuthenticError):
            opener.open_into(1, segment, out)
        assert not any(out)


def test_duplicated_segment_is_refused(sealed: tuple[SealedTensorHeader, list[bytes]]) -> None:
    header, segments = sealed
    opener = TensorOpener(KEY, header, expected=INPUT)
    opener.open_into(0, segments[0], bytearray(SIZE))
    refuse_segment(opener, 0, segments[0])


@pytest.mark.parametrize("index", [-1, 3, 1 << 40])
def test_segment_beyond_the_end_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]], index: int
) -> None:
    header, segments = sealed
    refuse_segment(TensorOpener(KEY, header, expected=INPUT), index, segments[2])


@pytest.mark.parametrize(
    "header",
    [
        describe(name="y"),
        describe(evolve(INPUT, index=1)),
        describe(evolve(INPUT, job_id=JobId(b"k" * 16))),
        describe(evolve(INPUT, direction=Direction.OUTPUT)),
        describe(evolve(INPUT, direction=Direction.OUTPUT, attempt=1)),
        describe(),  # the same tensor, sealed a second time
    ],
    ids=["tensor", "index", "job", "direction", "attempt", "sealing"],
)
def test_segment_of_another_place_is_refused(
    sealed: tuple[SealedTensorHeader, list[bytes]], header: TensorHeader
) -> None:
    _, foreign = seal(header)
    for index, segment in enumerate(foreign):
        refuse_segment(TensorOpener(KEY, sealed[0], expected=INPUT), index, segment)


def test_one_refusal_ends_the_tensor(sealed: tuple[SealedTensorHeader, list[bytes]]) -> None:
    """After a bad segment a good one no longer opens: nobody can probe for what passes."""
    header, segments = sealed
    opener = TensorOpener(KEY, header, expected=INPUT)
    refuse_segment(opener, 0, segments[1])
    refuse_segment(opener, 0, segments[0])
    refuse_segment(opener, 2, segments[2])


def test_duplicate_after_the_last_segment_takes_the_tensor_back(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    header, segments = sealed
    opener = TensorOpener(KEY, header, expected=INPUT)
    for index, segment in enumerate(segments):
        opener.open_into(index, segment, bytearray(SIZE))
    refuse_segment(opener, 1, segments[1])


def test_segment_that_opens_while_another_is_refused_is_wiped(
    sealed: tuple[SealedTensorHeader, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interleaving that threads rarely hit: decrypted, but the tensor has failed meanwhile."""
    header, segments = sealed
    opener = TensorOpener(KEY, header, expected=INPUT)
    out = bytearray(SIZE)
    decrypt = FloeOpener.open_into

    def overtaken(
        floe: FloeOpener, position: int, segment: Buffer, target: Buffer, *, final: bool
    ) -> None:
        if position == 0:
            with pytest.raises(NotAuthenticError):
                opener.open_into(1, segments[0], out)
        decrypt(floe, position, segment, target, final=final)

    monkeypatch.setattr(FloeOpener, "open_into", overtaken)
    with pytest.raises(NotAuthenticError):
        opener.open_into(0, segments[0], out)
    assert not any(out)


def test_threads_leave_no_plaintext_after_a_refusal() -> None:
    """Whatever the interleaving, a shared buffer is zero once every call has returned."""
    size = 24 * SEGMENT
    plaintext = b"\x5a" * size
    header, segments = seal(describe(size=size), plaintext=plaintext)
    segments[11] = segments[12]
    opener = TensorOpener(KEY, header, expected=INPUT)
    out = bytearray(size)

    def attempt(index: int) -> bool:
        try:
            opener.open_into(index, segments[index], out)
        except NotAuthenticError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(len(segments))))
    assert not results[11]
    assert not any(out)
    with pytest.raises(NotAuthenticError):
        opener.finish()


# -- our own misuse -------------------------------------------------------------------------------


def test_segment_is_never_sealed_twice() -> None:
    sealer = TensorSealer(KEY, describe())
    sealer.segment(1, PLAINTEXT)
    with pytest.raises(LocalProtocolError):
        sealer.segment(1, PLAINTEXT)


@pytest.mark.parametrize("index", [-1, 3])
def test_segment_beyond_the_end_is_never_sealed(index: int) -> None:
    with pytest.raises(LocalProtocolError):
        TensorSealer(KEY, describe()).seal_into(index, PLAINTEXT, bytearray(SEGMENT + 32))


def test_plaintext_of_another_size_is_never_sealed() -> None:
    with pytest.raises(LocalProtocolError):
        TensorSealer(KEY, describe()).segment(0, PLAINTEXT[:-1])


def test_unfinished_tensor_is_not_vouched_for(
    sealed: tuple[SealedTensorHeader, list[bytes]],
) -> None:
    with pytest.raises(NotAuthenticError):
        TensorOpener(KEY, sealed[0], expected=INPUT).finish()


# -- one-shot bodies ------------------------------------------------------------------------------


def test_body_opens_under_its_own_request_only() -> None:
    sealed = seal_bytes(bytes(32), b"request", b"program")
    assert open_bytes(bytes(32), b"request", sealed) == b"program"
    for key, aad in ((bytes(32), b"another"), (b"k" * 32, b"request")):
        with pytest.raises(NotAuthenticError):
            open_bytes(key, aad, sealed)


def test_changed_or_cut_body_is_refused() -> None:
    sealed = seal_bytes(bytes(32), b"request", b"program")
    for offset in range(len(sealed)):
        changed = bytearray(sealed)
        changed[offset] ^= 1
        for bad in (bytes(changed), sealed[:offset]):
            with pytest.raises(NotAuthenticError):
                open_bytes(bytes(32), b"request", bad)
