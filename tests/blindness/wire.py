"""Two independent records of every byte that travels to and from a coordinator.

A proxy that clients and workers connect through, which needs no rights, and a capture by tshark on
the loopback interface, which sees what really left the sockets. Both give whole TCP streams, so
that nothing hides at the border of two packets.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 1 << 18
_START_SECONDS = 20.0
_SETTLE_SECONDS = 1.0


class RecordingProxy:
    """Relays TCP between whoever connects here and `port`, and keeps both directions."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._streams: list[bytearray] = []
        self._partner: dict[socket.socket, tuple[socket.socket, bytearray]] = {}
        self._stopping = False
        self.held = False
        """Set it to let nothing through for a while, in either direction."""
        self._thread = threading.Thread(target=self._relay, name="proxy", daemon=True)

    @property
    def streams(self) -> list[bytes]:
        """Every direction of every connection, so far."""
        return [bytes(stream) for stream in self._streams]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._thread.join()
        for each in (self._listener, *self._partner):
            each.close()

    def _relay(self) -> None:
        while not self._stopping:
            open_now = [] if self.held else list(self._partner)
            ready, _, _ = select.select([self._listener, *open_now], [], [], 0.05)
            for each in ready:
                if each is self._listener:
                    self._accept()
                elif each in self._partner:
                    self._pass_on(each)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()  # as a coordinator that is not there would
            return
        # Blocking sends: what one side does not take, the other must not be able to send.
        for one, other in ((near, far), (far, near)):
            one.settimeout(30)
            record = bytearray()
            self._streams.append(record)
            self._partner[one] = (other, record)

    def _pass_on(self, one: socket.socket) -> None:
        other, record = self._partner[one]
        try:
            data = one.recv(_CHUNK)
            record += data
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (one, other):
                self._partner.pop(each, None)
                each.close()


def why_no_capture() -> str:
    """Return why tshark cannot capture here, or nothing."""
    if os.geteuid() != 0:
        return "only root may capture packets"
    if shutil.which("tshark") is None:
        return "tshark is not installed"
    return ""


class TsharkCapture:
    """tshark on the loopback interface, for one TCP port."""

    def __init__(self, port: int, file: Path) -> None:
        self._filter = f"tcp port {port}"
        self._file = file
        self._errors = file.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when packets are really being written."""
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                # -B: a large kernel buffer, so that a burst of megabytes is not dropped.
                ["tshark", "-q", "-i", "lo", "-B", "64", "-f", self._filter, "-w", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        deadline = time.monotonic() + _START_SECONDS
        while b"Capture started" not in self._errors.read_bytes():
            assert self._process.poll() is None, self._errors.read_text()
            assert time.monotonic() < deadline, "tshark does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the capture, giving the kernel time to hand over the last packets."""
        if self._process is None or self._process.poll() is not None:
            return
        time.sleep(_SETTLE_SECONDS)
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()

    def streams(self) -> list[bytes]:
        """Return the bytes of every direction of every connection, reassembled."""
        fields = ("tcp.stream", "tcp.srcport", "tcp.seq", "tcp.payload")
        # Without desegmentation the payload of each packet is given once.
        options = ["-o", "tcp.desegment_tcp_streams:FALSE", "-Y", "tcp.len > 0", "-T", "fields"]
        command = ["tshark", "-r", str(self._file), *options]
        for field in fields:
            command += ["-e", field]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        streams: dict[tuple[bytes, bytes], dict[int, bytes]] = {}
        for line in done.stdout.splitlines():
            stream, source, sequence, payload = line.split(b"\t")
            parts = streams.setdefault((stream, source), {})
            parts[int(sequence)] = bytes.fromhex(payload.decode())
        return [_joined(parts) for parts in streams.values()]


def _joined(parts: dict[int, bytes]) -> bytes:
    """Put segments in the order of their numbers; what was sent twice counts once."""
    whole = bytearray()
    first = min(parts)
    for sequence in sorted(parts):
        whole[sequence - first :] = parts[sequence]
    return bytes(whole)
