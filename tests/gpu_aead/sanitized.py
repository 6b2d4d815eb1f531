"""Open and seal one message with the kernels under UBSan, which ends this process at a fault.

python -m tests.gpu_aead.sanitized FOLDER
"""

import os
import sys
from pathlib import Path

from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu_aead import GpuAead
from tests.gpu_aead.host_launcher import HostLauncher, build
from tests.gpu_aead.material import Sealed

FLAGS = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def main() -> None:
    tuning = Tuning(threads=64)
    launcher = HostLauncher(build(tuning, Path(sys.argv[1]), FLAGS), tuning)
    aead = GpuAead(launcher)
    for size in (0, 5, 5000):
        message = Sealed(os.urandom(size), 2048)
        source, out = launcher.put(message.wire), launcher.allocate(size)
        with aead.batch(message.rows(), message.keys) as batch:
            aead.open_segments(batch, sealed=source.span, plain=out.span, verify_first=True)
        assert out.array.tobytes() == message.data
        with aead.batch(message.rows(), message.keys) as batch:
            aead.seal_segments(batch, plain=out.span, sealed=source.span)


if __name__ == "__main__":
    main()
