"""Our own client, timed like every other: `python -m tests.bench.sealed_client URL POLICY`.

Every result comes from a worker that the policy accepted, and opened after its receipt had been
verified. Ways with one tensor: `streaming` and `durable`, whose kernel treats segments alone, and
`whole`, whose kernel gets its tensors whole; many small ones by `map` (stacks) or one by one by
`submit`, each also `-durable`.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from attestation.client.client import Client
from attestation.client.jobs import Job
from attestation.policy.loading import load_policy
from tests.bench.peers.timed import Array, serve

KERNEL: Final = "nn.affine"
PARAMETERS: Final = {"scale": 2.0, "shift": 1.0}
WHOLE_KERNEL: Final = "stats.rescale"
COLUMNS: Final = 1024
"""(x + 1/2) / (1/2) for each of them: the same work, by a kernel with more inputs than one."""
PATIENCE: Final = 120.0


class SealedClient:
    """`Client` behind the two calls that are timed."""

    def __init__(self, client: Client) -> None:
        """Time what `client` does."""
        self._client = client

    def round_trip(self, way: str, x: Array) -> Array:
        """Submit one job and wait for it."""
        if way == "whole":
            return self._whole(x)
        return self._submit(x, durable=way == "durable").result(PATIENCE)["y"]

    def _whole(self, x: Array) -> Array:
        half = np.full(COLUMNS, 0.5, np.float32)
        inputs = {"x": x.reshape(-1, COLUMNS), "mean": -half, "scale": half}
        job = self._client.submit(WHOLE_KERNEL, inputs, durable=False)
        return job.result(PATIENCE)["z"].reshape(-1)

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Run all, by `Client.map` or with one `submit` each."""
        durable = way.endswith("durable")
        if way.startswith("submit"):
            yield from self._one_by_one(tensors, window, durable=durable)
            return
        items = self._client.map(
            KERNEL,
            ({"x": x} for x in tensors),
            parameters=PARAMETERS,
            window=window,
            durable=durable,
        )
        for item in items:
            yield item.result(PATIENCE)["y"]

    def _one_by_one(
        self, tensors: Iterator[Array], window: int, *, durable: bool
    ) -> Iterator[Array]:
        waiting: deque[Job] = deque()
        for x in tensors:
            waiting.append(self._submit(x, durable=durable))
            if len(waiting) == window:
                yield waiting.popleft().result(PATIENCE)["y"]
        for job in waiting:
            yield job.result(PATIENCE)["y"]

    def _submit(self, x: Array, *, durable: bool) -> Job:
        return self._client.submit(KERNEL, {"x": x}, parameters=PARAMETERS, durable=durable)


if __name__ == "__main__":
    with Client(sys.argv[1], policy=load_policy(Path(sys.argv[2]))) as connected:
        serve(SealedClient(connected))
