"""A small network that reads handwritten digits, made from real images: the example of `onnx.run`.

    python -m tests.kernels.digits FOLDER

writes `model.npy` (the ONNX file as bytes), `images.npy` and `labels.npy` there; scikit-learn ships
the images (1,797 of 8x8 pixels, from the UCI repository, CC BY 4.0). The convolution's filters are
drawn once and kept; the layer after it is fitted to the first 1,400 images by least squares.
"""

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from attrs import frozen
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

TRAINED: Final = 1400
FILTERS: Final = 24


@frozen(kw_only=True)
class Digits:
    """The network, and images it has not seen with what they show."""

    model: bytes
    images: Any
    labels: Any


def digits() -> Digits:
    """Fit the network; the same on every machine up to rounding."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    filters = np.random.default_rng(8).normal(size=(FILTERS, 1, 3, 3)).astype(np.float32)
    features = _features(images[:TRAINED], filters)
    wanted = 2.0 * np.eye(10)[data.target[:TRAINED]] - 1
    penalty = 3.0 * np.eye(features.shape[1])
    weights = np.linalg.solve(features.T @ features + penalty, features.T @ wanted)
    return Digits(
        model=_model(filters, weights.astype(np.float32)),
        images=images[TRAINED:],
        labels=data.target[TRAINED:],
    )


def scores(images: Any, model: bytes) -> Any:
    """What the network says, in plain NumPy: read from the model's weights, not by onnxruntime."""
    tensors = onnx.load_from_string(model).graph.initializer
    filters, weights = (numpy_helper.to_array(tensor) for tensor in tensors)
    return _features(images, filters) @ weights.astype(np.float64)


def _features(images: Any, filters: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(
        images[:, 0].astype(np.float64), (3, 3), (1, 2)
    )
    maps = np.maximum(np.einsum("nrcij,fij->nfrc", windows, filters[:, 0].astype(np.float64)), 0)
    pooled = maps.reshape(*maps.shape[:2], 3, 2, 3, 2).max(axis=(3, 5))
    return pooled.reshape(len(images), -1)


def _model(filters: Any, weights: Any) -> bytes:
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(filters, "filters"), numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


if __name__ == "__main__":
    made, folder = digits(), Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "model.npy", np.frombuffer(made.model, np.uint8))
    np.save(folder / "images.npy", made.images)
    np.save(folder / "labels.npy", made.labels)
    print(f"{len(made.images)} images; run with rows={len(made.images)} and columns=10")  # noqa: T201
