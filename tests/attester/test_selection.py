"""`--attester auto`: the strongest that is there, never past one that is there and fails."""

import errno
import sys
from pathlib import Path

import pytest

from attestation.errors import UnavailableError
from enclave_worker.attester.nvidia_gpu import NvidiaGpuAttester
from enclave_worker.attester.patience import AttesterFailedError, AttesterMissingError
from enclave_worker.attester.selection import (
    GPU_NAMES,
    NAMES,
    AttesterName,
    NoAttesterError,
    Places,
    select_attester,
    select_gpu_attester,
)
from tests.attester.conftest import Mount, unsigned_snp_report
from tests.attester.test_nitro import document
from tests.attester.test_nvidia_gpu import echoing, recorded
from tests.simulators import configfs_tsm, nsm, sev_guest
from tests.simulators.nvml import FakeGpu, FakeNvml, loaded

NO_TPM = "device:/nonexistent/tpm"
NOWHERE = Path("/nonexistent")
SPEECHLESS = FakeGpu(report=lambda _nonce: b"\0" * 300, chain=b"none")


@pytest.fixture
def tsm() -> configfs_tsm.ConfigfsTsm:
    return configfs_tsm.ConfigfsTsm(make_report=unsigned_snp_report)


@pytest.fixture
def old() -> sev_guest.SevGuest:
    return sev_guest.SevGuest(make_report=unsigned_snp_report)


@pytest.fixture
def module() -> nsm.Nsm:
    return nsm.Nsm(attest=document)


def places(**there: Path) -> Places:
    return Places(**{"configfs_tsm": NOWHERE, "sev_guest": NOWHERE, "nitro": NOWHERE, **there})


def auto(places: Places) -> tuple[str, str]:
    attester, reason = select_attester("auto", tcti=NO_TPM, places=places)
    assert attester.collect(bytes(64))
    return attester.kind, reason


def test_configfs_tsm_goes_before_the_older_device(
    mount: Mount, tsm: configfs_tsm.ConfigfsTsm, old: sev_guest.SevGuest
) -> None:
    kind, reason = auto(
        places(configfs_tsm=mount(tsm) / "tsm/report", sev_guest=mount(old) / "sev-guest")
    )
    assert (kind, reason) == ("sev-snp", "the kernel offers configfs-tsm of sev_guest")
    assert old.requests == []


def test_the_older_device_is_taken_where_there_is_no_configfs_tsm(
    mount: Mount, old: sev_guest.SevGuest
) -> None:
    kind, reason = auto(places(sev_guest=mount(old) / "sev-guest"))
    assert kind == "sev-snp"
    assert "no configfs-tsm (" in reason
    assert "ENOENT" in reason


def test_a_kernel_with_configfs_tsm_and_no_tee_is_passed_over(
    mount: Mount, tsm: configfs_tsm.ConfigfsTsm, module: nsm.Nsm
) -> None:
    """Distributions build it into kernels that run on any machine."""
    tsm.loaded = False
    kind, reason = auto(places(configfs_tsm=mount(tsm) / "tsm/report", nitro=mount(module) / "nsm"))
    assert kind == "nitro"
    assert "ENXIO" in reason


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
def test_a_tee_that_is_locked_is_never_passed_over(
    mount: Mount, tsm: configfs_tsm.ConfigfsTsm, module: nsm.Nsm, fault: int
) -> None:
    """A worker in a TEE must not quietly become one with weaker evidence."""
    tsm.faults.then("mkdir", fault)
    there = places(configfs_tsm=mount(tsm) / "tsm/report", nitro=mount(module) / "nsm")
    with pytest.raises(AttesterFailedError):
        select_attester("auto", tcti=NO_TPM, places=there)
    assert module.requests == []


def test_a_machine_with_nothing_says_what_is_missing_and_how_to_go_on() -> None:
    with pytest.raises(NoAttesterError) as refused:
        select_attester("auto", tcti=NO_TPM, places=places())
    text = str(refused.value)
    for name in ("no configfs-tsm", "no sev-guest", "no nitro", "no tpm", "To go on"):
        assert name in text


