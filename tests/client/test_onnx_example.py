"""The example of docs/kernels.md: a network and real images, both sealed."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

from attestation.client.errors import JobFailedError
from tests.client.conftest import Connect
from tests.client.honest import HonestCoordinator
from tests.kernels.digits import digits, scores


def test_a_sealed_network_reads_digits_that_it_has_not_seen(connect: Connect) -> None:
    """Through a session, an executor and a receipt; judged by the same network in plain NumPy."""
    made = digits()
    client = connect(HonestCoordinator())
    inputs = {"model": np.frombuffer(made.model, np.uint8), "a": made.images}
    parameters = {"rows": len(made.images), "columns": 10}
    got = client.submit("onnx.run", inputs, parameters=parameters).result(20)["y"]
    np.testing.assert_allclose(got, scores(made.images, made.model), atol=1e-4)
    assert (got.argmax(axis=1) == made.labels).mean() > 0.93
    wrong = client.submit("onnx.run", inputs, parameters={**parameters, "columns": 11})
    with pytest.raises(JobFailedError):
        wrong.result(20)
