"""What a tensor is on the wire: an element type and a shape, both checked before anything is sized.

Elements are little-endian and in C order; a sender converts, so that a receiver never has to.
Sizes are Python integers throughout: a product of dimensions cannot wrap around.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Self

import attrs
from attrs import evolve, frozen

from attestation import limits
from attestation.errors import TensorError

DTYPES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "bool": 1,
        "int8": 1,
        "int16": 2,
        "int32": 4,
        "int64": 8,
        "uint8": 1,
        "uint16": 2,
        "uint32": 4,
        "uint64": 8,
        "float16": 2,
        "float32": 4,
        "float64": 8,
        "complex64": 8,
        "complex128": 16,
    }
)
"""Every element type the format carries, and its bytes per element."""


class DtypeRefusedError(TensorError):
    """The element type is not one of `DTYPES`. Convert the array; objects are never sent."""

    code = "dtype-refused"


class ShapeRefusedError(TensorError):
    """The shape has too many dimensions, or one that is not a whole number. Reshape the array."""

    code = "shape-refused"


class TensorTooLargeError(TensorError):
    """The tensor is larger than the format carries. Split it."""

    code = "tensor-too-large"


def _check_dtype(_spec: "TensorSpec", _field: Any, value: Any) -> None:
    if not isinstance(value, str) or value not in DTYPES:
        raise DtypeRefusedError(f"an element type that is not one of {', '.join(DTYPES)}")


def _check_shape(_spec: "TensorSpec", _field: Any, value: Any) -> None:
    if not isinstance(value, tuple) or len(value) > limits.TENSOR_RANK:
        raise ShapeRefusedError(f"not a tuple of at most {limits.TENSOR_RANK} dimensions")
    for dimension in value:
        if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 0:
            raise ShapeRefusedError("a dimension is not a whole number")


@frozen(kw_only=True)
class TensorSpec:
    """A tensor without its values. Making one checks it: `TensorError` says what does not fit.

    Rank 0 is a scalar; a dimension of 0 is an empty tensor.
    """

    dtype: str = attrs.field(validator=_check_dtype)
    shape: tuple[int, ...] = attrs.field(validator=_check_shape)
    nbytes: int = attrs.field(init=False, eq=False, repr=False)
    """Bytes of the whole tensor, before sealing: asked for so often that it is kept."""

    def __attrs_post_init__(self) -> None:
        # Empty dimensions count as 1 here: (2^60, 0) holds no byte and still breaks array
        # libraries, which compute strides from the other dimensions.
        extent = math.prod(max(dimension, 1) for dimension in self.shape) * self.itemsize
        if extent > limits.TENSOR_BYTES:
            raise TensorTooLargeError(f"more than {limits.TENSOR_BYTES} bytes")
        # The one way to set a field of a frozen class while it is made.
        object.__setattr__(self, "nbytes", extent if 0 not in self.shape else 0)

    def stacked(self, items: int) -> Self:
        """Return the spec of `items` such tensors along a new first dimension."""
        return evolve(self, shape=(items, *self.shape))

    def each(self) -> Self:
        """Return the spec of one tensor of a stack; raises `ShapeRefusedError` if it is none."""
        if not self.shape:
            raise ShapeRefusedError("a single number is not a stack")
        return evolve(self, shape=self.shape[1:])

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
