"""The harness's side of peers/timed.py: a client process that times itself when told to."""

import contextlib
import json
import os
import selectors
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from attrs import field, frozen

PATIENCE = 180.0
"""No answer for so long means that there will be none."""


class ClientFailedError(Exception):
    """A client process ended or fell silent; the message holds its last lines."""


@frozen(kw_only=True)
class Stopwatch:
    """One running client."""

    name: str
    log: Path
    popen: subprocess.Popen[str] = field(repr=False)

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Self:
        """Start a client and wait until it is connected."""
        log = folder / f"{name}.client.log"
        with log.open("ab") as errors:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=os.environ | environment,
            )
        watch = cls(name=name, log=log, popen=popen)
        try:
            watch._answer()
        except BaseException:
            watch.stop()
            raise
        return watch

    @property
    def pid(self) -> int:
        """The client's process id."""
        return self.popen.pid

    def prepare(self, way: str, size: int) -> None:
        """Let it run once, compared in full, before anything is timed."""
        self._ask(do="prepare", size=size, way=way)

    def round_trips(self, way: str, size: int, *, count: int, seconds: float) -> list[float]:
        """Return the seconds of each of up to `count` round trips."""
        answer = self._ask(do="round_trips", size=size, way=way, count=count, seconds=seconds)
        taken: list[float] = answer["taken"]
        return taken

    def jobs(self, way: str, size: int, *, window: int, seconds: float) -> tuple[int, float]:
        """Return how many jobs it did, and in how many seconds."""
        answer = self._ask(do="jobs", size=size, way=way, window=window, seconds=seconds)
        return answer["done"], answer["taken"]

    def stop(self) -> None:
        """End the process, by asking first."""
        try:
            self._write({"do": "end"})
            self.popen.wait(5)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self.popen.kill()
            self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, **command: Any) -> dict[str, Any]:
        try:
            self._write(command)
        except OSError as error:
            raise ClientFailedError(self._last_words()) from error
        return self._answer()

    def _write(self, command: Mapping[str, Any]) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                raise ClientFailedError(f"no answer for {PATIENCE:.0f} s: {self._last_words()}")
        line = self.popen.stdout.readline()
        if not line:
            raise ClientFailedError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{self.name}: {lines[-1][:300] if lines else 'ended without a word'}"
