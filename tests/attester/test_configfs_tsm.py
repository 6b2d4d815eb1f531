"""configfs-tsm through real system calls: what the kernel gives, and everything that goes wrong."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attestation.evidence.event_log import EventLog
from attestation.evidence.intel_quote import Quote
from attestation.evidence.sev_snp import Report, SevSnpEvidence
from attestation.evidence.tdx import TdxEvidence
from enclave_worker.attester.configfs_tsm import ConfigfsTsm
from enclave_worker.attester.patience import (
    PAUSES,
    AttesterFailedError,
    AttesterMissingError,
)
from enclave_worker.attester.tsm import TsmAttester
from tests.attester.conftest import Mount, certificate_table, unsigned_snp_report
from tests.simulators import configfs_tsm as stand_in
from tests.simulators.configfs_tsm import Entry, FaultPlan, another_writer

DATA = bytes(range(64))
BUSY, AGAIN, INTERRUPTED = errno.EBUSY, errno.EAGAIN, errno.EINTR


class Machine:
    """A guest whose kernel offers configfs-tsm."""

    def __init__(self, mount: Mount, **changes: Any) -> None:
        self.kernel = stand_in.ConfigfsTsm(
            **{"make_report": unsigned_snp_report, "read_at_most": 300, **changes}
        )
        self.slept: list[float] = []
        self.root = mount(self.kernel) / "tsm" / "report"
        self.tsm = ConfigfsTsm(self.root, sleep=self.slept.append)

    def attester(self) -> TsmAttester:
        return TsmAttester(self.tsm, event_log=Path("/nonexistent"))

    def faults(self, operation: str, *faults: stand_in.Fault) -> FaultPlan:
        return self.kernel.faults.then(operation, *faults)


@pytest.fixture
def machine(mount: Mount) -> Machine:
    return Machine(mount)


def test_a_report_is_over_what_was_asked_and_its_entry_is_gone(machine: Machine) -> None:
    body = SevSnpEvidence.from_bytes(machine.attester().collect(DATA))
    assert Report.from_bytes(body.report).report_data == DATA
    assert body.certificate_table == b""
    assert os.listdir(machine.root) == []
    assert machine.slept == []


def test_blobs_are_read_whole_however_short_the_reads(mount: Mount) -> None:
    table = certificate_table(b"\x30" * 1500, b"\x31" * 1700)
    machine = Machine(
        mount, make_report=lambda data, level: (unsigned_snp_report(data, level)[0], table)
    )
    machine.kernel.read_at_most = 7
    body = SevSnpEvidence.from_bytes(machine.attester().collect(DATA))
    assert len(body.report) == 1184
    assert body.certificate_table == table


def test_the_guests_own_privilege_level_is_asked_for(mount: Mount) -> None:
    """At VMPL 2 a request for VMPL 0, which is what the kernel asks for by default, is refused."""
    machine = Machine(mount, privilege_floor=2)
    body = SevSnpEvidence.from_bytes(machine.attester().collect(DATA))
    assert Report.from_bytes(body.report).vmpl == 2


def test_a_guest_without_levels_or_certificates_is_no_error(mount: Mount, vectors: Path) -> None:
    """A real TDX quote, and the attributes that the TDX driver shows."""
    quote = (vectors / "tdx/v4-gcp-oak/quote.bin").read_bytes()
    signed = Quote.from_bytes(quote).body.report_data
    machine = Machine(mount, provider=b"tdx_guest", make_report=lambda _data, _level: (quote, b""))
    attester = machine.attester()
    assert attester.kind == "tdx"
    assert TdxEvidence.from_bytes(attester.collect(signed)).quote == quote
    with pytest.raises(AttesterFailedError, match="something else"):
        attester.collect(DATA)


def test_the_event_log_of_a_trust_domain_goes_along(
    mount: Mount, vectors: Path, tmp_path: Path
) -> None:
    folder = vectors / "tdx/v4-gcp-cos113-ccel"
    quote, log = (folder / "quote.bin").read_bytes(), (folder / "ccel.bin").read_bytes()
    signed = Quote.from_bytes(quote).body.report_data
    machine = Machine(mount, provider=b"tdx_guest", make_report=lambda _data, _level: (quote, b""))
    body = TsmAttester(machine.tsm, event_log=folder / "ccel.bin").collect(signed)
    assert TdxEvidence.from_bytes(body).event_log == log
    (tmp_path / "CCEL").write_bytes(b"no log at all")
    reserved = tmp_path / "CCEL"
    for fill in (b"\0", b"\xff"):
        # As some machines show it: a mebibyte, of which the log takes the beginning.
        reserved.write_bytes(log.rstrip(b"\0\xff").ljust(1 << 20, fill))
        body = TsmAttester(machine.tsm, event_log=reserved).collect(signed)
        kept = TdxEvidence.from_bytes(body).event_log
        assert kept is not None
        assert EventLog.from_bytes(kept) == EventLog.from_bytes(log)
    for unreadable in (log.ljust(1 << 20, b"x"), b""):
        reserved.write_bytes(unreadable)
        body = TsmAttester(machine.tsm, event_log=reserved).collect(signed)
        assert TdxEvidence.from_bytes(body).event_log is None


@pytest.mark.parametrize("fault", [BUSY, AGAIN, INTERRUPTED])
@pytest.mark.parametrize(
    "operation",
    [
        "mkdir",
        "rmdir",
        "open generation",
        "read generation",
        "open inblob",
        "write inblob",
        "write privlevel",
        "read privlevel_floor",
        "open outblob",
        "read outblob",
        "read auxblob",
        "read provider",
    ],
)
def test_what_passes_is_waited_for(machine: Machine, operation: str, fault: int) -> None:
    attester = machine.attester()
    plan = machine.faults(operation, fault, fault)
    body = SevSnpEvidence.from_bytes(attester.collect(DATA))
    assert Report.from_bytes(body.report).report_data == DATA
    assert plan.spent
    assert os.listdir(machine.root) == []
    assert machine.slept == sorted(machine.slept)


def test_a_busy_driver_is_waited_for_so_long_and_no_longer(machine: Machine) -> None:
    attester = machine.attester()
    machine.faults("read outblob", *[BUSY] * 100)
    with pytest.raises(AttesterFailedError, match=r"EBUSY.*earlier request"):
        attester.collect(DATA)
    assert machine.slept == list(PAUSES)
    assert os.listdir(machine.root) == []


def test_a_report_that_another_writer_got_between_is_made_again(machine: Machine) -> None:
    """The stale generation: what is read would be about somebody else's 64 bytes."""
    attester = machine.attester()
    plan = machine.faults("read outblob", another_writer)
    body = SevSnpEvidence.from_bytes(attester.collect(DATA))
    assert Report.from_bytes(body.report).report_data == DATA
    assert plan.spent
    assert machine.kernel.reports == 2


