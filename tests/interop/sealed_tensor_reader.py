"""A second implementation of docs/sealed-tensor.md, written from that page alone.

It imports nothing of this project and shares no code with it: `cbor2` for CBOR, `hmac` for every
KDF, HPKE written out from RFC 9180. Slow, whole tensors in memory, and meant to be read beside the
page; its section numbers are the page's.
"""

import hashlib
import hmac
import io
import os
import re
import struct
from collections.abc import Callable
from typing import Any

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Draw = Callable[[int], bytes]
Fields = dict[str, Any]

ELEMENT_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
PLACE_KEYS = ("job_id", "direction", "attempt", "index")
HEADER_KEYS = {"v", "suite", "name", "dtype", "shape", "order", "segment_bytes", *PLACE_KEYS}


class RefusedError(Exception):
    """The bytes are not a sealed tensor, or not the expected one."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise RefusedError(what)


# -- 1. notation ----------------------------------------------------------------------------------


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def prefix(name: str) -> bytes:
    label = b"enclave-worker/v1/" + name.encode()
    return bytes([len(label)]) + label


def digest(name: str, data: bytes) -> bytes:
    return hashlib.sha256(prefix(name) + data).digest()


def expand(key: bytes, info: bytes, length: int, hash_name: str = "sha384") -> bytes:
    output, block, counter = b"", b"", 0
    while len(output) < length:
        counter += 1
        block = hmac.digest(key, block + info + bytes([counter]), hash_name)
        output += block
    return output[:length]


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return expand(hmac.digest(salt or bytes(48), key, "sha384"), info, 32)


def cbor_encode(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def cbor_decode(data: bytes) -> Any:
    stream = io.BytesIO(data)
    try:
        value = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise RefusedError("not CBOR") from error
    require(not stream.read(), "bytes after the end")
    require(cbor_encode(value) == data, "not the deterministic encoding")
    return value


def gcm_open(key: bytes, iv: bytes, aad: bytes, sealed: bytes) -> bytes:
    require(len(sealed) >= 16, "cut")
    try:
        return AESGCM(key).decrypt(iv, sealed, aad)
    except InvalidTag:
        raise RefusedError("a wrong tag") from None


# -- 2. the content key ---------------------------------------------------------------------------


def content_commitment(content_key: bytes, job_id: bytes) -> bytes:
    return hkdf(content_key, b"", prefix("content-key-commitment") + job_id)


def tensor_key(content_key: bytes, header: bytes) -> bytes:
    return hkdf(content_key, b"", prefix("tensor-key") + digest("tensor-key", header))


def body_key(content_key: bytes, request_digest: bytes) -> bytes:
    return hkdf(content_key, b"", prefix("job-body") + request_digest)


def open_body(content_key: bytes, request_digest: bytes, sealed: bytes) -> bytes:
    key = body_key(content_key, request_digest)
    return gcm_open(key, sealed[:12], request_digest, sealed[12:])


def seal_body(
    content_key: bytes, request_digest: bytes, body: bytes, draw: Draw = os.urandom
) -> bytes:
    iv = draw(12)
    key = body_key(content_key, request_digest)
    return iv + AESGCM(key).encrypt(iv, body, request_digest)


# -- 3. a tensor ----------------------------------------------------------------------------------


def parse_header(header: bytes) -> Fields:
    require(len(header) <= 2048, "header too long")
    fields: Fields = cbor_decode(header)
    require(isinstance(fields, dict) and set(fields) == HEADER_KEYS, "other fields")
    numbers = [fields[name] for name in ("v", "suite", "attempt", "index", "segment_bytes")]
    require(isinstance(fields["shape"], list) and len(fields["shape"]) <= 16, "shape")
    for number in numbers + fields["shape"]:
        require(type(number) is int and number >= 0, "not an unsigned integer")
    require(fields["v"] == 1 and fields["suite"] == 1 and fields["order"] == "C", "version")
    name, job_id = fields["name"], fields["job_id"]
    require(isinstance(name, str) and re.fullmatch("[A-Za-z0-9_.-]{1,64}", name), "name")
    require(fields["dtype"] in ELEMENT_BYTES, "dtype")
    require(isinstance(job_id, bytes) and len(job_id) == 16, "job id")
    require(fields["direction"] in ("input", "output"), "direction")
    require(fields["attempt"] < 1 << 32 and fields["index"] < 256, "place")
    require(fields["direction"] == "output" or fields["attempt"] == 0, "attempt of an input")
    size = fields["segment_bytes"]
    require(65_536 <= size <= 16_777_216 and size & (size - 1) == 0, "segment size")
    extent = ELEMENT_BYTES[fields["dtype"]]
    for dimension in fields["shape"]:
        extent *= max(dimension, 1)
    require(extent <= 1 << 40, "too large")
    return fields


def tensor_bytes(fields: Fields) -> int:
    size: int = ELEMENT_BYTES[fields["dtype"]]
    for dimension in fields["shape"]:
        size *= dimension
    return size


def segment_count(fields: Fields) -> int:
    size: int = fields["segment_bytes"]
    return max(1, -(-tensor_bytes(fields) // size))


class Floe:
    """Section 3.4, both directions."""

    def __init__(self, key: bytes, iv: bytes, header: bytes, segment_bytes: int) -> None:
        self.parameters = b"\0\0" + u32(segment_bytes + 32) + u32(32)
        self.iv, self.header = iv, header
        self.floe_header = self.parameters + iv + self.derive(key, b"HEADER_TAG:", 32)
        self.message_key = self.derive(key, b"MESSAGE_KEY:", 48)

    def derive(self, key: bytes, purpose: bytes, length: int) -> bytes:
        return expand(key, self.parameters + self.iv + purpose + self.header, length)

    def segment_key(self, index: int) -> bytes:
        return self.derive(self.message_key, b"DEK:" + u64(index & ~0xFFFFF), 32)

    def seal(self, index: int, plaintext: bytes, siv: bytes, *, final: bool) -> bytes:
        framing = u32(len(plaintext) + 32) if final else b"\xff" * 4
        aad = u64(index) + bytes([final])
        return framing + siv + AESGCM(self.segment_key(index)).encrypt(siv, plaintext, aad)

    def open(self, index: int, segment: bytes, *, final: bool) -> bytes:
        framing = u32(len(segment)) if final else b"\xff" * 4
        require(segment[:4] == framing, "framing")
        aad = u64(index) + bytes([final])
        return gcm_open(self.segment_key(index), segment[4:16], aad, segment[16:])


def seal_tensor(
    content_key: bytes, fields: Fields, plaintext: bytes, draw: Draw = os.urandom
) -> tuple[bytes, list[bytes]]:
    """Return the sealed header and the segments."""
    header = cbor_encode({"v": 1, "suite": 1, "order": "C"} | fields)
    fields = parse_header(header)
    require(len(plaintext) == tensor_bytes(fields), "plaintext of another size")
    size, count = fields["segment_bytes"], segment_count(fields)
    floe = Floe(tensor_key(content_key, header), draw(32), header, size)
    segments = []
    for index in range(count):
        piece = plaintext[index * size : (index + 1) * size]
        segments.append(floe.seal(index, piece, draw(12), final=index == count - 1))
    return cbor_encode({"header": header, "floe_header": floe.floe_header}), segments


def open_tensor(
    content_key: bytes, sealed_header: bytes, segments: list[bytes], expected: Fields
) -> tuple[Fields, bytes]:
    """Return the header's fields and the plaintext, or raise `RefusedError` (section 3.5)."""
    outer = cbor_decode(sealed_header)
    require(isinstance(outer, dict) and set(outer) == {"header", "floe_header"}, "other fields")
    header, floe_header = outer["header"], outer["floe_header"]
    require(isinstance(header, bytes) and isinstance(floe_header, bytes), "not byte strings")
    require(len(floe_header) == 74, "FLOE header")
    fields = parse_header(header)
    for name in PLACE_KEYS:
        require(fields[name] == expected[name], f"another {name}")
    iv = floe_header[10:42]
    floe = Floe(tensor_key(content_key, header), iv, header, fields["segment_bytes"])
    require(hmac.compare_digest(floe.floe_header, floe_header), "header tag")
    size, count = fields["segment_bytes"], segment_count(fields)
    require(len(segments) == count, "another number of segments")
    plaintext = b""
    for index, segment in enumerate(segments):
        piece = min(size, tensor_bytes(fields) - index * size)
        require(len(segment) == piece + 32, "a segment of another length")
        plaintext += floe.open(index, segment, final=index == count - 1)
    return fields, plaintext


