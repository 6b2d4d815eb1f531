"""What a device is to the worker: an array module, copies in and out, figures for the receipt."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
from attrs import define, frozen

from enclave_worker.device.budget import MemoryBudget
from enclave_worker.device.sealed_tensors import SealingDevice


@define(kw_only=True)
class Meter:
    """What `Device.meter` measured; complete when its block has ended."""

    device_ns: int = 0
    peak_bytes: int = 0
    """0 on a processor, which keeps no figure per job."""


@frozen(kw_only=True)
class Device(ABC):
    """One device: its name and versions for the receipt, its array module, copies and figures."""

    xp: Any = attrs.field(repr=False)
    """The module `numpy` or `cupy` that kernels compute with."""
    backend: str
    """`numpy` or `cupy`."""
    name: str
    sm_count: int
    """Streaming multiprocessors; 0 for a processor."""
    cuda: str
    """Version of the CUDA runtime; empty for a processor."""
    libraries: Mapping[str, str]
    """Name to version of what computes: results are equal bit for bit only where these are."""
    reason: str
    """Why this device was chosen, for the operator."""
    confidential_mode: str = ""
    """The word for a GPU's (`confidential.Mode`); empty for a processor."""
    sealing: SealingDevice | None = attrs.field(default=None, repr=False)
    """What opens and seals on the device; none where the processor does."""
    budget: MemoryBudget | None = attrs.field(default=None, repr=False)
    """What jobs may hold of it together; none where the host's own limits are all there is."""

    @abstractmethod
    def use(self) -> None:
        """Make it the calling thread's device; every thread that runs kernels calls this once."""

    @abstractmethod
    def to_device(self, host: np.ndarray[Any, Any]) -> Any:
        """Return an array on the device with the contents of `host`, which is C-contiguous."""

    @abstractmethod
    def to_host(self, array: Any, out: np.ndarray[Any, Any]) -> None:
        """Copy `array` into `out`, which is C-contiguous and of its dtype and shape."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything that the calling thread started on the device has ended."""

    @abstractmethod
    def release(self) -> None:
        """Give memory that no array uses back to the driver."""

    @property
    @abstractmethod
    def peak_bytes(self) -> int:
        """Largest memory use: of the process on a processor, of this thread's job on a GPU."""

    @property
    def broken(self) -> bool:
        """Whether the device cannot be brought back to a clean state but by leaving the process."""
        return False

    @contextmanager
    def turn(self, need: int, *, require_wanted: Callable[[], None]) -> Iterator[None]:
        """Give the calling thread's job its part of the device, for a `with` statement.

        Raises `WorkerLimitError` when `need` bytes are more than there are for one job, and what
        `require_wanted` raises while it waits for its part. Afterwards nothing of the job runs.
        """
        self.use()
        if self.budget is None:
            yield
            return
        with self.budget.reserve(need, require_wanted=require_wanted):
            yield

    @contextmanager
    def meter(self) -> Iterator[Meter]:
        """Measure a block: time until the device has finished it, and the peak of memory."""
        meter = Meter()
        self.synchronize()
        started = time.perf_counter_ns()
        try:
            yield meter
        finally:
            self.synchronize()
            meter.device_ns = time.perf_counter_ns() - started
            meter.peak_bytes = self.peak_bytes


def check_host(array: Any, out: np.ndarray[Any, Any]) -> None:
    """Refuse a host buffer that a plain copy of `array` would not fill exactly."""
    if array.dtype != out.dtype or array.shape != out.shape or not out.flags.c_contiguous:
        raise ValueError("the host buffer does not have the array's dtype, shape and order")
