"""NumPy arrays to the bytes of a tensor and back. The only module here that knows NumPy.

What the format does not carry is refused before anything is sealed; what it carries in another
layout (big-endian, strided) is copied into the format's layout once.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attestation import limits
from attestation.errors import TensorError
from attestation.sealing.recycled import SMALLEST, RecycledBuffers
from attestation.sealing.tensor_spec import DTYPES, TensorSpec, TensorTooLargeError

Array: TypeAlias = NDArray[Any]

_LITTLE: Final = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}
_NAMES: Final = {dtype: name for name, dtype in _LITTLE.items()}
"""NumPy looks a dtype's name up anew each time, which takes longer than all the rest here."""


class TensorDtypeError(TensorError):
    """The array's dtype is not one that the format carries: convert it with `astype` first.

    Object, structured, string and date arrays are never sent.
    """

    code = "tensor-dtype"


def to_tensor(name: str, value: object) -> tuple[TensorSpec, Array]:
    """Return the spec and a C-ordered little-endian array; raises `TensorError`.

    The array is `value` itself where its layout fits already. Numbers and lists of numbers become
    arrays as NumPy makes them.
    """
    if type(value) is np.ndarray and value.flags.c_contiguous:
        known = _NAMES.get(value.dtype)
        if known is not None:
            return TensorSpec(dtype=known, shape=value.shape), value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TensorDtypeError(f"{name} is not an array of numbers") from error
    kind = array.dtype
    # The class, not only the name: float128 or a subdtype has no entry, a masked array no mask.
    if kind.name not in _LITTLE or kind.fields is not None or np.ma.isMaskedArray(value):
        raise TensorDtypeError(f"{name} has dtype {kind.name[:40]}; allowed: {', '.join(DTYPES)}")
    spec = TensorSpec(dtype=kind.name, shape=tuple(int(size) for size in array.shape))
    try:
        return spec, np.asarray(array, dtype=_LITTLE[kind.name], order="C")
    except MemoryError as error:
        # A view may have any size and take no memory: its copy does.
        raise TensorTooLargeError(f"{name} has {spec.nbytes} bytes, too many to copy") from error


class Stack:
    """Items of one shape that wait to travel together, copied: the caller's arrays stay his."""

    def __init__(self, *, limit: int, items: int) -> None:
        """Gather at most `items` items and `limit` bytes; a first item is taken of any size."""
        self._limit = limit
        self._most = items
        self._room = 0
        self._specs: dict[str, TensorSpec] = {}
        self._stacks: list[tuple[str, Array, np.dtype[Any], tuple[int, ...]]] = []
        """Each with its name, and the dtype and the shape of its items."""
        self.count = 0
        self.full = False
        """Whether no further item fits."""

    def add(self, inputs: Mapping[str, object]) -> bool:
        """Take a copy of one item; false when it does not fit those before it.

        Raises `TensorError` for what is no tensor.
        """
        if not self.count:
            self._begin({name: to_tensor(name, value) for name, value in inputs.items()})
            return True
        # What is here runs for every item: nothing is looked up or made that need not be.
        if self.full or len(inputs) != len(self._stacks):
            return False
        count = self.count
        for name, stack, dtype, shape in self._stacks:
            array = inputs.get(name)
            if type(array) is not np.ndarray:
                if name not in inputs:
                    return False
                array = to_tensor(name, array)[1]
            # The layout does not matter: it is copied. Everything else is looked at once per kind.
            if array.shape != shape or (array.dtype is not dtype and array.dtype != dtype):
                return False
            # What a later input refuses is overwritten by the next item.
            stack[count] = array
        self.count = count = count + 1
        self.full = count == self._room
        return True

    def take(self) -> tuple[dict[str, TensorSpec], dict[str, Array]]:
        """Return what was gathered and begin anew: stacks, or a single item as it is."""
        count, specs, stacks = self.count, self._specs, self._stacks
        self.count = self._room = 0
        self.full = False
        self._specs, self._stacks = {}, []
        if count == 1:
            return specs, {name: stack[0, ...] for name, stack, _, _ in stacks}
        return (
            {name: spec.stacked(count) for name, spec in specs.items()},
            {name: stack[:count] for name, stack, _, _ in stacks},
        )

    def _begin(self, tensors: Mapping[str, tuple[TensorSpec, Array]]) -> None:
        size = sum(spec.nbytes for spec, _ in tensors.values())
        ranks = [len(spec.shape) for spec, _ in tensors.values()]
        alone = not tensors or max(ranks) >= limits.TENSOR_RANK
        self._room = 1 if alone else max(1, min(self._most, self._limit // max(1, size)))
        for name, (spec, array) in tensors.items():
            self._specs[name] = spec
            stack = np.empty((self._room, *spec.shape), dtype=array.dtype)
            stack[0] = array
            self._stacks.append((name, stack, array.dtype, spec.shape))
        self.count = 1
        self.full = self._room == 1


def as_bytes(array: Array) -> memoryview:
    """Return the bytes of a C-ordered array without copying it."""
    # reshape(-1).view keeps zero-dimensional and empty arrays working; memoryview.cast does not.
    return array.reshape(-1).view(np.uint8).data


def allocate(spec: TensorSpec, buffers: RecycledBuffers) -> Array:
    """Return an array for `spec`, its contents undefined; a large one in memory of `buffers`."""
    dtype = _LITTLE[spec.dtype]
    if spec.nbytes < SMALLEST:
        return np.empty(spec.shape, dtype=dtype)
    return np.frombuffer(buffers.take(spec.nbytes), dtype=dtype).reshape(spec.shape)
