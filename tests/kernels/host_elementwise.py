"""CuPy's `ElementwiseKernel` on a processor: the same code, compiled by a C++ compiler.

What runs here is what NVRTC would compile, inside a plain loop. The built-in functions below are
those of the C library, which CUDA has under the same names.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

COMPILER: Final = shutil.which("g++")

_C_TYPES: Final = {
    "float16": "_Float16",
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
}
_FUNCTIONS: Final = (
    *("fabs", "floor", "ceil", "sqrt", "exp", "expm1", "log", "log1p"),
    *("sin", "cos", "tanh", "erf"),
)
_PRELUDE: Final = "\n".join(
    f'extern "C" {kind} {name}{suffix}({kind});'
    for name in _FUNCTIONS
    for kind, suffix in (("float", "f"), ("double", ""))
)
_OPTIONS: Final = (
    *("-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off"),
    # Overflow of signed integers, which has no meaning in C, ends the tests.
    *("-fsanitize=signed-integer-overflow", "-fsanitize-undefined-trap-on-error"),
)


class HostElementwiseKernel:
    """One kernel; the arrays it is called with are flat and of the types it declares."""

    def __init__(
        self, inputs: str, output: str, code: str, name: str, *, options: tuple[str, ...] = ()
    ) -> None:
        assert options == ("--fmad=false",), "without it, products are rounded otherwise"
        self._inputs = [tuple(part.split()) for part in inputs.split(",")]
        self._dtypes = [dtype for dtype, _ in self._inputs]
        result, variable = output.split()
        self._function = getattr(
            _compiled(_program([*self._inputs, (result, variable)], code, name)), name
        )

    def __call__(self, *arguments: Any) -> None:
        *given, out = arguments
        assert len(given) == len(self._dtypes)
        flat = [np.ascontiguousarray(np.asarray(value)) for value in (*given, out.view(np.ndarray))]
        for value, dtype in zip(flat, self._dtypes, strict=False):
            assert value.dtype == dtype
        pointers = [ctypes.c_void_p(value.ctypes.data) for value in flat]
        self._function(ctypes.c_longlong(len(out)), *pointers)


def _program(variables: list[tuple[str, ...]], code: str, name: str) -> str:
    parameters = ", ".join(f"{_C_TYPES[dtype]}* _{variable}" for dtype, variable in variables)
    references = "\n".join(
        f"    {_C_TYPES[dtype]}& {variable} = _{variable}[{0 if variable[0] == 'k' else 'i'}];"
        for dtype, variable in variables
    )
    return f"""{_PRELUDE}
extern "C" void {name}(long long count, {parameters}) {{
  for (long long i = 0; i < count; ++i) {{
{references}
    {code}
  }}
}}
"""


@cache
def _compiled(program: str) -> ctypes.CDLL:
    assert COMPILER is not None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(program)
        subprocess.run(
            [COMPILER, *_OPTIONS, "-o", library, source], check=True, capture_output=True
        )
        return ctypes.CDLL(str(library))
