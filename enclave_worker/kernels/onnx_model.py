"""What an ONNX model may hold before anything runs it: read from its bytes, without a library.

A model is a client's program in a format that can name files, load code and loop for ever. The
reader below walks the protobuf (onnx.proto, ONNX IR version 10) and refuses what is not plain
dataflow over numbers that are in the model itself:

- data that lies elsewhere: a path in it would be a path on the worker;
- operators outside the standard's own domains: they are code that somebody else brings;
- graphs inside attributes, functions and training: with them a model can loop, and a loop has no
  bound that could be seen from outside.

Fields that it does not know are passed over, as protobuf has it; the bounds hold for them too.
"""

from collections.abc import Iterator
from typing import Final

from attrs import define

from attestation.errors import DecodeError

MODEL_BYTES: Final = 1 << 28
"""Bytes of a model; protobuf itself ends at 2 GiB."""

NODES: Final = 1 << 16
"""Operators of a model; those in use have a few thousand at most."""

_DOMAINS: Final = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# ModelProto
_GRAPH, _OPERATOR_SETS, _TRAINING, _FUNCTIONS = 7, 8, 20, 25
# GraphProto
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
# NodeProto
_ATTRIBUTE, _DOMAIN = 5, 7
# AttributeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE, _SPARSES = 5, 6, 10, 11, 22, 23
# TensorProto
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# OperatorSetIdProto
_SET_DOMAIN: Final = 1


def check_model(data: memoryview) -> None:
    """Refuse, with `DecodeError`, a model that is not plain dataflow over its own data."""
    if len(data) > MODEL_BYTES:
        raise DecodeError(f"a model of more than {MODEL_BYTES} bytes")
    graphs = 0
    for number, value in _fields(data):
        if number == _GRAPH:
            graphs += 1
            _check_graph(_message(value))
        elif number == _OPERATOR_SETS:
            for inner, domain in _fields(_message(value)):
                if inner == _SET_DOMAIN:
                    _check_domain(domain)
        elif number in (_TRAINING, _FUNCTIONS):
            raise DecodeError("the model has functions or training of its own")
    # Of a message given twice protobuf makes one, and we would have looked at neither.
    if graphs != 1:
        raise DecodeError("the model does not have one graph")


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for number, value in _fields(graph):
        if number == _NODE:
            nodes += 1
            if nodes > NODES:
                raise DecodeError(f"a model of more than {NODES} operators")
            _check_node(_message(value))
        elif number == _INITIALIZER:
            _check_tensor(_message(value))
        elif number == _SPARSE_INITIALIZER:
            raise DecodeError("the model has sparse data")


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node):
        if number == _DOMAIN:
            _check_domain(value)
        elif number == _ATTRIBUTE:
            for inner, content in _fields(_message(value)):
                if inner in (_SUBGRAPH, _SUBGRAPHS):
                    raise DecodeError("an operator holds a graph: loops and branches are refused")
                if inner in (_SPARSE, _SPARSES):
                    raise DecodeError("the model has sparse data")
                if inner in (_TENSOR, _TENSORS):
                    _check_tensor(_message(content))


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            raise DecodeError("data of the model lies outside it")


def _check_domain(value: "int | memoryview") -> None:
    if bytes(_message(value)) not in _DOMAINS:
        raise DecodeError("an operator is not one of the standard's")


def _message(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise DecodeError("a number where a message is needed")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """Yield number and value of each field: an integer, or the bytes of what else it is."""
    reader = _Wire(data)
    while reader.at < len(data):
        key = reader.varint()
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            yield number, reader.varint()
        elif kind == _BYTES:
            yield number, reader.take(reader.varint())
        elif kind in (_FIXED64, _FIXED32):
            yield number, reader.take(8 if kind == _FIXED64 else 4)
        else:
            raise DecodeError("not a protobuf: an unknown kind of field")


@define
class _Wire:
    """Reads the two forms that protobuf's wire format is made of."""

    _data: memoryview
    at: int = 0

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            if self.at >= len(self._data):
                raise DecodeError("not a protobuf: it ends inside a number")
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DecodeError("not a protobuf: a number of more than 64 bits")

    def take(self, count: int) -> memoryview:
        if count > len(self._data) - self.at:
            raise DecodeError("not a protobuf: it ends inside a field")
        self.at += count
        return self._data[self.at - count : self.at]
