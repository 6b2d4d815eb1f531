"""The simulated CuPy is as strict as it says, and has no name and no argument that CuPy lacks."""

import ctypes
import inspect
import re
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.device.simulated_cupy import SimulatedCupy
from tests.device.simulated_streams import PACES, CUDARuntimeError, Pace, describe

SIGNATURES = {
    "cuda.Stream": "self, null, non_blocking",
    "cuda.Stream.begin_capture": "self, mode",
    "cuda.Stream.end_capture": "self",
    "cuda.Stream.wait_event": "self, event",
    "cuda.Stream.synchronize": "self",
    "cuda.Event": "self, block, disable_timing",
    "cuda.Event.record": "self, stream",
    "cuda.Event.synchronize": "self",
    "cuda.get_elapsed_time": "start_event, end_event",
    "cuda.get_current_stream": "device_id",
    "cuda.Graph.launch": "self, stream",
    "cuda.PythonFunctionAllocator": "malloc_func, free_func",
    "cuda.PythonFunctionAllocator.malloc": "self, size",
    "cuda.MemoryPointer.copy_to_host_async": "self, mem, size, stream",
    "cuda.alloc": "size",
    "cuda.set_allocator": "allocator",
    "cuda.set_pinned_memory_allocator": "allocator",
    "cuda.alloc_pinned_memory": "size",
    "cuda.runtime.malloc": "size",
    "cuda.runtime.free": "ptr",
    "cuda.runtime.memsetAsync": "ptr, value, size, stream",
    "cuda.runtime.memcpyAsync": "dst, src, size, kind, stream",
    "cuda.runtime.memcpy": "dst, src, size, kind",
    "cuda.runtime.setDevice": "device",
    "cuda.runtime.getDeviceProperties": "device",
    "cuda.driver.funcSetAttribute": "f, attribute, value",
    "cuda.driver.funcGetAttribute": "attribute, f",
    "cuda.function.Module.load": "self, cubin",
    "cuda.function.Module.get_function": "self, name",
    "cuda.UnownedMemory": "ptr, size, owner, device_id",
    "fft.config.set_plan_cache_size": "size",
    "ndarray": "shape, dtype, memptr",
}
"""What our code calls of CuPy, and with which first arguments."""


def names(cupy: Any, path: str) -> list[str]:
    """Return the arguments of something in CuPy: its signature, or what Cython wrote of it."""
    found = cupy
    for part in path.split("."):
        found = getattr(found, part)
    name, words = path.rsplit(".", maxsplit=1)[-1], (found.__doc__ or "").split("\n\n")[0]
    said = re.search(rf"{name}\((.*?)\)", words)
    if said is None and path == "ndarray":
        said = re.search(r"__init__\((.*?)\)", found.__doc__)
    if said is not None:
        parts = [part.split("=")[0].split() for part in said[1].split(",")]
        return [part[-1] for part in parts if part]
    return list(inspect.signature(found.__init__ if inspect.isclass(found) else found).parameters)


def real_cupy() -> Any:
    cupy = pytest.importorskip("cupy")
    if isinstance(cupy, SimulatedCupy):
        pytest.skip("CuPy is simulated here")
    return cupy


@pytest.mark.parametrize("path", SIGNATURES)
def test_cupy_has_what_our_code_calls(path: str) -> None:
    """Where CuPy is installed; it needs no GPU for this."""
    cupy = real_cupy()
    wanted = SIGNATURES[path].split(", ")
    found = names(cupy, path)
    if found[:1] == ["self"] and wanted[:1] != ["self"]:
        found = found[1:]
    if wanted[:1] == ["self"] and found[:1] != ["self"]:
        wanted = wanted[1:]
    assert found[: len(wanted)] == wanted


# -- what it is strict about -----------------------------------------------------------------------


@pytest.mark.parametrize("pace", PACES, ids=describe)
def test_work_on_a_stream_is_in_order_and_behind_what_it_waits_for(pace: Pace) -> None:
    cupy, seen = SimulatedCupy(pace=pace), list[int]()
    first, second = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    event = cupy.cuda.Event()
    for number in range(3):
        cupy.streams.put(first.ptr, lambda n=number: seen.append(n))
    event.record(first)
    second.wait_event(event)
    cupy.streams.put(second.ptr, lambda: seen.append(3))
    second.synchronize()
    assert seen == [0, 1, 2, 3]


def test_what_nothing_orders_comes_both_ways() -> None:
    """A missing wait is seen at some pace, or it would not be missed."""
    orders = set()
    for pace in PACES:
        cupy, seen = SimulatedCupy(pace=pace), list[int]()
        streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(4)]
        cupy.streams.put(streams[0].ptr, partial(seen.append, 0))
        cupy.streams.put(streams[3].ptr, partial(seen.append, 3))
        streams[3].synchronize()
        streams[0].synchronize()
        orders.add(tuple(seen))
    assert orders == {(0, 3), (3, 0)}


def test_misuse_that_cuda_punishes_is_an_error() -> None:
    cupy = SimulatedCupy()
    runtime, stream = cupy.cuda.runtime, cupy.cuda.Stream(non_blocking=True)
    address = runtime.malloc(512)
    for wrong in (address + 1, address - 512, 4096):
        with pytest.raises(CUDARuntimeError):
            runtime.memsetAsync(wrong, 0, 512, stream.ptr)
    stream.begin_capture()
    with pytest.raises(CUDARuntimeError):
        stream.synchronize()
    with pytest.raises(CUDARuntimeError):
        runtime.malloc(512)
    stream.end_capture()
    gone = stream.ptr
    del stream
    with pytest.raises(CUDARuntimeError):
        runtime.memsetAsync(address, 0, 512, gone)
    runtime.free(address)
    with pytest.raises(CUDARuntimeError):
        runtime.memsetAsync(address, 0, 512, 0)
    with pytest.raises(CUDARuntimeError):
        runtime.malloc(1 << 40)


def test_a_write_behind_the_end_of_memory_is_found() -> None:
    cupy = SimulatedCupy()
    address = cupy.cuda.runtime.malloc(512)
    ctypes.memset(address + 512, 0, 1)
    with pytest.raises(AssertionError, match="behind the end"):
        cupy.cuda.runtime.free(address)


def test_an_array_of_the_host_does_not_meet_one_of_the_device() -> None:
    cupy = SimulatedCupy()
    with pytest.raises(TypeError):
        cupy.ones(3) + np.ones(3)
    with pytest.raises(TypeError):
        np.ones(3) + cupy.ones(3)


def test_it_is_not_left_behind_in_place_of_cupy() -> None:
    program = "import tests.device.simulated_cupy, sys; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
