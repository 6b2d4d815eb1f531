"""Times Ray: `python ray_client.py ADDRESS`, with RAY_USE_TLS in the environment.

An actor on the same machine. TLS protects Ray's calls; the arrays themselves lie in shared memory,
unencrypted, which is how Ray moves them between processes of one machine.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import ray
from timed import Array, serve


@ray.remote
class Affine:
    """Lives in a process of its own."""

    def affine(self, x: Any) -> Any:
        """y = 2x + 1."""
        y = x * np.float32(2)
        y += np.float32(1)
        return y


class RayClient:
    """One driver with one actor."""

    def __init__(self) -> None:
        """Start the actor."""
        self._actor = Affine.remote()

    def round_trip(self, way: str, x: Array) -> Array:
        """Call once and wait."""
        result: Array = ray.get(self._actor.affine.remote(x))
        return result

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Call for each; fetch a quarter of the window at once, cheaper than one by one."""
        size = max(1, window // 4)
        waiting: deque[Any] = deque()
        for x in tensors:
            waiting.append(self._actor.affine.remote(x))
            if len(waiting) >= window:
                yield from ray.get([waiting.popleft() for _ in range(size)])
        if waiting:
            yield from ray.get(list(waiting))


if __name__ == "__main__":
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
    serve(RayClient())
