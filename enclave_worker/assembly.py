"""Puts a worker together from its settings: the one place where every part meets."""

from collections.abc import Callable
from os import urandom
from typing import Final

from attestation import limits
from attestation.identifiers import SHORT_ID_BYTES, WorkerId
from attestation.logging import get_logger
from attestation.observability.tracing import from_environment
from attestation.programs.catalogue import Catalogue
from attestation.wire.control import WorkerDescription, WorkerHello
from enclave_worker.admission import Admission, Terms
from enclave_worker.attester.collect import Attester, GpuAttester
from enclave_worker.attester.selection import select_attester, select_gpu_attester
from enclave_worker.attesting import Attestations
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.device.confidential import Mode, ModeWatch, read_mode
from enclave_worker.device.device import Device
from enclave_worker.engine import ProgramEngine
from enclave_worker.jobs import Bench, system_clock
from enclave_worker.kernels.registry import Registry, installed_registry
from enclave_worker.keystore import Keystore
from enclave_worker.membership import Membership
from enclave_worker.runtime import Mailbox, Runtime, RuntimeParts
from enclave_worker.sessions import SessionTable
from enclave_worker.settings import WorkerSettings
from enclave_worker.transport import Transport, load_curve_keys

log: Final = get_logger(__name__)

_POOL_SHARE: Final = 2
"""Idle buffers may hold half of what all jobs together may use."""


def build(settings: WorkerSettings, *, ready: Callable[[WorkerId], None]) -> Runtime:
    """Return the worker, connected and ready to `run`.

    Raises `UnavailableError`s for what this machine lacks: a device, an attester, a key file.
    """
    keys = None
    if settings.curve_key is not None and settings.coordinator_key is not None:
        keys = load_curve_keys(settings.curve_key, settings.coordinator_key)
    # Before the device: no program may use a GPU in confidential mode that was not made ready.
    gpu_attester, gpu_reason = _select_gpu_attester(settings)
    mode = Mode.UNKNOWN if settings.device == "cpu" else read_mode()
    device = select_device(settings.device, memory_bytes=settings.device_bytes, mode=mode)
    log.info("device.selected", backend=device.backend, device=device.name, reason=device.reason)
    if device.cuda and mode is not Mode.ON:
        log.warning("device.not_confidential", device=device.name, mode=mode.value)
    if not device.cuda:
        gpu_attester, gpu_reason = None, "jobs run on the processor"
    attester, reason = select_attester(
        settings.attester,
        tcti=settings.tpm_tcti,
        pcrs=settings.tpm_pcrs,
        ak_certificates=settings.ak_certificate,
    )
    log.info("attester.selected", kind=attester.kind, reason=reason)
    log.info("gpus.selected", attested=gpu_attester is not None, reason=gpu_reason)
    transport = Transport(settings.coordinator, keys=keys)
    return assemble(
        settings,
        transport=transport,
        device=device,
        attester=attester,
        gpu_attester=gpu_attester,
        registry=installed_registry(),
        ready=ready,
        mode_watch=ModeWatch(mode) if device.cuda else None,
    )


def assemble(
    settings: WorkerSettings,
    *,
    transport: Transport,
    device: Device,
    attester: Attester,
    registry: Registry,
    ready: Callable[[WorkerId], None],
    gpu_attester: GpuAttester | None = None,
    mode_watch: ModeWatch | None = None,
) -> Runtime:
    """Return the worker made of these parts."""
    clock = system_clock()
    catalogue = registry.catalogue()
    keystore = Keystore(lifetime_ms=settings.keyset_seconds * 1000)
    sessions = SessionTable()
    pool = BufferPool(keep_bytes=settings.capacity * settings.job_bytes // _POOL_SHARE)
    engine = ProgramEngine(device, registry, pool=pool)
    admission = Admission(
        keystore=keystore,
        find_session=sessions.find,
        catalogue=catalogue,
        terms=Terms(max_job_bytes=settings.job_bytes, price=settings.price),
    )
    mailbox = Mailbox(transport.wake)
    attestations = Attestations(
        keystore=keystore,
        sessions=sessions,
        attester=attester,
        gpu_attester=gpu_attester,
        catalogue=catalogue,
        device=engine.device,
        now_ms=clock.now_ms,
        post=mailbox.post,
    )
    parts = RuntimeParts(
        transport=transport,
        membership=Membership(_hello(settings, device, attester, catalogue)),
        attestations=attestations,
        bench=Bench(
            admission=admission,
            engine=engine,
            pool=pool,
            clock=clock,
            time_limits=settings.time_limits,
        ),
        capacity=settings.capacity,
        clock=clock,
        mode_watch=mode_watch,
        tracer=from_environment("enclave-worker"),
    )
    return Runtime(parts, mailbox, ready=ready)


def _select_gpu_attester(settings: WorkerSettings) -> tuple[GpuAttester | None, str]:
    if settings.device == "cpu":
        return None, "jobs run on the processor"
    return select_gpu_attester(settings.gpu_attester)


def _hello(
    settings: WorkerSettings, device: Device, attester: Attester, catalogue: Catalogue
) -> WorkerHello:
    description = WorkerDescription(
        backend=device.backend,
        device=device.name[:200],
        evidence_kind=attester.kind,
        catalogue_digest=catalogue.digest(),
        capacity=settings.capacity,
        max_job_bytes=min(settings.job_bytes, limits.TENSOR_BYTES),
        price=settings.price,
        region=settings.region,
    )
    return WorkerHello(instance=urandom(SHORT_ID_BYTES), description=description)
