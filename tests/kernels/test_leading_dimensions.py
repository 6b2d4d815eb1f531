"""`...` in a kernel's patterns promises that each slice is treated alone: stacks depend on it."""

import numpy as np
import pytest

from attestation.programs import shapes
from enclave_worker.kernels.registry import installed_registry
from tests.kernels.cases import Case, assert_agrees, cases

REGISTRY = installed_registry()


def slices_alone(name: str) -> bool:
    signature = REGISTRY[name].signature
    ports = (*signature.inputs, *signature.outputs)
    return all(shapes.parse(port.pattern).batched for port in ports)


CASES = [case for case in cases() if slices_alone(case.kernel)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stack_is_what_each_of_its_items_is_alone(case: Case) -> None:
    kernel = REGISTRY[case.kernel]
    parameters = kernel.signature.resolve(case.parameters)
    one = {name: np.asarray(array) for name, array in case.inputs.items()}
    # Neighbours of another size in every value: what leaks from one into the other shows.
    stack = {name: np.stack([array, array * array.dtype.type(3)]) for name, array in one.items()}
    alone = kernel.run(np, one, parameters)
    together = kernel.run(np, stack, parameters)
    assert_agrees(case, {name: array[0] for name, array in together.items()}, alone)


def test_there_are_such_kernels() -> None:
    assert {"nn.affine", "nn.softmax", "linalg.matmul"} <= {case.kernel for case in CASES}
