"""bfloat16 on its way in and out: as the bits of uint16, since tensors and NumPy have no such type.

Kernels do not compute in it: half of a float32's bits is a way to store, and float32 is what its
sums would be kept in anyway. Both directions are integer operations, equal on every device.
"""

from typing import Final

import numpy as np

from enclave_worker.kernels.blocks import spans
from enclave_worker.kernels.spec import Arrays, Namespace, Values, deterministic, kernel

_INFINITY: Final = np.uint32(0x7F80_0000)
_SIZE: Final = np.uint32(0x7FFF_FFFF)
_HALF: Final = np.uint32(0x7FFF)
_QUIET: Final = np.uint32(0x40)
_ONE: Final = np.uint32(1)
_BITS: Final = np.uint32(16)


@deterministic
@kernel(
    "convert.from_bfloat16",
    summary="bfloat16, given as uint16, to float32: exact.",
    inputs={"bits": "uint16[...]"},
    outputs={"y": "float32[...]"},
)
def from_bfloat16(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Move the bits up."""
    bits = inputs["bits"]
    y = out["y"] if "y" in out else xp.empty(bits.shape, dtype=np.float32)
    source, target = bits.reshape(-1), y.reshape(-1)
    for span in spans(xp, len(source), 4):
        target[span] = (source[span].astype(np.uint32) << _BITS).view(np.float32)
    return {"y": y}


@deterministic
@kernel(
    "convert.to_bfloat16",
    summary="float32 to bfloat16, returned as uint16: to the nearest, halves to even.",
    inputs={"x": "float32[...]"},
    outputs={"bits": "uint16[...]"},
)
def to_bfloat16(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Add a little less than half, or half where the last bit kept is odd; then cut."""
    x = inputs["x"]
    bits = out["bits"] if "bits" in out else xp.empty(x.shape, dtype=np.uint16)
    source, target = x.reshape(-1), bits.reshape(-1)
    for span in spans(xp, len(source), 4):
        whole = source[span].view(np.uint32)
        cut = whole >> _BITS
        rounded = (whole + (_HALF + (cut & _ONE))) >> _BITS
        # Adding could make a NaN infinite; a NaN stays one, and quiet.
        is_nan = (whole & _SIZE) > _INFINITY
        target[span] = xp.where(is_nan, cut | _QUIET, rounded).astype(np.uint16)
    return {"bits": bits}
