"""Serve a file system to the kernel from a thread, so that code under test makes real system calls.

Speaks the kernel's FUSE protocol (include/uapi/linux/fuse.h, version 7.31) on /dev/fuse without
libfuse, which CI images do not have. Needs the right to mount; `require_fuse` says why when a
machine does not give it. Nothing is cached: every call of the code under test arrives here.
"""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from attrs import frozen

_DEVICE = "/dev/fuse"
_MNT_DETACH = 2
_MAX_WRITE = 128 * 1024
_DIRECT_IO = 1
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_ROOT = 1

_libc = ctypes.CDLL(None, use_errno=True)

Path_ = tuple[str, ...]


@frozen(kw_only=True)
class Caller:
    """The thread whose system call is served."""

    thread: int

    def read_memory(self, address: int, size: int) -> bytes:
        """Do what `copy_from_user` does."""
        with self._memory("rb") as memory:
            memory.seek(address)
            data: bytes = memory.read(size)
        if len(data) != size:
            raise OSError(errno.EFAULT, "bad address")
        return data

    def write_memory(self, address: int, data: bytes) -> None:
        """Do what `copy_to_user` does."""
        with self._memory("r+b") as memory:
            memory.seek(address)
            memory.write(data)

    @contextmanager
    def _memory(self, mode: str) -> Iterator[Any]:
        try:
            with open(f"/proc/{self.thread}/mem", mode, buffering=0) as memory:
                yield memory
        except (OSError, OverflowError, ValueError) as error:
            raise OSError(errno.EFAULT, "bad address") from error


@frozen(kw_only=True)
class IoctlAnswer:
    """What an ioctl leaves in its argument, and what it returns: a negative errno keeps both."""

    data: bytes
    result: int = 0


class FileSystem(Protocol):
    """What is served. Every method may raise `OSError` with the errno that the caller gets."""

    def mode(self, path: Path_) -> int:
        """Type and permissions, or ENOENT."""
        ...

    def mkdir(self, path: Path_) -> None: ...

    def rmdir(self, path: Path_) -> None: ...

    def names(self, path: Path_) -> Sequence[str]: ...

    def open(self, path: Path_, flags: int) -> Any:
        """Return whatever the next methods get as `handle`."""
        ...

    def read(self, handle: Any, offset: int, size: int) -> bytes: ...

    def write(self, handle: Any, offset: int, data: bytes) -> int: ...

    def close(self, handle: Any) -> None:
        """Run before the caller's close(2) returns."""
        ...

    def ioctl(self, handle: Any, command: int, data: bytes, caller: Caller) -> IoctlAnswer: ...


class Directory:
    """The parts of a `FileSystem` that a flat one does not need."""

    def mkdir(self, path: Path_) -> None:
        raise OSError(errno.EPERM, "not here")

    def rmdir(self, path: Path_) -> None:
        raise OSError(errno.EPERM, "not here")

    def read(self, handle: Any, offset: int, size: int) -> bytes:
        raise OSError(errno.EINVAL, "no reads")

    def write(self, handle: Any, offset: int, data: bytes) -> int:
        raise OSError(errno.EINVAL, "no writes")

    def close(self, handle: Any) -> None:
        return None

    def ioctl(self, handle: Any, command: int, data: bytes, caller: Caller) -> IoctlAnswer:
        raise OSError(errno.ENOTTY, "no ioctls")


def require_fuse() -> None:
    """Skip the calling test when this machine does not let us serve a file system."""
    if not Path(_DEVICE).exists():
        pytest.skip("no /dev/fuse")
    if os.geteuid() != 0:
        pytest.skip("mounting a FUSE file system needs root")
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse cannot be opened ({error.strerror})")


@contextmanager
def mounted(file_system: FileSystem, point: Path) -> Iterator[Path]:
    """Serve `file_system` at the directory `point`; skips the test where mounting is forbidden."""
    require_fuse()
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _libc.mount(b"stand-in", os.fsencode(point), b"fuse", 0, options) != 0:
        os.close(device)
        pytest.skip(f"mount(2) is forbidden here ({os.strerror(ctypes.get_errno())})")
    server = _Server(device, file_system)
    server.start()
    try:
        yield point
    finally:
        _libc.umount2(os.fsencode(point), _MNT_DETACH)
        server.join(10)
        os.close(device)
    assert not server.defects, server.defects


def _not_served(_node: int, _body: bytes, _thread: int) -> bytes:
    raise OSError(errno.ENOSYS, "not served")


