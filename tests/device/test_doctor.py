"""The doctor finds what is there, says how to get what is not, and fails on no machine."""

import json
import resource
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import attrs
import click.testing
import pytest

from enclave_worker import doctor as module
from enclave_worker.cli import worker
from enclave_worker.device.confidential import Mode
from enclave_worker.device.driver import DriverError, driver_version, list_gpus, load_driver
from enclave_worker.doctor import Finding, Machine, Need, State, examine, unmet
from tests.device.fake_driver import FakeDriver, FakeGpu


def installed(**versions: str) -> Any:
    def look(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(name) from None

    return look


def no_driver() -> Any:
    raise DriverError("libcuda.so.1 is not installed")


@pytest.fixture
def bare(tmp_path: Path) -> Machine:
    """A machine without anything."""
    return Machine(
        root=tmp_path,
        load_driver=no_driver,
        read_mode=lambda: Mode.UNKNOWN,
        installed=installed(),
    )


@pytest.fixture
def complete(tmp_path: Path) -> Machine:
    """A machine with a GPU in confidential mode and a TEE."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").touch()
    return Machine(
        root=tmp_path,
        load_driver=lambda: FakeDriver(gpus=[FakeGpu()]),
        read_mode=lambda: Mode.ON,
        installed=installed(cupy_cuda13x="14.2.0"),
        try_gpu=lambda: "H100, CUDA 13.2",
    )


def by_check(machine: Machine) -> dict[str, Finding]:
    return {each.check: each for each in examine(machine)}


def test_a_machine_with_nothing_still_runs_a_worker(bare: Machine) -> None:
    findings = examine(bare)
    assert unmet(findings, {Need.WORKER}) == set()
    assert unmet(findings, set(Need)) == {Need.GPU, Need.CONFIDENTIAL_GPU, Need.TEE}


def test_a_complete_machine_lacks_nothing(complete: Machine) -> None:
    findings = examine(complete)
    assert unmet(findings, set(Need)) == set()
    found = by_check(complete)
    assert "80.0 GiB, compute capability 9.0" in found["cuda:0"].found
    assert found["GPU computes"].state is State.OK


def test_whatever_is_not_ok_says_what_to_do(bare: Machine, complete: Machine) -> None:
    for machine in (bare, complete):
        for each in examine(machine):
            assert each.found, each
            if each.state is not State.OK:
                assert each.fix, each


@pytest.mark.parametrize(
    ("packages", "version", "says"),
    [
        ({}, 13_000, "cuda13"),
        ({}, 12_040, "cuda12"),
        ({"cupy_cuda13x": "14"}, 12_080, "the driver ends at CUDA 12.8"),
        ({"cupy_cuda13x": "14", "cupy_cuda12x": "14"}, 13_000, "uninstall both"),
    ],
)
def test_a_cupy_that_does_not_fit_the_driver_is_missing(
    complete: Machine, packages: dict[str, str], version: int, says: str
) -> None:
    machine = attrs.evolve(
        complete,
        installed=installed(**packages),
        load_driver=lambda: FakeDriver(gpus=[FakeGpu()], version=version),
    )
    cupy = by_check(machine)["CuPy"]
    assert cupy.state is State.MISSING
    assert says in f"{cupy.found} {cupy.fix}"
    assert Need.GPU in unmet(examine(machine), {Need.GPU})


def test_an_older_cupy_on_a_newer_driver_is_fine(complete: Machine) -> None:
    machine = attrs.evolve(complete, installed=installed(cupy_cuda12x="14.2.0"))
    assert by_check(machine)["CuPy"].state is State.OK


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.ON])
def test_no_other_mode_passes_for_confidential(complete: Machine, mode: Mode) -> None:
    machine = attrs.evolve(complete, read_mode=lambda: mode)
    found = by_check(machine)["confidential mode"]
    assert (found.state, found.found) == (State.WARNING, mode.value)
    assert unmet(examine(machine), {Need.CONFIDENTIAL_GPU, Need.GPU}) == {Need.CONFIDENTIAL_GPU}


@pytest.mark.parametrize(
    ("code", "says"), [(100, "none"), (802, "not ready"), (803, "does not fit"), (46, "46")]
)
def test_a_driver_that_shows_no_gpu_is_explained(complete: Machine, code: int, says: str) -> None:
    machine = attrs.evolve(complete, load_driver=lambda: FakeDriver(init=code))
    found = by_check(machine)["GPUs"]
    assert found.state is State.MISSING
    assert says in found.found


def test_a_gpu_that_does_not_compute_is_missing(complete: Machine) -> None:
    def fail() -> str:
        raise ImportError("libcublas.so.13: cannot open shared object file")

    machine = attrs.evolve(complete, try_gpu=fail)
    found = by_check(machine)["GPU computes"]
    assert found.state is State.MISSING
    assert "libcublas" in found.found


def test_a_gpu_too_old_for_our_kernels_is_pointed_out(complete: Machine) -> None:
    machine = attrs.evolve(
        complete, load_driver=lambda: FakeDriver(gpus=[FakeGpu(major=7, minor=5)])
    )
    assert by_check(machine)["cuda:0"].state is State.WARNING


def test_a_tpm_alone_is_no_tee(bare: Machine) -> None:
    """Its operator reads memory: a machine chosen for confidential jobs must not pass with it."""
    (bare.root / "dev").mkdir()
    (bare.root / "dev" / "tpmrm0").touch()
    found = by_check(bare)
    assert found["TPM"].state is State.OK
    assert found["evidence"].state is State.WARNING
    assert unmet(examine(bare), {Need.TEE}) == {Need.TEE}


def test_a_device_that_this_user_may_not_open_is_a_warning(
    complete: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    found = by_check(complete)
    assert found["SEV-SNP guest"].state is State.WARNING
    assert "root" in found["SEV-SNP guest"].fix
    assert found["evidence"].state is State.WARNING


@pytest.mark.parametrize(
    ("limit", "state"),
    [
        (resource.RLIM_INFINITY, State.OK),
        (1 << 31, State.OK),
        (8 << 20, State.WARNING),
        (0, State.WARNING),
    ],
)
def test_a_limit_on_locked_memory_is_pointed_out(
    bare: Machine, monkeypatch: pytest.MonkeyPatch, limit: int, state: State
) -> None:
    monkeypatch.setattr(module.resource, "getrlimit", lambda _which: (limit, limit))
    assert by_check(bare)["locked memory"].state is state


def test_the_command_runs_on_this_machine_and_prints_one_document() -> None:
    result = click.testing.CliRunner().invoke(worker, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {each["state"] for each in document["findings"]} <= set(State)
    assert all(set(each) >= {"check", "state", "found", "fix"} for each in document["findings"])


def test_a_need_that_is_not_met_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, bare: Machine
) -> None:
    monkeypatch.setattr(module, "Machine", lambda **_: bare)
    runner = click.testing.CliRunner()
    assert runner.invoke(worker, ["doctor"]).exit_code == 0
    refused = runner.invoke(worker, ["doctor", "--need", "tee", "--need", "gpu"])
    assert refused.exit_code == 3
    assert "gpu, tee" in refused.stderr


def test_a_worker_without_numpy_is_not_called_fit(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name == "numpy" else real(name)
    )
    assert unmet(examine(bare), {Need.WORKER}) == {Need.WORKER}


def test_the_driver_is_read_without_cupy() -> None:
    library = FakeDriver(gpus=[FakeGpu(), FakeGpu(name=b"NVIDIA L4", memory=24 << 30, minor=9)])
    assert driver_version(library) == "13.2"
    assert [gpu.name for gpu in list_gpus(library)] == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]
    assert list_gpus(FakeDriver(init=100)) == ()


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave_worker.device.driver.LIBRARY", "libcuda-is-not-here.so.1")
    with pytest.raises(DriverError, match="no NVIDIA driver"):
        load_driver()
