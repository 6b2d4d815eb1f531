"""A hardened worker, a client whose every secret is known, and the question what is left.

`planted` jobs hold markers in their inputs, outputs, parameters and names. A test first sees that
the search finds them while the job is held, then lets it end in its way, and then expects nothing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, field

from attestation.encoding.digests import Label, prefix
from attestation.programs.catalogue import Catalogue
from attestation.programs.program import Program, Step
from attestation.sealing.content_key import derive
from attestation.wire.control import Refusal
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import ResultHeader
from tests.residue.gated_kernels import GATE
from tests.residue.worker_main import WITHOUT
from tests.simulators.markers import Forms, Key, Marker, Word, all_forms
from tests.simulators.memory_scan import Sighting, scan
from tests.worker.simulated_client import SimulatedClient, SimulatedJob
from tests.worker.simulated_coordinator import SimulatedCoordinator

REPOSITORY = Path(__file__).resolve().parents[2]
PEER = b"p" * 16

SMALL = 4096
"""Bytes of a tensor that travels inside one message."""
LARGE = 2 << 20
"""Bytes of a tensor that travels segment by segment."""

CLEAN_SECONDS = 5.0
"""Within this nothing may be left. The worker's own promise is half a second; machines are slow."""


@define(kw_only=True)
class Planted:
    """A job full of secrets."""

    job: SimulatedJob
    input: Marker
    output: Marker
    parameter: Marker
    step: Word
    keys: tuple[Key, ...] = field(repr=False)
    segments: list[bytearray] = field(repr=False)

    @property
    def forms(self) -> Forms:
        """Everything of it that must not be left."""
        return all_forms(self.input, self.output, self.parameter, self.step, *self.keys)


def start_worker(
    url: str, directory: Path, *, keyset_seconds: int = 3600, without: str = ""
) -> "subprocess.Popen[bytes]":
    """Start a worker whose files are in `directory`: ready, done, gate and worker.log."""
    arguments = [url, directory / "ready", directory / "done", keyset_seconds]
    with (directory / "worker.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.residue.worker_main", *map(str, arguments)],
            cwd=REPOSITORY,
            env=os.environ | {GATE: str(directory / "gate"), WITHOUT: without},
            stderr=log,
        )


