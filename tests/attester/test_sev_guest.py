"""`/dev/sev-guest` through real ioctls, with the driver's rules and faults."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from attestation.evidence.sev_snp import Report, SevSnpEvidence
from enclave_worker.attester.patience import PAUSES, AttesterFailedError, AttesterMissingError
from enclave_worker.attester.sev_guest import SevGuest, SevGuestAttester
from tests.attester.conftest import Mount, certificate_table, unsigned_snp_report
from tests.simulators import sev_guest as stand_in
from tests.simulators.sev_guest import GET_EXTENDED_REPORT, GET_REPORT

DATA = bytes(range(64))
TABLE = certificate_table(b"\x30" * 1500, b"\x31" * 1700)


class Machine:
    """A guest with the driver of Linux 5.19 to 6.6."""

    def __init__(self, mount: Mount, **changes: Any) -> None:
        self.driver = stand_in.SevGuest(
            **{
                "make_report": lambda data, level: (unsigned_snp_report(data, level)[0], TABLE),
                **changes,
            }
        )
        self.slept: list[float] = []
        self.path = mount(self.driver) / "sev-guest"
        self.attester = SevGuestAttester(SevGuest(self.path, sleep=self.slept.append))

    def collect(self) -> SevSnpEvidence:
        return SevSnpEvidence.from_bytes(self.attester.collect(DATA))


@pytest.fixture
def machine(mount: Mount) -> Machine:
    return Machine(mount)


def test_a_report_comes_with_the_hosts_certificates_and_without_the_pages_padding(
    machine: Machine,
) -> None:
    body = machine.collect()
    assert Report.from_bytes(body.report).report_data == DATA
    assert body.certificate_table == TABLE
    assert machine.driver.requests == [GET_EXTENDED_REPORT]


def test_a_host_without_certificates_is_no_error(mount: Mount) -> None:
    assert Machine(mount, make_report=unsigned_snp_report).collect().certificate_table == b""


def test_more_certificates_than_the_driver_takes_leave_the_report_alone(mount: Mount) -> None:
    """EIO with vmm_error 1: the one failure that does not cost the driver its key."""
    machine = Machine(mount, certificate_bytes=0x5000)
    body = machine.collect()
    assert Report.from_bytes(body.report).report_data == DATA
    assert body.certificate_table == b""
    assert machine.driver.requests == [GET_EXTENDED_REPORT, GET_REPORT]


@pytest.mark.parametrize("privilege", [0, 1, 2, 3])
def test_the_guests_privilege_level_is_found_once(mount: Mount, privilege: int) -> None:
    machine = Machine(mount, privilege=privilege)
    assert Report.from_bytes(machine.collect().report).vmpl == privilege
    machine.collect()
    assert len(machine.driver.requests) == privilege + 2


def test_a_firmware_that_refuses_every_level_is_an_error_and_not_a_loop(mount: Mount) -> None:
    machine = Machine(mount, privilege=4)
    for _ in range(2):
        with pytest.raises(AttesterFailedError, match="status 0x16"):
            machine.collect()
    assert len(machine.driver.requests) == 8


@pytest.mark.parametrize("fault", [errno.EBUSY, errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("operation", ["open", "ioctl"])
def test_what_passes_is_waited_for(machine: Machine, operation: str, fault: int) -> None:
    machine.driver.faults.then(operation, fault, fault)
    assert Report.from_bytes(machine.collect().report).report_data == DATA
    assert machine.driver.faults.spent


def test_a_throttled_guest_waits_so_long_and_no_longer(machine: Machine) -> None:
    machine.driver.faults.then("ioctl", *[errno.EAGAIN] * 100)
    with pytest.raises(AttesterFailedError, match="EAGAIN"):
        machine.collect()
    assert machine.slept == list(PAUSES)


def test_a_driver_that_lost_its_key_says_to_restart_the_machine(machine: Machine) -> None:
    """After a firmware error the driver wipes its key, and every request is ENOTTY."""
    machine.driver.faults.then("firmware", errno.EIO)
    with pytest.raises(AttesterFailedError, match="EIO"):
        machine.collect()
    with pytest.raises(AttesterFailedError, match=r"ENOTTY.*restart the machine"):
        machine.collect()
    assert machine.slept == []


def test_an_error_that_merely_looks_like_a_small_buffer_is_not_asked_again(
    machine: Machine,
) -> None:
    """EIO without vmm_error 1: a second request could repeat a counter."""
    machine.driver.faults.then("firmware", errno.EIO)
    with pytest.raises(AttesterFailedError):
        machine.collect()
    assert machine.driver.requests == [GET_EXTENDED_REPORT]


@pytest.mark.parametrize("length", [0, 1183, 1185, 3900])
def test_a_report_of_another_length_is_refused(mount: Mount, length: int) -> None:
    report = unsigned_snp_report(DATA, 0)[0].ljust(4000, b"\0")[:length]
    machine = Machine(mount, make_report=lambda _data, _level: (report, b""))
    with pytest.raises(AttesterFailedError, match="bytes"):
        machine.collect()


def test_a_report_over_other_data_is_refused(mount: Mount) -> None:
    machine = Machine(mount, make_report=lambda _data, level: unsigned_snp_report(bytes(64), level))
    with pytest.raises(AttesterFailedError, match="something else"):
        machine.collect()


def test_a_report_of_an_unknown_version_is_refused(mount: Mount) -> None:
    machine = Machine(mount, make_report=lambda _data, _level: (b"\xff" * 1184, b""))
    with pytest.raises(AttesterFailedError, match="not readable"):
        machine.collect()


@pytest.mark.parametrize(
    "table",
    [b"\xff" * 0x4000, b"\x01" * 24, (b"\x01" * 16 + b"\xff" * 8).ljust(0x1000, b"\0")],
)
def test_a_table_of_nonsense_goes_along_and_breaks_nothing(mount: Mount, table: bytes) -> None:
    """The host writes it and the client judges it; the worker reads only how long it is."""
    machine = Machine(
        mount, make_report=lambda data, level: (unsigned_snp_report(data, level)[0], table)
    )
    assert len(machine.collect().certificate_table) <= 0x4000


def test_no_device_is_missing(mount: Mount) -> None:
    machine = Machine(mount)
    with pytest.raises(AttesterMissingError, match=r"ENOENT.*SEV-SNP guest"):
        SevGuestAttester(SevGuest(machine.path.with_name("nothing")))


def test_a_device_that_may_not_be_opened_is_there(mount: Mount) -> None:
    machine = Machine(mount)
    machine.driver.faults.then("open", errno.EACCES)
    with pytest.raises(AttesterFailedError, match=r"EACCES.*as root"):
        machine.collect()


def test_several_threads_take_turns(machine: Machine) -> None:
    inputs = [os.urandom(64) for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(machine.attester.collect, inputs))
    reports = [SevSnpEvidence.from_bytes(body).report for body in bodies]
    assert [Report.from_bytes(report).report_data for report in reports] == inputs
