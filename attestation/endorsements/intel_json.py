"""JSON of Intel's Provisioning Certification Service, read member by member with a type for each.

Members that are not asked for are passed over: Intel adds some with every version of its API, and
the signature is over the text, not over what is read from it.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Self

from attrs import frozen

from attestation import limits
from attestation.errors import DecodeError

_HEX: Final = frozenset("0123456789abcdefABCDEF")


@frozen
class Node:
    """One JSON object. Every method raises `DecodeError` unless the member is there and fits."""

    _members: dict[str, Any]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse one JSON object, or raise `DecodeError`."""
        if len(text) > limits.INTEL_COLLATERAL_BYTES:
            raise DecodeError(f"{len(text)} bytes of JSON")
        try:
            value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:  # also what is not UTF-8
            raise DecodeError(f"not JSON ({error})") from error
        return cls(_object(value))

    def has(self, name: str) -> bool:
        """Whether the member is there and is not null."""
        return self._members.get(name) is not None

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._members.get(name)
        if not isinstance(value, str):
            raise DecodeError(f"{name} is not a text")
        return value

    def octets(self, name: str, size: int) -> bytes:
        """Return bytes of a fixed size, written in hexadecimal of either case."""
        value = self.text(name)
        if len(value) != 2 * size or not _HEX.issuperset(value):
            raise DecodeError(f"{name} is not {size} bytes in hexadecimal")
        return bytes.fromhex(value)

    def uint(self, name: str, maximum: int) -> int:
        """Return an integer from 0 to `maximum`."""
        value = self._members.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise DecodeError(f"{name} is not an integer from 0 to {maximum}")
        return value

    def time(self, name: str) -> datetime:
        """Return a moment, which must name its time zone."""
        try:
            value = datetime.fromisoformat(self.text(name))
        except ValueError as error:
            raise DecodeError(f"{name} is not a time") from error
        if value.tzinfo is None:
            raise DecodeError(f"{name} is a time without time zone")
        return value

    def node(self, name: str) -> "Node":
        """Return an object."""
        return Node(_object(self._members.get(name)))

    def nodes(self, name: str) -> Iterator["Node"]:
        """Yield the objects of an array."""
        return (Node(_object(value)) for value in self._array(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of an array that may be left out."""
        values = self._array(name) if self.has(name) else []
        if not all(isinstance(value, str) and value.isprintable() for value in values):
            raise DecodeError(f"{name} is not an array of texts")
        return tuple(values)

    def _array(self, name: str) -> list[Any]:
        value = self._members.get(name)
        if not isinstance(value, list) or len(value) > limits.INTEL_TCB_LEVELS:
            raise DecodeError(f"{name} is not an array of at most {limits.INTEL_TCB_LEVELS}")
        return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Two readers of one signed text must not take different values from it.
        raise ValueError("a member that is there twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
