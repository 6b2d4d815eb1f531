"""How a kernel is declared, and how it is run: once, for NumPy and CuPy alike.

    @kernel(
        "acme.clip",
        summary="Limits every element to a range.",
        types={"T": ("float32", "float64")},
        inputs={"x": "T[...]"},
        outputs={"y": "T[...]"},
        parameters=(number("low"), number("high")),
    )
    def clip(xp, inputs, parameters, out):
        return {"y": xp.clip(inputs["x"], parameters["low"], parameters["high"])}

The function gets `xp`, which is the module `numpy` or `cupy`; arrays that fit the declared
patterns, those of patterns with `?` only if they were given; every parameter, defaults filled in;
and `out`, the output buffers of the caller, empty
when it has none. Writing into them saves a pass over fresh memory, which costs more than most
elementwise arithmetic; a kernel that ignores them is correct too, `Kernel.run` then copies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from attrs import evolve, field, frozen

from attestation.programs.parameters import Parameter, ParameterKind, Scalar
from attestation.programs.signature import KernelSignature, Port
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.errors import DeviceMemoryError, EnclaveWorkerError, KernelError

Array: TypeAlias = Any
"""A NumPy or CuPy array. CuPy has no types, and a kernel is written for both."""
Namespace: TypeAlias = Any
"""The module `numpy` or `cupy`."""
Arrays: TypeAlias = Mapping[str, Array]
Values: TypeAlias = Mapping[str, Any]
"""Parameters after `KernelSignature.resolve`: complete, and of the kinds declared."""
Function: TypeAlias = Callable[[Namespace, Arrays, Values, Arrays], Arrays]


@frozen(kw_only=True)
class Kernel:
    """A signature and the function that keeps its promise."""

    signature: KernelSignature
    function: Function = field(repr=False)

    @property
    def name(self) -> str:
        """The name under which programs call it."""
        return self.signature.name

    @property
    def module(self) -> str:
        """The module that defines the function: where its source digest begins."""
        return self.function.__module__

    def run(
        self,
        xp: Namespace,
        inputs: Arrays,
        parameters: Mapping[str, Scalar],
        out: Arrays | None = None,
    ) -> dict[str, Array]:
        """Return the outputs, in the buffers of `out` where it has one.

        Raises `ProgramError` when inputs or parameters do not fit the signature, and `KernelError`
        when the function ends without a result or breaks its signature.
        """
        values = self.signature.resolve(parameters)
        expected = self.signature.infer_resolved(
            {name: spec_of(array) for name, array in inputs.items()}, values
        )
        buffers = dict(out or {})
        self._check_buffers(buffers, expected)
        return self.run_planned(xp, inputs, values, buffers, expected)

    def run_planned(
        self,
        xp: Namespace,
        inputs: Arrays,
        values: Values,
        buffers: Arrays,
        expected: Mapping[str, TensorSpec],
    ) -> dict[str, Array]:
        """Return the outputs for inputs, parameters and buffers that are known to fit.

        For a step of a plan that is run again and again. Raises `KernelError`.
        """
        return self._checked(xp, self._call(xp, inputs, values, buffers), expected, buffers)

    def _call(
        self, xp: Namespace, inputs: Arrays, values: Values, buffers: Arrays
    ) -> dict[str, Array]:
        try:
            # NaN and infinity are values here; a warning would only write to the worker's log.
            with np.errstate(all="ignore"):
                outputs = self.function(xp, inputs, values, buffers)
                # A reduction gives a scalar in NumPy and a rank 0 array in CuPy: arrays from here.
                return {name: xp.asarray(array, order="C") for name, array in outputs.items()}
        except EnclaveWorkerError:
            raise
        except MemoryError:
            failure: KernelError = DeviceMemoryError(f"{self.name} ran out of memory")
        except Exception as error:  # noqa: BLE001 - third parties' code may raise anything
            failure = KernelError(f"{self.name} raised {type(error).__name__}")
        # Raised outside the handlers: the original's message may quote a value of the input, and
        # as the context of ours it would be printed with it.
        raise failure

    def _check_buffers(self, buffers: Arrays, expected: Mapping[str, TensorSpec]) -> None:
        for name, buffer in buffers.items():
            if expected.get(name) != spec_of(buffer) or not buffer.flags.c_contiguous:
                raise KernelError(f"{self.name}: the buffer for {name!r} does not fit the output")

    def _checked(
        self, xp: Namespace, outputs: Arrays, expected: Mapping[str, TensorSpec], buffers: Arrays
    ) -> dict[str, Array]:
        if set(outputs) != set(expected):
            raise KernelError(f"{self.name} returned other outputs than it declares")
        results = {}
        for name, spec in expected.items():
            array = outputs[name]
            if (array.dtype.name, tuple(array.shape)) != (spec.dtype, spec.shape):
                raise KernelError(f"{self.name} returned {name!r} of another dtype or shape")
            if name in buffers and array is not buffers[name]:
                xp.copyto(buffers[name], array)
                array = buffers[name]
            results[name] = array
        return results


def kernel(
    name: str,
    *,
    summary: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    types: Mapping[str, tuple[str, ...]] | None = None,
    parameters: Iterable[Parameter] = (),
    rules: Iterable[str] = (),
    version: int = 1,
) -> Callable[[Function], Kernel]:
    """Declare the decorated function as a kernel; raises `DecodeError` for a bad declaration."""
    signature = KernelSignature(
        name=name,
        version=version,
        summary=summary,
        types=dict(types or {}),
        inputs=tuple(Port(name=port, pattern=pattern) for port, pattern in inputs.items()),
        outputs=tuple(Port(name=port, pattern=pattern) for port, pattern in outputs.items()),
        parameters=tuple(parameters),
        rules=tuple(rules),
    )
    return lambda function: Kernel(signature=signature, function=function)


def deterministic(promised: Kernel) -> Kernel:
    """Promise that the kernel gives the same bits again for the same input on one device class.

    Written above `@kernel`; what is not promised is refused to jobs that ask for it. The promise
    needs a fixed order of every floating-point sum: no float atomics, no choice of algorithm by
    timing, and draws from `draws.uniform` only.
    """
    return evolve(promised, signature=evolve(promised.signature, deterministic=True))


def spec_of(array: Array) -> TensorSpec:
    """Return the dtype and shape of an array; raises `TensorError` when no job could carry it."""
    return TensorSpec(dtype=array.dtype.name, shape=tuple(array.shape))


# -- parameters, one constructor per kind ---------------------------------------------------------


def integer(
    name: str,
    summary: str = "",
    *,
    default: int | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
) -> Parameter:
    """Declare a whole number; patterns and rules may mention it as a size."""
    return Parameter(
        name=name,
        kind=ParameterKind.INT,
        default=default,
        minimum=minimum,
        maximum=maximum,
        summary=summary,
    )


def number(
    name: str,
    summary: str = "",
    *,
    default: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Parameter:
    """Declare a finite float."""
    return Parameter(
        name=name,
        kind=ParameterKind.FLOAT,
        default=default,
        minimum=minimum,
        maximum=maximum,
        summary=summary,
    )


def flag(name: str, summary: str = "", *, default: bool = False) -> Parameter:
    """Declare a yes or no."""
    return Parameter(name=name, kind=ParameterKind.BOOL, default=default, summary=summary)


def expression(name: str, summary: str = "") -> Parameter:
    """Declare a text in the language of `attestation.programs.expressions`, over the inputs."""
    return Parameter(name=name, kind=ParameterKind.EXPRESSION, summary=summary)


def choice(name: str, summary: str = "", *, choices: tuple[str, ...]) -> Parameter:
    """Declare one word of several; the first is the default."""
    return Parameter(
        name=name, kind=ParameterKind.CHOICE, default=choices[0], choices=choices, summary=summary
    )
