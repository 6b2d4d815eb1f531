"""The compiled kernels are those that were committed, and no other is ever loaded."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import UnavailableError
from enclave_worker.device import cubins
from enclave_worker.device.cubins import (
    KERNELS,
    TUNINGS,
    CubinRefusedError,
    CubinUnavailableError,
    Tuning,
)
from enclave_worker.device.launcher import load_launcher
from enclave_worker.errors import KernelSourceError
from enclave_worker.kernels.registry import BUILT_IN, Registry
from tests.gpu_aead import build_cubins, elf, nvrtc

PAIRS = [(a, tuning) for a, tunings in TUNINGS.items() for tuning in tunings]
NVCC = shutil.which("nvcc")

each_cubin = pytest.mark.parametrize(
    ("architecture", "tuning"), PAIRS, ids=[f"sm{a}-{t.name}" for a, t in PAIRS]
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cubins that a test may damage, in place of the installed ones."""
    copy = tmp_path / "cuda"
    shutil.copytree(build_cubins.FOLDER, copy)
    monkeypatch.setattr(cubins, "_folder", lambda: copy)
    return copy


# -- what is committed ----------------------------------------------------------------------------


@each_cubin
def test_every_cubin_is_the_one_in_the_manifest(architecture: int, tuning: Tuning) -> None:
    assert cubins.load(architecture, tuning).image.startswith(b"\x7fELF")


def test_all_architectures_of_the_promise_are_there_and_small_enough() -> None:
    assert set(TUNINGS) == {80, 86, 89, 90, 100, 120}
    assert sum(path.stat().st_size for path in build_cubins.CUBINS.iterdir()) <= build_cubins.LIMIT


@each_cubin
def test_no_cubin_has_local_memory(architecture: int, tuning: Tuning) -> None:
    """A spilled register lies in device memory that nobody wipes. Read from the bytes we ship."""
    file = elf.read(cubins.load(architecture, tuning).image)
    assert file.architecture == architecture
    assert set(file.kernels) == set(KERNELS)
    assert not [name for name in file.sections if name.startswith(".nv.local")]
    assert not any(file.stack_bytes), "a kernel or what it calls has a stack frame"


@each_cubin
def test_a_block_fits_on_its_multiprocessor(architecture: int, tuning: Tuning) -> None:
    kib = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}[architecture]
    assert tuning.shared_bytes <= kib << 10
    # A kibibyte of every block's shared memory is the system's.
    assert tuning.blocks_per_sm * (tuning.shared_bytes + 1024) <= (kib + 1) << 10
    threads = 1536 if architecture in (86, 89, 120) else 2048
    assert tuning.threads % 32 == 0
    assert tuning.threads <= 1024
    assert tuning.blocks_per_sm * tuning.threads <= threads


# -- what changes the catalogue -------------------------------------------------------------------


def test_the_catalogue_says_which_cubins_a_worker_has(folder: Path) -> None:
    """On a machine without a GPU too: a client that pins a catalogue pins the cubins."""
    before = Registry(BUILT_IN).catalogue()
    name = cubins.file_name(*PAIRS[0])
    image = (folder / "cubins" / name).read_bytes()
    changed = image[:-1] + bytes([image[-1] ^ 1])
    (folder / "cubins" / name).write_bytes(changed)
    manifest = folder / "cubins" / cubins.MANIFEST
    manifest.write_text(manifest.read_text().replace(_sha(image), _sha(changed)))

    after = Registry(BUILT_IN).catalogue()
    assert after.digest() != before.digest()
    pairs = zip(before.entries, after.entries, strict=True)
    assert all(old.source_digest != new.source_digest for old, new in pairs)


def damage(folder: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    path = folder / name
    changed = change(path.read_bytes())
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)


@pytest.mark.parametrize("change", [lambda data: data + b"\n", lambda data: None])
@pytest.mark.parametrize(
    "name",
    [f"cubins/{cubins.file_name(*PAIRS[0])}", "cubins/manifest.toml", *cubins.SOURCES],
)
def test_a_cubin_or_source_that_was_not_built_gives_no_catalogue(
    folder: Path, name: str, change: Callable[[bytes], bytes | None]
) -> None:
    """A source that was changed without `make cubins`, a cubin swapped on the disk, a lost file."""
    damage(folder, name, change)
    if name.endswith("manifest.toml") and (folder / name).exists():
        (folder / name).write_text("[files]\n")
    with pytest.raises(KernelSourceError):
        Registry(BUILT_IN).catalogue()


# -- what is loaded -------------------------------------------------------------------------------


