"""Where attacks are played: real clients and real workers around a coordinator that is not."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from attrs import define, field

from attestation.client.client import Client
from attestation.client.errors import PolicyUnmetError
from attestation.client.jobs import Job
from attestation.client.transport import CurveKeys
from attestation.client.workers import Reason
from attestation.errors import EnclaveError
from attestation.evidence.tpm import KIND as TPM
from attestation.evidence.tpm import Public
from attestation.identifiers import WorkerId
from attestation.policy.policy import CataloguePolicy, Policy
from attestation.wire.control import Refusal
from attestation.wire.frames import Kind
from attestation.wire.messages import SessionAccepted, SessionOpen, SessionRefused, parse
from coordinator.core.rules import Rules
from enclave_worker.admission import Terms
from enclave_worker.assembly import assemble
from enclave_worker.attester.collect import Attester
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.engine import ProgramEngine
from enclave_worker.kernels.registry import Registry, installed_registry
from enclave_worker.keystore import Keystore
from enclave_worker.runtime import Runtime
from enclave_worker.sessions import SessionTable
from enclave_worker.settings import WorkerSettings
from enclave_worker.transport import Transport
from tests.coordinator.sockets import running
from tests.simulators.evidence import insecure_policy, tpm_policy
from tests.simulators.hostile_coordinator import (
    SECONDS,
    HostileCoordinator,
    Leg,
    Lie,
    ManInTheMiddle,
    Memory,
    MemoryPort,
    Relay,
    Seen,
    Sockets,
    honest,
)
from tests.simulators.tpm import PCRS, SimulatedTpm
from tests.worker.conftest import Workshop

MEDIA = ("memory", "sockets", "man in the middle")
ENROLLED = (SimulatedTpm(), SimulatedTpm())
"""The TPMs of the operator that clients trust."""

X = np.linspace(-2.0, 2.0, 12).reshape(4, 3)


class DamageError(AssertionError):
    """The attacker got what he wanted."""


@attrs.frozen
class TpmAttester:
    """A machine with a TPM."""

    tpm: SimulatedTpm
    kind: str = TPM

    def collect(self, report_data: bytes) -> bytes:
        return self.tpm.collect(report_data)


class MemoryClient(Client):
    """A `Client` whose connection is in memory."""

    def __init__(self, port: MemoryPort, policy: Policy, **options: Any) -> None:
        self._port = port
        super().__init__("inproc://memory", policy=policy, **options)

    def _transport(self, _url: str, _curve: CurveKeys | None) -> MemoryPort:  # type: ignore[override]
        return self._port


@cache
def registry() -> Registry:
    """Our kernels."""
    return installed_registry()


@cache
def policy() -> Policy:
    """Trust the enrolled TPMs and our kernels, and nothing else."""
    keys = [Public.from_bytes(tpm.public()).fingerprint() for tpm in ENROLLED]
    digest = registry().catalogue().digest()
    return attrs.evolve(
        tpm_policy({7: [PCRS[7]], 11: [PCRS[11]]}, keys=keys),
        catalogue=CataloguePolicy(accept_any=False, digests=(digest,)),
    )


def reckless_policy() -> Policy:
    """Trust workers without hardware: for attacks that need no evidence."""
    return attrs.evolve(insecure_policy(), catalogue=CataloguePolicy(accept_any=True, digests=()))


@define
class Site:
    """One relay with what is connected to it."""

    relay: Relay
    connect: Callable[[], MemoryPort | str]
    stack: ExitStack = field(repr=False)

    def worker(self, *, attester: Attester | None = None, **settings: Any) -> Runtime:
        """Start a worker and wait until it is welcome."""
        ready = threading.Event()
        attester = attester or TpmAttester(ENROLLED[len(self.relay.workers) % len(ENROLLED)])
        port = self.connect()
        values = {"coordinator": "inproc://memory", "capacity": 2, "max_job_bytes": 1 << 26}
        runtime = assemble(
            WorkerSettings(**(values | settings)),
            transport=Transport(port) if isinstance(port, str) else port,  # type: ignore[arg-type]
            device=select_device("cpu"),
            attester=attester,
            registry=registry(),
            ready=lambda _: ready.set(),
        )
        thread = threading.Thread(target=runtime.run, daemon=True)
        thread.start()
        self.stack.callback(_stop, runtime, thread)
        assert ready.wait(SECONDS), "the worker was not welcome"
        return runtime

    def client(self, trusting: Policy | None = None, **options: Any) -> Client:
        """Connect a client."""
        port = self.connect()
        trusting = trusting or policy()
        client = (
            Client(port, policy=trusting, **options)
            if isinstance(port, str)
            else MemoryClient(port, trusting, **options)
        )
        self.stack.callback(client.close)
        return client

    def end_to_end(self, leg: Leg, record: type) -> list[Seen]:
        """Return the session messages of one type that were seen on `leg`."""
        return [
            each
            for each in self.relay.find(leg, Kind.END_TO_END)
            if _is(each.message.body[0], record)
        ]

    def session_outcome(self, *, accepted: int) -> str | None:
        """Wait until a worker refuses a session (its code) or has accepted so many (None)."""
        relay = self.relay

        def ended() -> bool:
            return bool(self.end_to_end(Leg.FROM_WORKER, SessionRefused)) or (
                len(self.end_to_end(Leg.FROM_WORKER, SessionAccepted)) >= accepted
            )

        assert relay.wait_until(ended), "the worker neither refused nor accepted"
        refused = self.end_to_end(Leg.FROM_WORKER, SessionRefused)
        if not refused:
            return None
        return str(SessionRefused.from_bytes(refused[0].message.body[0]).code)

    def refused_by_worker(self, count: int = 1) -> str:
        """Wait for a worker to refuse a job, and return the code of the last refusal."""
        seen = self.relay.wait_for(Leg.FROM_WORKER, Kind.JOB_REFUSED, count=count)
        return str(Refusal.from_bytes(seen[-1].message.body[0]).code)

    def ended_by_worker(self, *, results: int) -> str | None:
        """Wait until a worker refuses (returns its code) or has sent `results` results (None)."""
        relay = self.relay

        def ended() -> bool:
            refused = relay.find(Leg.FROM_WORKER, Kind.JOB_REFUSED)
            return bool(refused) or len(relay.find(Leg.FROM_WORKER, Kind.RESULT)) >= results

        assert relay.wait_until(ended), "the worker neither refused nor answered"
        if len(relay.find(Leg.FROM_WORKER, Kind.RESULT)) >= results:
            return None
        return self.refused_by_worker()

    @property
    def worker_ids(self) -> list[WorkerId]:
        return list(self.relay.workers)


def _is(body: bytes, record: type) -> bool:
    return isinstance(parse(body), record)


def _stop(runtime: Runtime, thread: threading.Thread) -> None:
    runtime.request_stop()
    runtime.request_stop()
    thread.join(SECONDS)
    assert not thread.is_alive()


class Stage:
    """Builds sites over one medium, and takes them down again."""

    def __init__(self, stack: ExitStack, scratch: Path, medium: str = "memory") -> None:
        self._stack = stack
        self._scratch = scratch
        self._medium = medium

    def site(self, *, workers: int = 1, lie: Lie = honest, **settings: Any) -> Site:
        """Return a relay that tells `lie`, with workers that have it."""
        relay, connect = self._relay()
        relay.lie = lie
        self._stack.enter_context(relay)
        site = Site(relay, connect, self._stack)
        for _ in range(workers):
            site.worker(**settings)
        return site

    def workshop(self, **parts: Any) -> Workshop:
        """Return the parts of a worker that stand still, for attacks on a part."""
        pool = BufferPool(keep_bytes=0)
        values = {
            "registry": registry(),
            "catalogue": registry().catalogue(),
            "keystore": Keystore(),
            "sessions": SessionTable(),
            "pool": pool,
            "engine": ProgramEngine(select_device("cpu"), registry(), pool=pool),
            "terms": Terms(max_job_bytes=1 << 26),
        }
        workshop = Workshop(**(values | parts))
        self._stack.callback(workshop.attestations.close)
        return workshop

    def _relay(self) -> tuple[Relay, Callable[[], MemoryPort | str]]:
        match self._medium:
            case "memory":
                memory = Memory()
                return HostileCoordinator(memory), memory.connect
            case "sockets":
                sockets = Sockets()
                return HostileCoordinator(sockets), lambda: sockets.url
            case _:
                number = len(list(self._scratch.iterdir()))
                rules = Rules(lease_ms=10_000, heartbeat_ms=2_500)
                broker = self._stack.enter_context(
                    running(self._scratch / f"state-{number}", rules=rules)
                )
                relay = ManInTheMiddle(broker.address)
                return relay, lambda: relay.url


def eventually(condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def refused_evidence(site: Site, client: Client, *, secrets_before: int = 0) -> str:
    """Return the code by which a client refuses every worker there is, before it says a secret."""
    deadline = time.monotonic() + SECONDS
    while True:
        if len(site.end_to_end(Leg.FROM_CLIENT, SessionOpen)) > secrets_before:
            raise DamageError("a secret was sealed to keys that no evidence vouches for")
        state = client.surroundings
        if state.listed and len(state.refusals) == state.listed:
            return refusal_code(state.refusals)
        assert time.monotonic() < deadline, "the client neither refused nor went on"
        time.sleep(0.002)


def refusal_code(refusals: Mapping[WorkerId, Sequence[Reason]]) -> str:
    """Return the one code by which all workers were refused."""
    codes = {str(getattr(why, "code", why)) for whys in refusals.values() for why in whys}
    assert len(codes) == 1, codes
    return codes.pop()


def refused_session(client: Client) -> str:
    """Return the code by which a client gives up every session it had opened."""
    try:
        client.submit("nn.softmax", {"x": X})
    except PolicyUnmetError as error:
        return refusal_code(error.refusals)
    raise DamageError("a content key was wrapped for somebody who did not confirm the session")


def refusal(job: Job) -> str:
    """Return the code by which a client refused what it got for `job`."""
    error = job.exception(SECONDS)
    if error is None:
        raise DamageError("the client was handed a result that it must refuse")
    assert isinstance(error, EnclaveError), error
    return error.code
