"""A client's own network, in ONNX, as one kernel: the model is a sealed input like the data.

Here only if onnxruntime is (extra `onnx`): a worker without it has another catalogue. What
onnxruntime allocates is its own: it is given back when the session ends, at the end of the call,
and not wiped (docs/kernels.md). On a GPU the network runs on the device's memory, in and out, or
fails: plaintext is not taken back to the host for want of a provider.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
import onnxruntime

from attestation.errors import DecodeError
from enclave_worker.errors import DeviceMemoryError, DomainError, KernelError
from enclave_worker.kernels.onnx_model import MODEL_BYTES, check_model
from enclave_worker.kernels.spec import Array, Arrays, Namespace, Values, integer, kernel

_DATA: Final = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")
_PORTS: Final = "abcd"
_SILENT: Final = 4
"""onnxruntime's messages may quote a model, and would go to the worker's standard error."""
_MEMORY: Final = 4 << 30
"""Bytes of intermediate results of all networks here: a small model can ask for any size."""
_OUTPUTS: Final = ("float16", "float32")


@kernel(
    "onnx.run",
    summary="One output of an ONNX model over a to d, in the order of the model's inputs.",
    types={name.upper(): _DATA for name in _PORTS},
    inputs={
        "model": "uint8[n]",
        "a": "A[...]",
        **{name: f"{name.upper()}[...]?" for name in _PORTS[1:]},
    },
    outputs={"y": "float32[rows, columns]"},
    parameters=(
        integer("rows", "first size of the output", minimum=1),
        integer("columns", "its other sizes, multiplied", default=1, minimum=1),
        integer("output", "which of the model's outputs", default=0, minimum=0, maximum=255),
        integer("seconds", "fails after this long", default=60, minimum=1, maximum=3600),
    ),
    rules=(f"n <= {MODEL_BYTES}",),
)
def onnx_run(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Check the model, make a session, run it once and let it go."""
    model = _host_bytes(xp, inputs["model"])
    try:
        check_model(model.data)
    except DecodeError as error:
        raise DomainError(f"the model is refused: {error}") from None
    shape = (parameters["rows"], parameters["columns"])
    y = out["y"] if "y" in out else xp.empty(shape, dtype=np.float32)
    data = [inputs[name] for name in _PORTS if name in inputs]
    failure = ""
    try:
        session = _session(xp, model)
        run = _run_on_host if xp is np else _run_on_device
        run(xp, session, data, y, parameters)
    except KernelError:
        raise
    except MemoryError:
        raise DeviceMemoryError("the network ran out of memory") from None
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors quote names and values
        failure = "memory" if "bfc_arena" in str(error) else type(error).__name__
    finally:
        if xp is not np:
            model.fill(0)
    if failure == "memory":
        raise DeviceMemoryError(f"the network needs more than {_MEMORY >> 30} GiB")
    if failure:
        raise KernelError(f"onnxruntime refused the model or its inputs ({failure})")
    return {"y": y}


def _host_bytes(xp: Namespace, model: Array) -> np.ndarray[Any, Any]:
    """Return the model where onnxruntime can read it; from a GPU that is a copy, wiped after."""
    if xp is np:
        return np.ascontiguousarray(model)
    host = np.empty(model.shape, dtype=np.uint8)
    # Behind whatever step made the model: a plain copy waits for no stream of ours.
    model.data.copy_to_host_async(host.ctypes.data, host.nbytes)
    xp.cuda.get_current_stream().synchronize()
    return host


def _session(xp: Namespace, model: np.ndarray[Any, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Weights beside the arena: it gives memory back at the end of a run, and they live longer.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    _limit_memory()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    providers: list[Any] = ["CPUExecutionProvider"]
    if xp is not np:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise KernelError("this worker's onnxruntime cannot use its GPU")
        stream = xp.cuda.get_current_stream().ptr
        cuda = {
            "device_id": str(xp.cuda.Device().id),
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": str(_MEMORY),
            "user_compute_stream": str(stream),
        }
        providers = [("CUDAExecutionProvider", cuda), *providers]
    # Folding would compute while the model is loaded, where no time limit reaches.
    return onnxruntime.InferenceSession(
        model.tobytes(), options, providers=providers, disabled_optimizers=["ConstantFolding"]
    )


@cache
def _limit_memory() -> None:
    """Give all networks of this process one arena with a limit; there can be only one."""
    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    limited = onnxruntime.OrtArenaCfg({"max_mem": _MEMORY, "arena_extend_strategy": 1})
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, place)
    onnxruntime.create_and_register_allocator(memory, limited)


@contextmanager
def _limited(seconds: int) -> Iterator[Any]:
    """Give the options of a run that is told to end when its time is over."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _SILENT
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    over = threading.Timer(seconds, lambda: setattr(options, "terminate", True))
    over.daemon = True
    over.start()
    try:
        yield options
    finally:
        over.cancel()


def _names(session: Any, data: list[Array], parameters: Values) -> tuple[list[str], str]:
    names = [port.name for port in session.get_inputs()]
    outputs = [port.name for port in session.get_outputs()]
    if len(names) != len(data):
        raise DomainError(f"the model has {len(names)} inputs, and {len(data)} were given")
    if parameters["output"] >= len(outputs):
        raise DomainError(f"the model has {len(outputs)} outputs")
    return names, outputs[parameters["output"]]


def _run_on_host(
    _xp: Namespace, session: Any, data: list[Array], y: Array, parameters: Values
) -> None:
    names, wanted = _names(session, data, parameters)
    with _limited(parameters["seconds"]) as options:
        (result,) = session.run([wanted], dict(zip(names, data, strict=True)), options)
    if not isinstance(result, np.ndarray):
        raise DomainError("the output is not a tensor")
    _check_output(result.dtype.name, result.shape, y)
    y[...] = result.reshape(y.shape)
    if result.flags.writeable:
        result.fill(0)


def _run_on_device(
    xp: Namespace, session: Any, data: list[Array], y: Array, parameters: Values
) -> None:
    names, wanted = _names(session, data, parameters)
    device = xp.cuda.Device().id
    binding = session.io_binding()
    for name, array in zip(names, data, strict=True):
        binding.bind_input(
            name, "cuda", device, np.dtype(array.dtype.name), array.shape, array.data.ptr
        )
    binding.bind_output(wanted, "cuda", device)
    with _limited(parameters["seconds"]) as options:
        session.run_with_iobinding(binding, options)
    (result,) = binding.get_outputs()
    kind = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(result.data_type(), "")
    shape = tuple(result.shape())
    _check_output(kind, shape, y)
    size = int(np.prod(shape, dtype=np.int64))
    memory = xp.cuda.UnownedMemory(
        result.data_ptr(), size * np.dtype(kind).itemsize, result, device
    )
    made = xp.ndarray(shape, dtype=kind, memptr=xp.cuda.MemoryPointer(memory, 0))
    y[...] = made.reshape(y.shape)
    made.fill(0)
    # The memory goes back to onnxruntime, whose next network knows nothing of our stream.
    xp.cuda.get_current_stream().synchronize()


def _check_output(dtype: str, shape: tuple[int, ...], y: Array) -> None:
    """Refuse an output that is not what the plan promised before the model was seen."""
    if dtype not in _OUTPUTS:
        raise DomainError(f"the output is not one of {', '.join(_OUTPUTS)}")
    rows = shape[0] if shape else 1
    if rows != y.shape[0] or int(np.prod(shape, dtype=np.int64)) != y.size:
        raise DomainError("the output has another shape than rows and columns say")