# -- 4. a session ---------------------------------------------------------------------------------


def transcript_digest(transcript: bytes) -> bytes:
    return digest("session", transcript)


def session_info(transcript: bytes) -> bytes:
    return prefix("session") + transcript_digest(transcript)


def kem_shared_secret(ss_m: bytes, ss_x: bytes, ct_x: bytes, pk_x: bytes) -> bytes:
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + bytes.fromhex("5c2e2f2f5e5c")).digest()


def hpke_aead(shared_secret: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    """RFC 9180 section 5.1, base mode: the AEAD and its first nonce."""
    suite = b"HPKE" + bytes.fromhex("647a00010002")

    def labeled_extract(salt: bytes, label: bytes, key: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")

    def labeled_expand(key: bytes, label: bytes, context: bytes, length: int) -> bytes:
        labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + context
        return expand(key, labeled, length, "sha256")

    hashes = labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    context = b"\0" + hashes
    secret = labeled_extract(shared_secret, b"secret", b"")
    key = labeled_expand(secret, b"key", context, 32)
    return AESGCM(key), labeled_expand(secret, b"base_nonce", context, 12)


def seal_secret(public_key: bytes, secret: bytes, transcript: bytes) -> bytes:
    ss_m, ct_m = MLKEM768PublicKey.from_public_bytes(public_key[:1184]).encapsulate()
    pk_x, ephemeral = public_key[1184:], X25519PrivateKey.generate()
    ct_x = ephemeral.public_key().public_bytes_raw()
    ss_x = ephemeral.exchange(X25519PublicKey.from_public_bytes(pk_x))
    shared = kem_shared_secret(ss_m, ss_x, ct_x, pk_x)
    aead, nonce = hpke_aead(shared, session_info(transcript))
    return ct_m + ct_x + aead.encrypt(nonce, secret, b"")


def open_secret(mlkem_seed: bytes, x25519_key: bytes, enc: bytes, transcript: bytes) -> bytes:
    require(len(enc) == 1168, "enc")
    ct_m, ct_x, sealed = enc[:1088], enc[1088:1120], enc[1120:]
    private = X25519PrivateKey.from_private_bytes(x25519_key)
    ss_m = MLKEM768PrivateKey.from_seed_bytes(mlkem_seed).decapsulate(ct_m)
    ss_x = private.exchange(X25519PublicKey.from_public_bytes(ct_x))
    shared = kem_shared_secret(ss_m, ss_x, ct_x, private.public_key().public_bytes_raw())
    aead, nonce = hpke_aead(shared, session_info(transcript))
    try:
        return aead.decrypt(nonce, sealed, b"")
    except InvalidTag:
        raise RefusedError("the session secret") from None


def wrap_key(secret: bytes, transcript: bytes) -> bytes:
    return hkdf(secret, transcript_digest(transcript), prefix("session/wrap"))


def confirmation(secret: bytes, transcript: bytes) -> bytes:
    salt, label = transcript_digest(transcript), prefix("session/confirm")
    return hmac.digest(hkdf(secret, salt, label), label + salt, "sha256")


def wrap(
    secret: bytes,
    transcript: bytes,
    content_key: bytes,
    request_digest: bytes,
    draw: Draw = os.urandom,
) -> bytes:
    session_id: bytes = cbor_decode(transcript)["session_id"]
    iv = draw(12)
    aead = AESGCM(wrap_key(secret, transcript))
    return session_id + iv + aead.encrypt(iv, content_key, request_digest + session_id)


def unwrap(secret: bytes, transcript: bytes, wrapped: bytes, request_digest: bytes) -> bytes:
    session_id = cbor_decode(transcript)["session_id"]
    require(len(wrapped) == 76 and wrapped[:16] == session_id, "another session")
    key, aad = wrap_key(secret, transcript), request_digest + session_id
    return gcm_open(key, wrapped[16:28], aad, wrapped[28:])


# -- 5. commitments -------------------------------------------------------------------------------


def commitment(kind: str, segments: list[bytes]) -> bytes:
    leaves = [
        prefix("commitment")
        + (segment[-16:] if kind == "tags" else hashlib.sha256(segment).digest())
        for segment in segments
    ]
    return merkle_root(leaves)


def merkle_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    halves = merkle_root(leaves[:left]) + merkle_root(leaves[left:])
    return hashlib.sha256(b"\1" + halves).digest()
