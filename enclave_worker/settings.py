"""What an operator decides about a worker. Checked when made; nothing here is secret."""

import os
from pathlib import Path
from typing import Any, Final

import attrs
from attrs import frozen

from attestation import limits
from attestation.errors import UnavailableError
from attestation.observability.scraping import MetricsAddress
from enclave_worker.attester.selection import AttesterName, GpuAttesterName
from enclave_worker.attester.tpm import DEFAULT_PCRS
from enclave_worker.timelimits import TimeLimits

_CAPACITY_MAX: Final = 4096
_DEVICE_BYTES_MAX: Final = 1 << 50
_JOB_SECONDS_MAX: Final = 31 * 86_400
_MEMORY_SHARE: Final = 4
"""All jobs together may hold a quarter of the host's memory: kernels need scratch memory too."""


class SettingsError(UnavailableError):
    """A setting is out of range. The message names it and what is allowed."""

    code = "settings-invalid"


def default_capacity() -> int:
    """Return how many jobs run at once when nobody says: the processors, at least 2."""
    return max(2, len(os.sched_getaffinity(0)))


def limit_numeric_threads(capacity: int) -> None:
    """Share the processors among `capacity` jobs, unless the operator's environment decides.

    Without it each job's linear algebra starts a thread per processor, and two jobs on two
    processors take ten times as long as one after the other (measured).
    """
    share = str(max(1, len(os.sched_getaffinity(0)) // capacity))
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, share)


def default_max_job_bytes(capacity: int) -> int:
    """Return one job's share of the host's memory, at least 64 MiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(64 * limits.MIB, memory // _MEMORY_SHARE // capacity)


def _at_least(minimum: int, maximum: int) -> Any:
    def check(_settings: "WorkerSettings", field: Any, value: float) -> None:
        if not minimum <= value <= maximum:
            raise SettingsError(f"{field.name} {value} is not within {minimum} to {maximum}")

    return check


@frozen(kw_only=True)
class WorkerSettings:
    """One worker's settings.

    `max_job_bytes` 0 means a share of the host's memory, `device_bytes` 0 what the device has, and
    `job_seconds` 0 that kernels may run for ever.
    """

    coordinator: str
    attester: AttesterName = "auto"
    gpu_attester: GpuAttesterName = "auto"
    tpm_tcti: str | None = None
    tpm_pcrs: tuple[int, ...] = DEFAULT_PCRS
    ak_certificate: Path | None = None
    device: str = "auto"
    capacity: int = attrs.field(factory=default_capacity, validator=_at_least(1, _CAPACITY_MAX))
    max_job_bytes: int = attrs.field(default=0, validator=_at_least(0, limits.TENSOR_BYTES))
    device_bytes: int = attrs.field(default=0, validator=_at_least(0, _DEVICE_BYTES_MAX))
    job_seconds: float = attrs.field(default=0.0, validator=_at_least(0, _JOB_SECONDS_MAX))
    grace_seconds: float = attrs.field(default=10.0, validator=_at_least(0, _JOB_SECONDS_MAX))
    price: int = attrs.field(default=0, validator=_at_least(0, (1 << 63) - 1))
    region: str = ""
    curve_key: Path | None = None
    coordinator_key: Path | None = None
    metrics: MetricsAddress | None = None
    """Where scrapes are answered; nowhere unless it is said."""
    keyset_seconds: int = attrs.field(
        default=limits.KEYSET_SECONDS, validator=_at_least(1, limits.KEYSET_SECONDS)
    )

    def __attrs_post_init__(self) -> None:
        """Refuse half a pair of CURVE files and a region that no listing could carry."""
        if (self.curve_key is None) != (self.coordinator_key is None):
            raise SettingsError("--curve-key and --coordinator-key belong together")
        if len(self.region) > limits.NAME_CHARACTERS:
            raise SettingsError(f"a region of more than {limits.NAME_CHARACTERS} characters")

    @property
    def time_limits(self) -> TimeLimits:
        """How long the kernels of one job may run."""
        return TimeLimits(job_seconds=self.job_seconds, grace_seconds=self.grace_seconds)

    @property
    def job_bytes(self) -> int:
        """Bytes of tensors that one job may hold."""
        return self.max_job_bytes or default_max_job_bytes(self.capacity)
