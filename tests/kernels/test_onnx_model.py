"""What a model may hold: judged from its bytes, so that nothing has to be installed."""

import pytest

from attestation.errors import DecodeError
from enclave_worker.kernels import onnx_model
from enclave_worker.kernels.onnx_model import check_model
from tests.fuzz.catalogue import field, model

TENSOR = field(1, 1) + field(2, 1)
ELSEWHERE = field(13, field(1, b"location") + field(2, b"../../etc/passwd"))


def accept(data: bytes) -> None:
    check_model(memoryview(data))


def test_a_plain_model_is_accepted() -> None:
    accept(model())
    accept(model(node=field(7, b"ai.onnx.ml"), top=field(14, field(1, b"k") + field(2, b"v"))))
    accept(model(graph=field(5, TENSOR + field(14, 0))))


@pytest.mark.parametrize(
    "data",
    [
        model(graph=field(5, TENSOR + ELSEWHERE)),
        model(graph=field(5, TENSOR + field(14, 1))),
        model(graph=field(5, TENSOR + field(14, 7))),
        model(node=field(5, field(1, b"value") + field(5, TENSOR + ELSEWHERE))),
        model(node=field(5, field(1, b"values") + field(10, TENSOR + field(14, 1)))),
    ],
)
def test_data_that_lies_elsewhere_is_refused(data: bytes) -> None:
    """A path in a model would be opened on the worker, whose files are not the client's."""
    with pytest.raises(DecodeError, match="outside"):
        accept(data)


@pytest.mark.parametrize(
    "data",
    [
        model(node=field(7, b"com.example.custom")),
        model(node=field(7, b"com.microsoft")),
        model(top=field(8, field(1, b"com.example") + field(2, 1))),
        model(node=field(7, b"") + field(7, b"com.example")),
    ],
)
def test_operators_of_others_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="standard"):
        accept(data)


@pytest.mark.parametrize(
    "data",
    [
        model(node=field(5, field(1, b"body") + field(6, field(2, b"g")))),
        model(node=field(5, field(1, b"branches") + field(11, field(2, b"g")))),
        model(top=field(25, field(1, b"f"))),
        model(top=field(20, b"")),
        model(graph=field(15, b"")),
        model(node=field(5, field(22, b""))),
        model(node=field(5, field(23, b""))),
    ],
)
def test_what_could_loop_is_refused(data: bytes) -> None:
    """A loop's length is a value: no limit could be told from the model."""
    with pytest.raises(DecodeError):
        accept(data)


def test_a_second_graph_is_refused() -> None:
    """Protobuf merges the two into one that nobody looked at."""
    with pytest.raises(DecodeError):
        accept(model() + model())
    with pytest.raises(DecodeError):
        accept(field(1, 10))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        b"\xff" * 11,
        b"\x3a\x05abc",
        b"\x3b",
        field(7, 3),
        field(7, field(1, 3)),
        b"a picture, perhaps",
    ],
)
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        accept(data)


def test_every_cut_of_a_model_is_refused_or_plain() -> None:
    whole = model(graph=field(5, TENSOR + ELSEWHERE))
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            accept(whole[:length])


def test_size_and_operators_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "MODEL_BYTES", 10)
    with pytest.raises(DecodeError, match="bytes"):
        accept(model())
    monkeypatch.undo()
    monkeypatch.setattr(onnx_model, "NODES", 3)
    many = b"".join(field(1, field(4, b"Relu")) for _ in range(3))
    with pytest.raises(DecodeError, match="operators"):
        accept(model(graph=many))