@pytest.mark.parametrize("name", ["configfs-tsm", "sev-guest", "nitro", "tpm"])
def test_what_was_asked_for_by_name_is_never_replaced(
    name: AttesterName, mount: Mount, tsm: configfs_tsm.ConfigfsTsm
) -> None:
    there = places(configfs_tsm=mount(tsm) / "tsm/report")
    if name == "configfs-tsm":
        attester, reason = select_attester(name, tcti=NO_TPM, places=there)
        assert (attester.kind, reason) == ("sev-snp", "asked for")
        there = places()
    with pytest.raises(UnavailableError):
        select_attester(name, tcti=NO_TPM, places=there)


def test_insecure_is_never_reached_from_auto(
    mount: Mount,
    tsm: configfs_tsm.ConfigfsTsm,
    old: sev_guest.SevGuest,
    module: nsm.Nsm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is there, absent or broken: the class is not even made."""

    def never(*_: object) -> None:
        raise AssertionError("auto made an insecure attester")

    monkeypatch.setattr("enclave_worker.attester.selection.InsecureAttester", never)
    there = {
        "configfs_tsm": mount(tsm) / "tsm/report",
        "sev_guest": mount(old) / "sev-guest",
        "nitro": mount(module) / "nsm",
    }
    chosen = set()
    for mask in range(8):
        some = {name: at for bit, (name, at) in enumerate(there.items()) if mask >> bit & 1}
        for broken in (None, errno.EACCES, errno.ENXIO):
            if broken is not None:
                tsm.faults.then("mkdir", broken)
                old.faults.then("open", broken)
                module.faults.then("open", broken)
            try:
                attester, _ = select_attester("auto", tcti=NO_TPM, places=places(**some))
            except UnavailableError as error:
                chosen.add(error.code)
            else:
                chosen.add(attester.kind)
            for device in (tsm, old, module):
                device.faults.planned.clear()
    assert chosen == {"sev-snp", "nitro", "no-attester", "attester-failed"}


def test_the_names_are_those_of_the_command_line() -> None:
    assert NAMES == ("auto", "configfs-tsm", "sev-guest", "nitro", "tpm", "insecure")
    assert GPU_NAMES == ("auto", "nvidia", "none")


def test_confidential_gpus_are_taken_and_made_ready(vectors: Path) -> None:
    hopper = recorded(vectors, "hopper-550.90.07-full")
    with loaded(FakeNvml(gpus=[echoing(hopper)] * 2)) as library:
        gpus, reason = select_gpu_attester("auto")
        assert isinstance(gpus, NvidiaGpuAttester)
        assert library.ready == 1
    assert reason == "2 in confidential mode, now made ready"


def test_gpus_outside_confidential_mode_go_without_and_say_so() -> None:
    with loaded(FakeNvml(gpus=[SPEECHLESS], confidential=0)):
        gpus, reason = select_gpu_attester("auto")
        assert gpus is None
        assert "confidential computing mode is off" in reason
        with pytest.raises(AttesterMissingError):
            select_gpu_attester("nvidia")


def test_confidential_gpus_that_do_not_attest_stop_the_worker() -> None:
    """They are there: going on without their evidence would hide what is wrong with them."""
    with loaded(FakeNvml(gpus=[SPEECHLESS])) as library:
        for name in ("auto", "nvidia"):
            with pytest.raises(AttesterFailedError):
                select_gpu_attester(name)  # type: ignore[arg-type]
        assert library.ready == 0


def test_without_the_library_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus, reason = select_gpu_attester("auto")
    assert gpus is None
    assert "pip install" in reason
    with pytest.raises(AttesterMissingError, match="pip install"):
        select_gpu_attester("nvidia")


def test_no_gpu_attester_is_taken_when_none_was_asked_for() -> None:
    with loaded(FakeNvml(gpus=[SPEECHLESS])) as library:
        assert select_gpu_attester("none") == (None, "asked for")
        assert not library.calls
