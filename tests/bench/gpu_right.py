"""Whether the device computes the right bytes, at every size, and what compute-sanitizer says.

    python -m tests.bench.gpu_right [--dry-run]

checks every tuning at small sizes and ends with 0 if all are right: what the sanitizer runs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.errors import EnclaveError, NotAuthenticError
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu_aead import GpuAead
from enclave_worker.device.segment_table import Span, Table, in_place
from tests.bench.gpu_rigs import Rig, span
from tests.bench.gpu_run import KEY, Run, get, put, require, sealed_bytes, table_of
from tests.gpu_aead.material import Sealed, drawing

SANITIZER: Final = "compute-sanitizer"
TOOLS: Final = ("memcheck", "racecheck", "initcheck", "synccheck")
_TOOL_SECONDS: Final = 60
_REFUSES: Final = "Device not supported"
_PIECE: Final = 64 << 20


def right(run: Run) -> dict[str, str]:
    """Hold every tuning against the processor's FLOE; a wrong one is a failure of the run."""
    found = {}
    for tuning in run.rig.tunings():
        try:
            check(run.rig, tuning, small=run.rig.dry)
            found[tuning.name] = "yes"
        except (AssertionError, EnclaveError, RuntimeError) as error:
            found[tuning.name] = f"NO: {type(error).__name__} {error}"
            run.failures[f"right {tuning.name}"] = found[tuning.name]
    return found


def check(rig: Rig, tuning: Tuning, *, small: bool) -> None:
    """Open, verify, seal and refuse at many sizes; raises `AssertionError` for a wrong byte."""
    aead = GpuAead(rig.launcher(tuning))
    cases = [(0, 64), (1, 64), (17, 64), (4096, 4096), (70_001, 16384)]
    if not small:
        cases += [(1 << 20, 1 << 20), ((5 << 20) + 13, 1 << 20), ((33 << 20) + 1, 4 << 20)]
    for size, segment in cases:
        message = Sealed(os.urandom(size), segment)
        rows, keys = message.rows(), message.keys
        wire, out = put(rig, message.wire), rig.memory(max(size, 1))
        for verify_first in (False, True):
            with aead.batch(rows, keys) as batch:
                aead.open_segments(
                    batch, sealed=span(wire), plain=span(out), verify_first=verify_first
                )
            require(get(rig, out, size) == message.data, f"opened {size}/{segment}")
        target = rig.memory(len(message.wire))
        with aead.batch(rows, keys) as batch, drawing(message.ivs):
            aead.seal_segments(batch, plain=span(out), sealed=span(target))
        require(get(rig, target, target.nbytes) == message.wire, f"sealed {size}/{segment}")
        _check_in_place(rig, aead, message, wire)
        _check_refusal(rig, aead, message, out)


def _check_in_place(rig: Rig, aead: GpuAead, message: Sealed, wire: Any) -> None:
    rows = in_place(message.rows())
    inside = Span(pointer=wire.pointer + 16, nbytes=wire.nbytes - 16)
    with aead.batch(rows, message.keys) as batch:
        aead.open_segments(batch, sealed=span(wire), plain=inside)
    with aead.batch(rows, message.keys) as batch, drawing(message.ivs):
        aead.seal_segments(batch, plain=inside, sealed=span(wire))
    require(get(rig, wire, wire.nbytes) == message.wire, "in place and back")


