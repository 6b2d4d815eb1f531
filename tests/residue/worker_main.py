"""The worker's own process, with three things that its command line does not offer.

Key sets that live for seconds, kernels that a test holds, and a pause between the end of its work
and the end of the process. Everything else is the product's, in the product's order.
"""

import os
import signal
import sys
import time
from pathlib import Path

from attestation import logging
from enclave_worker import hardening
from enclave_worker.hardening import harden_process, start_again_with_plain_heap
from enclave_worker.settings import WorkerSettings, limit_numeric_threads

CAPACITY = 4

WITHOUT = "RESIDUE_WITHOUT"
"""Environment variable: one defence to remove, to see that a search notices."""
PLAIN_HEAP, OVERWRITING, SCRUBBING, WIPING = "plain-heap", "overwriting", "scrubbing", "wiping"


def remove(defence: str) -> None:
    from enclave_worker import buffers, runtime, scrubbing  # noqa: PLC0415 - after the heap

    if defence == SCRUBBING:
        scrubbing.overwrite_leftovers = runtime.overwrite_leftovers = lambda: None
    elif defence == WIPING:
        buffers.overwrite = lambda *_: None


def main(url: str, ready_file: str, done_file: str, keyset_seconds: str) -> None:
    without = os.environ.get(WITHOUT, "")
    if without != PLAIN_HEAP:
        start_again_with_plain_heap()
    if without == OVERWRITING:
        hardening._overwrite_freed_memory = lambda _: False
    logging.configure("json", "info")
    harden_process()
    settings = WorkerSettings(
        coordinator=url,
        attester="insecure",
        device="cpu",
        capacity=CAPACITY,
        max_job_bytes=64 << 20,
        keyset_seconds=int(keyset_seconds),
    )
    limit_numeric_threads(settings.capacity)
    # As in the product: NumPy is loaded when its number of threads is decided.
    from enclave_worker.assembly import assemble  # noqa: PLC0415
    from enclave_worker.attester.insecure import InsecureAttester  # noqa: PLC0415
    from enclave_worker.device.backend import select_device  # noqa: PLC0415
    from enclave_worker.kernels.registry import BUILT_IN, Registry  # noqa: PLC0415
    from enclave_worker.scrubbing import set_aside_what_stays  # noqa: PLC0415
    from enclave_worker.transport import Transport  # noqa: PLC0415

    remove(without)
    # By its bare name: a source digest covers parent packages, and `tests` is not one.
    sys.path.insert(0, str(Path(__file__).parent))
    runtime = assemble(
        settings,
        transport=Transport(url),
        device=select_device("cpu"),
        attester=InsecureAttester(),
        registry=Registry([*BUILT_IN, "gated_kernels"]),
        ready=lambda worker_id: (Path(ready_file).write_text(worker_id.hex()), None)[1],
    )
    signal.signal(signal.SIGTERM, lambda *_: runtime.request_stop())
    set_aside_what_stays()
    runtime.run()
    Path(done_file).touch()
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
