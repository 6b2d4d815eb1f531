"""CuPy's arrays as far as jobs and our tests use them: memory of the device, work on a stream.

Every operation is queued on the thread's current stream and reads and writes when that stream runs.
Shapes and dtypes are NumPy's, found at once by computing with zeros.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class SimulatedArray:
    """A C-contiguous array, or a view of one, whose bytes lie at `data.ptr`."""

    __array_ufunc__ = None
    """NumPy must not compute with it."""

    def __init__(self, xp: Any, memory: Any, view: np.ndarray[Any, Any]) -> None:
        self._xp, self._memory, self._view = xp, memory, view
        self.pointer: Any = None
        """The pointer that it was made with, if that was somebody else's."""

    @property
    def data(self) -> Any:
        return self._memory.at(self._view.ctypes.data if self._view.nbytes else self._memory.ptr)

    @property
    def shape(self) -> Shape:
        return self._view.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._view.dtype

    @property
    def nbytes(self) -> int:
        return self._view.nbytes

    @property
    def size(self) -> int:
        return self._view.size

    @property
    def ndim(self) -> int:
        return self._view.ndim

    @property
    def flags(self) -> Any:
        return self._view.flags

    def __len__(self) -> int:
        return len(self._view)

    def _same_memory(self, view: np.ndarray[Any, Any]) -> "SimulatedArray":
        return SimulatedArray(self._xp, self._memory, view)

    def view(self, dtype: Any) -> "SimulatedArray":
        return self._same_memory(self._view.view(dtype))

    def reshape(self, *shape: Any) -> "SimulatedArray":
        return self._same_memory(self._view.reshape(*shape))

    def __getitem__(self, index: Any) -> "SimulatedArray":
        return self._same_memory(np.asarray(self._view[index]))

    def __setitem__(self, index: Any, value: Any) -> None:
        # What is queued holds no array: dropping one frees its memory at once, as CuPy does.
        view, given = self._view, plain(value)
        self._xp.queue(lambda: _assign(view, index, given))

    def fill(self, value: Any) -> None:
        view = self._view
        self._xp.queue(lambda: view.fill(value))

    def get(self) -> np.ndarray[Any, Any]:
        """Return a copy on the host, when the stream has ended."""
        self._xp.cuda.get_current_stream().synchronize()
        return self._view.copy()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __format__(self, how: str) -> str:
        return format(self.get()[()], how)

    def any(self) -> "SimulatedArray":
        return self._xp.call(np.any, self)

    def sum(self) -> "SimulatedArray":
        return self._xp.call(np.sum, self)

    def __mul__(self, other: Any) -> "SimulatedArray":
        return self._xp.call(np.multiply, self, other)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> "SimulatedArray":
        return self._xp.call(np.add, self, other)

    def __lt__(self, other: Any) -> "SimulatedArray":
        return self._xp.call(np.less, self, other)

    def __matmul__(self, other: Any) -> "SimulatedArray":
        return self._xp.call(np.matmul, self, other)


def plain(value: Any) -> Any:
    """Return what a kernel sees of an argument; an array of the host is none for a device."""
    if isinstance(value, SimulatedArray):
        return value._view
    if isinstance(value, np.ndarray):
        raise TypeError("an array of the host meets one of the device")
    return value


def _assign(target: np.ndarray[Any, Any], index: Any, value: Any) -> None:
    target[index] = value


def compute(
    xp: Any, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> SimulatedArray:
    """Queue a function of NumPy; return the array that will hold what it gives."""
    out = keywords.pop("out", None)
    if out is None:
        zeros = [
            np.zeros(a.shape, a.dtype) if isinstance(a, SimulatedArray) else a for a in arguments
        ]
        with np.errstate(all="ignore"):
            like = np.asarray(function(*zeros, **keywords))
        out = xp.empty(like.shape, dtype=like.dtype)

    target, given = out._view, [plain(argument) for argument in arguments]

    def work() -> None:
        with np.errstate(all="ignore"):
            target[...] = function(*given, **keywords)

    xp.queue(work)
    return out
