"""Arrays to tensors: what is converted, what is refused, and that values survive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.client.numpy_tensors import TensorDtypeError, allocate, as_bytes, to_tensor
from attestation.errors import TensorError
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.tensor_spec import DTYPES, TensorTooLargeError


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_the_format_keeps_its_bytes(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    spec, tensor = to_tensor("x", array)
    assert (spec.dtype, spec.shape) == (dtype, (2, 3))
    assert bytes(as_bytes(tensor)) == array.tobytes()


REFUSED = {
    "object": np.array([object()]),
    "structured": np.zeros(2, dtype=[("a", "f8")]),
    "date": np.zeros(2, dtype="M8[s]"),
    "duration": np.zeros(2, dtype="m8[s]"),
    "text": np.array(["a"]),
    "bytes": np.array([b"a"]),
    "longdouble": np.zeros(2, dtype=np.longdouble),
    "masked": np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    "ragged": [[1.0], [1.0, 2.0]],
    "none": None,
    "a-word": "word",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_format_does_not_carry_is_refused(name: str) -> None:
    with pytest.raises(TensorDtypeError) as refused:
        to_tensor("x", REFUSED[name])
    assert refused.value.code == "tensor-dtype"


def test_big_endian_values_are_converted_not_reinterpreted() -> None:
    _, tensor = to_tensor("x", np.array([1.5, -2.0], dtype=">f8"))
    assert bytes(as_bytes(tensor)) == np.array([1.5, -2.0], dtype="<f8").tobytes()


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[:, ::-1], np.s_[1:, 1:]])
def test_strided_arrays_are_copied_once_into_order(view: object) -> None:
    array = np.arange(20.0).reshape(4, 5)[view]  # type: ignore[index]
    _, tensor = to_tensor("x", array)
    assert bytes(as_bytes(tensor)) == array.tobytes()


def test_a_fitting_array_is_not_copied() -> None:
    array = np.arange(20.0)
    _, tensor = to_tensor("x", array)
    assert np.shares_memory(array, tensor)


@pytest.mark.parametrize("array", [np.float32(3), np.zeros((0, 4)), np.zeros((3, 0, 2), "i2")])
def test_scalars_and_empty_arrays_are_tensors_too(array: object) -> None:
    spec, tensor = to_tensor("x", array)
    assert spec.shape == np.asarray(array).shape
    assert as_bytes(tensor).nbytes == spec.nbytes


def test_lists_of_numbers_become_arrays() -> None:
    spec, _ = to_tensor("x", [[1, 2], [3, 4]])
    assert (spec.dtype, spec.shape) == ("int64", (2, 2))


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_a_view_of_two_to_the_fortieth_elements_is_too_large(dtype: str) -> None:
    """It takes no memory; its copy in the format's layout would take all there is."""
    view = np.broadcast_to(np.zeros((), dtype), (1 << 40,))
    with pytest.raises(TensorTooLargeError) as refused:
        to_tensor("x", view)
    assert refused.value.code == "tensor-too-large"


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(TensorError):
        to_tensor("x", np.zeros((1,) * 17))


@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(["<", ">"]),
    st.booleans(),
)
def test_a_tensor_means_what_the_array_meant(
    dtype: str, shape: list[int], order: str, transposed: bool
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = array.astype(array.dtype.newbyteorder(order))
    array = array.T if transposed else array
    spec, tensor = to_tensor("x", array)
    received = allocate(spec, RecycledBuffers())
    as_bytes(received)[:] = as_bytes(tensor)
    np.testing.assert_array_equal(received, array)