def test_a_swapped_cubin_is_not_loaded(folder: Path) -> None:
    """Its hash is checked on the bytes that are then given to the driver."""
    first, second = (folder / "cubins" / cubins.file_name(*pair) for pair in PAIRS[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(CubinRefusedError):
        cubins.load(*PAIRS[0])
    cubins.load(*PAIRS[1])


@pytest.mark.parametrize("text", ["", "files = 3", "[files]\na = 1", "files", "\x00"])
def test_what_is_no_manifest_vouches_for_nothing(folder: Path, text: str) -> None:
    (folder / "cubins" / cubins.MANIFEST).write_text(text)
    with pytest.raises(CubinRefusedError):
        cubins.load(*PAIRS[0])


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [(80, 80), (86, 86), (87, 86), (89, 89), (90, 90), (100, 100), (103, 100), (121, 120)],
)
def test_a_gpu_runs_the_nearest_cubin_of_its_major_architecture(
    capability: int, architecture: int
) -> None:
    assert cubins.architecture_for(capability) == architecture


@pytest.mark.parametrize("capability", [0, 61, 70, 75, 110, 130, 900])
def test_a_gpu_without_cubins_is_refused(capability: int) -> None:
    """Never by compiling for it: what no hash vouches for does not run."""
    with pytest.raises(CubinUnavailableError):
        cubins.architecture_for(capability)


class RecordingCupy:
    """As much of CuPy as loading takes; it keeps what it was given and loads nothing."""

    class CUDADriverError(Exception):
        pass

    def __init__(self, *, refuses: bool = False) -> None:
        self.loaded: list[bytes] = []
        self.compiled: list[str] = []
        self.shared: list[int] = []
        self.refuses = refuses
        self.cuda = self.function = self.driver = self.runtime = self
        self.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
        self.ptr = 1
        self.kernel = self

    def __call__(self) -> "RecordingCupy":
        return self

    def Device(self) -> Any:  # noqa: N802 - CuPy's name
        return type(
            "Device",
            (),
            {"id": 0, "compute_capability": "90", "attributes": {"MultiProcessorCount": 132}},
        )

    def Module(self) -> "RecordingCupy":  # noqa: N802
        return self

    def RawModule(self, *, code: str, options: object, backend: str) -> Any:  # noqa: N802
        self.compiled.append(code)
        return self

    def load(self, image: bytes) -> None:
        if self.refuses:
            raise self.CUDADriverError
        self.loaded.append(image)

    def get_function(self, name: str) -> "RecordingCupy":
        return self

    def funcSetAttribute(self, kernel: int, attribute: int, value: int) -> None:  # noqa: N802
        self.shared.append(value)


def test_the_driver_gets_the_bytes_that_were_checked(caplog: pytest.LogCaptureFixture) -> None:
    cupy = RecordingCupy()
    launcher = load_launcher(cupy)
    assert launcher.tuning == TUNINGS[90][0]
    assert launcher.sm_count == 132
    assert cupy.loaded == [cubins.load(90, TUNINGS[90][0]).image]
    assert cupy.compiled == []
    assert cupy.shared == [launcher.tuning.shared_bytes]
    assert caplog.records == []


def test_compiling_at_run_time_has_to_be_asked_for_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cupy = RecordingCupy()
    load_launcher(cupy, compile_at_run_time=True)
    assert cupy.compiled == [cubins.source()]
    assert [record.message for record in caplog.records] == ["cubin.compiled_here"]
    assert caplog.records[0].levelname == "WARNING"


def test_a_driver_that_refuses_the_cubin_makes_the_gpu_unavailable() -> None:
    """Not a reason to compile another one."""
    cupy = RecordingCupy(refuses=True)
    with pytest.raises(UnavailableError):
        load_launcher(cupy)
    assert cupy.compiled == []


# -- where a compiler is present ------------------------------------------------------------------


@pytest.fixture
def pinned_compiler() -> None:
    try:
        nvrtc.library()
    except nvrtc.NvrtcMissingError as error:
        pytest.skip(f"the pinned NVRTC is not installed: {error}")


@pytest.mark.usefixtures("pinned_compiler")
def test_the_pinned_compiler_makes_the_committed_bytes() -> None:
    """Another machine, another day, the same cubin; `build` also refuses local memory."""
    architecture, tuning = 90, TUNINGS[90][0]
    images = [build_cubins.build(architecture, tuning).image for _ in range(2)]
    assert images == [cubins.load(architecture, tuning).image] * 2


@pytest.mark.usefixtures("pinned_compiler")
def test_a_kernel_that_needs_local_memory_is_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    spilling = cubins.source().replace("__launch_bounds__(threads, blocks)", "__maxnreg__(32)")
    assert spilling != cubins.source()
    monkeypatch.setattr(cubins, "source", lambda: spilling)
    with pytest.raises(nvrtc.CompileError):
        build_cubins.build(90, TUNINGS[90][0])


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize("architecture", sorted(TUNINGS))
def test_another_compiler_of_nvidias_takes_the_source_and_spills_nothing(
    architecture: int, tmp_path: Path
) -> None:
    """Whoever develops the kernels may have a toolkit and not the wheel.

    The second tuning is the one with registers to spare: CUDA 13 spills some of the first one's on
    Blackwell, which is why the compiler is pinned.
    """
    assert NVCC is not None
    (tmp_path / "kernels.cu").write_text(cubins.source())
    command = [NVCC, "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v"]
    command += ["-Werror", "all-warnings", *TUNINGS[architecture][architecture >= 100].options]
    command += ["-o", str(tmp_path / "kernels.cubin"), str(tmp_path / "kernels.cu")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    file = elf.read((tmp_path / "kernels.cubin").read_bytes())
    assert set(file.kernels) == set(KERNELS)
    assert file.architecture == architecture
    usage = nvrtc.usage(done.stderr)
    assert set(usage) == set(KERNELS)
    assert not any(each.spills or each.stack for each in usage.values()), usage


def test_the_compilers_log_is_read_right() -> None:
    log = (
        "ptxas info : Compiling entry function 'a' for 'sm_90'\n"
        "ptxas info : Function properties for a\n"
        "    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info : Used 64 registers, used 1 barriers, 8 bytes cumulative stack size\n"
        "ptxas info : Compiling entry function 'b' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info : Used 32 registers, used 0 barriers\n"
    )
    usage = nvrtc.usage(log)
    assert usage["a"] == nvrtc.Usage(registers=64, stack=8, spills=12)
    assert usage["b"] == nvrtc.Usage(registers=32, stack=0, spills=0)
    with pytest.raises(nvrtc.CompileError):
        nvrtc.usage("Compiling entry function 'c' and nothing more")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
