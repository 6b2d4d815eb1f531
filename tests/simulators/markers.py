"""Secrets that betray themselves: planted, then searched for in every form they might leak in.

A `Marker` is a family of numbers whose upper six bytes occur nowhere else. A tensor full of them is
recognised by any single element, wherever it lies and however little of the tensor is left. A
`Word` is a secret name, a `Key` the bytes of a key; half a key counts.

Every form is a plain byte string, so one search serves memory, files and captures. The test suite
checks that text and base64 made by other code (`repr`, `json`, `base64`) contain the forms.
"""

import base64
import json
import secrets
import struct
from itertools import takewhile
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from attrs import field, frozen

Forms: TypeAlias = dict[str, bytes]
"""What to search for, by the name under which a finding is reported."""

MARKER_BYTES = 4096

_SHARED = 6
"""Upper bytes that all numbers of a family have in common: 2^-48 for a match by chance."""
_DIGITS = 9
"""Decimal digits in common at least, when a number is written as text."""
_WINDOW = 16
"""This much of a key in one piece is a finding. Allocators overwrite the first bytes of a block
when it is freed, so the whole would be too much to ask for."""


class Secret(Protocol):
    """Something planted."""

    @property
    def forms(self) -> Forms:
        """Every form that it may appear in."""
        ...


@frozen(kw_only=True)
class Marker:
    """A family of float64 numbers between 1 and 10, which differ in their lowest 16 bits."""

    name: str
    shared: bytes = field(repr=False)

    @classmethod
    def draw(cls, name: str) -> Self:
        """Draw a family that no other run has used."""
        while True:
            candidate = cls(
                name=name, shared=cls._shared(1 + 9 * secrets.randbelow(1 << 52) / 2**52)
            )
            if candidate._is_clear() and candidate.times(2.0)._is_clear():
                return candidate

    @staticmethod
    def _shared(number: float) -> bytes:
        return struct.pack("<d", number)[-_SHARED:]

    def _is_clear(self) -> bool:
        # A family that straddles a round number shares too few digits, and one with a zero byte
        # is too much like anything else.
        return len(self._digits("r")) >= _DIGITS and 0 not in self.shared

    def times(self, factor: float) -> "Marker":
        """Return the family of this one's numbers times a power of two."""
        number = struct.unpack("<d", bytes(8 - _SHARED) + self.shared)[0] * factor
        return Marker(name=f"{self.name}*{factor:g}", shared=self._shared(number))

    def number(self, index: int = 0) -> float:
        """Return one number of the family."""
        low = (index & 0xFFFF).to_bytes(8 - _SHARED, "little")
        return float(struct.unpack("<d", low + self.shared)[0])

    def array(self, nbytes: int = MARKER_BYTES) -> "np.ndarray[Any, Any]":
        """Return `nbytes` of the family's numbers."""
        words = np.empty((nbytes // 8, 8), dtype=np.uint8)
        words[:, -_SHARED:] = np.frombuffer(self.shared, dtype=np.uint8)
        counter = np.arange(len(words), dtype="<u2")
        words[:, : 8 - _SHARED] = counter.view(np.uint8).reshape(-1, 2)
        return words.reshape(-1).view("<f8")

    @property
    def forms(self) -> Forms:
        """Raw in both byte orders, hex, base64 and decimal."""
        forms = {
            f"{self.name}: raw": self.shared,
            f"{self.name}: raw, big-endian": self.shared[::-1],
            f"{self.name}: decimal": self._digits("r"),
            f"{self.name}: decimal exponent": self._digits("e"),
        }
        for order, shared in (("", self.shared), (" big-endian", self.shared[::-1])):
            forms |= _texts(f"{self.name}{order}", shared)
        return forms

    def _digits(self, form: str) -> bytes:
        """Return the decimal text that every number of the family begins with."""
        ends = (self.number(0), self.number(0xFFFF))
        low, high = (repr(number) if form == "r" else f"{number:.17e}" for number in ends)
        pairs = zip(low, high, strict=False)
        return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)).encode()


@frozen(kw_only=True)
class Key:
    """The bytes of a key."""

    name: str
    data: bytes = field(repr=False)

    @property
    def forms(self) -> Forms:
        """Every 16 bytes of it, at steps of 8, and its texts."""
        starts = range(0, len(self.data) - _WINDOW + 1, 8)
        forms = {
            f"{self.name}: bytes {start} on": self.data[start : start + _WINDOW] for start in starts
        }
        return forms | _texts(self.name, self.data)


@frozen(kw_only=True)
class Word:
    """A secret name, as people give to the steps of a program."""

    name: str
    text: str = field(repr=False)

    @classmethod
    def draw(cls, name: str, *, characters: int = 24) -> Self:
        """Draw a word that is a legal name."""
        return cls(
            name=name,
            text="".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(characters)),
        )

    @property
    def forms(self) -> Forms:
        """As it is, as UTF-16, hex and base64."""
        data = self.text.encode()
        return {
            f"{self.name}: text": data,
            f"{self.name}: UTF-16": self.text.encode("utf-16-le"),
        } | _texts(self.name, data)


def all_forms(*planted: Secret) -> Forms:
    """Return the forms of several secrets together, each byte string once."""
    forms = {form: name for secret in planted for name, form in secret.forms.items()}
    return {name: form for form, name in forms.items()}


def found_in(data: bytes, forms: Forms) -> list[str]:
    """Return the names of the forms that occur in `data`."""
    return [name for name, form in forms.items() if form in data]


def _texts(name: str, data: bytes) -> Forms:
    """Return hex in both cases and base64 at every alignment."""
    forms = {f"{name}: hex": data.hex().encode(), f"{name}: HEX": data.hex().upper().encode()}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data)
        # Characters that also hold bits of a neighbour are left out: 6 bits each.
        first, last = -(-8 * offset // 6), (8 * (offset + len(data))) // 6
        whole = encoded[first:last]
        forms[f"{name}: base64 at {offset}"] = whole
        if (safe := whole.translate(bytes.maketrans(b"+/", b"-_"))) != whole:
            forms[f"{name}: base64url at {offset}"] = safe
    return forms


def every_text_of(array: "np.ndarray[Any, Any]") -> list[bytes]:
    """Return an array as careless code would write it: what the forms must be found in."""
    raw = array.tobytes()
    return [
        raw,
        b"." + raw,
        array.astype(">f8").tobytes(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        *(base64.b64encode(bytes(offset) + raw) for offset in range(3)),
        *(base64.urlsafe_b64encode(bytes(offset) + raw) for offset in range(3)),
        repr(array.tolist()).encode(),
        json.dumps(array.tolist()).encode(),
        b" ".join(b"%.18e" % number for number in array.tolist()),
    ]
