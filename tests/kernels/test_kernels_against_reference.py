"""Every kernel means what its reference says, over every dtype; a wrong one would be noticed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from attestation.programs import shapes
from enclave_worker.kernels.reference import REFERENCES
from enclave_worker.kernels.registry import BUILT_IN, Registry
from tests.kernels.cases import Case, assert_agrees, cases

REGISTRY = Registry(BUILT_IN)
CASES = list(cases())
each_case = pytest.mark.parametrize("case", CASES, ids=map(str, CASES))


def reference(case: Case) -> Mapping[str, Any]:
    values = REGISTRY[case.kernel].signature.resolve(case.parameters)
    return REFERENCES[case.kernel](**case.inputs, **values)


def run(case: Case, out: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    return REGISTRY[case.kernel].run(np, case.inputs, case.parameters, out)


@each_case
def test_a_kernel_agrees_with_its_reference(case: Case) -> None:
    assert_agrees(case, run(case), reference(case))


@each_case
def test_a_kernel_gives_the_same_bits_twice_and_leaves_its_inputs_alone(case: Case) -> None:
    """A receipt claims the result of a program, not one of its results."""
    before = {name: array.tobytes() for name, array in case.inputs.items()}
    first, second = run(case), run(case)
    assert {n: a.tobytes() for n, a in first.items()} == {n: a.tobytes() for n, a in second.items()}
    assert before == {name: array.tobytes() for name, array in case.inputs.items()}


@each_case
def test_results_land_in_the_callers_buffers(case: Case) -> None:
    """The executor seals and wipes its own buffers, and nothing beside them."""
    plain = run(case)
    buffers = {name: np.full_like(array, 77) for name, array in plain.items()}
    results = run(case, buffers)
    for name, array in plain.items():
        assert results[name] is buffers[name]
        assert buffers[name].tobytes() == array.tobytes()


def test_every_kernel_and_every_dtype_it_accepts_has_a_case() -> None:
    assert {kernel.name for kernel in REGISTRY} == set(REFERENCES)
    for kernel in REGISTRY:
        own = [case for case in CASES if case.kernel == kernel.name]
        assert own
        for port in kernel.signature.inputs:
            pattern = shapes.parse(port.pattern)
            accepted = set(kernel.signature.types.get(pattern.dtype, (pattern.dtype,)))
            tried = {c.inputs[port.name].dtype.name for c in own if port.name in c.inputs}
            if pattern.conversion is None and not pattern.optional:
                assert accepted <= tried, f"{kernel.name}: {port.name} without {accepted - tried}"
            assert tried or port.name in "defgh", f"{kernel.name} is never given {port.name}"


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_comparison_of_results_can_fail(name: str) -> None:
    """What compares must be able to fail, output by output."""
    coarse = ("float16",) if name.startswith("quant.") else ("float16", "int8")
    case = next(c for c in CASES if c.kernel == name and c.dtype not in coarse)
    want = reference(case)
    for output, array in want.items():
        wrong = array + 1 if array.dtype.kind in "iu" else array + np.asarray(0.5, array.dtype)
        with pytest.raises(AssertionError):
            assert_agrees(case, {**want, output: wrong}, want)
        with pytest.raises(AssertionError):
            assert_agrees(case, {**want, output: np.atleast_1d(array)[:0]}, want)
