"""A wide area network between two network namespaces: delay, jitter, loss, duplicates, partition.

Each namespace gets a TUN device; this process carries the IP packets from one to the other and does
to them what a bad line does. User space, because a kernel need not have `netem`. Only root may.

    with Wan() as wan:
        wan.line = Line(delay_ms=50, loss=0.02)
        wan.popen("a", [...]); wan.popen("b", [...])       # 10.77.0.1 and 10.77.0.2 see each other
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from attrs import evolve, frozen

ADDRESSES: Final = {"a": "10.77.0.1", "b": "10.77.0.2"}
MTU: Final = 1400
PACKET_BYTES: Final = 65_536
QUEUED_BYTES: Final = 8 << 20
"""What a router on the way holds; the rest is dropped, as TCP expects."""

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_CLONE_NEWNET: Final = 0x40000000


@frozen(kw_only=True)
class Line:
    """What happens to a packet, in each direction."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicates: float = 0.0
    partitioned: bool = False


class Wan:
    """Two namespaces and the line between them, for as long as the `with` lasts."""

    def __init__(self, *, seed: int = 1) -> None:
        self.line = Line()
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._names = {side: f"wan{side}{os.getpid()}" for side in ADDRESSES}
        self._devices: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="wan", daemon=True)

    def __enter__(self) -> Self:
        try:
            for side, name in self._names.items():
                _ip("netns", "add", name)
                self._devices[side] = _tun(name)
                _ip("-n", name, "address", "add", f"{ADDRESSES[side]}/24", "dev", "wan0")
                _ip("-n", name, "link", "set", "wan0", "mtu", str(MTU), "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._remove()

    def command(self, side: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` on one side."""
        return ["ip", "netns", "exec", self._names[side], *command]

    def popen(self, side: str, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a process on one side."""
        return subprocess.Popen(self.command(side, command), **options)

    def partition(self, seconds: float) -> None:
        """Nothing passes for a while."""
        self.faults["partition"] += 1
        self.line = evolve(self.line, partitioned=True)
        time.sleep(seconds)
        self.line = evolve(self.line, partitioned=False)

    def _remove(self) -> None:
        for device in self._devices.values():
            os.close(device)
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    # -- packets ----------------------------------------------------------------------------------

    def _carry(self) -> None:
        a, b = self._devices["a"], self._devices["b"]
        other = {a: b, b: a}
        under_way: list[tuple[float, int, int, bytes]] = []
        number = itertools.count()
        queued = 0
        while not self._stop.is_set():
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            for device in select.select([a, b], [], [], min(wait, 0.1))[0]:
                for packet in _packets(device):
                    for due in self._arrivals(queued):
                        heapq.heappush(under_way, (due, next(number), other[device], packet))
                        queued += len(packet)
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, device, packet = heapq.heappop(under_way)
                queued -= len(packet)
                try:
                    os.write(device, packet)
                except OSError:
                    self.faults["packet refused"] += 1

    def _arrivals(self, queued: int) -> list[float]:
        """Return when a packet arrives: never, once, or twice."""
        line, draw = self.line, self._random
        if line.partitioned or queued > QUEUED_BYTES:
            self.faults["packet dropped"] += 1
            return []
        if draw.random() < line.loss:
            self.faults["packet lost"] += 1
            return []
        copies = 1
        if draw.random() < line.duplicates:
            self.faults["packet duplicated"] += 1
            copies = 2
        now = time.monotonic()
        return [
            now + max(0.0, draw.gauss(line.delay_ms, line.jitter_ms)) / 1000 for _ in range(copies)
        ]


def _packets(device: int) -> list[bytes]:
    packets = []
    for _ in range(256):
        try:
            packets.append(os.read(device, PACKET_BYTES))
        except OSError:
            break
    return packets


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _tun(namespace: str) -> int:
    """Return a TUN device that lives in `namespace`; opened on a thread that visits there."""
    opened: list[int | BaseException] = []

    def visit() -> None:
        try:
            opened.append(_open_tun(namespace))
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            opened.append(error)

    # A namespace belongs to a thread: this one ends and takes it along.
    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    (result,) = opened
    if isinstance(result, BaseException):
        raise result
    return result


def _open_tun(namespace: str) -> int:
    there = os.open(Path("/run/netns") / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(there)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", b"wan0", _IFF_TUN_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device
