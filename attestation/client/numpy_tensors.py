"""NumPy arrays to the bytes of a tensor and back. The only module here that knows NumPy.

What the format does not carry is refused before anything is sealed; what it carries in another
layout (big-endian, strided) is copied into the format's layout once.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attestation.errors import TensorError
from attestation.sealing.tensor_spec import DTYPES, TensorSpec

Array: TypeAlias = NDArray[Any]

_LITTLE: Final = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}


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
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TensorDtypeError(f"{name} is not an array of numbers") from error
    kind = array.dtype
    # The class, not only the name: float128 or a subdtype has no entry, a masked array no mask.
    if kind.name not in _LITTLE or kind.fields is not None or np.ma.isMaskedArray(value):
        raise TensorDtypeError(f"{name} has dtype {kind.name[:40]}; allowed: {', '.join(DTYPES)}")
    spec = TensorSpec(dtype=kind.name, shape=tuple(int(size) for size in array.shape))
    return spec, np.asarray(array, dtype=_LITTLE[kind.name], order="C")


def as_bytes(array: Array) -> memoryview:
    """Return the bytes of a C-ordered array without copying it."""
    # reshape(-1).view keeps zero-dimensional and empty arrays working; memoryview.cast does not.
    return array.reshape(-1).view(np.uint8).data


def allocate(spec: TensorSpec) -> Array:
    """Return an array for `spec`, its contents undefined."""
    return np.empty(spec.shape, dtype=_LITTLE[spec.dtype])
