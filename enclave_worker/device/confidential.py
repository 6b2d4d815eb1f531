"""Whether this machine's GPUs are in confidential mode, at the start and for as long as we run.

NVML is asked through nvidia-ml-py. A GPU is *confidential* only when all of it holds: the mode is
on, developer tools are off (with them a debugger reads device memory), the environment is a
production one, and the driver says that the GPUs are ready. Anything else, and anything that cannot
be read, is a word of its own and never `on`. This is the worker's own care, and lets it say what it
runs on: what a client believes is in the GPUs' signed reports.
"""

import importlib
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from attrs import frozen

from attestation.logging import get_logger

log: Final = get_logger(__name__)

CHECK_SECONDS: Final = 30.0
_FAILURES: Final = 3
"""Readings in a row that may fail before a mode that was known counts as lost."""

# nvml.h: nvmlReturn_t, nvmlConfComputeSettings
_NOT_SUPPORTED: Final = 3
_FUNCTION_NOT_FOUND: Final = 13
UNKNOWN_TO_DRIVER: Final = frozenset({_NOT_SUPPORTED, _FUNCTION_NOT_FOUND})
ENVIRONMENT_PRODUCTION: Final = 2
PROTECTED_PCIE: Final = 1


class Mode(StrEnum):
    """What the GPUs of a machine are in."""

    ON = "on"
    OFF = "off"
    DEVELOPER_TOOLS = "developer-tools"
    """On, and a debugger may read the memory."""
    SIMULATED = "simulated"
    """On, in an environment that is not for production."""
    NOT_READY = "not-ready"
    """On, and no program may use the GPUs yet, or any more."""
    UNKNOWN = "unknown"
    """Nobody could be asked, or nothing was understood."""


@frozen(kw_only=True)
class Settings:
    """What NVML says, in numbers."""

    environment: int
    confidential: int
    developer_tools: int
    multi_gpu: int = 0

    @property
    def enabled(self) -> bool:
        """Whether a confidential mode is on, for single GPUs or for all of a board."""
        return self.confidential == 1 or self.multi_gpu == PROTECTED_PCIE


def read_settings(nvml: Any) -> Settings | None:
    """Return the settings, or None when the driver knows no confidential mode.

    `nvml` is nvidia-ml-py, initialised; raises its `NVMLError`.
    """
    settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
    try:
        # Alone among its kind this function hands over NVML's code instead of raising it.
        code = nvml.nvmlSystemGetConfComputeSettings(settings)
    except nvml.NVMLError as error:
        code = error.value
    if code == nvml.NVML_SUCCESS:
        return Settings(
            environment=settings.environment,
            confidential=settings.ccFeature,
            developer_tools=settings.devToolsMode,
            multi_gpu=settings.multiGpuMode,
        )
    if code not in UNKNOWN_TO_DRIVER:
        raise nvml.NVMLError(code)
    # Drivers before R555 know the older call, and no mode for several GPUs.
    try:
        state = nvml.nvmlSystemGetConfComputeState()
    except nvml.NVMLError as error:
        if error.value not in UNKNOWN_TO_DRIVER:
            raise
        return None
    return Settings(
        environment=state.environment,
        confidential=state.ccFeature,
        developer_tools=state.devToolsMode,
    )


def read_mode() -> Mode:
    """Return the mode of this machine's GPUs. Never raises."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Mode.UNKNOWN
    try:
        nvml.nvmlInit()
        settings = read_settings(nvml)
        if settings is None or not settings.enabled:
            return Mode.OFF
        if settings.developer_tools != nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF:
            return Mode.DEVELOPER_TOOLS
        if settings.environment != ENVIRONMENT_PRODUCTION:
            return Mode.SIMULATED
        return Mode.ON if nvml.nvmlSystemGetConfComputeGpusReadyState() else Mode.NOT_READY
    except nvml.NVMLError as error:
        log.debug("gpu.mode_unreadable", error=type(error).__name__)
        return Mode.UNKNOWN


@frozen(kw_only=True)
class ModeChanged:
    """The GPUs are in another mode than the worker announced."""

    before: Mode
    now: Mode


class ModeWatch:
    """Reads the mode now and again, on a thread of its own: a driver may take its time."""

    def __init__(
        self,
        expected: Mode,
        *,
        read: Callable[[], Mode] = read_mode,
        every_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Expect the mode that the worker announces."""
        self._expected = expected
        self._read = read
        self._every = every_seconds
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[ModeChanged], None]) -> None:
        """Call `changed`, once and from another thread, when the mode is another one."""
        self._thread = threading.Thread(
            target=self._watch, args=(changed,), name="gpu-mode", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Does not wait: a driver that hangs must not keep the worker."""
        self._stopped.set()

    def _watch(self, changed: Callable[[ModeChanged], None]) -> None:
        failures = 0
        while not self._stopped.wait(self._every):
            mode = self._read()
            if mode is self._expected:
                failures = 0
                continue
            failures += 1
            # One reading that fails may be a driver that is busy; one that says otherwise is not.
            if mode is not Mode.UNKNOWN or failures >= _FAILURES:
                changed(ModeChanged(before=self._expected, now=mode))
                return
