"""Choosing the device that kernels run on."""

import re
from typing import Final

from attestation.errors import UnavailableError
from enclave_worker.device.confidential import Mode
from enclave_worker.device.device import Device
from enclave_worker.device.gpu import open_gpu
from enclave_worker.device.processor import open_processor

_CUDA: Final = re.compile(r"cuda:(\d{1,3})", re.ASCII)


def select_device(
    choice: str = "auto", *, memory_bytes: int = 0, mode: Mode = Mode.UNKNOWN
) -> Device:
    """Return the device named `auto`, `cpu` or `cuda:N`.

    `auto` takes the first GPU if there is a usable one and says in `reason` why if not. A GPU that
    was named and cannot be used raises `UnavailableError`; it is never replaced by the processor.
    Jobs together get `memory_bytes` of it, 0 for what it has; `mode` is the GPUs' confidential one.
    """
    named = _CUDA.fullmatch(choice)
    if named is not None:
        return open_gpu(
            int(named[1]), reason="named by the operator", memory_bytes=memory_bytes, mode=mode
        )
    if choice == "cpu":
        return open_processor(reason="named by the operator", memory_bytes=memory_bytes)
    if choice != "auto":
        raise UnavailableError(
            f"there is no device {choice!r}; use auto, cpu, cuda:N or cuda:all (or cpu:N to try)"
        )
    try:
        return open_gpu(0, reason="the first GPU", memory_bytes=memory_bytes, mode=mode)
    except UnavailableError as error:
        return open_processor(reason=f"no GPU: {error}", memory_bytes=memory_bytes)
