"""How every client is timed, ours and the peers' alike: each times itself, by this one loop.

Commands arrive on standard input and answers leave on standard output, one JSON document a line:

    {"do": "prepare", "size": 1024, "way": "bidi"}     {}
    {"do": "round_trips", "size": 1024, "way": "bidi", "count": 50, "seconds": 0.5}
                                                        {"taken": [0.0012, ...]}
    {"do": "jobs", "size": 1024, "way": "bidi", "window": 64, "seconds": 0.5}
                                                        {"done": 1234, "taken": 0.51}
    {"do": "end"}

The work is y = 2x + 1 on float32. Needs the standard library and NumPy: it is also loaded by the
peers' own environments, where nothing else of this project is.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]

POOL = 256
"""Different tensors that a run of many jobs takes in turn."""
CHECKED = 64
"""Of so many results of a run one is compared: comparing each would cost as much as the job."""
EDGE = 4096
"""Elements at both ends of a large result that are compared outside of the timed part."""


class Client(Protocol):
    """What a system offers; `way` says which of several ways of using it."""

    def round_trip(self, way: str, x: Array) -> Array:
        """Return 2x + 1, computed elsewhere."""

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Yield 2x + 1 for every tensor in order, with at most `window` of them in flight."""


class WrongResultError(Exception):
    """A system computed something else than 2x + 1."""


def serve(client: Client) -> None:
    """Do what the harness asks until it says `end` or goes away."""
    # Libraries print what they like; the answers have the original standard output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        what = command.pop("do")
        if what == "end":
            return
        answer = _COMMANDS[what](client, **command)
        print(json.dumps(answer), file=answers, flush=True)


def prepare(client: Client, *, size: int, way: str) -> dict[str, Any]:
    """Run once and compare everything, so that nothing is cold when it is timed."""
    for _ in range(2):
        x = tensor(size)
        if not np.array_equal(client.round_trip(way, x), 2 * x + 1):
            raise WrongResultError(way)
    return {}


def round_trips(
    client: Client,
    *,
    size: int,
    way: str,
    count: int,
    seconds: float,
) -> dict[str, Any]:
    """Time single tensors, one after another: at most `count`, none begun after `seconds`."""
    x = tensor(size)
    taken: list[float] = []
    while len(taken) < count and sum(taken) < seconds:
        begun = time.perf_counter()
        y = client.round_trip(way, x)
        taken.append(time.perf_counter() - begun)
        for part in (slice(0, EDGE), slice(-EDGE, None)):
            if not np.array_equal(y[part], 2 * x[part] + 1):
                raise WrongResultError(way)
        del y
    return {"taken": taken}


def jobs(
    client: Client,
    *,
    size: int,
    way: str,
    window: int,
    seconds: float,
) -> dict[str, Any]:
    """Time many tensors, `window` in flight: as many as can be begun in `seconds`, to the last."""
    pool = [tensor(size, seed=seed) for seed in range(POOL)]
    done = 0
    begun = time.perf_counter()

    def source() -> Iterator[Array]:
        end = begun + seconds
        for x in itertools.cycle(pool):
            if time.perf_counter() > end:
                return
            yield x

    for number, y in enumerate(client.many(way, source(), window)):
        if number % CHECKED == 0 and not np.array_equal(y, 2 * pool[number % POOL] + 1):
            raise WrongResultError(way)
        done += 1
    return {"done": done, "taken": time.perf_counter() - begun}


def tensor(size: int, *, seed: int = 0) -> Array:
    """Return float32 values whose doubles plus one are exact, in whatever order they are made."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, size // 4, dtype=np.uint8).astype(np.float32)


_COMMANDS = {"prepare": prepare, "round_trips": round_trips, "jobs": jobs}
