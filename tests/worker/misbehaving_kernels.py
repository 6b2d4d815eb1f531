"""Kernels that do what no kernel should, and one that does what it says."""

import threading

from enclave_worker.errors import DomainError
from enclave_worker.kernels.spec import Array, Arrays, Namespace, Values, kernel

WAITING = threading.Event()
"""Set while `test.wait` runs."""
GO_ON = threading.Event()
"""Lets `test.wait` end."""

SEEN: list[Array] = []
"""What `test.hoard` kept of the inputs of others."""


@kernel("test.twice", summary="2x", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
def twice(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    return {"y": 2 * inputs["x"]}


@kernel("test.reject", summary="fails", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
def reject(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    raise DomainError("no input is good enough")


@kernel("test.root", summary="√x", inputs={"x": "float64[...]"}, outputs={"y": "float64[...]"})
def root(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    if (inputs["x"] < 0).any():
        raise DomainError("a negative number")
    return {"y": xp.sqrt(inputs["x"])}


@kernel("test.crash", summary="crashes", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
def crash(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    raise RuntimeError(f"the first value is {inputs['x'][0]}")


@kernel("test.hoard", summary="keeps", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
def hoard(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    SEEN.append(inputs["x"])
    return {"y": inputs["x"]}


@kernel("test.wait", summary="waits", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
def wait(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    WAITING.set()
    GO_ON.wait(30)
    return {"y": inputs["x"]}