def _check_refusal(rig: Rig, aead: GpuAead, message: Sealed, out: Any) -> None:
    changed = bytearray(message.wire)
    changed[len(changed) // 2] ^= 4
    wire = put(rig, bytes(changed))
    with aead.batch(message.rows(), message.keys) as batch:
        try:
            aead.open_segments(batch, sealed=span(wire), plain=span(out))
        except NotAuthenticError:
            require(not any(get(rig, out, len(message.data))), "plaintext left after a refusal")
            return
    raise AssertionError("a changed byte was accepted")


# -- more than 32 bits of bytes -------------------------------------------------------------------


def large(run: Run) -> dict[str, Any]:
    """Seal and open a tensor beyond 4 GiB, and refuse it for one bit of a tag in its middle."""
    rig, size = run.rig, run.effort.large
    table, aead = table_of(size, run.effort.segment), GpuAead(rig.launcher(run.tuning))
    plain, sealed = rig.memory(size), rig.memory(sealed_bytes(table))
    pattern = os.urandom(min(_PIECE, size))
    _fill(rig, plain, pattern, size)
    with aead.batch(table, [KEY]) as batch:
        aead.seal_segments(batch, plain=span(plain), sealed=span(sealed))
    middle = table.size // 2
    for index in (0, middle, table.size - 2, table.size - 1):
        text = _opened_on_the_host(rig, sealed, table, index)
        start = index * int(table["length"][0])
        expected = bytes(pattern[(start + i) % len(pattern)] for i in (0, len(text) - 1))
        require(bytes([text[0], text[-1]]) == expected, f"segment {index}")
    _fill(rig, plain, bytes(len(pattern)), size)
    with aead.batch(table, [KEY]) as batch:
        aead.open_segments(batch, sealed=span(sealed), plain=span(plain))
    require(_all(rig, plain, size, pattern), "what was sealed is not what is opened")
    at = int(table["sealed"][middle]) + 16 + int(table["length"][middle])
    _flip(rig, sealed.pointer + at)
    with aead.batch(table, [KEY]) as batch:
        try:
            aead.open_segments(batch, sealed=span(sealed), plain=span(plain))
        except NotAuthenticError:
            require(_all(rig, plain, size, bytes(len(pattern))), "plaintext after a refusal")
            return {"bytes": size, "segments": table.size}
    raise AssertionError("a changed tag was accepted")


def _view(pointer: int, nbytes: int) -> Any:
    return type("View", (), {"pointer": pointer, "nbytes": nbytes})


def _fill(rig: Rig, memory: Any, pattern: bytes, size: int) -> None:
    host = np.frombuffer(pattern, np.uint8)
    for start in range(0, size, len(pattern)):
        part = host[: min(len(pattern), size - start)]
        rig.copy_in(_view(memory.pointer + start, part.size), part)
    rig.synchronize()


def _all(rig: Rig, memory: Any, size: int, pattern: bytes) -> bool:
    """Return whether memory holds the pattern, over and over."""
    return all(
        get(rig, _view(memory.pointer + start, 0), length) == pattern[:length]
        for start in range(0, size, len(pattern))
        if (length := min(len(pattern), size - start))
    )


def _flip(rig: Rig, pointer: int) -> None:
    byte = np.frombuffer(get(rig, _view(pointer, 1), 1), np.uint8) ^ 1
    rig.copy_in(_view(pointer, 1), byte)
    rig.synchronize()


def _opened_on_the_host(rig: Rig, sealed: Any, table: Table, index: int) -> bytes:
    row = table[index]
    length, final = int(row["length"]), int(row["final"])
    wire = get(rig, _view(sealed.pointer + int(row["sealed"]), 0), length + 32)
    aad = index.to_bytes(8, "big") + bytes([final])
    return AESGCM(KEY).decrypt(wire[4:16], wire[16:], aad)


# -- under compute-sanitizer ----------------------------------------------------------------------


def sanitizer(run: Run) -> dict[str, str]:
    """Let NVIDIA's tool watch every tuning; what it finds is a failure of the run."""
    found = {}
    command = [sys.executable, "-m", "tests.bench.gpu_right"]
    if run.rig.dry:
        subprocess.run([*command, "--dry-run"], check=True, timeout=240)
        return {"none": "a dry run: the same checks, not watched"}
    if shutil.which(SANITIZER) is None:
        return {"none": f"{SANITIZER} is not installed"}
    for tool in TOOLS:
        found[tool] = _watched([SANITIZER, "--tool", tool, "--error-exitcode", "9", *command])
        if found[tool].startswith("NO"):
            run.failures[f"sanitizer {tool}"] = found[tool]
    return found


def _watched(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done within {_TOOL_SECONDS} s"
    if not done.returncode:
        return "clean"
    words = done.stdout + done.stderr
    if _REFUSES in words:
        return "it does not run on this machine"
    sys.stderr.write(words[-4000:])
    return f"NO: exit status {done.returncode}"


def main() -> None:
    """Be what is watched."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder) if "--dry-run" in sys.argv else None)
        for tuning in rig.tunings():
            check(rig, tuning, small=True)


if __name__ == "__main__":
    main()