def test_a_write_that_the_driver_lost_is_noticed(machine: Machine) -> None:
    """configfs hands `inblob` over when the file is closed, and says nothing of a refusal."""
    attester = machine.attester()
    plan = machine.faults("close inblob", BUSY)
    body = SevSnpEvidence.from_bytes(attester.collect(DATA))
    assert Report.from_bytes(body.report).report_data == DATA
    assert plan.spent
    assert machine.kernel.reports == 1


def test_a_writer_who_never_stops_is_an_error_and_not_a_loop(machine: Machine) -> None:
    attester = machine.attester()
    machine.faults("read outblob", *[another_writer] * 100)
    with pytest.raises(AttesterFailedError, match="others write"):
        attester.collect(DATA)
    assert os.listdir(machine.root) == []


def test_a_generation_that_moves_after_the_report_is_noticed(machine: Machine) -> None:
    attester = machine.attester()
    machine.faults("read auxblob", another_writer)
    body = SevSnpEvidence.from_bytes(attester.collect(DATA))
    assert Report.from_bytes(body.report).report_data == DATA


def test_a_kernel_that_mixes_up_reports_is_not_believed(mount: Mount) -> None:
    """Generations all in order, and the report is over other data all the same."""
    machine = Machine(mount, make_report=lambda _data, level: unsigned_snp_report(bytes(64), level))
    with pytest.raises(AttesterFailedError, match="something else"):
        machine.attester().collect(DATA)


@pytest.mark.parametrize("length", [0, 1, 1183, 1185, 4000])
def test_a_report_of_another_length_is_refused(mount: Mount, length: int) -> None:
    report = unsigned_snp_report(DATA, 0)[0].ljust(4000, b"\0")[:length]
    machine = Machine(mount, make_report=lambda _data, _level: (report, b""))
    with pytest.raises(AttesterFailedError, match="not readable"):
        machine.attester().collect(DATA)


@pytest.mark.parametrize("length", [stand_in.OUTBLOB_MAX + 1, 1 << 20])
def test_an_oversize_certificate_table_is_refused(mount: Mount, length: int) -> None:
    """The host decides how much it puts there; the kernel and we decide how much we take."""
    machine = Machine(
        mount, make_report=lambda data, level: (unsigned_snp_report(data, level)[0], bytes(length))
    )
    with pytest.raises(AttesterFailedError, match="EFBIG"):
        machine.attester().collect(DATA)
    assert os.listdir(machine.root) == []


