"""Devices of the kernel, served by stand-ins through real system calls."""

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.simulators.fuse import FileSystem, mounted

Mount = Callable[[FileSystem], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount stand-ins until the test ends."""
    with ExitStack() as stack:

        def at_a_new_place(file_system: FileSystem) -> Path:
            point = tmp_path / f"mount-{len(list(tmp_path.iterdir()))}"
            point.mkdir()
            return stack.enter_context(mounted(file_system, point))

        yield at_a_new_place


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of real evidence; skips where it is not."""
    folder = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
    if not folder.is_dir():
        pytest.skip("the folder of real evidence is not here")
    return folder


def unsigned_snp_report(report_data: bytes, privilege: int) -> tuple[bytes, bytes]:
    """A report with the right form and nobody's signature: for attesters, who judge nothing."""
    report = bytearray(1184)
    struct.pack_into("<I", report, 0x000, 2)
    struct.pack_into("<II", report, 0x030, privilege, 1)
    report[0x050:0x090] = report_data
    return bytes(report), b""


def certificate_table(*contents: bytes) -> bytes:
    """A table as a hypervisor makes it (AMD 56421), with made-up GUIDs."""
    at = 24 * (len(contents) + 1)
    rows = b""
    for number, content in enumerate(contents, 1):
        rows += struct.pack("<16sII", bytes([number]) * 16, at, len(content))
        at += len(content)
    return rows + bytes(24) + b"".join(contents)
