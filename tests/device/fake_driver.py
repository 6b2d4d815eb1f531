"""libcuda with GPUs behind it: the calls have the names, arguments and codes of cuda.h."""

from collections.abc import Sequence
from typing import Any

from attrs import define, frozen


@frozen(kw_only=True)
class FakeGpu:
    name: bytes = b"NVIDIA H100 80GB HBM3"
    memory: int = 80 << 30
    major: int = 9
    minor: int = 0


@define(kw_only=True, eq=False)
class FakeDriver:
    gpus: Sequence[FakeGpu] = ()
    version: int = 13_020
    init: int = 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self.version
        return 0

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, out: Any, index: int) -> int:  # noqa: N802
        if index >= len(self.gpus):
            return 101
        out._obj.value = index
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: Any) -> int:  # noqa: N802
        out.value = self.gpus[device.value].name[: size - 1]
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:  # noqa: N802
        out._obj.value = self.gpus[device.value].memory
        return 0

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: Any) -> int:  # noqa: N802
        gpu = self.gpus[device.value]
        out._obj.value = {75: gpu.major, 76: gpu.minor}[attribute]
        return 0
