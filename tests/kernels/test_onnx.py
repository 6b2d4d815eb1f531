"""A client's own network as a sealed input: what it computes, and what is refused."""

import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from attestation.errors import DecodeError, ProgramError
from enclave_worker.errors import DeviceMemoryError, DomainError, KernelError
from enclave_worker.kernels.registry import installed_registry

ONNX = installed_registry()["onnx.run"]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def built(nodes: list[Any], inputs: dict[str, Any], output: Any = None, **weights: Any) -> Any:
    """A model as bytes in an array; `inputs` and `output` are types and shapes."""
    kind, shape = output or (TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return np.frombuffer(made.SerializeToString(), np.uint8)


def run(model: Any, *data: Any, rows: int = 2, columns: int = 3, **parameters: int) -> Any:
    inputs = {"model": model, **dict(zip("abcd", data, strict=False))}
    return ONNX.run(np, inputs, {"rows": rows, "columns": columns, **parameters})["y"]


FLOAT = (TensorProto.FLOAT, [2, 3])
DOUBLED = built([helper.make_node("Add", ["x", "x"], ["y"])], {"x": FLOAT})


def test_a_model_runs_on_its_inputs_in_their_order() -> None:
    minus = helper.make_node("Sub", ["first", "second"], ["y"])
    model = built([minus], {"first": FLOAT, "second": FLOAT})
    np.testing.assert_array_equal(run(model, X, 2 * X), -X)
    np.testing.assert_array_equal(run(DOUBLED, X), 2 * X)


def test_the_result_lands_in_the_callers_buffer() -> None:
    out = np.zeros((2, 3), np.float32)
    inputs = {"model": DOUBLED, "a": X}
    assert ONNX.run(np, inputs, {"rows": 2, "columns": 3}, {"y": out})["y"] is out
    np.testing.assert_array_equal(out, 2 * X)


@pytest.mark.parametrize(
    ("model", "data", "parameters"),
    [
        (DOUBLED, (X, X), {}),
        (DOUBLED, (X.astype(np.float64),), {}),
        (DOUBLED, (X[:1],), {"rows": 1}),
        (DOUBLED, (X,), {"rows": 3, "columns": 2}),
        (DOUBLED, (X,), {"columns": 2}),
        (DOUBLED, (X,), {"output": 1}),
        (DOUBLED[:-1], (X,), {}),
        (np.zeros(10, np.uint8), (X,), {}),
        (
            built(
                [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)],
                {"x": FLOAT},
                (TensorProto.INT64, None),
            ),
            (X,),
            {},
        ),
        (built([helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": FLOAT}), (X,), {}),
        (
            built([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], {"x": FLOAT}),
            (X,),
            {},
        ),
    ],
)
def test_what_does_not_fit_the_plan_fails_with_a_code(
    model: Any, data: tuple[Any, ...], parameters: dict[str, int]
) -> None:
    with pytest.raises(KernelError) as failed:
        run(model, *data, **parameters)
    assert failed.value.code in ("input-out-of-domain", "kernel-failed")
    said_before = failed.value.__context__
    assert said_before is None or isinstance(said_before, DecodeError), "onnxruntime's own message"


def test_a_model_with_data_elsewhere_is_refused_before_onnxruntime_sees_it() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", *FLOAT)],
        [helper.make_tensor_value_info("y", *FLOAT)],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(DomainError, match="outside"):
        run(np.frombuffer(model.SerializeToString(), np.uint8), X)


def test_a_network_that_runs_too_long_is_ended() -> None:
    side = 1500
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t0"])]
    nodes += [helper.make_node("MatMul", [f"t{i}", "w"], [f"t{i + 1}"]) for i in range(400)]
    nodes.append(helper.make_node("Relu", ["t400"], ["y"]))
    w = np.zeros((side, side), np.float32)
    model = built(nodes, {"x": (TensorProto.FLOAT, [side, side])}, w=w)
    started = time.monotonic()
    with pytest.raises(KernelError):
        run(model, w, rows=side, columns=side, seconds=1)
    assert time.monotonic() - started < 15


def test_nothing_is_computed_while_a_model_is_loaded() -> None:
    """Constants that a loader folds would be computed outside the time limit."""
    nodes = [
        helper.make_node("MatMul", ["w", "w"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    model = built(nodes, {"x": FLOAT}, w=np.eye(200, dtype=np.float32))
    np.testing.assert_array_equal(run(model, X), X + 200)


def test_equal_bits_are_not_promised() -> None:
    assert not ONNX.signature.deterministic


@pytest.mark.parametrize("parameters", [{"rows": 0}, {"seconds": 0}, {"seconds": 3601}, {}])
def test_parameters_outside_their_bounds_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ProgramError):
        ONNX.run(np, {"model": DOUBLED, "a": X}, parameters)


def test_a_network_that_asks_for_too_much_memory_fails_alone() -> None:
    """A model of a hundred bytes can name a tensor of any size."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    model = built(nodes, {"x": FLOAT}, size=np.array([1 << 40], np.int64))
    with pytest.raises(DeviceMemoryError):
        run(model, X)
    np.testing.assert_array_equal(run(DOUBLED, X), 2 * X)
