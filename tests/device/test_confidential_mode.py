"""A GPU is called confidential only while everything says so. Real nvidia-ml-py, simulated NVML."""

import queue
import sys
import threading
import time

import pytest

from enclave_worker.device.confidential import Mode, ModeChanged, ModeWatch, read_mode
from tests.simulators.nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    FakeNvml,
    loaded,
)

SETTINGS = "nvmlSystemGetConfComputeSettings"
STATE = "nvmlSystemGetConfComputeState"
READY = "nvmlSystemGetConfComputeGpusReadyState"


@pytest.mark.parametrize(
    ("nvml", "mode"),
    [
        (FakeNvml(ready=1), Mode.ON),
        (FakeNvml(ready=1, confidential=0, multi_gpu=1), Mode.ON),
        (FakeNvml(ready=1, absent=frozenset({SETTINGS})), Mode.ON),
        (FakeNvml(ready=0), Mode.NOT_READY),
        (FakeNvml(ready=1, confidential=0), Mode.OFF),
        (FakeNvml(ready=1, developer_tools=1), Mode.DEVELOPER_TOOLS),
        (FakeNvml(ready=1, environment=1), Mode.SIMULATED),
        (FakeNvml(ready=1, absent=frozenset({SETTINGS, STATE})), Mode.OFF),
        (FakeNvml(ready=1, absent=frozenset({READY})), Mode.UNKNOWN),
    ],
)
def test_every_state_has_a_word_and_only_one_is_on(nvml: FakeNvml, mode: Mode) -> None:
    with loaded(nvml):
        assert read_mode() is mode


@pytest.mark.parametrize("code", [NO_PERMISSION, GPU_IS_LOST, DRIVER_NOT_LOADED])
@pytest.mark.parametrize("call", ["nvmlInitWithFlags", SETTINGS, READY])
def test_what_cannot_be_read_is_never_on(call: str, code: int) -> None:
    with loaded(FakeNvml(ready=1, failures={call: [code] * 3})):
        assert read_mode() is Mode.UNKNOWN


@pytest.mark.parametrize("code", [NOT_SUPPORTED, FUNCTION_NOT_FOUND])
def test_a_driver_that_only_knows_the_older_call_is_asked_with_it(code: int) -> None:
    with loaded(FakeNvml(ready=1, failures={SETTINGS: [code]})):
        assert read_mode() is Mode.ON


def test_without_nvidia_ml_py_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_mode() is Mode.UNKNOWN


def watched(expected: Mode, *readings: Mode) -> ModeChanged | None:
    """Return what a watch says to these readings; the last one goes on for ever."""
    changes: queue.SimpleQueue[ModeChanged] = queue.SimpleQueue()
    enough = threading.Event()
    left = list(readings)

    def read() -> Mode:
        if len(left) > 1:
            return left.pop(0)
        enough.set()
        return left[0]

    watch = ModeWatch(expected, read=read, every_seconds=0.001)
    watch.start(changes.put)
    assert watch._thread is not None
    end = time.monotonic() + 5
    while watch._thread.is_alive() and not enough.is_set():
        assert time.monotonic() < end
        time.sleep(0.001)
    watch._thread.join(0.05)
    watch.stop()
    watch._thread.join(5)
    return changes.get_nowait() if not changes.empty() else None


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.DEVELOPER_TOOLS, Mode.SIMULATED, Mode.NOT_READY])
def test_one_reading_that_says_otherwise_is_enough(mode: Mode) -> None:
    """A debugger that is let in for a second has read everything."""
    changed = watched(Mode.ON, Mode.ON, Mode.ON, mode, Mode.ON)
    assert changed == ModeChanged(before=Mode.ON, now=mode)


def test_a_driver_that_does_not_answer_once_is_asked_again() -> None:
    busy = (Mode.UNKNOWN, Mode.UNKNOWN)
    assert watched(Mode.ON, *busy, Mode.ON, *busy, Mode.ON) is None


def test_a_driver_that_no_longer_answers_has_lost_the_mode() -> None:
    assert watched(Mode.ON, Mode.UNKNOWN) == ModeChanged(before=Mode.ON, now=Mode.UNKNOWN)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.UNKNOWN])
def test_a_mode_that_was_announced_and_stays_changes_nothing(mode: Mode) -> None:
    assert watched(mode, mode) is None
