"""NVML, the C library below nvidia-ml-py, with confidential GPUs behind it.

The seam is the library: nvidia-ml-py itself is the real one, so structures, sizes and error classes
are NVIDIA's. Functions have the names and return codes of nvml.h and get ctypes pointers.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import define, field

SUCCESS = 0
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
IN_USE = 19
GPU_IS_LOST = 15
FUNCTION_NOT_FOUND = 13

Report = Callable[[bytes], bytes]


@define(kw_only=True)
class FakeGpu:
    """One GPU: what it signs for a nonce, and its chain in PEM."""

    report: Report = field(repr=False)
    chain: bytes = field(repr=False)


@define(kw_only=True, eq=False)
class FakeNvml:
    """The library. `failures` are the codes of the next calls of a function, 0 for success."""

    gpus: Sequence[FakeGpu] = ()
    environment: int = 2
    confidential: int = 1
    developer_tools: int = 0
    multi_gpu: int = 0
    ready: int = 0
    absent: frozenset[str] = frozenset()
    failures: dict[str, list[int]] = field(factory=dict)
    sizes: tuple[int, int] | None = None
    """Report and chain sizes that NVML claims instead of the true ones."""
    calls: "Counter[str]" = field(factory=Counter)

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = _FUNCTIONS.get(name)
        if function is None or name in self.absent:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls[name] += 1
            planned = self.failures.get(name)
            code = planned.pop(0) if planned else SUCCESS
            return code or function(self, *(_target(argument) for argument in arguments))

        return call


@contextmanager
def loaded(nvml: FakeNvml) -> Iterator[FakeNvml]:
    """Let nvidia-ml-py find `nvml` where it would load libnvidia-ml.so.1."""
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py not installed (extra [nvidia])")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pynvml, "nvmlLib", nvml)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield nvml


def _target(argument: Any) -> Any:
    # `byref` hides its object, and a handle by value is a pointer that holds our index.
    return getattr(argument, "_obj", argument)


def _number(value: Any) -> int:
    return int(getattr(value, "value", value))


def _init(_nvml: FakeNvml, _flags: Any) -> int:
    return SUCCESS


def _count(nvml: FakeNvml, out: Any) -> int:
    out.value = len(nvml.gpus)
    return SUCCESS


def _handle(nvml: FakeNvml, index: Any, out: Any) -> int:
    place = ctypes.cast(ctypes.byref(out), ctypes.POINTER(ctypes.c_void_p))
    place[0] = _number(index) + 1
    return SUCCESS


def _gpu(nvml: FakeNvml, handle: Any) -> FakeGpu:
    return nvml.gpus[int(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1]


def _settings(nvml: FakeNvml, out: Any) -> int:
    out.environment = nvml.environment
    out.ccFeature = nvml.confidential
    out.devToolsMode = nvml.developer_tools
    out.multiGpuMode = nvml.multi_gpu
    return SUCCESS


def _state(nvml: FakeNvml, out: Any) -> int:
    out.environment = nvml.environment
    out.ccFeature = nvml.confidential
    out.devToolsMode = nvml.developer_tools
    return SUCCESS


def _report(nvml: FakeNvml, handle: Any, out: Any) -> int:
    report = _gpu(nvml, handle).report(bytes(out.nonce))
    ctypes.memmove(out.attestationReport, report, len(report))
    out.attestationReportSize = len(report) if nvml.sizes is None else nvml.sizes[0]
    return SUCCESS


def _certificate(nvml: FakeNvml, handle: Any, out: Any) -> int:
    chain = _gpu(nvml, handle).chain
    ctypes.memmove(out.attestationCertChain, chain, len(chain))
    out.attestationCertChainSize = len(chain) if nvml.sizes is None else nvml.sizes[1]
    return SUCCESS


def _get_ready(nvml: FakeNvml, out: Any) -> int:
    out.value = nvml.ready
    return SUCCESS


def _set_ready(nvml: FakeNvml, state: Any) -> int:
    nvml.ready = _number(state)
    return SUCCESS


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "nvmlInitWithFlags": _init,
    "nvmlDeviceGetCount_v2": _count,
    "nvmlDeviceGetHandleByIndex_v2": _handle,
    "nvmlSystemGetConfComputeSettings": _settings,
    "nvmlSystemGetConfComputeState": _state,
    "nvmlDeviceGetConfComputeGpuAttestationReport": _report,
    "nvmlDeviceGetConfComputeGpuCertificate": _certificate,
    "nvmlSystemGetConfComputeGpusReadyState": _get_ready,
    "nvmlSystemSetConfComputeGpusReadyState": _set_ready,
}