def test_a_table_above_our_own_limit_is_refused_before_it_is_read_to_its_end(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later kernels take larger blobs than those of today."""
    monkeypatch.setattr(stand_in, "OUTBLOB_MAX", 16 << 20)
    machine = Machine(
        mount,
        read_at_most=65_536,
        make_report=lambda data, level: (unsigned_snp_report(data, level)[0], bytes(8 << 20)),
    )
    with pytest.raises(AttesterFailedError, match="auxblob holds more"):
        machine.attester().collect(DATA)
    assert machine.kernel.calls["read auxblob"] <= 4


@pytest.mark.parametrize("provider", [b"arm_cca_guest", b"", b"insecure", b"\xff" * 300])
def test_a_driver_that_we_do_not_know_is_no_attester(mount: Mount, provider: bytes) -> None:
    with pytest.raises((AttesterMissingError, AttesterFailedError)):
        Machine(mount, provider=provider).attester()


def test_a_driver_that_changes_is_refused(machine: Machine) -> None:
    """The kind was announced at the start; evidence of another kind would be taken for it."""
    attester = machine.attester()
    machine.kernel.provider = b"tdx_guest"
    with pytest.raises(AttesterFailedError, match="went from 'sev_guest' to 'tdx_guest'"):
        attester.collect(DATA)


def test_no_driver_means_missing_and_says_which_module(mount: Mount) -> None:
    with pytest.raises(AttesterMissingError, match=r"ENXIO.*modprobe sev-guest"):
        Machine(mount, loaded=False).attester()


def test_a_driver_that_goes_away_is_missing_and_leaves_no_entry(machine: Machine) -> None:
    attester = machine.attester()
    machine.faults("read outblob", errno.ENXIO)
    with pytest.raises(AttesterMissingError, match="ENXIO"):
        attester.collect(DATA)
    assert os.listdir(machine.root) == []


def test_a_kernel_without_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AttesterMissingError, match=r"ENOENT.*Linux 6\.7"):
        TsmAttester(ConfigfsTsm(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (errno.EACCES, "as root"),
        (errno.EROFS, "read-only"),
        (errno.EINVAL, "privilege level"),
        (errno.ENOTTY, "restart the machine"),
        (errno.EIO, "the firmware or the host"),
        (errno.ETIMEDOUT, "quoting service"),
        (errno.ENOMEM, "ENOMEM"),
    ],
)
def test_what_does_not_pass_is_said_at_once_and_cleaned_up(
    machine: Machine, fault: int, advice: str
) -> None:
    attester = machine.attester()
    machine.faults("read outblob", fault)
    with pytest.raises(AttesterFailedError, match=advice):
        attester.collect(DATA)
    assert machine.slept == []
    assert os.listdir(machine.root) == []
    attester.collect(DATA)


def test_an_entry_that_cannot_be_removed_costs_nothing_but_itself(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    attester = machine.attester()
    machine.faults("rmdir", errno.EPERM)
    assert attester.collect(DATA)
    assert len(os.listdir(machine.root)) == 1
    attester.collect(DATA)


def test_entries_have_names_that_nobody_guesses(machine: Machine) -> None:
    seen: set[str] = set()

    def note(_entry: Entry) -> None:
        seen.update(machine.kernel.entries)

    machine.faults("read outblob", *[note] * 30)
    attester = machine.attester()
    for _ in range(3):
        attester.collect(DATA)
    assert len(seen) == 3
    assert all(len(name) >= len("enclave-") + 32 for name in seen)


def test_several_threads_get_their_own_reports(machine: Machine) -> None:
    attester = machine.attester()
    inputs = [os.urandom(64) for _ in range(16)]
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(attester.collect, inputs))
    signed = [
        Report.from_bytes(SevSnpEvidence.from_bytes(body).report).report_data for body in bodies
    ]
    assert signed == inputs
    assert os.listdir(machine.root) == []
    assert threading.active_count() < 20


@pytest.mark.parametrize("value", [b"", b"many", b"-1", b"1" * 80, b"\xff"])
def test_a_generation_that_is_no_number_is_refused(
    machine: Machine, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    attester = machine.attester()
    true_value = stand_in.ConfigfsTsm._value

    def lie(self: stand_in.ConfigfsTsm, entry: Entry, name: str) -> bytes:
        return value if name == "generation" else true_value(self, entry, name)

    monkeypatch.setattr(stand_in.ConfigfsTsm, "_value", lie)
    with pytest.raises(AttesterFailedError):
        attester.collect(DATA)
    assert os.listdir(machine.root) == []
