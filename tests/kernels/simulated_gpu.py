"""A namespace that behaves as CuPy where CuPy differs from NumPy, for machines without a GPU.

It has only names that CuPy 14 has too, takes no host arrays, gives reductions as arrays of rank 0,
and returns NaN where NumPy's solvers raise. What it cannot show is CuPy's own arithmetic; tests/gpu
is for that.
"""

from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from tests.kernels.host_elementwise import HostElementwiseKernel

NAMES: Final = [
    "abs",
    "add",
    "arange",
    "argmax",
    "asarray",
    "bincount",
    "clip",
    "copyto",
    "cumsum",
    "diag",
    "diagonal",
    "divide",
    "empty",
    "exp",
    "full",
    "full_like",
    "isfinite",
    "log1p",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "searchsorted",
    "sort",
    "rint",
    "sqrt",
    "subtract",
    "take_along_axis",
    "tanh",
    "tril",
    "where",
    "zeros",
    "zeros_like",
    "ones",
]
"""Looked up in cupy 14.2, each of them."""


class DeviceArray(np.ndarray[Any, Any]):
    """An array that refuses to meet one of the host."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        out = keywords.pop("out", ())
        keywords |= {"out": tuple(_plain(array) for array in out)} if out else {}
        result = getattr(ufunc, method)(*map(_plain, inputs), **keywords)
        return out[0] if out else _device(result)

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called for an array of the device")

    def __getitem__(self, index: Any) -> Any:
        return _device(_plain(self)[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        _plain(self)[_index(index)] = _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray):
        raise TypeError("an array of the host meets one of the device")
    return value


def _index(index: Any) -> Any:
    return tuple(map(_plain, index)) if isinstance(index, tuple) else _plain(index)


def _device(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_device, value))
    return value if value is None else np.asarray(value).view(DeviceArray)


def _wrapped(function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        out = keywords.get("out")
        plain = {name: _plain(value) for name, value in keywords.items()}
        result = function(*map(_plain, arguments), **plain)
        return out if out is not None else _device(result)

    return call


def _asarray(value: Any, dtype: Any = None, order: Any = None) -> Any:
    plain = np.asarray(_plain(value), dtype=dtype, order=order)
    same = isinstance(value, DeviceArray) and plain.base is value
    return value if same and plain.dtype == value.dtype else _device(plain)


def _solve(a: Any, b: Any) -> Any:
    try:
        return np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        return np.full_like(b, np.nan)


def _cholesky(a: Any) -> Any:
    try:
        return np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        # What cuSOLVER leaves: as if it had stopped in the middle, without a word.
        return np.tril(np.abs(a))


class SimulatedCupy(SimpleNamespace):
    """Used as `xp`; asking for a name that is not in `NAMES` fails the test."""

    def __init__(self) -> None:
        super().__init__(**{name: _wrapped(getattr(np, name)) for name in NAMES})
        self.asarray = _asarray
        self.linalg = SimpleNamespace(
            svd=_wrapped(np.linalg.svd),
            eigvalsh=_wrapped(np.linalg.eigvalsh),
            solve=_wrapped(_solve),
            cholesky=_wrapped(_cholesky),
            qr=_wrapped(np.linalg.qr),
            eigh=_wrapped(np.linalg.eigh),
        )
        self.ElementwiseKernel = HostElementwiseKernel
        self.fft = SimpleNamespace(fft=_wrapped(np.fft.fft), ifft=_wrapped(np.fft.ifft))
