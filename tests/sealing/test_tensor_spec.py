"""No tensor is described that the format cannot carry."""

import pytest

from attestation import limits
from attestation.sealing.tensor_spec import (
    DTYPES,
    DtypeRefusedError,
    ShapeRefusedError,
    TensorSpec,
    TensorTooLargeError,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_the_size_it_says(dtype: str) -> None:
    digits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    assert TensorSpec(dtype=dtype, shape=()).nbytes == int(digits or 8) // 8


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 4), (1,) * limits.TENSOR_RANK])
def test_scalars_and_empty_tensors_are_described(shape: tuple[int, ...]) -> None:
    assert TensorSpec(dtype="uint8", shape=shape).size in (0, 1)


@pytest.mark.parametrize("dtype", ["object", "O", "float128", "Float32", ">f4", "", None, 4, b"f4"])
def test_dtype_outside_the_list_is_refused(dtype: str) -> None:
    with pytest.raises(DtypeRefusedError):
        TensorSpec(dtype=dtype, shape=(1,))


@pytest.mark.parametrize("shape", [(-1,), (1.0,), (True,), ("3",), [3], None, (1,) * 17])
def test_shape_that_is_not_whole_numbers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeRefusedError):
        TensorSpec(dtype="uint8", shape=shape)


@pytest.mark.parametrize(
    "shape",
    [
        (limits.TENSOR_BYTES + 1,),
        (1 << 32, 1 << 32),  # wraps to zero in 64 bits
        (1 << 63, 2),
        ((1 << 64) - 1,) * 16,
        (1 << 60, 0),  # no bytes, and strides that overflow
    ],
)
def test_product_that_would_overflow_a_machine_word_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorTooLargeError):
        TensorSpec(dtype="uint8", shape=shape)


def test_largest_tensor_is_counted_in_bytes_not_elements() -> None:
    largest = limits.TENSOR_BYTES // 16
    assert TensorSpec(dtype="complex128", shape=(largest,)).nbytes == limits.TENSOR_BYTES
    with pytest.raises(TensorTooLargeError):
        TensorSpec(dtype="complex128", shape=(largest + 1,))
