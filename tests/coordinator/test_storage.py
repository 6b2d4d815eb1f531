"""Settings, store and spool: what is refused before anything listens, what a disk keeps."""

import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.errors import DecodeError, LimitError
from attestation.wire.control import RefusalCode
from coordinator.body_log import BodyLog
from coordinator.cli import coordinator
from coordinator.core import instructions as do
from coordinator.core.lengths import MAX_RUNS, Cursor, SegmentLengths
from coordinator.errors import SettingsError, StoreError
from coordinator.settings import Settings, is_local
from coordinator.spool import FLUSH_BYTES, Spool
from coordinator.store import Store

JOB, OTHER, WORKER = b"j" * 16, b"k" * 16, b"w" * 16


def stored_job(job_id: bytes = JOB, *, spooled: bool = False) -> do.StoreJob:
    lengths = SegmentLengths()
    lengths.append(3)
    return do.StoreJob(
        job_id=job_id,
        owner=b"o" * 32,
        record=b"record",
        envelope=b"envelope",
        segments=() if spooled else (b"abc",),
        lengths=lengths.to_bytes(),
        spooled=spooled,
        output_window=4,
        submitted_ms=1,
    )


def lease(attempt: int, worker: bytes = WORKER) -> do.StoreLease:
    return do.StoreLease(job_id=JOB, attempt=attempt, failures=0, worker_id=worker)


def result(attempt: int, worker: bytes = WORKER, *, spooled: bool = False) -> do.StoreResult:
    return do.StoreResult(
        job_id=JOB,
        attempt=attempt,
        worker_id=worker,
        header=b"header",
        receipt=b"receipt",
        segments=(b"one", b"", b"three"),
        lengths=b"",
        spooled=spooled,
        count=3,
        finished_ms=2,
    )


def open_store(directory: Path) -> Store:
    return Store(directory / "jobs.sqlite", BodyLog(directory / "bodies"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


# -- the address ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:0", "tcp://127.9.9.9:1", "tcp://[::1]:5", "tcp://localhost:5", "ipc:///x"],
)
def test_addresses_of_this_machine_need_no_keys(tmp_path: Path, address: str) -> None:
    assert is_local(address)
    Settings(listen=address, state=tmp_path)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:5700",
        "tcp://0.0.0.0:5700",
        "tcp://[::]:5700",
        "tcp://eth0:5700",
        "tcp://10.0.0.1:5700",
        "tcp://127.0.0.1.example:5700",
        "tcp://localhost.example:5700",
        "tcp://2130706433:5700",
        "tcp://127.0.0.1",
        "udp://127.0.0.1:5",
        "127.0.0.1:5700",
        "",
    ],
)
def test_without_keys_no_other_address_is_listened_on(tmp_path: Path, address: str) -> None:
    assert not is_local(address)
    with pytest.raises(SettingsError):
        Settings(listen=address, state=tmp_path)


def test_a_key_without_an_allow_list_is_refused(tmp_path: Path) -> None:
    for half in ({"curve_key": tmp_path}, {"allow": tmp_path}):
        with pytest.raises(SettingsError):
            Settings(listen="tcp://127.0.0.1:0", state=tmp_path, **half)


def test_the_command_says_what_to_do_and_ends_with_status_3(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        coordinator, ["--listen", "tcp://0.0.0.0:5700", "--state", str(tmp_path)]
    )
    assert run.exit_code == 3
    assert "enclave coordinator keygen" in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [[], ["--state", "x", "--memory-limit", "much"], ["--state", "x", "--memory-limit", "0"]],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(coordinator, arguments).exit_code == 2


def test_a_missing_key_file_is_status_3(tmp_path: Path) -> None:
    files = ["--curve-key", str(tmp_path / "no"), "--allow", str(tmp_path / "no")]
    run = CliRunner().invoke(coordinator, ["--state", str(tmp_path / "state"), *files])
    assert run.exit_code == 3


