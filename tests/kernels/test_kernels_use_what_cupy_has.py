"""Without a GPU: kernels stay within what NumPy and CuPy share. With one, tests/gpu is stronger."""

from typing import Any

import numpy as np
import pytest

from enclave_worker.errors import KernelError
from enclave_worker.kernels.registry import BUILT_IN, Registry
from enclave_worker.kernels.spec import kernel
from tests.kernels.cases import Case, assert_agrees, cases
from tests.kernels.host_elementwise import COMPILER
from tests.kernels.simulated_gpu import DeviceArray, SimulatedCupy

REGISTRY = Registry(BUILT_IN)
XP = SimulatedCupy()
CASES = [case for case in cases() if COMPILER or case.kernel != "expr.map"]
"""Expressions are compiled here, and there may be nothing to do it."""


def on_device(case: Case) -> dict[str, Any]:
    return {name: array.copy().view(DeviceArray) for name, array in case.inputs.items()}


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_a_kernel_runs_on_device_arrays_alone(case: Case) -> None:
    inputs = on_device(case)
    got = REGISTRY[case.kernel].run(XP, inputs, case.parameters)
    assert all(isinstance(array, DeviceArray) for array in got.values())
    want = REGISTRY[case.kernel].run(np, case.inputs, case.parameters)
    assert_agrees(case, {name: array.view(np.ndarray) for name, array in got.items()}, want)
    buffers = {name: np.full_like(array, 77).view(DeviceArray) for name, array in want.items()}
    again = REGISTRY[case.kernel].run(XP, inputs, case.parameters, buffers)
    assert all(again[name] is buffers[name] for name in buffers)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda xp, x: x + np.ones(3),
        lambda xp, x: np.where(x > 0, x, 0),
        lambda xp, x: xp.maximum(x, np.zeros(3)),
        lambda xp, x: xp.nan_to_num(x),
        lambda xp, x: xp.add(x, 1, out=np.empty(3)),
    ],
)
def test_the_simulation_refuses_what_cupy_would(wrong: Any) -> None:
    @kernel("test.wrong", summary="", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
    def function(xp: Any, inputs: Any, _parameters: Any, _out: Any) -> Any:
        return {"y": wrong(xp, inputs["x"])}

    with pytest.raises(KernelError):
        function.run(XP, {"x": np.ones(3).view(DeviceArray)}, {})
