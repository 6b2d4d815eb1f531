"""The heap that forgets: how it is asked for and checked, and when its caches are cleared."""

import json
import subprocess
import sys

import numpy as np
import pytest

from enclave_worker.hardening import want_plain_heap
from enclave_worker.scrubbing import BUSY_MS, DELAY_MS, Scrubber, overwrite_leftovers
from tests.residue.harness import REPOSITORY
from tests.simulators.markers import Key
from tests.simulators.memory_scan import memory_of, needs_root

HARDENED = """
import sys
from attestation import logging
from enclave_worker.hardening import harden_process, start_again_with_plain_heap
{first}
logging.configure("json", "info")
harden_process()
print(sys.argv[1:], sys.stdin.read())
"""


def harden(first: str, *options: str, **environment: str) -> tuple[bool, str]:
    """Return whether the process says that its heap forgets, and what it printed."""
    done = subprocess.run(
        [sys.executable, *options, "-c", HARDENED.format(first=first), "an", "--argument"],
        cwd=REPOSITORY,
        env={"PATH": "", **environment},
        input="its input",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if "hardened" in line]
    assert line["level"] == ("info" if line["heap_overwritten"] else "warning")
    return line["heap_overwritten"], done.stdout.strip()


def test_a_process_that_starts_again_has_a_heap_that_forgets_and_the_same_arguments() -> None:
    says, printed = harden("start_again_with_plain_heap()")
    assert says is True
    assert printed == "['an', '--argument'] its input"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PYTHONMALLOC": "malloc"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"},
    ],
)
def test_a_heap_that_remembers_is_never_reported_as_one_that_forgets(
    environment: dict[str, str],
) -> None:
    """Observed on freed blocks, not concluded from settings."""
    says, _ = harden("", **environment)
    assert says is False


def test_a_python_that_ignores_its_environment_is_noticed_and_does_not_start_for_ever() -> None:
    says, _ = harden("start_again_with_plain_heap()", "-E")
    assert says is False


def test_the_settings_of_an_operator_are_kept_and_ours_win() -> None:
    environment = {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=7",
        "PYTHONMALLOC": "pymalloc",
        "OTHER": "as it was",
    }
    assert want_plain_heap(environment)
    assert environment == {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0",
        "PYTHONMALLOC": "pymalloc_debug",
        "OTHER": "as it was",
    }
    assert not want_plain_heap(environment)


@pytest.mark.parametrize("nbytes", [1, 2, 63, 64, 512, 1000, 1023])
def test_what_numpy_keeps_of_small_arrays_is_overwritten(nbytes: int) -> None:
    """Looked at where the arrays were, with one kept so that its block cannot be another's."""
    arrays = [np.full(nbytes, 0xA5, dtype=np.uint8) for _ in range(7)]
    address = arrays[-1].ctypes.data
    del arrays
    again = [np.empty(nbytes, dtype=np.uint8) for _ in range(7)]
    kept = [array for array in again if array.ctypes.data == address]
    if not kept or not (kept[0] == 0xA5).all():
        pytest.skip("this NumPy does not keep small arrays")
    del again, kept
    overwrite_leftovers()
    again = [np.empty(nbytes, dtype=np.uint8) for _ in range(7)]
    assert not any((array == 0xA5).all() for array in again)


def test_leftovers_are_due_half_a_second_after_the_last_job() -> None:
    scrubber = Scrubber()
    assert scrubber.due_in_ms(0) is None
    scrubber.used(1_000)
    scrubber.used(1_300)
    assert scrubber.due_in_ms(1_300) == DELAY_MS
    scrubber.tick(1_300)
    assert scrubber.due_in_ms(1_300) == DELAY_MS
    scrubber.tick(1_300 + DELAY_MS)
    assert scrubber.due_in_ms(2_000) is None


def test_jobs_that_do_not_end_put_it_off_for_two_seconds_and_no_longer() -> None:
    """A job that ended at that moment is overwritten once more: its thread may hold what it raised.

    Without the bound a worker that is always busy would never forget.
    """
    scrubber = Scrubber()
    for now_ms in range(1_000, 1_000 + BUSY_MS, 100):
        scrubber.used(now_ms)
    due = 1_000 + BUSY_MS
    assert scrubber.due_in_ms(due - 100) == 100
    scrubber.used(due - 1)
    scrubber.tick(due)
    assert scrubber.due_in_ms(due) == DELAY_MS - 1
    scrubber.tick(due - 1 + DELAY_MS)
    assert scrubber.due_in_ms(due + DELAY_MS) is None


STACK = """
import ctypes, sys
from enclave_worker.scrubbing import overwrite_own_thread
data = bytearray.fromhex(sys.stdin.readline())
class Deep(ctypes.Structure):
    _fields_ = (("octets", ctypes.c_ubyte * 32 * 4096),)
deep = Deep.from_buffer(data)
ctypes.CFUNCTYPE(ctypes.c_int, Deep)(("getpid", ctypes.CDLL(None)))(deep)
ctypes.memset(ctypes.addressof(deep), 0, len(data))
if sys.argv[1] == "overwrite":
    overwrite_own_thread()
print("up", flush=True)
sys.stdin.readline()
"""


@needs_root()
@pytest.mark.parametrize("action", ["leave", "overwrite"])
def test_what_a_returned_call_left_on_the_stack_is_overwritten(action: str) -> None:
    key = Key(name="key", data=np.random.default_rng().bytes(32))
    process = subprocess.Popen(
        [sys.executable, "-c", STACK, action],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(key.data.hex().encode() * 4096 + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        parts = [data for _, mapping, data in memory_of(process.pid) if mapping == "[stack]"]
        assert (key.data in b"".join(parts)) is (action == "leave")
    finally:
        process.kill()
        process.communicate()
