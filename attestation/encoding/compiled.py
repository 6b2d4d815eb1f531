"""One function that reads a kind of record and one that writes it, made when the kind is first met.

A loop over the fields calls two functions for each of them, and one small job reads twenty records
and writes as many: a quarter of its time. Unrolled, as one would write it by hand for that kind
alone, it takes half. This is what `attrs` does for `__init__`, and done in the same way: the source
text is put together and compiled. Nothing from outside is in the text: numbers that are limits of
our own, and names of attributes, which are identifiers. All else is given to it by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field, frozen

from attestation.encoding import plain


@frozen(kw_only=True)
class Step:
    """A field, and the bytes that always stand before it: those of the key at least."""

    before: bytes
    name: str
    read: plain.Read
    write: plain.Write
    octets: int
    """Length of every value, when all are byte strings of one length; else 0."""
    maximum: int | None
    """Largest value, when it is an unsigned integer."""


@define
class _Source:
    """Lines of one function, and what the names in them stand for."""

    lines: list[str]
    scope: dict[str, Any] = field(factory=dict)

    def function(self, name: str) -> Any:
        # The whole point of the module, and harmless: see above.
        exec("\n".join(self.lines), self.scope)  # noqa: S102
        return self.scope[name]


def reader(kind: Callable[..., Any], steps: Sequence[Step], tail: bytes) -> plain.Read:
    """Return what reads a record at an offset and returns it with the offset behind it.

    It raises `NotPlainError` or `IndexError` for whatever is unusual. A byte string of a known
    length may run past the end of the data: then the offset that is returned does, too.
    """
    source = _Source(["def read(data, at):"], {"kind": kind, "tail": tail})
    source.scope |= {"not_plain": plain.not_plain, "argument": plain.argument}
    for number, step in enumerate(steps):
        _read_step(source, number, step)
    values = ", ".join(f"{step.name}=value{number}" for number, step in enumerate(steps))
    source.lines += [
        " if not data.startswith(tail, at): not_plain()",
        f" return kind({values}), at + {len(tail)}",
    ]
    read: plain.Read = source.function("read")
    return read


def _read_step(source: _Source, number: int, step: Step) -> None:
    before = step.before + (plain.octets_head(step.octets) if step.octets else b"")
    source.scope |= {f"before{number}": before, f"read{number}": step.read}
    source.lines += [
        f" if not data.startswith(before{number}, at): not_plain()",
        f" at += {len(before)}",
    ]
    if step.octets:
        source.lines += [
            f" value{number} = data[at : at + {step.octets}]",
            f" at += {step.octets}",
        ]
    elif step.maximum is not None:
        source.lines += [
            f" value{number} = data[at]",
            f" if value{number} < 24: at += 1",
            f" else: value{number}, at = argument(data, at, 0)",
            f" if value{number} > {step.maximum}: not_plain()",
        ]
    else:
        source.lines.append(f" value{number}, at = read{number}(data, at)")


def writer(steps: Sequence[Step], tail: bytes) -> plain.Write:
    """Return what writes the one encoding of a record."""
    source = _Source(["def write(record):"], {"tail": tail, "small": plain.SMALL_UINTS})
    for number, step in enumerate(steps):
        _write_step(source, number, step)
    parts = "".join(f"part{number}, " for number in range(len(steps)))
    source.lines.append(f" return b''.join(({parts}tail,))")
    write: plain.Write = source.function("write")
    return write


def _write_step(source: _Source, number: int, step: Step) -> None:
    source.scope |= {f"before{number}": step.before, f"write{number}": step.write}
    generally = f"part{number} = before{number} + write{number}(value)"
    source.lines.append(f" value = record.{step.name}")
    if step.octets:
        source.scope[f"head{number}"] = step.before + plain.octets_head(step.octets)
        source.lines += [
            f" if len(value) == {step.octets}: part{number} = head{number} + value",
            f" else: {generally}",
        ]
    elif step.maximum is not None:
        source.lines += [
            f" if type(value) is int and 0 <= value < 24: part{number} = before{number}"
            " + small[value]",
            f" else: {generally}",
        ]
    else:
        source.lines.append(f" {generally}")
