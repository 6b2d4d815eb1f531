"""Two implementations and one file of known answers agree, so the page says all there is to say."""

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from attestation.encoding import cbor
from attestation.errors import DecodeError, NotAuthenticError
from attestation.identifiers import Digest, JobId
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.content_key import ContentKey
from attestation.sealing.hybrid_kem import generate_key_pair, open_session
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
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.sealing.tensor_spec import DTYPES, TensorSpec
from tests.interop import sealed_tensor_reader as reader

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "vectors" / "sealed-tensor-v1.json").read_text()
)
KEY = bytes.fromhex(VECTORS["content"]["content_key"])
JOB = JobId(bytes.fromhex(VECTORS["content"]["job_id"]))
REQUEST = Digest(bytes.fromhex(VECTORS["content"]["request_digest"]))
SESSION = {name: bytes.fromhex(value) for name, value in VECTORS["session"].items()}
TRANSCRIPT = Transcript.from_bytes(SESSION["transcript"])
SEGMENT = VECTORS["segment_bytes"]
PLACE = Place(job_id=JOB, direction=Direction.OUTPUT, attempt=7, index=2)
SHAPES = [(), (0,), (3, 5), (SEGMENT,), (SEGMENT + 1,), (3, SEGMENT)]


def pattern(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


def fixed(*draws: bytes) -> Callable[[int], bytes]:
    left = iter(draws)

    def draw(size: int) -> bytes:
        value = next(left)
        assert len(value) == size
        return value

    return draw


def fields(place: Place) -> dict[str, Any]:
    return {
        "job_id": bytes(place.job_id),
        "direction": place.direction.value,
        "attempt": place.attempt,
        "index": place.index,
    }


def open_ours(sealed_header: bytes, segments: list[bytes], place: Place) -> bytes:
    sealed = SealedTensorHeader.from_bytes(sealed_header)
    opener = TensorOpener(ContentKey.from_bytes(KEY), sealed, expected=place)
    out = bytearray(opener.header.spec.nbytes)
    for index, segment in enumerate(segments):
        opener.open_into(index, segment, out)
    opener.finish()
    return bytes(out)


def test_the_second_reader_shares_no_code_with_us() -> None:
    tree = ast.parse(Path(reader.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    standard = {"collections", "hashlib", "hmac", "io", "os", "re", "struct", "typing"}
    assert imported == standard | {"cbor2", "cryptography"}


# -- known answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["tensors"], ids=lambda vector: vector["title"])
def test_second_implementation_makes_the_published_tensors(vector: dict[str, Any]) -> None:
    header = bytes.fromhex(vector["header"])
    assert reader.tensor_key(KEY, header).hex() == vector["tensor_key"]
    parsed = reader.parse_header(header)
    plaintext = pattern(vector["nbytes"])
    floe_iv = bytes.fromhex(vector["floe_header"])[10:42]
    ivs = [bytes.fromhex(segment["iv"]) for segment in vector["segments"]]

    sealed_header, segments = reader.seal_tensor(KEY, parsed, plaintext, fixed(floe_iv, *ivs))

    assert sealed_header.hex() == vector["sealed_header"]
    for segment, published in zip(segments, vector["segments"], strict=True):
        assert len(segment) == published["length"]
        assert segment[-16:].hex() == published["tag"]
        assert hashlib.sha256(segment).hexdigest() == published["sha256"]
        assert published.get("bytes", segment.hex()) == segment.hex()
    for kind in ("tags", "sha256"):
        assert reader.commitment(kind, segments).hex() == vector["commitments"][kind]
    place = TensorHeader.from_bytes(header).place
    assert open_ours(sealed_header, segments, place) == plaintext
    assert reader.open_tensor(KEY, sealed_header, segments, parsed) == (parsed, plaintext)


def test_second_implementation_derives_the_published_keys() -> None:
    content = VECTORS["content"]
    assert reader.content_commitment(KEY, JOB).hex() == content["commitment"]
    assert reader.body_key(KEY, REQUEST).hex() == content["body_key"]
    body = reader.open_body(KEY, REQUEST, bytes.fromhex(content["sealed_body"]))
    assert body.hex() == content["body"]


def test_second_implementation_opens_the_published_session() -> None:
    transcript = SESSION["transcript"]
    seed, x25519 = SESSION["mlkem768_seed"], SESSION["x25519_private_key"]
    secret = reader.open_secret(seed, x25519, SESSION["enc"], transcript)
    assert secret == SESSION["secret"]
    assert reader.transcript_digest(transcript) == SESSION["transcript_digest"]
    assert reader.session_info(transcript) == SESSION["info"]
    assert reader.wrap_key(secret, transcript) == SESSION["wrap_key"]
    assert reader.confirmation(secret, transcript) == SESSION["confirmation"]
    assert reader.unwrap(secret, transcript, SESSION["wrap"], REQUEST) == KEY


# -- each opens what the other seals --------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_we_seal_the_second_implementation_opens(shape: tuple[int, ...]) -> None:
    spec = TensorSpec(dtype="uint8", shape=shape)
    header = TensorHeader.for_tensor(spec, name="y", place=PLACE, segment_bytes=SEGMENT)
    sealer = TensorSealer(ContentKey.from_bytes(KEY), header)
    plaintext = pattern(spec.nbytes)
    segments = [bytes(sealer.segment(i, plaintext)) for i in range(sealer.segment_count)]
    sealed_header = sealer.sealed_header.to_bytes()
    parsed, opened = reader.open_tensor(KEY, sealed_header, segments, fields(PLACE))
    assert opened == plaintext
    assert parsed["shape"] == list(shape)
    for kind in ("tags", "sha256"):
        assert SegmentCommitment.over(kind, segments).root() == reader.commitment(kind, segments)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_the_second_implementation_seals_we_open(shape: tuple[int, ...]) -> None:
    described = fields(PLACE) | {
        "name": "y",
        "dtype": "uint8",
        "shape": list(shape),
        "segment_bytes": SEGMENT,
    }
    size = TensorSpec(dtype="uint8", shape=shape).nbytes
    sealed_header, segments = reader.seal_tensor(KEY, described, pattern(size))
    assert open_ours(sealed_header, segments, PLACE) == pattern(size)


def test_bodies_cross_both_ways() -> None:
    key = ContentKey.from_bytes(KEY).body_key(REQUEST)
    assert reader.open_body(KEY, REQUEST, seal_bytes(key, REQUEST, b"body")) == b"body"
    assert open_bytes(key, REQUEST, reader.seal_body(KEY, REQUEST, b"body")) == b"body"


def test_sessions_and_wraps_cross_both_ways() -> None:
    private, public = generate_key_pair()
    secret, transcript = b"s" * 32, TRANSCRIPT.to_bytes()
    ours = open_session(private, reader.seal_secret(public, secret, transcript), TRANSCRIPT)
    ours.check_confirmation(reader.confirmation(secret, transcript))
    theirs = reader.wrap(secret, transcript, KEY, REQUEST)
    assert ours.unwrap(theirs, REQUEST).commitment(JOB) == reader.content_commitment(KEY, JOB)
    wrapped = ours.wrap(ContentKey.from_bytes(KEY), REQUEST)
    assert reader.unwrap(secret, transcript, wrapped, REQUEST) == KEY


def test_both_know_the_same_element_types() -> None:
    assert dict(DTYPES) == reader.ELEMENT_BYTES


# -- and refuse the same --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("suite", 2),
        ("name", "a b"),
        ("dtype", "object"),
        ("shape", [1 << 60, 0]),
        ("shape", [1] * 17),
        ("shape", [True]),
        ("order", "F"),
        ("job_id", b"short"),
        ("direction", "sideways"),
        ("direction", "input"),
        ("index", 256),
        ("segment_bytes", 65_535),
        ("segment_bytes", 1 << 25),
        ("extra", 0),
    ],
)
def test_both_refuse_the_same_headers(name: str, value: cbor.Value) -> None:
    spec = TensorSpec(dtype="uint8", shape=(3,))
    header = TensorHeader.for_tensor(spec, name="y", place=PLACE, segment_bytes=SEGMENT)
    assert reader.parse_header(header.to_bytes())["name"] == "y"
    changed = cbor.encode(header.to_map() | {name: value})
    with pytest.raises(reader.RefusedError):
        reader.parse_header(changed)
    with pytest.raises(DecodeError):
        TensorHeader.from_bytes(changed)


def test_both_refuse_the_same_segments() -> None:
    vector = VECTORS["tensors"][0]
    sealed_header = bytes.fromhex(vector["sealed_header"])
    segment = bytes.fromhex(vector["segments"][0]["bytes"])
    place = TensorHeader.from_bytes(bytes.fromhex(vector["header"])).place
    for offset in range(len(segment)):
        changed = bytearray(segment)
        changed[offset] ^= 1
        for segments in ([bytes(changed)], [segment[:offset]], [], [segment, segment]):
            with pytest.raises(reader.RefusedError):
                reader.open_tensor(KEY, sealed_header, segments, fields(place))
            with pytest.raises(NotAuthenticError):
                open_ours(sealed_header, segments, place)
    elsewhere = evolve(place, index=1)
    with pytest.raises(reader.RefusedError):
        reader.open_tensor(KEY, sealed_header, [segment], fields(elsewhere))
    with pytest.raises(NotAuthenticError):
        open_ours(sealed_header, [segment], elsewhere)


def test_both_refuse_a_wrap_for_another_request() -> None:
    keys = SessionKeys.derive(SESSION["secret"], TRANSCRIPT)
    with pytest.raises(NotAuthenticError):
        keys.unwrap(SESSION["wrap"], Digest(bytes(32)))
    with pytest.raises(reader.RefusedError):
        reader.unwrap(SESSION["secret"], SESSION["transcript"], SESSION["wrap"], bytes(32))
