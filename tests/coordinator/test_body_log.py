"""The log of small bodies: what was synced is there, what was not is nowhere, no file grows old."""

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from attestation.wire.control import RefusalCode
from coordinator import body_log
from coordinator.body_log import BodyLog, Extent
from coordinator.core import instructions as do
from coordinator.core.lengths import SegmentLengths
from coordinator.errors import StoreError
from coordinator.store import Store

WORKER = b"w" * 16
FILE_BYTES = 1000


def broken(error: int = errno.EIO) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def bodies(tmp_path: Path) -> BodyLog:
    return BodyLog(tmp_path / "bodies", file_bytes=FILE_BYTES)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "bodies"


# -- the files ------------------------------------------------------------------------------------


def test_a_body_reads_back_as_it_was_written(bodies: BodyLog) -> None:
    first = bodies.append([b"abc", b"", memoryview(b"def")])  # type: ignore[list-item]
    second = bodies.append([b"ghi"])
    bodies.sync()
    assert (bodies.read(first), bodies.read(second)) == (b"abcdef", b"ghi")


def test_a_write_that_is_cut_short_goes_on_where_it_stopped(
    bodies: BodyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(descriptor: int, pieces: Sequence[Any], offset: int) -> int:
        return os.pwrite(descriptor, b"".join(pieces)[:7], offset)

    monkeypatch.setattr(os, "pwritev", short)
    pieces = [bytes([n]) * n for n in range(30)]
    assert bodies.read(bodies.append(pieces)) == b"".join(pieces)


def test_one_sync_covers_a_turn_and_none_is_made_for_nothing(
    bodies: BodyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    bodies.sync()
    for _ in range(5):
        bodies.append([b"x" * 50])
    bodies.sync()
    bodies.sync()
    assert len(synced) == 1


def test_a_file_is_synced_before_the_next_is_begun(
    bodies: BodyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the bodies of one turn that fill two files would be half on the disk."""
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")[-5:])
    )
    for _ in range(3):
        bodies.append([b"x" * 600])
    bodies.sync()
    assert synced == ["1.log", "2.log", "3.log"]


def test_the_name_of_a_file_is_on_stable_storage_before_anything_in_it(
    bodies: BodyLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", broken())
    with pytest.raises(OSError, match="Input/output"):
        bodies.append([b"body"])
    assert names(directory) == [], "a name that may be lost is not used"
    monkeypatch.undo()
    assert bodies.read(bodies.append([b"body"])) == b"body"


def test_a_file_without_live_bodies_is_written_over(bodies: BodyLog, directory: Path) -> None:
    for _ in range(20):
        extent = bodies.append([b"x" * 600])
        bodies.sync()
        bodies.release(extent)
    assert len(names(directory)) <= 2


def test_only_some_empty_files_are_kept(bodies: BodyLog, directory: Path) -> None:
    extents = [bodies.append([b"x" * 600]) for _ in range(20)]
    assert len(names(directory)) == 20
    for extent in extents:
        bodies.release(extent)
    assert len(names(directory)) == body_log.SPARE_FILES + 1


def test_a_live_body_is_never_written_over(bodies: BodyLog) -> None:
    kept = bodies.append([b"kept" * 10])
    for number in range(40):
        bodies.release(bodies.append([bytes([number]) * 500]))
    assert bodies.read(kept) == b"kept" * 10


def test_a_file_whose_sync_failed_is_never_written_again(
    bodies: BodyLog, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have dropped its pages: the next fdatasync would succeed for nothing."""
    before = bodies.append([b"synced"])
    bodies.sync()
    lost = bodies.append([b"lost"])
    monkeypatch.setattr(os, "fdatasync", broken())
    with pytest.raises(OSError, match="Input/output"):
        bodies.sync()
    monkeypatch.undo()
    after = bodies.append([b"after"])
    bodies.sync()
    assert after.file != lost.file
    assert (bodies.read(before), bodies.read(after)) == (b"synced", b"after")
    bodies.release(before)
    bodies.release(lost)
    assert names(directory) == [f"{after.file:010}.log"], "not even as a spare one"


def test_a_body_that_could_not_be_written_leaves_no_gap(
    bodies: BodyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bodies.append([b"first"])
    monkeypatch.setattr(os, "pwritev", broken(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        bodies.append([b"second"])
    monkeypatch.undo()
    third = bodies.append([b"third"])
    assert third == Extent(first.file, len(b"first"), len(b"third"))


def test_an_empty_file_that_is_gone_is_not_asked_for_twice(
    bodies: BodyLog, directory: Path
) -> None:
    empty, live = bodies.append([b"x" * 600]), bodies.append([b"y" * 600])
    bodies.release(empty)
    (directory / "0000000001.log").unlink()
    with pytest.raises(FileNotFoundError):
        bodies.append([b"z" * 600])
    assert bodies.read(bodies.append([b"z" * 600])) == b"z" * 600
    assert bodies.read(live) == b"y" * 600


def test_what_is_shorter_than_the_store_says_is_an_error(bodies: BodyLog, directory: Path) -> None:
    extent = bodies.append([b"body"])
    os.truncate(directory / "0000000001.log", 2)
    with pytest.raises(OSError, match="shorter"):
        bodies.read(extent)


def test_only_the_operator_can_read_the_log(bodies: BodyLog, directory: Path) -> None:
    bodies.append([b"x"])
    assert directory.stat().st_mode & 0o777 == 0o700
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


# -- the start ------------------------------------------------------------------------------------


def test_the_start_removes_what_no_row_names_and_appends_to_nothing_old(
    bodies: BodyLog, directory: Path
) -> None:
    extents = [bodies.append([b"x" * 600]) for _ in range(3)]
    (directory / "stray").write_bytes(b"")
    again = BodyLog(directory, file_bytes=FILE_BYTES)
    assert again.recover([extents[1]]) == 3
    assert names(directory) == ["0000000002.log"]
    assert again.append([b"new"]).file == 3
    assert again.read(extents[1]) == b"x" * 600


def test_a_torn_tail_is_nobodys_body(bodies: BodyLog, directory: Path) -> None:
    extent = bodies.append([b"whole"])
    with (directory / "0000000001.log").open("ab") as file:
        file.write(b"torn by a crash")
    again = BodyLog(directory, file_bytes=FILE_BYTES)
    assert again.recover([extent]) == 0
    assert again.read(extent) == b"whole"
    assert again.append([b"new"]).file == 2


# -- with the store -------------------------------------------------------------------------------


def stored_job(number: int, *segments: bytes) -> do.StoreJob:
    lengths = SegmentLengths()
    for segment in segments:
        lengths.append(len(segment))
    return do.StoreJob(
        job_id=number.to_bytes(16, "big"),
        owner=b"o" * 32,
        record=b"record",
        envelope=b"envelope",
        segments=segments,
        lengths=lengths.to_bytes(),
        spooled=False,
        output_window=4,
        submitted_ms=1,
    )


def lease(number: int, attempt: int) -> do.StoreLease:
    job_id = number.to_bytes(16, "big")
    return do.StoreLease(job_id=job_id, attempt=attempt, failures=0, worker_id=WORKER)


def result(number: int, attempt: int, *segments: bytes) -> do.StoreResult:
    return do.StoreResult(
        job_id=number.to_bytes(16, "big"),
        attempt=attempt,
        worker_id=WORKER,
        header=b"header",
        receipt=b"receipt",
        segments=segments,
        lengths=b"",
        spooled=False,
        count=len(segments),
        finished_ms=2,
    )


def delete(number: int) -> do.DeleteJob:
    return do.DeleteJob(job_id=number.to_bytes(16, "big"))


def open_store(directory: Path) -> Store:
    bodies = BodyLog(directory / "bodies", file_bytes=FILE_BYTES)
    return Store(directory / "jobs.sqlite", bodies, row_bytes=16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


LARGE, OTHER = (b"a" * 40, b"b" * 60), (b"c" * 50, b"", b"d")


def body(store: Store, number: int) -> tuple[bytes, ...] | None:
    frames = store.body(number.to_bytes(16, "big"))
    return frames if frames is None else tuple(map(bytes, frames[1:]))


def outputs(store: Store, number: int) -> tuple[bytes, ...] | None:
    frames = store.result(number.to_bytes(16, "big"))
    return frames if frames is None else tuple(map(bytes, frames[2:]))


def live(directory: Path) -> list[Extent]:
    store = open_store(directory)
    rows = store._db.execute("SELECT file, start, length FROM bodies").fetchall()
    store.close()
    return [Extent(*row) for row in rows]


def test_large_bodies_lie_in_the_log_and_small_ones_in_their_rows(
    store: Store, directory: Path
) -> None:
    assert store.commit([stored_job(1, *LARGE), lease(1, 1), result(1, 1, *OTHER)]) == []
    assert store.commit([stored_job(2, b"small"), lease(2, 1), result(2, 1, b"small")]) == []
    assert (body(store, 1), outputs(store, 1)) == (LARGE, OTHER)
    assert (body(store, 2), outputs(store, 2)) == ((b"small",), (b"small",))
    (path,) = directory.iterdir()
    assert path.stat().st_size == sum(map(len, (*LARGE, *OTHER))) + 4 * len(OTHER)
    one, two = store.jobs()
    assert one.result is not None
    assert two.result is not None
    assert one.result.inline_bytes > two.result.inline_bytes


def test_what_was_committed_is_there_after_kill_9(store: Store, tmp_path: Path) -> None:
    store.commit([stored_job(1, *LARGE), lease(1, 1)])
    store.commit([result(1, 1, *OTHER)])
    again = open_store(tmp_path)
    assert (body(again, 1), outputs(again, 1)) == (LARGE, OTHER)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "fsync"])
def test_a_disk_that_refuses_a_body_refuses_its_job_and_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, broken(errno.ENOSPC))
    small, large = stored_job(1, b"small"), stored_job(2, *LARGE)
    assert store.commit([small, large]) == [large]
    monkeypatch.undo()
    assert (body(store, 1), body(store, 2)) == ((b"small",), None)
    assert store.commit([large]) == []
    assert body(store, 2) == LARGE


def test_a_failed_sync_loses_nothing_that_was_committed_before(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.commit([stored_job(1, *LARGE)])
    monkeypatch.setattr(os, "fdatasync", broken())
    job = stored_job(2, *LARGE)
    assert store.commit([job]) == [job]
    monkeypatch.undo()
    store.commit([stored_job(3, *OTHER)])
    again = open_store(tmp_path)
    assert [body(again, number) for number in (1, 2, 3)] == [LARGE, None, OTHER]


def test_a_body_of_a_failed_commit_takes_room_until_the_next_succeeds(
    store: Store, tmp_path: Path
) -> None:
    """It may be found again after a crash, until another commit was written over it."""
    store.commit([stored_job(1, *LARGE)])
    before = sum(store._bodies._live.values())
    behind_the_fence = result(2, 7, *LARGE)
    assert len(store.commit([stored_job(2, *LARGE), behind_the_fence])) == 2
    assert sum(store._bodies._live.values()) > before
    store.commit([delete(1)])
    assert sum(store._bodies._live.values()) == 0
    assert live(tmp_path) == []


def test_forgetting_a_job_forgets_its_bodies(store: Store, tmp_path: Path) -> None:
    store.commit([stored_job(1, *LARGE), lease(1, 1), result(1, 1, *LARGE)])
    store.commit([delete(1)])
    assert live(tmp_path) == []


def test_a_rejected_result_leaves_the_inputs(store: Store) -> None:
    store.commit([stored_job(1, *LARGE), lease(1, 1), result(1, 1, *OTHER)])
    store.commit([do.StoreRejection(job_id=(1).to_bytes(16, "big"), failures=1)])
    assert (body(store, 1), outputs(store, 1)) == (LARGE, None)
    store.commit([lease(1, 2), result(1, 2, *LARGE)])
    assert outputs(store, 1) == LARGE


def test_a_refused_job_takes_no_room(store: Store, tmp_path: Path) -> None:
    """It is kept until its client hears of it, perhaps for a week; nobody runs it."""
    store.commit([stored_job(1, *LARGE)])
    refusal = do.StoreRefusal(
        job_id=(1).to_bytes(16, "big"), code=RefusalCode.DEADLINE_PASSED, detail="", finished_ms=1
    )
    store.commit([refusal])
    assert live(tmp_path) == []
    assert [job.refusal for job in store.jobs()] == [(RefusalCode.DEADLINE_PASSED, "")]


def test_files_with_little_in_them_are_emptied(store: Store, directory: Path) -> None:
    """A job that nobody fetches for a week must not keep a whole file for its few bytes."""
    for number in range(400):
        assert store.commit([stored_job(number, b"x" * 90)]) == []
    for number in range(400):
        if number % 20:
            store.commit([delete(number)])
    few = body_log.SLACK_FILES + body_log.SPARE_FILES + 2 * 20 * 90 / FILE_BYTES
    assert len(names(directory)) <= few + 2
    for number in range(0, 400, 20):
        assert body(store, number) == (b"x" * 90,)


def test_a_file_that_cannot_be_read_is_left_alone(store: Store, directory: Path) -> None:
    for number in range(400):
        store.commit([stored_job(number, b"x" * 90)])
    os.truncate(directory / "0000000001.log", 0)
    for number in range(400):
        if number % 20:
            assert store.commit([delete(number)]) == []
    with pytest.raises(OSError, match="shorter"):
        body(store, 0)
    assert body(store, 20) == (b"x" * 90,)


def test_a_store_without_its_log_is_an_error_of_the_disk_and_no_crash(
    store: Store, tmp_path: Path, directory: Path
) -> None:
    store.commit([stored_job(1, *LARGE), lease(1, 1), result(1, 1, *LARGE)])
    for path in directory.iterdir():
        path.unlink()
    again = open_store(tmp_path)
    assert len(list(again.jobs())) == 1
    for read in (body, outputs):
        with pytest.raises(FileNotFoundError):
            read(again, 1)
    assert again.commit([delete(1)]) == []


def test_a_database_that_does_not_read_is_an_error_of_the_disk(store: Store) -> None:
    store.close()
    with pytest.raises(OSError, match="closed"):
        body(store, 1)


def test_a_log_that_cannot_be_put_in_order_stops_the_start(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit([stored_job(1, *LARGE)])
    store.commit([delete(1)])
    monkeypatch.setattr(os, "unlink", broken())
    with pytest.raises(StoreError):
        open_store(tmp_path)


# -- everything at once ---------------------------------------------------------------------------


class Disk:
    """Calls that fail now and then."""

    def __init__(self, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance = chance
        self.rate = 0.0
        self.faults = 0
        for name in ("pwritev", "fdatasync", "fsync", "unlink"):
            monkeypatch.setattr(os, name, self._unreliable(getattr(os, name)))

    def _unreliable(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if self.chance.random() < self.rate:
                self.faults += 1
                error = self.chance.choice([errno.EIO, errno.ENOSPC])
                raise OSError(error, os.strerror(error))
            return call(*arguments, **options)

        return called


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_the_store_holds_what_it_said(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random jobs, ends, disk errors and kills, against a dictionary of what was acknowledged."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    disk = Disk(chance, monkeypatch)
    monkeypatch.setattr(body_log, "SLACK_FILES", 1)
    store = open_store(tmp_path)
    inputs: dict[int, bytes] = {}
    results: dict[int, bytes] = {}
    for number in range(1, 250):
        disk.rate = chance.choice([0.0, 0.0, 0.0, 0.3])
        data = chance.randbytes(chance.choice([5, 50, 50, 400, 1500]))
        turn: list[do.StoreInstruction] = [stored_job(number, data), lease(number, 1)]
        if chance.random() < 0.5:
            turn.append(result(number, 1, data[::-1]))
        ended = [known for known in inputs if chance.random() < 0.1]
        failed = store.commit([*turn, *map(delete, ended)])
        if turn[0] not in failed:
            inputs[number] = data
            if len(turn) == 3:
                results[number] = data[::-1]
        for known in ended:
            if delete(known) not in failed:
                del inputs[known]
                results.pop(known, None)
        if chance.random() < 0.05:
            disk.rate = 0.0
            store = open_store(tmp_path)
        for known, expected in inputs.items():
            assert body(store, known) == (expected,)
            assert outputs(store, known) == ((results[known],) if known in results else None)
        assert len(list(store.jobs())) == len(inputs)
    assert disk.faults > 20
    disk.rate = 0.0
    assert store.commit([delete(known) for known in inputs]) == []
    assert sum(store._bodies._live.values()) == 0, "room that nothing takes"
    assert live(tmp_path) == []
