"""The published FLOE vectors: five independent implementations, and the key rotation."""

from pathlib import Path

import pytest

from attestation.errors import NotAuthenticError
from attestation.sealing.floe import HEADER_BYTES, SEGMENT_OVERHEAD, FloeOpener, FloeSealer

KATS = Path(__file__).resolve().parents[2] / ".." / "shared" / "floe-kats"
NAMES = sorted(path.name.removesuffix("_ct.txt") for path in KATS.glob("*_ct.txt"))
KEY = bytes(32)
AAD = b"This is AAD"

pytestmark = pytest.mark.skipif(not NAMES, reason=f"the FLOE vectors are not at {KATS}")


def load(name: str) -> tuple[bytes, bytes]:
    ciphertext = bytes.fromhex((KATS / f"{name}_ct.txt").read_text())
    return ciphertext, bytes.fromhex((KATS / f"{name}_pt.txt").read_text())


def rotation_mask(name: str) -> int:
    return 2 if name.endswith("_rotation") else 20


def split(body: bytes, segment_length: int) -> list[bytes]:
    """Split by the framing, as a reader without any knowledge of the plaintext's size must."""
    segments = []
    while body:
        field = int.from_bytes(body[:4], "big")
        length = segment_length if field == 0xFFFFFFFF else field
        segments.append(body[:length])
        body = body[length:]
    return segments


def open_all(name: str, ciphertext: bytes, *, mask: int) -> bytes:
    header, body = ciphertext[:HEADER_BYTES], ciphertext[HEADER_BYTES:]
    length = int.from_bytes(header[2:6], "big")
    opener = FloeOpener(KEY, AAD, header, segment_length=length, rotation_mask=mask)
    segments = split(body, length)
    plaintext = bytearray()
    for position, segment in enumerate(segments):
        out = bytearray(len(segment) - SEGMENT_OVERHEAD)
        opener.open_into(position, segment, out, final=position == len(segments) - 1)
        plaintext += out
    return bytes(plaintext)


def test_all_published_vectors_are_there() -> None:
    assert len(NAMES) == 17
    assert sum(name.endswith("_rotation") for name in NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_published_vector_opens(name: str) -> None:
    ciphertext, plaintext = load(name)
    assert open_all(name, ciphertext, mask=rotation_mask(name)) == plaintext


@pytest.mark.parametrize("name", NAMES)
def test_published_vector_is_what_we_seal_under_the_same_ivs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening proves the reader; equal bytes prove the writer."""
    ciphertext, plaintext = load(name)
    length = int.from_bytes(ciphertext[2:6], "big")
    segments = split(ciphertext[HEADER_BYTES:], length)
    ivs = iter([ciphertext[10:42], *(segment[4:16] for segment in segments)])
    monkeypatch.setattr("attestation.sealing.floe.urandom", lambda size: next(ivs)[:size])

    sealer = FloeSealer(KEY, AAD, segment_length=length, rotation_mask=rotation_mask(name))
    sealed = bytearray(sealer.header)
    capacity = length - SEGMENT_OVERHEAD
    for position, segment in enumerate(segments):
        piece = plaintext[position * capacity : (position + 1) * capacity]
        out = bytearray(len(segment))
        sealer.seal_into(position, piece, out, final=position == len(segments) - 1)
        sealed += out

    assert bytes(sealed) == ciphertext


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_rotation")])
def test_rotation_vector_under_an_unrotated_key_is_refused(name: str) -> None:
    """Shows that the rotation vectors do exercise the rotation."""
    ciphertext, _ = load(name)
    with pytest.raises(NotAuthenticError):
        open_all(name, ciphertext, mask=20)
