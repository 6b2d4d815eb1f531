"""Bodies for what kernels read: elementwise expressions, down to their CUDA C, and ONNX models."""

import numpy as np

from attestation import limits
from attestation.errors import DecodeError, ProgramError
from attestation.programs import expressions
from enclave_worker.kernels import expression_cuda, expression_numpy
from enclave_worker.kernels.onnx_model import check_model
from tests.fuzz.bodies import REACHED
from tests.kernels import cuda_words

VALUES = (-2, -1, 0, 1, 3, 100)


def body_expression(data: bytes) -> None:
    """A text is refused, or computed; for each dtype it fits, its CUDA C has known words only."""
    text = data.decode("utf-8", "replace")
    try:
        parsed = expressions.parse(text)
    except ProgramError:
        return
    REACHED["expression"] += 1
    assert len(parsed.nodes) <= limits.EXPRESSION_NODES
    assert parsed.cost <= limits.EXPRESSION_COST
    for dtype in expressions.DTYPES:
        try:
            parsed.check(dict.fromkeys(parsed.names, dtype))
        except ProgramError:
            continue
        made = expression_cuda.source(parsed, dtype)
        cuda_words.check(made.inputs, made.output, made.code)
        inputs = {name: np.array(VALUES, dtype) + index for index, name in enumerate(parsed.names)}
        with np.errstate(all="ignore"):
            expression_numpy.evaluate(np, parsed, inputs, np.empty(len(VALUES), dtype))


def body_onnx_model(data: bytes) -> None:
    """A model is plain dataflow over its own data, or is refused."""
    try:
        check_model(memoryview(data))
    except DecodeError:
        return
    REACHED["onnx_model"] += 1


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protobuf message, short enough for a length of one byte or two."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def model(*, node: bytes = b"", graph: bytes = b"", top: bytes = b"") -> bytes:
    """A model of one operator, with more in each place."""
    tensor = field(1, 2) + field(2, 1) + field(8, b"w") + field(9, bytes(8))
    operator = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Add") + node
    dataflow = field(1, operator) + field(2, b"g") + field(5, tensor) + graph
    return field(1, 10) + field(7, dataflow) + field(8, field(1, b"") + field(2, 21)) + top


def seeds_of_models() -> list[bytes]:
    """Honest ones, whose every message a search may damage."""
    attribute = field(1, b"value") + field(5, field(1, 1) + field(2, 1) + field(9, bytes(4)))
    return [model(), model(node=field(5, attribute) + field(7, b"ai.onnx.ml"))]


def seeds_of_expressions() -> list[bytes]:
    """Every operation, once at least."""
    return [
        b"where(a > 0, a, 0.01*a) + clip(b, -1, 1)",
        b"-a*(b - 2.5e-3)/max(abs(a), min(b, 1))",
        b"where(not a == b and a < 3 or b >= 2, floor(a), ceil(b)) - where(a != b, 1, 0)",
        b"exp(a) + expm1(a) + log(b) + log1p(b) + sin(a) + cos(b) + tanh(a) + erf(b) + sqrt(a)",
        b"where(a <= 7, a - 1, -b*c)",
    ]
