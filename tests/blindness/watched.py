"""A coordinator with everything about it recorded: sockets, state, logs, memory.

The client is this process, the worker is `tests.residue.worker_main` (which can hold a job), and
both reach the coordinator through a recording proxy, without CURVE, so that every frame is seen.
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.client.client import Client
from attestation.policy.loading import load_policy
from attestation.programs.program import Program, Step
from tests.blindness.wire import RecordingProxy, TsharkCapture, why_no_capture
from tests.residue.harness import LARGE, start_worker
from tests.scenarios.processes import EnclaveProcess, Site, wait_until
from tests.simulators.markers import MARKER_BYTES, Forms, Key, Marker, Word, all_forms, found_in
from tests.simulators.memory_scan import Finder, scan

SIZES = {"small": MARKER_BYTES, "large": LARGE}


@define(kw_only=True)
class Secrets:
    """Everything that is planted in one run."""

    input: Marker = field(factory=lambda: Marker.draw("input and output"))
    parameter: Marker = field(factory=lambda: Marker.draw("parameter"))
    steps: tuple[Word, Word, Word] = field(
        factory=lambda: (Word.draw("step 1"), Word.draw("step 2"), Word.draw("step 3"))
    )
    signing_key: Ed25519PrivateKey = field(factory=Ed25519PrivateKey.generate, repr=False)
    keys: list[Key] = field(factory=list, repr=False)

    @property
    def forms(self) -> Forms:
        signing = Key(name="signing key", data=self.signing_key.private_bytes_raw())
        outputs = (self.input.times(2.0), self.parameter)
        return all_forms(self.input, *outputs, *self.steps, signing, *self.keys)

    def program(self, kernel: str) -> tuple[Program, dict[str, dict[str, float]]]:
        """Return a program of three secretly named steps, and its secret parameters.

        Its outputs are twice the input, the input, and nothing but a parameter.
        """
        double, same, constant = (step.text for step in self.steps)
        program = Program.of(
            inputs=["x"],
            steps=[
                Step(id=double, kernel=kernel, inputs={"x": "x"}),
                Step(id=same, kernel="nn.affine", inputs={"x": "x"}),
                Step(id=constant, kernel="nn.affine", inputs={"x": "x"}),
            ],
            outputs={"double": f"{double}.y", "same": f"{same}.y", "constant": f"{constant}.y"},
        )
        parameters = {
            double: {"factor": 2.0},
            same: {"scale": 1.0, "shift": 0.0},
            constant: {"scale": 0.0, "shift": self.parameter.number()},
        }
        return program, parameters


class WatchedCoordinator:
    """A coordinator, a worker and a client, and what an operator of the first can look at."""

    def __init__(self, directory: Path, secrets: Secrets) -> None:
        self.directory = directory
        self.secrets = secrets
        self.no_capture = why_no_capture()
        self.gate = directory / "gate"
        self._site = Site(directory)
        self._stored: dict[str, set[str]] = {}
        self.in_memory: set[str] = set()
        self.capture: TsharkCapture | None = None
        self.coordinator: EnclaveProcess
        self.client: Client

    def __enter__(self) -> Self:
        if not self.no_capture:
            self.capture = TsharkCapture(self._site.port, self.directory / "capture.pcapng")
            self.capture.start()
        self.coordinator = self._site.coordinator()
        self.proxies = [RecordingProxy(self._site.port).__enter__() for _ in range(2)]
        to_client, to_worker = self.proxies
        self._worker = start_worker(to_worker.url, self.directory)
        try:
            wait_until((self.directory / "ready").exists, "the worker is not welcome")
            self.client = Client(
                to_client.url,
                policy=load_policy(self._site.policy_file),
                key=self.secrets.signing_key,
            )
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
        """End everything; what was recorded stays."""
        if hasattr(self, "client"):
            self.client.close()
        self._worker.kill()
        self._worker.wait()
        self._site.__exit__()
        for proxy in self.proxies:
            proxy.__exit__(None, None, None)
        if self.capture is not None:
            self.capture.stop()

    def pause_worker(self) -> None:
        """Let the worker hang. The client has a session with it, so jobs are still accepted."""
        wait_until(lambda: bool(self.client.surroundings.ready), "no worker is accepted")
        self._worker.send_signal(signal.SIGSTOP)

    def hold_client(self, *, held: bool) -> None:
        """Let nothing reach the client, so that results stay with the coordinator."""
        self.proxies[0].held = held

    def submit(self, kernel: str, nbytes: int, *, durable: bool) -> Any:
        program, parameters = self.secrets.program(kernel)
        inputs = {"x": self.secrets.input.array(nbytes)}
        return self.client.submit(program, inputs, parameters=parameters, durable=durable)

    # -- looking -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Search what is on the disk and in memory now, deleted files that are open included."""
        self._search((self.directory / "state").rglob("*"))
        self._search(Path(f"/proc/{self.coordinator.popen.pid}/fd").iterdir())
        if os.geteuid() == 0:
            found = scan(self.coordinator.popen.pid, self.secrets.forms)
            self.in_memory |= {str(sighting) for sighting in found}

    def _search(self, paths: Iterable[Path]) -> None:
        finder = Finder(self.secrets.forms)
        for path in paths:
            try:
                # Not the devices, pipes and sockets among the descriptors.
                if path.is_file():
                    found = self._stored.setdefault(path.resolve().name, set())
                    found.update(finder.find(path.read_bytes()))
            except FileNotFoundError:
                continue  # deleted between listing and reading; a descriptor still shows it

    @property
    def stored(self) -> Mapping[str, Set[str]]:
        """Every file that a look has seen, and what was found in it at any time."""
        return self._stored

    def wait_for(self, name: str, *, seconds: float = 30.0) -> None:
        """Look until a file whose name ends in `name` was seen."""
        deadline = time.monotonic() + seconds
        while not any(seen.endswith(name) for seen in self._stored):
            assert time.monotonic() < deadline, f"the coordinator keeps no {name}"
            self.look()
            time.sleep(0.1)

    def found_in_store(self) -> set[str]:
        return set().union(*self._stored.values())

    def found_in_log(self) -> set[str]:
        return set(found_in(self.coordinator.log.read_bytes(), self.secrets.forms))

    def found_by_proxies(self) -> set[str]:
        streams = [stream for proxy in self.proxies for stream in proxy.streams]
        return _found_in_streams(streams, self.secrets.forms)

    def found_by_tshark(self) -> set[str]:
        assert self.capture is not None
        return _found_in_streams(self.capture.streams(), self.secrets.forms)


def _found_in_streams(streams: list[bytes], forms: Forms) -> set[str]:
    assert sum(map(len, streams)) > LARGE, "the recorder missed the large tensor"
    finder = Finder(forms)
    return {name for stream in streams for name in finder.find(stream)}
