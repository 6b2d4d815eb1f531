"""`make cubins`: compile every tuning for every architecture, and write the manifest.

python -m tests.gpu_aead.build_cubins [--check]

The pinned NVRTC gives the same bytes for the same source on any machine. `--check` compiles and
compares with what is committed instead of writing it.
"""

import argparse
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from enclave_worker.device import cubins
from enclave_worker.device.cubins import KERNELS, SOURCES, TUNINGS, Tuning
from tests.gpu_aead.nvrtc import Compiled, CompileError, NvrtcMissingError, compile_cubin

FOLDER: Final = Path(cubins.__file__).parent / "cuda"
CUBINS: Final = FOLDER / "cubins"
WHEEL: Final = "nvidia-cuda-nvrtc-cu12 12.9.86"
LIMIT: Final = 2 << 20
"""Bytes that all cubins together may add to the repository."""


def build(architecture: int, tuning: Tuning) -> Compiled:
    """Compile one cubin; raises `CompileError` if a kernel needs local memory.

    A spilled register is a secret in device memory that nobody wipes, and slow besides.
    """
    options = (f"-arch=sm_{architecture}", *tuning.options)
    compiled = compile_cubin(cubins.source(), options)
    if set(compiled.usage) != set(KERNELS):
        raise CompileError(f"other kernels than {KERNELS}: {sorted(compiled.usage)}")
    for kernel, usage in compiled.usage.items():
        if usage.spills or usage.stack:
            raise CompileError(f"{kernel} for sm_{architecture}, {tuning.name}: {usage}")
    return compiled


def build_all() -> dict[str, Compiled]:
    """Compile everything, two at a time: NVRTC releases nothing, but ctypes the interpreter."""
    wanted = [(a, tuning) for a, tunings in TUNINGS.items() for tuning in tunings]
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda pair: build(*pair), wanted))
    named = {cubins.file_name(*pair): one for pair, one in zip(wanted, built, strict=True)}
    if sum(len(one.image) for one in built) > LIMIT:
        raise CompileError("all cubins together are too large for the repository")
    return named


def manifest(built: dict[str, Compiled]) -> str:
    """Return the manifest: hashes, which are checked, and registers, for the reader."""
    lines = ["# Written by: make cubins", f'compiler = "{WHEEL}"', ""]
    for name in SOURCES:
        lines.append(f'[files."{name}"]')
        lines.append(f'sha256 = "{hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}"')
    for name, one in built.items():
        registers = ", ".join(f"{k} = {one.usage[k].registers}" for k in KERNELS)
        lines.append(f'[files."{name}"]')
        lines.append(f'sha256 = "{hashlib.sha256(one.image).hexdigest()}"')
        lines.append(f"registers = {{ {registers} }}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Build, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    try:
        built = build_all()
    except (NvrtcMissingError, CompileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    files = {name: one.image for name, one in built.items()}
    files[cubins.MANIFEST] = manifest(built).encode()
    if check:
        differing = [n for n, data in files.items() if (CUBINS / n).read_bytes() != data]
        sys.stdout.write(f"differing: {differing or 'none'}\n")
        return bool(differing)
    CUBINS.mkdir(exist_ok=True)
    for path in CUBINS.iterdir():
        path.unlink()
    for name, data in files.items():
        (CUBINS / name).write_bytes(data)
    size = sum(map(len, files.values()))
    sys.stdout.write(f"{len(files)} files, {size} bytes, in {CUBINS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
