"""A peer that speaks ZMTP 3.1 over a plain TCP socket, and may stop, lie or scream at any byte.

libzmq's own sockets are too well behaved for an attack: they announce true lengths, shake hands to
the end and answer heartbeats. Written from the specifications (ZMTP 3.1, RFC 37; CurveZMQ, RFC 26;
NaCl's `crypto_box`). CURVE is here for what only a raw client can put into its handshake; it is
slow, and secret from nobody.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.poly1305 import Poly1305

MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of a `tcp://` address."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def greeting(
    mechanism: bytes = b"NULL", *, version: bytes = b"\x03\x01", as_server: bool = False
) -> bytes:
    """The 64 bytes that open a connection."""
    signature = b"\xff" + bytes(8) + b"\x7f"
    return signature + version + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def frame(body: bytes, *, flags: int = 0, announced: int | None = None) -> bytes:
    """One frame; `announced` is the length it claims to have."""
    length = len(body) if announced is None else announced
    if length > 255 or flags & LONG:
        return struct.pack(">BQ", flags | LONG, length) + body
    return bytes([flags, length]) + body


def command(name: bytes, body: bytes) -> bytes:
    """One command frame."""
    return frame(bytes([len(name)]) + name + body, flags=COMMAND)


def metadata(properties: Mapping[bytes, bytes]) -> bytes:
    """Properties of a READY or INITIATE command."""
    return b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in properties.items()
    )


class RawConnection:
    """A TCP connection to a ZeroMQ socket."""

    def __init__(self, address: str, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            # Before connecting: it decides how much the other side may have under way.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(endpoint(address))

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # -- speaking ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """Send bytes; return whether the connection still took them."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def shake_hands(
        self, *, identity: bytes = b"", properties: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Become a DEALER under the NULL mechanism."""
        self.send(greeting())
        self._read(64)
        given = {b"Socket-Type": b"DEALER", b"Identity": identity} | dict(properties or {})
        self.send(command(b"READY", metadata(given)))
        flags, body = self.read_frame()
        assert flags & COMMAND, "no READY came"
        assert body.startswith(b"\x05READY"), body

    def send_message(self, *frames: bytes) -> bool:
        """Send a whole multipart message."""
        last = len(frames) - 1
        return self.send(
            b"".join(
                frame(each, flags=MORE if index < last else 0) for index, each in enumerate(frames)
            )
        )

    # -- listening --------------------------------------------------------------------------------

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """Return flags and body of the next frame."""
        (flags,) = self._read(1)
        length = struct.unpack(">Q", self._read(8))[0] if flags & LONG else self._read(1)[0]
        return flags, self._read(length)

    def read_message(self) -> list[bytes]:
        """Return the next message, answering heartbeats on the way."""
        frames = []
        while True:
            flags, body = self.read_frame()
            if flags & COMMAND:
                if body.startswith(b"\x04PING"):
                    self.send(command(b"PONG", body[7:]))
                continue
            frames.append(body)
            if not flags & MORE:
                return frames

    def closed_within(self, seconds: float) -> bool:
        """Return whether the other side ends the connection in time."""
        ends = time.monotonic() + seconds
        try:
            while (left := ends - time.monotonic()) > 0:
                self.socket.settimeout(left)
                if not self.socket.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False


class CurveConnection(RawConnection):
    """A raw client of a CURVE server."""

    def __init__(self, address: str, *, server_key: bytes, secret_key: bytes) -> None:
        super().__init__(address)
        self._server_key = server_key
        self._long = X25519PrivateKey.from_private_bytes(secret_key)
        self._short = X25519PrivateKey.generate()
        self._counter = 0
        self._session = b""

    def _nonce(self, prefix: bytes) -> tuple[bytes, bytes]:
        self._counter += 1
        short = struct.pack(">Q", self._counter)
        return short, prefix + short

    def hello(self) -> bytes:
        """Greet and say HELLO; return the cookie of the WELCOME."""
        self.send(greeting(b"CURVE"))
        self._read(64)
        short, nonce = self._nonce(b"CurveZMQHELLO---")
        box = seal(bytes(64), nonce, shared(self._short, self._server_key))
        public = self._short.public_key().public_bytes_raw()
        self.send(command(b"HELLO", b"\x01\x00" + bytes(72) + public + short + box))
        _, body = self.read_frame()
        assert body.startswith(b"\x07WELCOME"), body
        opened = unseal(body[24:], b"WELCOME-" + body[8:24], shared(self._short, self._server_key))
        self._session = opened[:32]
        return opened[32:]

    def initiate(self, cookie: bytes, properties: Mapping[bytes, bytes]) -> None:
        """Prove the long-term key and say who we are."""
        long_nonce = os.urandom(16)
        vouched = self._short.public_key().public_bytes_raw() + self._server_key
        vouch = seal(vouched, b"VOUCH---" + long_nonce, shared(self._long, self._session))
        plain = self._long.public_key().public_bytes_raw() + long_nonce + vouch
        short, nonce = self._nonce(b"CurveZMQINITIATE")
        box = seal(plain + metadata(properties), nonce, shared(self._short, self._session))
        self.send(command(b"INITIATE", cookie + short + box))
        _, body = self.read_frame()
        assert body.startswith(b"\x05READY"), body

    def shake_hands(
        self, *, identity: bytes = b"", properties: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Become a DEALER under the CURVE mechanism."""
        given = {b"Socket-Type": b"DEALER", b"Identity": identity} | dict(properties or {})
        self.initiate(self.hello(), given)

    def send_message(self, *frames: bytes) -> bool:
        """Send a whole multipart message, each frame in its box."""
        data, last = b"", len(frames) - 1
        for index, each in enumerate(frames):
            short, nonce = self._nonce(b"CurveZMQMESSAGEC")
            flags = bytes([MORE if index < last else 0])
            box = seal(flags + each, nonce, shared(self._short, self._session))
            data += frame(b"\x07MESSAGE" + short + box)
        return self.send(data)


