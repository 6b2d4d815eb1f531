"""What a cubin says of itself: its architecture, its kernels, and whether they need a stack.

A cubin is an ELF file of 64 bits. `.nv.info` is a list of records format(1), attribute(1), size(2),
value; EIATTR_FRAME_SIZE (0x11) gives, per function, the bytes of its stack frame, and
EIATTR_MIN_STACK_SIZE (0x12) those of everything that it calls too.
"""

import struct
from typing import Final

from attrs import frozen

_SIZED: Final = 4
_STACK_ATTRIBUTES: Final = (0x11, 0x12)


@frozen(kw_only=True)
class Cubin:
    """The parts that the tests look at."""

    architecture: int
    sections: tuple[str, ...]
    stack_bytes: tuple[int, ...]

    @property
    def kernels(self) -> tuple[str, ...]:
        return tuple(s.removeprefix(".text.") for s in self.sections if s.startswith(".text."))


def read(image: bytes) -> Cubin:
    """Read a cubin; raises `ValueError` or `struct.error` for what is none."""
    if image[:5] != b"\x7fELF\x02":
        raise ValueError("not an ELF file of 64 bits")
    (start,) = struct.unpack_from("<Q", image, 0x28)
    (flags,) = struct.unpack_from("<I", image, 0x30)
    size, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, start + i * size) for i in range(count)]
    names = _body(image, headers[names_at])
    sections = {names[h[0] : names.index(b"\0", h[0])].decode(): _body(image, h) for h in headers}
    stack = [
        struct.unpack("<II", value)[1]
        for attribute, value in _records(sections[".nv.info"])
        if attribute in _STACK_ATTRIBUTES
    ]
    if not stack:
        raise ValueError("no function says how much stack it needs")
    return Cubin(
        # The low byte until CUDA 12.9; CUDA 13 has it one byte further up.
        architecture=flags & 0xFF if flags & 0xFF > 8 else (flags >> 8) & 0xFF,
        sections=tuple(sections),
        stack_bytes=tuple(stack),
    )


def _body(image: bytes, header: tuple[int, ...]) -> bytes:
    _, kind, _, _, offset, length = header
    nothing_in_the_file = 8
    return b"" if kind == nothing_in_the_file else image[offset : offset + length]


def _records(info: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _SIZED:
            found.append((attribute, info[at : at + size]))
            at += size
    return found
