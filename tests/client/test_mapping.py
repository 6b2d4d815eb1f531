"""What users of `Client.map` may rely on: items travel together and count by themselves."""

from collections.abc import Callable, Iterator, Mapping
from threading import Timer

import numpy as np
import pytest

from attestation.client import mapping
from attestation.client.errors import ItemsFailedError, JobFailedError
from attestation.client.jobs import Job, Progress, Proof
from attestation.client.mapping import Item, Mapper
from attestation.client.numpy_tensors import Array
from attestation.errors import LocalProtocolError, ProgramError, TensorError
from attestation.identifiers import JobId
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.messages import JobEnvelope, JobHeader
from tests.client.conftest import Connect
from tests.client.honest import HonestCoordinator

SECONDS = 20.0


def batches(count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        yield {"x": np.full(16, number, dtype=np.float32)}


def affine(connect: Connect, coordinator: HonestCoordinator, count: int) -> list[Item]:
    client = connect(coordinator)
    parameters = {"scale": 2.0, "shift": 1.0}
    return list(client.map("nn.affine", batches(count), parameters=parameters))


class Elsewhere:
    """What jobs are submitted to, where the test says when they end, and with their own inputs."""

    def __init__(self, submitted: Callable[["Elsewhere"], None]) -> None:
        self.jobs: list[tuple[Job, Mapping[str, Array]]] = []
        self._submitted = submitted

    def submit(
        self, _specs: Mapping[str, TensorSpec], arrays: Mapping[str, Array], _items: int
    ) -> Job:
        progress = Progress(bytes_to_send=0, bytes_to_receive=0)
        job = Job(JobId(bytes(16)), progress, lambda _job: None)
        self.jobs.append((job, arrays))
        self._submitted(self)
        return job

    def end_all(self, proof: Proof) -> None:
        jobs, self.jobs = self.jobs, []
        for job, arrays in reversed(jobs):
            job.finish(dict(arrays), proof)


def test_a_result_that_is_there_is_handed_out_before_another_item_is_taken(
    connect: Connect,
) -> None:
    """The next item may take its time, or be made of the results before it."""
    proof = affine(connect, HonestCoordinator(), 1)[0].job._require_proof()
    taken: list[int] = []

    def source() -> Iterator[dict[str, object]]:
        for number, batch in enumerate(batches(4)):
            taken.append(number)
            yield batch

    def two_at_once(elsewhere: Elsewhere) -> None:
        if len(elsewhere.jobs) == 2:
            elsewhere.end_all(proof)

    items = Mapper(source(), Elsewhere(two_at_once).submit, window=8).run()
    seen = [(item.result()["x"][0], len(taken)) for item in items]
    assert seen == [(0, 2), (1, 2), (2, 4), (3, 4)]


def test_items_of_ever_other_shapes_do_not_fill_the_memory(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them ends the stack before it, which then counts as in flight."""
    proof = affine(connect, HonestCoordinator(), 1)[0].job._require_proof()
    monkeypatch.setattr(mapping, "WINDOW_BYTES", 16 * 1024)
    landed, ahead = 0, []

    def source() -> Iterator[dict[str, object]]:
        for number in range(200):
            ahead.append(number - landed)
            yield {"x": np.zeros(1024 + number % 2, np.uint8)}

    def a_moment_later(elsewhere: Elsewhere) -> None:
        Timer(0.01, elsewhere.end_all, [proof]).start()

    for _ in Mapper(source(), Elsewhere(a_moment_later).submit, window=200).run():
        landed += 1
    assert landed == 200
    assert max(ahead) <= 16 + 1


def test_many_items_travel_in_few_jobs_and_come_back_in_order(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    items = affine(connect, coordinator, 500)
    assert [item.result()["y"][0] for item in items] == [2.0 * n + 1 for n in range(500)]
    assert len(coordinator.submitted) < 50


def test_every_item_has_a_verified_receipt_of_its_stack(connect: Connect) -> None:
    items = affine(connect, HonestCoordinator(), 100)
    receipts = {item.receipt.digest() for item in items}
    assert len(receipts) == len({item.job_id for item in items}) < 50
    assert all(item.job.attestation.accepted for item in items)


def test_an_item_does_not_wait_for_company_while_workers_are_idle(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    client = connect(coordinator)
    for arrived, item in enumerate(client.map("nn.softmax", batches(3), window=1), start=1):
        assert item.exception() is None
        assert len(coordinator.submitted) == arrived


def test_items_of_another_shape_or_type_do_not_share_a_stack(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    mixed: list[dict[str, object]] = []
    for number in range(40):
        mixed.append({"x": np.ones(4 + number % 2, np.float32)})
        mixed.append({"x": np.ones(4, np.float64)})
    results = [item.result()["y"] for item in connect(coordinator).map("nn.softmax", mixed)]
    assert [y.shape for y in results] == [np.shape(each["x"]) for each in mixed]
    assert [y.dtype for y in results] == [np.asarray(each["x"]).dtype for each in mixed]


def test_a_generator_may_use_one_array_for_every_item(connect: Connect) -> None:
    shared = np.zeros(8, np.float32)

    def changing() -> Iterator[dict[str, object]]:
        for number in range(64):
            shared[:] = number
            yield {"x": shared}

    items = connect(HonestCoordinator()).map("nn.affine", changing(), parameters={"shift": 1.0})
    assert [item.result()["y"][0] for item in items] == [n + 1.0 for n in range(64)]


def test_one_item_that_fails_fails_alone(connect: Connect) -> None:
    """The least squares of a matrix with NaN fail; those beside it do not."""
    good, bad = np.eye(3), np.full((3, 3), np.nan)
    inputs = [{"a": bad if number == 7 else good, "b": np.ones((3, 1))} for number in range(12)]
    items = list(connect(HonestCoordinator()).map("linalg.lstsq", inputs))
    assert [number for number, item in enumerate(items) if item.exception()] == [7]
    with pytest.raises(JobFailedError):
        items[7].result()
    if items[7].number is not None:
        with pytest.raises(ItemsFailedError):
            items[7].job.result()
    np.testing.assert_allclose(items[8].result()["x"], np.ones((3, 1)))


def test_what_is_no_tensor_ends_the_map_with_its_error(connect: Connect) -> None:
    client = connect(HonestCoordinator())
    with pytest.raises(TensorError):
        list(client.map("nn.softmax", [{"x": np.ones(3)}, {"x": np.array(["a"])}]))


def test_a_window_of_nothing_is_refused(connect: Connect) -> None:
    with pytest.raises(LocalProtocolError):
        connect(HonestCoordinator()).map("nn.softmax", batches(1), window=0)


def test_the_signed_header_says_how_many_items_there_are(connect: Connect) -> None:
    """Otherwise a worker could run a stack as one tensor and sign for it."""
    coordinator = HonestCoordinator()
    affine(connect, coordinator, 200)
    headers = [
        JobHeader.from_bytes(JobEnvelope.from_bytes(envelope).header)
        for envelope in coordinator.envelopes
    ]
    assert sum(header.items or 1 for header in headers) == 200
    assert any(header.items > 1 for header in headers)


def test_a_plan_is_not_used_for_other_parameters_or_shapes(connect: Connect) -> None:
    """Plans are remembered: nothing that a plan depends on may be left out of the comparison."""
    client = connect(HonestCoordinator())
    parameters: dict[str, float] = {"scale": 2.0}
    x = np.ones(3, np.float32)
    assert client.submit("nn.affine", {"x": x}, parameters=parameters).result(SECONDS)["y"][0] == 2
    parameters["scale"] = 5.0
    assert client.submit("nn.affine", {"x": x}, parameters=parameters).result(SECONDS)["y"][0] == 5
    longer = client.submit("nn.affine", {"x": np.ones(4, np.float32)}).result(SECONDS)
    assert longer["y"].shape == (4,)
    with pytest.raises(ProgramError):
        client.submit("nn.affine", {"x": x}, parameters={"scale": True})