# -- NaCl's crypto_box: X25519, HSalsa20, XSalsa20, Poly1305 ---------------------------------------

_SIGMA: Final = b"expand 32-byte k"
_ROUND: Final = (
    ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),
)


def _salsa20(key: bytes, middle: bytes) -> tuple[list[int], list[int]]:
    """The state before and after twenty rounds."""
    sigma, words = struct.unpack("<4I", _SIGMA), struct.unpack("<8I", key)
    start = [sigma[0], *words[:4], sigma[1], *struct.unpack("<4I", middle), sigma[2], *words[4:]]
    start.append(sigma[3])
    x = list(start)
    for _ in range(10):
        for half in _ROUND:
            for a, b, c, d in half:
                for target, one, two, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13)):
                    total = (x[one] + x[two]) & 0xFFFFFFFF
                    x[target] ^= (total << turn | total >> (32 - turn)) & 0xFFFFFFFF
                total = (x[d] + x[c]) & 0xFFFFFFFF
                x[a] ^= (total << 18 | total >> 14) & 0xFFFFFFFF
    return start, x


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    _, x = _salsa20(key, nonce)
    return struct.pack("<8I", x[0], x[5], x[10], x[15], *x[6:10])


def _stream(key: bytes, nonce: bytes, length: int) -> bytes:
    key, out = _hsalsa20(key, nonce[:16]), b""
    for block in range((length + 63) // 64):
        start, x = _salsa20(key, nonce[16:] + struct.pack("<Q", block))
        words = ((a + b) & 0xFFFFFFFF for a, b in zip(start, x, strict=True))
        out += struct.pack("<16I", *words)
    return out[:length]


def _xor(data: bytes, stream: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def shared(own: X25519PrivateKey, other: bytes) -> bytes:
    """The key of a box between two parties."""
    return _hsalsa20(own.exchange(X25519PublicKey.from_public_bytes(other)), bytes(16))


def seal(plain: bytes, nonce: bytes, key: bytes) -> bytes:
    """Return tag and ciphertext."""
    stream = _stream(key, nonce, 32 + len(plain))
    sealed = _xor(plain, stream[32:])
    return Poly1305.generate_tag(stream[:32], sealed) + sealed


def unseal(box: bytes, nonce: bytes, key: bytes) -> bytes:
    """Return the plaintext of a box, or raise `InvalidSignature`."""
    stream = _stream(key, nonce, 32 + len(box) - 16)
    Poly1305.verify_tag(stream[:32], box[16:], box[:16])
    return _xor(box[16:], stream[32:])
