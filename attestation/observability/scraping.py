"""Answers scrapes: `GET /metrics`, one connection at a time, on a thread of its own.

Not `http.server`, which would bring a mail parser into the enclave for one fixed answer. Nothing
of a request is kept or looked at beyond its first line, and nobody may take longer than a moment.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from attrs import frozen

from attestation.errors import UnavailableError
from attestation.logging import get_logger
from attestation.observability.exposition import CONTENT_TYPE, Family, render

log: Final = get_logger(__name__)

REQUEST_BYTES: Final = 8192
REQUEST_SECONDS: Final = 2.0
"""For a whole request and its answer: a scraper on the same machine needs a millisecond."""


class MetricsAddressError(UnavailableError):
    """The address for metrics cannot be used. The message says what to change about it."""

    code = "metrics-address"


@frozen(kw_only=True)
class MetricsAddress:
    """Where scrapes are answered."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, anywhere: bool = False) -> "MetricsAddress":
        """Return the address in `127.0.0.1:9464`, `[::1]:9464` or `localhost:9464`.

        Raises `MetricsAddressError`, also for one that other machines reach unless it may be
        `anywhere`: whoever reads the numbers learns how busy this machine is, and with what.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        host = "127.0.0.1" if host == "localhost" else host
        try:
            ip, number = ipaddress.ip_address(host), int(port)
        except ValueError as error:
            raise MetricsAddressError(f"{text}: metrics are served at ADDRESS:PORT") from error
        if not 0 <= number < 1 << 16:
            raise MetricsAddressError(f"{text}: there is no such port")
        if not (anywhere or ip.is_loopback):
            raise MetricsAddressError(
                f"{text} can be reached from other machines; if that is meant, say so with"
                " --metrics-anywhere"
            )
        return cls(host=host, port=number)


def metrics_address(text: str | None, *, anywhere: bool) -> MetricsAddress | None:
    """Return what `--metrics` and `--metrics-anywhere` say; raises `MetricsAddressError`."""
    if text is not None:
        return MetricsAddress.parse(text, anywhere=anywhere)
    if anywhere:
        raise MetricsAddressError("--metrics-anywhere says nothing without --metrics")
    return None


class ScrapeServer:
    """Serves what `families` returns until it is closed; `families` is called on its thread."""

    def __init__(self, address: MetricsAddress, families: Callable[[], Iterable[Family]]) -> None:
        """Listen and begin; raises `MetricsAddressError` when the address cannot be had."""
        self._families = families
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._listener = socket.create_server((address.host, address.port), family=family)
        except OSError as error:
            raise MetricsAddressError(f"{address}: {error.strerror}") from error
        port = self._listener.getsockname()[1]
        self.address = MetricsAddress(host=address.host, port=port)
        self._closed = False
        # A daemon: nobody waits for the end of a process to be scraped.
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics.ready", address=str(self.address))

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        # Unlike `close`, this ends an `accept` that waits.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # Closed, or out of descriptors for a moment.
                time.sleep(0.1)
                continue
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            request = _read_request(connection)
            if request is not None:
                connection.sendall(self._response(request))
        except OSError:
            return  # it went away, or was too slow

    def _response(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split(b" ")
        if words[0] != b"GET":
            return _message("405 Method Not Allowed", "")
        if len(words) < 2 or words[1].split(b"?", 1)[0] != b"/metrics":
            return _message("404 Not Found", "the metrics are at /metrics\n")
        try:
            text = render(self._families())
        except Exception as error:  # noqa: BLE001 - a defect in a number must not end the others
            log.warning("metrics.failed", error=type(error).__name__)
            return _message("500 Internal Server Error", "")
        return _message("200 OK", text)


def _read_request(connection: socket.socket) -> bytes | None:
    """Return the head of a request, or nothing when it is too long, too slow or not whole."""
    ends, data = time.monotonic() + REQUEST_SECONDS, b""
    while b"\r\n\r\n" not in data:
        left = ends - time.monotonic()
        if left <= 0 or len(data) > REQUEST_BYTES:
            return None
        connection.settimeout(left)
        more = connection.recv(REQUEST_BYTES)
        if not more:
            return None
        data += more
    return data


def _message(status: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