class _Server(threading.Thread):
    def __init__(self, device: int, file_system: FileSystem) -> None:
        super().__init__(daemon=True, name="fuse")
        self._device = device
        self._fs = file_system
        self._paths: dict[int, Path_] = {_ROOT: ()}
        self._nodes: dict[Path_, int] = {(): _ROOT}
        self._handles: dict[int, Any] = {}
        self._next_handle = 0
        self.defects: list[str] = []
        self._operations: dict[int, Callable[[int, bytes, int], bytes]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._getattr,  # SETATTR: a truncation, of which attributes take no notice
            9: self._mkdir,
            11: self._rmdir,
            14: self._open,
            15: self._read,
            16: self._write,
            18: self._release,
            25: self._flush,
            26: self._init,
            27: self._opendir,
            28: self._readdir,
            29: self._nothing,
            34: self._nothing,
            39: self._ioctl,
        }

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._device, _MAX_WRITE + 65_536)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            if not request:
                return
            self._serve(request)

    def _serve(self, request: bytes) -> None:
        _, opcode, unique, node, _, _, thread, _, _ = _IN_HEADER.unpack_from(request)
        if opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: nobody waits for an answer
            return
        code, answer = 0, b""
        try:
            operation = self._operations.get(opcode, _not_served)
            answer = operation(node, request[_IN_HEADER.size :], thread)
        except OSError as error:
            code = -(error.errno or errno.EIO)
        except Exception as error:  # noqa: BLE001 - a defect here must not hang the caller
            self.defects.append(repr(error))
            code = -errno.EIO
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), code, unique)
        with suppress(OSError):  # ENOENT: the caller was killed meanwhile
            os.write(self._device, header + answer)

    def _init(self, _node: int, body: bytes, _thread: int) -> bytes:
        _, minor, readahead = struct.unpack_from("<III", body)
        return struct.pack(
            "<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, 0, 16, 12, _MAX_WRITE, 1, 32, 0, 0
        )

    def _nothing(self, _node: int, _body: bytes, _thread: int) -> bytes:
        return b""

    def _child(self, node: int, body: bytes) -> Path_:
        return (*self._paths[node], body.split(b"\0", 1)[0].decode())

    def _attributes(self, path: Path_) -> bytes:
        mode = self._fs.mode(path)
        links = 2 if stat.S_ISDIR(mode) else 1
        return struct.pack(
            "<6Q10I", self._node(path), 0, 0, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0
        )

    def _node(self, path: Path_) -> int:
        node = self._nodes.setdefault(path, len(self._nodes) + 1)
        self._paths[node] = path
        return node

    def _entry(self, path: Path_) -> bytes:
        attributes = self._attributes(path)
        return struct.pack("<QQQQII", self._node(path), 0, 0, 0, 0, 0) + attributes

    def _lookup(self, node: int, body: bytes, _thread: int) -> bytes:
        return self._entry(self._child(node, body))

    def _getattr(self, node: int, _body: bytes, _thread: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(self._paths[node])

    def _mkdir(self, node: int, body: bytes, _thread: int) -> bytes:
        path = self._child(node, body[8:])
        self._fs.mkdir(path)
        return self._entry(path)

    def _rmdir(self, node: int, body: bytes, _thread: int) -> bytes:
        self._fs.rmdir(self._child(node, body))
        return b""

    def _open(self, node: int, body: bytes, _thread: int) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        handle = self._fs.open(self._paths[node], flags)
        self._next_handle += 1
        self._handles[self._next_handle] = handle
        return struct.pack("<QII", self._next_handle, _DIRECT_IO, 0)

    def _opendir(self, _node: int, _body: bytes, _thread: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def _read(self, _node: int, body: bytes, _thread: int) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return self._fs.read(self._handles[handle], offset, size)

    def _write(self, _node: int, body: bytes, _thread: int) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack(
            "<II", self._fs.write(self._handles[handle], offset, body[40 : 40 + size]), 0
        )

    def _flush(self, _node: int, body: bytes, _thread: int) -> bytes:
        # RELEASE comes after close(2) has returned; FLUSH is what close(2) waits for.
        self._fs.close(self._handles[struct.unpack_from("<Q", body)[0]])
        return b""

    def _release(self, _node: int, body: bytes, _thread: int) -> bytes:
        self._handles.pop(struct.unpack_from("<Q", body)[0], None)
        return b""

    def _readdir(self, node: int, body: bytes, _thread: int) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        entries, path = b"", self._paths[node]
        for number, name in enumerate((".", "..", *self._fs.names(path)), 1):
            if number <= offset:
                continue
            encoded = name.encode()
            entry = struct.pack("<QQII", number, number, len(encoded), 0) + encoded
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def _ioctl(self, _node: int, body: bytes, thread: int) -> bytes:
        handle, _, command, _, in_size, _ = struct.unpack_from("<QIIQII", body)
        answer = self._fs.ioctl(
            self._handles[handle], command, body[32 : 32 + in_size], Caller(thread=thread)
        )
        return struct.pack("<iIII", answer.result, 0, 0, 0) + answer.data
