"""NVRTC, CUDA's compiler as a library, called without a GPU, a driver or CuPy.

From the wheel that `nvrtc.lock` pins: `pip install --require-hashes --no-deps -r
tests/gpu_aead/nvrtc.lock`. Version 12 and not 13, since a driver loads what its own major version
or an older one compiled: cubins of 12.9 serve those who install `cuda12` and `cuda13` alike.
"""

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import Final

from attrs import frozen

VERSION: Final = (12, 9)
_BUILTINS: Final = "libnvrtc-builtins.so.12.9"
_LIBRARY: Final = "libnvrtc.so.12"


class NvrtcMissingError(Exception):
    """The pinned wheel is not installed."""


class CompileError(Exception):
    """NVRTC refused the source, or what it made is not to be shipped; the message is its log."""


@frozen(kw_only=True)
class Usage:
    """What ptxas says a kernel takes."""

    registers: int
    stack: int
    spills: int


@frozen(kw_only=True)
class Compiled:
    """A cubin and the usage of each of its kernels."""

    image: bytes
    usage: dict[str, Usage]


def library() -> ctypes.CDLL:
    """Load the pinned NVRTC, or raise `NvrtcMissingError`."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "cuda_nvrtc" / "lib"
        if (folder / _LIBRARY).exists():
            # NVRTC opens it by name alone, so it has to be there already.
            ctypes.CDLL(str(folder / _BUILTINS), mode=ctypes.RTLD_GLOBAL)
            loaded = ctypes.CDLL(str(folder / _LIBRARY))
            major, minor = ctypes.c_int(), ctypes.c_int()
            loaded.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            if (major.value, minor.value) == VERSION:
                return loaded
    raise NvrtcMissingError("pip install --require-hashes -r tests/gpu_aead/nvrtc.lock")


def compile_cubin(source: str, options: tuple[str, ...]) -> Compiled:
    """Compile `source`, or raise `CompileError`."""
    nvrtc, program = library(), ctypes.c_void_p()
    encoded = [option.encode() for option in (*options, "--ptxas-options=-v")]
    name = b"kernels.cu"
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name, 0, None, None)
    try:
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        failed = nvrtc.nvrtcCompileProgram(program, len(encoded), array)
        log = _read(nvrtc, "ProgramLog", program)
        if failed:
            raise CompileError(log.decode(errors="replace"))
        image = _read(nvrtc, "CUBIN", program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(image=image, usage=usage(log.decode(errors="replace")))


def usage(log: str) -> dict[str, Usage]:
    """Read the log of `ptxas -v`; functions that kernels call count towards the next kernel."""
    found: dict[str, Usage] = {}
    for part in log.split("Compiling entry function ")[1:]:
        kernel, registers = re.match(r"'(\w+)'", part), re.search(r"Used (\d+) registers", part)
        if kernel is None or registers is None:
            raise CompileError(f"ptxas says something new: {part}")
        found[kernel[1]] = Usage(
            registers=int(registers[1]),
            stack=sum(map(int, re.findall(r"(\d+) bytes (?:cumulative )?stack", part))),
            spills=sum(map(int, re.findall(r"(\d+) bytes spill", part))),
        )
    return found


def _read(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, out)
    return out.raw
