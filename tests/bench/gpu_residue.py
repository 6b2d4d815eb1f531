"""What opening and sealing on the device leaves behind, on the host and in the device's pool.

A process of its own gets a key and ciphertext, opens and seals them, wipes, and waits; this one,
which knows the key and the plaintext, then searches all memory that the other could write. A search
while the key is held has to find it, or finding nothing later would mean nothing. On the device no
search is needed: all that the pool keeps must be zero.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from attestation.errors import UnavailableError
from attestation.sealing.floe import wipe
from enclave_worker.device.gpu_aead import GpuAead
from enclave_worker.device.segment_table import tensor_rows
from tests.bench.gpu_rigs import Rig, span
from tests.gpu_aead.material import Sealed, layout
from tests.simulators.markers import Key
from tests.simulators.memory_scan import scan

SEGMENT: Final = 4096
BYTES: Final = 5 * SEGMENT + 100
_PATTERN_BYTES: Final = 64


def measure(*, dry: bool) -> dict[str, int]:
    """Return how many forms of the secrets, and how many bytes that are not zero, are left."""
    if os.geteuid() != 0:
        raise UnavailableError("only root may search another process's memory")
    pattern = os.urandom(_PATTERN_BYTES)
    message = Sealed((pattern * (BYTES // _PATTERN_BYTES + 1))[:BYTES], SEGMENT)
    key = Key(name="key", data=bytes(message.keys[0]))
    forms = key.forms | Key(name="plaintext", data=pattern).forms
    command = [sys.executable, "-m", "tests.bench.gpu_residue", *(["--dry-run"] if dry else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message.keys[0] + message.wire)
            process.stdin.flush()
            _expect(process.stdout.readline(), b"held")
            if not scan(process.pid, key.forms):
                raise RuntimeError("the search does not find a key that is held")
            process.stdin.write(b"\n")
            process.stdin.flush()
            word, dirty = process.stdout.readline().split()
            _expect(word, b"done")
            left = scan(process.pid, forms)
        finally:
            process.kill()
    return {"forms_in_host_memory": len(left), "bytes_in_device_pool": int(dirty)}


def _expect(line: bytes, word: bytes) -> None:
    if line.strip() != word:
        raise RuntimeError(f"the process that holds the secrets says {line!r}")


def main() -> None:
    """Be the other process."""
    key, wire = bytearray(32), bytearray(len(Sealed(bytes(BYTES), SEGMENT).wire))
    _fill(key)
    _fill(wire)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder) if "--dry-run" in sys.argv else None)
        aead = GpuAead(rig.launcher(rig.tunings()[0]))
        _say("held")
        _fill(bytearray(1))
        _work(rig, aead, key, wire)
        rig.forget()
        _say(f"done {rig.dirty_bytes()}")
        _fill(bytearray(1))


def _work(rig: Rig, aead: GpuAead, key: bytearray, wire: bytearray) -> None:
    rows = tensor_rows(layout(BYTES, SEGMENT))
    sealed, plain = rig.memory(len(wire)), rig.memory(BYTES)
    rig.copy_in(sealed, np.frombuffer(wire, np.uint8))
    with aead.batch(rows, [key]) as opening, aead.batch(rows, [key]) as sealing:
        wipe(key)
        aead.open_segments(opening, sealed=span(sealed), plain=span(plain))
        aead.seal_segments(sealing, plain=span(plain), sealed=span(sealed))
    rig.synchronize()


def _fill(buffer: bytearray) -> None:
    # Straight into the caller's buffer: Python's own readers keep what they have read.
    view = memoryview(buffer)
    while view.nbytes:
        count = os.readv(0, [view])
        if not count:
            sys.exit(1)
        view = view[count:]


def _say(words: str) -> None:
    os.write(1, words.encode() + b"\n")


if __name__ == "__main__":
    main()
