"""Our compiled kernels: which there are, for which GPUs, and that none is another than was built.

`make cubins` compiles `cuda/` ahead and writes `cuda/cubins/manifest.toml` beside what came out.
The worker carries no compiler and loads bytes whose SHA-256 it has checked; CuPy's cache on disk,
which is guarded by an unkeyed SHA-1, is not used. Every digest in the kernel catalogue covers
`fingerprint`, on machines without a GPU too, so a client that pins a catalogue pins the cubins.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from attestation.errors import UnavailableError
from enclave_worker.errors import EnclaveWorkerError

SOURCES: Final = ("dialect.cuh", "ghash_field.cuh", "aes_bitsliced.cuh", "aes256gcm.cu")
"""Compiled as one text, in this order."""
KERNELS: Final = ("gcm_setup", "gcm_body", "gcm_finish")
MANIFEST: Final = "manifest.toml"

_HASH_COPIES: Final = 8
_SETUP_THREADS: Final = 256
_FINISH_THREADS: Final = 64


class CubinRefusedError(EnclaveWorkerError):
    """A compiled kernel is missing, or not the one that was built. Install the package again."""

    code = "cubin-refused"


class CubinUnavailableError(UnavailableError):
    """There is no compiled kernel for this GPU. Use a newer release, or the processor."""

    code = "cubin-unavailable"


@frozen(kw_only=True)
class Tuning:
    """How the kernels are laid out on a multiprocessor. Every tuning computes the same bytes."""

    threads: int
    """Of a block of `gcm_body`."""
    tables: int = 1
    """1: one AES table, whose three rotations cost instructions; 4: all, which cost memory."""
    blocks_per_sm: int = 1
    """How many blocks the compiler must leave registers for."""

    @property
    def name(self) -> str:
        """A word for file names and logs."""
        return f"t{self.threads}-a{self.tables}-b{self.blocks_per_sm}"

    @property
    def options(self) -> tuple[str, ...]:
        """What the compiler is told."""
        return (
            "-std=c++17",
            f"-DTHREADS={self.threads}",
            f"-DTABLES={self.tables}",
            f"-DBLOCKS_PER_SM={self.blocks_per_sm}",
        )

    @property
    def context_bytes(self) -> int:
        """Device memory for what is derived from one key: CONTEXT_WORDS of aes256gcm.cu."""
        return 4 * (440 + 2048 + 4 * (self.threads + 1))

    @property
    def shared_bytes(self) -> int:
        """Shared memory of `gcm_body`: BODY_WORDS of aes256gcm.cu."""
        return 4 * (8192 * self.tables + 2048 * _HASH_COPIES + 64 + 4 * 32)

    @property
    def setup_threads(self) -> int:
        """Threads of a block of `gcm_setup`."""
        return _SETUP_THREADS

    @property
    def setup_bytes(self) -> int:
        """Shared memory of `gcm_setup`: SETUP_WORDS of aes256gcm.cu."""
        return 4 * 64

    @property
    def finish_threads(self) -> int:
        """Threads of a block of `gcm_finish`."""
        return _FINISH_THREADS


TUNINGS: Final[Mapping[int, tuple[Tuning, ...]]] = MappingProxyType(
    {
        # 164 KiB of shared memory a multiprocessor: one block with one table.
        80: (Tuning(threads=1024), Tuning(threads=512)),
        # 100 KiB: what one block takes fits just so.
        86: (Tuning(threads=1024), Tuning(threads=512)),
        89: (Tuning(threads=1024), Tuning(threads=512)),
        # 228 KiB: two blocks with one table each, or one with four.
        90: (Tuning(threads=512, blocks_per_sm=2), Tuning(threads=1024, tables=4)),
        # As much, but with fewer registers the pinned compiler spills for this architecture.
        100: (Tuning(threads=384, blocks_per_sm=2), Tuning(threads=512)),
        120: (Tuning(threads=1024), Tuning(threads=512)),
    }
)
"""By compute capability; the first of each is used until a measurement says otherwise."""


@frozen(kw_only=True)
class Cubin:
    """One compiled kernel file, checked against the manifest."""

    architecture: int
    tuning: Tuning
    image: bytes


def source() -> str:
    """Return the kernels' source as the compiler gets it."""
    return "".join((_folder() / name).read_text("utf-8") for name in SOURCES)


def file_name(architecture: int, tuning: Tuning) -> str:
    """Return what a cubin is called."""
    return f"aes256gcm-sm{architecture}-{tuning.name}.cubin"


def architecture_for(capability: int) -> int:
    """Return which architecture's cubins a GPU of `capability` (as 90) runs.

    A cubin runs on its own major architecture, from its own minor one up. Raises
    `CubinUnavailableError` when there is none for it.
    """
    fitting = [a for a in TUNINGS if a // 10 == capability // 10 and a <= capability]
    if not fitting:
        raise CubinUnavailableError(f"there are no cubins for compute capability {capability}")
    return max(fitting)


def load(architecture: int, tuning: Tuning) -> Cubin:
    """Return a cubin; raises `CubinRefusedError` unless it is the one that the manifest names."""
    name = file_name(architecture, tuning)
    image = _read(name)
    if _hash(image) != _manifest().get(name):
        raise CubinRefusedError(f"{name} is not the cubin that was built")
    return Cubin(architecture=architecture, tuning=tuning, image=image)


def fingerprint() -> dict[str, str]:
    """Return the SHA-256 of every cubin and source by name, for the kernel catalogue.

    Raises `CubinRefusedError` when one is missing, or is not what the manifest says: a catalogue
    must not vouch for what `load` would refuse.
    """
    manifest = _manifest()
    wanted = {file_name(a, tuning) for a, tunings in TUNINGS.items() for tuning in tunings}
    if set(manifest) != wanted | set(SOURCES):
        raise CubinRefusedError("the manifest lists other files than there should be")
    for name, expected in manifest.items():
        if _hash(_read(name)) != expected:
            raise CubinRefusedError(f"{name} is not what was built; after a change: make cubins")
    return manifest


def manifest_text() -> str:
    """Return the manifest as it was committed."""
    return _read(MANIFEST).decode("utf-8")


def _manifest() -> dict[str, str]:
    try:
        parsed: Any = tomllib.loads(manifest_text())
        return {str(name): str(entry["sha256"]) for name, entry in parsed["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CubinRefusedError("the manifest of the cubins is not one") from error


def _read(name: str) -> bytes:
    folder = _folder() if name in SOURCES else _folder() / "cubins"
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise CubinRefusedError(f"{name} is missing") from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _folder() -> Traversable:
    return resources.files("enclave_worker.device") / "cuda"