def test_keygen_writes_a_pair_once(tmp_path: Path) -> None:
    assert CliRunner().invoke(coordinator, ["keygen", str(tmp_path / "k")]).exit_code == 0
    assert {path.name for path in (tmp_path / "k").iterdir()} == {
        "coordinator.curve",
        "coordinator.curve.pub",
    }
    assert CliRunner().invoke(coordinator, ["keygen", str(tmp_path / "k")]).exit_code == 3


# -- the store ------------------------------------------------------------------------------------


def test_what_was_committed_is_there_for_another_process(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    assert first.commit([stored_job(), lease(1), result(1)]) == []
    # Not closed: a crash closes nothing.
    (job,) = open_store(tmp_path).jobs()
    assert (job.job_id, job.attempt, job.worker_id) == (JOB, 1, WORKER)
    assert job.result is not None
    assert job.result.attempt == 1
    assert open_store(tmp_path).result(JOB) == (b"header", b"receipt", b"one", b"", b"three")
    assert open_store(tmp_path).body(JOB) == (b"envelope", b"abc")


def test_the_store_syncs_every_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    settings = {
        name: store._db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("wrong", [result(1), result(2, OTHER), result(3)])
def test_a_result_behind_the_fence_is_not_stored(store: Store, wrong: do.StoreResult) -> None:
    """The core has refused it already; the transaction would as well."""
    store.commit([stored_job(), lease(1), lease(2)])
    assert store.commit([wrong]) == [wrong]
    assert store.result(JOB) is None


def test_a_second_result_is_not_stored(store: Store) -> None:
    store.commit([stored_job(), lease(1), result(1)])
    assert store.commit([result(1)]) != []


def test_a_failure_takes_back_its_own_job_only(store: Store) -> None:
    store.commit([stored_job(OTHER)])
    failed = store.commit([stored_job(), lease(1), stored_job(OTHER)])
    assert [each.job_id for each in failed] == [OTHER]
    assert {job.job_id for job in store.jobs()} == {JOB, OTHER}


def test_a_full_disk_is_a_failure_and_not_a_crash(store: Store) -> None:
    store.commit([stored_job()])
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    failed = [store.commit([stored_job(bytes([n]) * 16)]) for n in range(200)]
    assert failed[-1] != []
    kept = sum(not each for each in failed) + 1
    store._db.execute("PRAGMA max_page_count=1000000")
    assert len(list(store.jobs())) == kept
    assert store.commit([stored_job(b"later-later-late")]) == []


def test_forgetting_a_job_forgets_its_wraps_and_result(store: Store) -> None:
    wrap = do.StoreWrap(job_id=JOB, worker_id=WORKER, wrap=b"wrap")
    store.commit([stored_job(), wrap, lease(1), result(1)])
    store.commit([do.DeleteJob(job_id=JOB)])
    left = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM wraps), count(*) FROM results"
    assert store._db.execute(left).fetchone() == (0, 0, 0)


def test_a_wrap_or_lease_of_a_job_that_is_gone_stores_nothing(store: Store) -> None:
    wrap = do.StoreWrap(job_id=JOB, worker_id=WORKER, wrap=b"wrap")
    assert store.commit([wrap, lease(1)]) == []
    assert store._db.execute("SELECT count(*) FROM wraps").fetchone() == (0,)


def test_a_refusal_is_kept_for_its_client(store: Store) -> None:
    refusal = do.StoreRefusal(
        job_id=JOB, code=RefusalCode.DEADLINE_PASSED, detail="late", finished_ms=1
    )
    store.commit([stored_job(spooled=True), refusal])
    (job,) = store.jobs()
    assert job.refusal == (RefusalCode.DEADLINE_PASSED, "late")
    assert store.files() == set()


def test_files_of_unfinished_and_undelivered_jobs_are_needed(store: Store) -> None:
    store.commit([stored_job(spooled=True), stored_job(OTHER)])
    assert store.files() == {do.SpoolFile(JOB)}
    store.commit([lease(4), result(4, spooled=True)])
    # The inputs too: a client that rejects the result has the job run again.
    assert store.files() == {do.SpoolFile(JOB), do.SpoolFile(JOB, 4)}


def test_a_rejected_result_is_gone_and_its_job_is_not(store: Store) -> None:
    store.commit([stored_job(spooled=True), lease(4), result(4, spooled=True)])
    store.commit([do.StoreRejection(job_id=JOB, failures=1)])
    (job,) = store.jobs()
    assert (job.result, job.worker_id, job.failures, job.attempt) == (None, None, 1, 4)
    assert store.result(JOB) is None
    assert store.files() == {do.SpoolFile(JOB)}


def test_a_store_of_another_version_or_none_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "later") as database:
        database.execute("PRAGMA user_version=99")
    (tmp_path / "noise").write_bytes(b"not a database, but long enough to look like one" * 50)
    for name in ("later", "noise", "no/such/directory"):
        with pytest.raises(StoreError):
            Store(tmp_path / name, BodyLog(tmp_path / "bodies"))