class ResidueWorker:
    """A worker process and its coordinator. Opens one session when entered."""

    def __init__(self, directory: Path, *, keyset_seconds: int = 3600, without: str = "") -> None:
        self._directory = directory
        self._keyset_seconds = keyset_seconds
        self._without = without
        self.gate = directory / "gate"
        self.done = directory / "done"
        self.log = directory / "worker.log"
        self.coordinator = SimulatedCoordinator()
        self.client = SimulatedClient()
        self.process: subprocess.Popen[bytes]
        self.catalogue: Catalogue

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        ready = self._directory / "ready"
        self.process = start_worker(
            self.coordinator.url,
            self._directory,
            keyset_seconds=self._keyset_seconds,
            without=self._without,
        )
        try:
            self.coordinator.wait(
                lambda: ready.exists() or self.process.poll() is not None, seconds=60
            )
            assert ready.exists(), self.log.read_text()
            self.catalogue = self.open_session(self.client)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.coordinator.close()

    def open_session(self, client: SimulatedClient) -> Catalogue:
        catalogue = client.take_reply(self.coordinator.ask(PEER, client.challenge()))
        client.take_accepted(self.coordinator.ask(PEER, client.open()))
        return catalogue

    # -- jobs --------------------------------------------------------------------------------------

    def plant(self, kernel: str, nbytes: int, **changes: Any) -> Planted:
        """Return a job of two secretly named steps: y = 2x by `kernel`, z = 0x + a secret."""
        marker, parameter, step = Marker.draw("input"), Marker.draw("parameter"), Word.draw("step")
        second = Word.draw("second step")
        program = Program.of(
            inputs=["x"],
            steps=[
                Step(id=step.text, kernel=kernel, inputs={"x": "x"}),
                Step(id=second.text, kernel="nn.affine", inputs={"x": "x"}),
            ],
            outputs={"y": f"{step.text}.y", "z": f"{second.text}.y"},
        )
        values: dict[str, Any] = {
            "client": self.client,
            "program": program,
            "catalogue_digest": self.catalogue.digest(),
            "arrays": {"x": marker.array(nbytes)},
            "parameters": {
                step.text: {"factor": 2.0},
                second.text: {"scale": 0.0, "shift": parameter.number()},
            },
        }
        job = SimulatedJob(**(values | changes))
        return Planted(
            job=job,
            input=marker,
            output=marker.times(2.0),
            parameter=parameter,
            step=step,
            keys=keys_of(job),
            segments=job.segments(),
        )

    def assign(self, planted: Planted, *, attempt: int = 1) -> None:
        """Give the worker the job, with its segments if they fit into the message."""
        job, segments = planted.job, planted.segments
        inline = segments if len(segments) == 1 else []
        header = Header(Kind.ASSIGN, job.job_id, attempt, count=len(segments), peer=PEER)
        self.coordinator.send(header, job.envelope(), job.wrap(), *inline)
        if not inline:
            self.coordinator.expect(Kind.INPUT_CREDIT)

    def feed(self, planted: Planted, segments: Mapping[int, bytes | bytearray]) -> None:
        """Send input segments."""
        for index, segment in segments.items():
            header = Header(Kind.INPUT, planted.job.job_id, 1, index=index)
            self.coordinator.send(header, segment)

    def start(self, planted: Planted) -> None:
        """Give the worker the whole job, and all the credit it may want for its outputs."""
        self.gate.unlink(missing_ok=True)
        self.assign(planted)
        segments = planted.segments
        if len(segments) > 1:
            self.feed(planted, dict(enumerate(segments)))
        self.coordinator.send(Header(Kind.OUTPUT_CREDIT, planted.job.job_id, 1, count=1000))

    def revoke(self, planted: Planted) -> None:
        self.coordinator.send(Header(Kind.REVOKE, planted.job.job_id, 1))

    def result(self, planted: Planted) -> str:
        """Open the gate, take the result as a coordinator does, and return its code."""
        self.gate.touch()
        _, (result, *_) = self.coordinator.expect(Kind.RESULT, seconds=60)
        self.coordinator.send(Header(Kind.RECORDED, planted.job.job_id, 1))
        self.coordinator.kept.clear()
        return ResultHeader.from_bytes(result).code

    def refusal(self) -> Refusal:
        _, (refusal,) = self.coordinator.expect(Kind.JOB_REFUSED)
        return Refusal.from_bytes(refusal)

    # -- what is there -----------------------------------------------------------------------------

    def wait_to_see(self, forms: Forms, *, seconds: float = 30.0) -> None:
        """The positive control: wait until the worker holds every one of `forms`."""
        deadline = time.monotonic() + seconds
        while missing := forms.keys() - {sighting.form for sighting in scan(self.pid, forms)}:
            assert time.monotonic() < deadline, f"the search does not find {sorted(missing)}"
            self.coordinator.pump(0.1)

    def left(self, forms: Forms) -> list[str]:
        """Return what is left when nothing more goes away, or nothing."""
        deadline = time.monotonic() + CLEAN_SECONDS
        while True:
            self.coordinator.pump(0.6)
            sightings: list[Sighting] = scan(self.pid, forms)
            if not sightings or time.monotonic() > deadline:
                return [str(sighting) for sighting in sightings]


def keys_of(job: SimulatedJob) -> tuple[Key, ...]:
    """Return the job's key and every key that is derived from it."""
    content, sealer = job.content_key, job.sealers[0]
    return (
        Key(name="content key", data=bytes(content._key)),
        Key(name="body key", data=content.body_key(job.header.digest())),
        Key(name="tensor key", data=content.tensor_key(sealer.sealed_header.header)),
        Key(name="FLOE message key", data=bytes(sealer._floe._message._message_key)),
    )


def session_keys_of(client: SimulatedClient) -> tuple[Key, Key]:
    """Return the secret of a session and the key that wraps its jobs' keys."""
    salt = client.transcript().digest()
    wrap = derive(client.secret, salt=salt, info=prefix(Label.SESSION_WRAP))
    return Key(name="session secret", data=client.secret), Key(name="wrap key", data=wrap)
