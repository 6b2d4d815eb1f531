"""Times Dask distributed over TLS: `python dask_client.py SCHEDULER_URL TLS_FOLDER`.

A small array is an argument of `submit`; a large one is scattered to the worker first and its
result gathered from there, past the scheduler, as the documentation advises.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client
from distributed.security import Security
from timed import Array, serve

SCATTER_FROM = 64 << 10


def affine(x: Any) -> Any:
    """y = 2x + 1; travels to the worker by value."""
    y = x * np.float32(2)
    y += np.float32(1)
    return y


class DaskClient:
    """One client of one scheduler with one worker."""

    def __init__(self, client: Client) -> None:
        """Time what `client` does."""
        self._client = client

    def round_trip(self, way: str, x: Array) -> Array:
        """Submit one task and wait for it."""
        if x.nbytes < SCATTER_FROM:
            result: Array = self._client.submit(affine, x, pure=False).result()
            return result
        there = self._client.scatter(x, hash=False, direct=True)
        done: Array = self._client.gather(
            self._client.submit(affine, there, pure=False), direct=True
        )
        return done

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Submit in batches of a quarter of the window, as `Client.map` is meant to be used."""
        size = max(1, window // 4)
        waiting: deque[Any] = deque()
        for group in _grouped(tensors, size):
            waiting.append(self._client.map(affine, group, pure=False))
            if len(waiting) * size >= window:
                yield from self._client.gather(waiting.popleft())
        for futures in waiting:
            yield from self._client.gather(futures)


def _grouped(tensors: Iterator[Array], size: int) -> Iterator[list[Array]]:
    while group := [x for _, x in zip(range(size), tensors, strict=False)]:
        yield group


if __name__ == "__main__":
    tls = Path(sys.argv[2])
    security = Security(
        tls_ca_file=str(tls / "ca.pem"),
        tls_client_cert=str(tls / "cert.pem"),
        tls_client_key=str(tls / "key.pem"),
        require_encryption=True,
    )
    with Client(sys.argv[1], security=security, timeout=30) as connected:
        connected.wait_for_workers(1, timeout=30)
        serve(DaskClient(connected))