# -- the spool ------------------------------------------------------------------------------------

FILE = do.SpoolFile(JOB)


def test_a_sealed_file_reads_back_piece_by_piece(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(FILE, b"abc")
    spool.append(FILE, memoryview(b"defg"))
    spool.seal(FILE)
    assert [spool.read(FILE, 0, 3), spool.read(FILE, 3, 4)] == [b"abc", b"defg"]
    with pytest.raises(OSError, match="shorter"):
        spool.read(FILE, 4, 4)


def test_large_files_are_flushed_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os  # noqa: PLC0415

    flushed: list[int] = []
    true_flush = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (flushed.append(fd), true_flush(fd)))
    spool = Spool(tmp_path)
    for _ in range(5):
        spool.append(FILE, bytes(FLUSH_BYTES // 2))
    assert len(flushed) == 2


def test_files_that_no_job_needs_are_removed_at_the_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for file in (FILE, do.SpoolFile(JOB, 2), do.SpoolFile(OTHER)):
        spool.append(file, b"x")
        spool.seal(file)
    (tmp_path / "stray").write_bytes(b"")
    assert Spool(tmp_path).remove_orphans({do.SpoolFile(JOB, 2)}) == 3
    assert [path.name for path in tmp_path.iterdir()] == [f"{JOB.hex()}.2.out"]


def test_a_file_can_be_deleted_at_any_time_and_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(FILE, b"x")
    spool.delete(FILE)
    spool.delete(FILE)
    with pytest.raises(OSError, match="in"):
        spool.seal(FILE)
    with pytest.raises(OSError, match="No such file"):
        spool.read(FILE, 0, 1)


def test_only_the_operator_can_read_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append(FILE, b"x")
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    (path,) = (tmp_path / "spool").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


# -- lengths --------------------------------------------------------------------------------------


def test_lengths_are_walked_and_sought_in_order() -> None:
    lengths = SegmentLengths()
    pieces = [5, 5, 5, 2, 5, 5, 1]
    for piece in pieces:
        lengths.append(piece)
    again = SegmentLengths.from_bytes(lengths.to_bytes())
    assert (again.count, again.total) == (7, 28)
    for start in range(7):
        cursor = Cursor(again)
        cursor.seek(start)
        walked = [cursor.take() for _ in range(7 - start)]
        assert walked == [(sum(pieces[:n]), pieces[n]) for n in range(start, 7)]


def test_segments_of_ever_other_lengths_do_not_fill_our_memory() -> None:
    lengths = SegmentLengths()
    for number in range(MAX_RUNS):
        lengths.append(number)
    with pytest.raises(LimitError):
        lengths.append(MAX_RUNS)
    lengths.append(MAX_RUNS - 1)


@pytest.mark.parametrize("data", [b"x", bytes(8 * (MAX_RUNS + 1))])
def test_lengths_of_another_shape_are_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SegmentLengths.from_bytes(data)
