"""A worker that crashes writes no core, for two reasons that hold without each other."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.residue.harness import REPOSITORY
from tests.simulators.memory_scan import needs_root

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
HARDEN = "from enclave_worker.hardening import harden_process; harden_process();"
CRASHES = pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT])

pytestmark = needs_root()


@pytest.fixture(scope="module", autouse=True)
def _cores_wanted() -> Iterator[None]:
    """Start every process here with the wish for cores, as a careless operator might."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, UNLIMITED)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def child(folder: Path, first: str = "") -> "subprocess.Popen[bytes]":
    """Start a process in `folder`, where its core would land."""
    code = f"import sys, time; {first} print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == b"up"
    return process


def dumps_core(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    """Crash it and return whether the kernel says that it dumped core."""
    process.send_signal(number)
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_status == number
        return ended.si_code == os.CLD_DUMPED
    finally:
        process.communicate()


def need_cores(folder: Path, number: signal.Signals) -> None:
    """Skip where even an unhardened process leaves no core: the control of every test here."""
    if not dumps_core(child(folder), number):
        pytest.skip("this machine writes no cores at all, so their absence shows nothing")


@CRASHES
def test_a_hardened_process_that_crashes_leaves_no_core(
    tmp_path: Path, number: signal.Signals
) -> None:
    need_cores(tmp_path, number)
    hardened = child(tmp_path, HARDEN)
    assert resource.prlimit(hardened.pid, resource.RLIMIT_CORE) == (0, 0)
    assert not dumps_core(hardened, number)


def test_without_its_limit_a_hardened_process_still_leaves_no_core(tmp_path: Path) -> None:
    """Root may lift RLIMIT_CORE again; a process that is not dumpable dumps nothing anyway."""
    need_cores(tmp_path, signal.SIGSEGV)
    hardened = child(tmp_path, f"import resource; resource.setrlimit = lambda *_: None; {HARDEN}")
    assert resource.prlimit(hardened.pid, resource.RLIMIT_CORE) == UNLIMITED
    assert not dumps_core(hardened, signal.SIGSEGV)


@pytest.mark.parametrize("hardened", [True, False])
def test_another_process_of_the_same_user_cannot_look_in(hardened: bool) -> None:
    """PR_SET_DUMPABLE 0 gives the files in /proc to root; unhardened, its own user reads them."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Drops root and keeps every module it needs: the installation may be root's alone.
        os.setgid(65534)
        os.setuid(65534)
        libc = ctypes.CDLL(None)
        libc.prctl(4, 0 if hardened else 1, 0, 0, 0)
        watched = os.fork()
        if watched == 0:
            signal.pause()
        try:
            os.open(f"/proc/{watched}/mem", os.O_RDONLY)
            answer = b"open"
        except PermissionError:
            answer = b"shut"
        os.kill(watched, signal.SIGKILL)
        os.waitpid(watched, 0)
        os.write(write, answer)
        os._exit(0)
    try:
        assert os.read(read, 4) == (b"shut" if hardened else b"open")
    finally:
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


def test_the_installed_command_is_hardened_before_it_connects(tmp_path: Path) -> None:
    """`enclave worker` itself, whose coordinator is not even there."""
    need_cores(tmp_path, signal.SIGSEGV)
    log = tmp_path / "log"
    code = "from attestation.cli.root import main; main()"
    arguments = ["--log-format", "json", "worker", "--attester", "insecure", "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--coordinator", "tcp://127.0.0.1:9"],
            cwd=REPOSITORY,
            stderr=output,
        )
    try:
        while b"attester.selected" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
        assert b'"worker.hardened", "heap_overwritten": true' in log.read_bytes()
        assert not dumps_core(process, signal.SIGSEGV)
    finally:
        process.kill()
        process.wait()
