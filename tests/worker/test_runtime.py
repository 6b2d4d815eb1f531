"""A whole worker over real sockets, against a coordinator that the test plays."""

import itertools
import time
from types import ModuleType

import numpy as np
import pytest

from attestation.wire.control import Refusal, RefusalCode
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import (
    AttestationReply,
    ResultHeader,
    SessionAccepted,
    SessionRefused,
)
from tests.worker.simulated_client import SimulatedClient
from tests.worker.simulated_coordinator import WORKER_ID
from tests.worker.site import PEER, Site, verified


def test_a_worker_announces_what_it_has_and_no_key(site: Site) -> None:
    (hello,) = site.coordinator.hellos
    assert hello.description.catalogue_digest == site.catalogue.digest()
    assert hello.description.evidence_kind == "insecure"
    assert site.ready == [WORKER_ID]


def test_a_small_job_comes_back_with_a_receipt_that_its_attested_key_signed(site: Site) -> None:
    job = site.job(site.connect())
    site.assign(job)
    outputs, claims = site.result(job)
    np.testing.assert_array_equal(outputs["y"], 2 * job.arrays["x"])
    assert claims.code == ""
    assert claims.request_digest == job.header.digest()
    assert claims.evidence_kind == "insecure"
    assert claims.confidential is False


def test_a_large_job_flows_under_credit_in_both_directions(site: Site) -> None:
    """Neither side ever has more than its window in flight, and nothing is sent unasked."""
    coordinator = site.coordinator
    job = site.job(site.connect(), size=5 << 20, segment_bytes=1 << 20)  # 40 segments of 1 MiB
    segments = job.segments()
    site.assign(job, inline=False)
    sent = 0
    while sent < len(segments):
        header, _ = coordinator.expect(Kind.INPUT_CREDIT)
        assert header.count <= 8
        for _ in range(header.count):
            head = Header(Kind.INPUT, job.job_id, 1, index=sent)
            coordinator.send(head, segments[sent])
            sent += 1
    coordinator.pump(0.2)
    assert not coordinator.kept, "an output came without credit"
    outputs: list[bytes] = []
    while len(outputs) < 40:
        coordinator.send(Header(Kind.OUTPUT_CREDIT, job.job_id, 1, count=4))
        for _ in range(4):
            header, (segment,) = coordinator.expect(Kind.OUTPUT)
            assert header.index == len(outputs)
            outputs.append(segment)
    header, (result, receipt) = coordinator.expect(Kind.RESULT)
    assert header.count == 40
    verified(job.client.keyset, receipt)
    arrays = job.open_outputs(ResultHeader.from_bytes(result), outputs, attempt=1)
    np.testing.assert_array_equal(arrays["y"], 2 * job.arrays["x"])


def test_segments_beyond_the_credit_end_the_job(site: Site) -> None:
    """A coordinator cannot fill a worker's memory with segments that nobody asked for."""
    coordinator = site.coordinator
    job = site.job(site.connect(), size=2 << 20)  # 256 segments of 64 KiB
    segments = job.segments()
    site.assign(job, inline=False)
    coordinator.expect(Kind.INPUT_CREDIT)
    for index, segment in enumerate(segments[:200]):
        coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=index), segment)
    for index in range(100):
        coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=index), segments[index])
    _, (refusal,) = coordinator.expect(Kind.JOB_REFUSED)
    code = Refusal.from_bytes(refusal).code
    assert code in (RefusalCode.NO_CREDIT, RefusalCode.NOT_AUTHENTIC)


def test_heartbeats_go_on_and_name_the_job_while_a_kernel_runs(
    site: Site, kernels: ModuleType
) -> None:
    kernels.WAITING.clear()
    kernels.GO_ON.clear()
    job = site.job(site.connect(), "test.wait")
    site.assign(job)
    assert kernels.WAITING.wait(10)
    running = ((job.job_id, 1),)
    heartbeats = site.coordinator.heartbeats
    heartbeats.clear()
    site.coordinator.wait(lambda: any(beat.running == running for _, beat in heartbeats))
    # One that left before the job came may still be on its way until then.
    heartbeats.clear()
    site.coordinator.wait(lambda: len(heartbeats) >= 8)
    kernels.GO_ON.set()
    assert all(beat.running == running for _, beat in heartbeats)
    site.result(job)


def test_results_that_finish_together_share_a_signature(site: Site) -> None:
    client = site.connect()
    jobs = [site.job(client) for _ in range(16)]
    for job in jobs[:4]:
        site.assign(job)
    receipts = []
    for job in jobs[4:]:
        _, (_, receipt, *_) = site.coordinator.expect(Kind.RESULT)
        receipts.append(receipt)
        site.assign(job)
    for _ in range(4):
        _, (_, receipt, *_) = site.coordinator.expect(Kind.RESULT)
        receipts.append(receipt)
    claims = [verified(client.keyset, receipt) for receipt in receipts]
    chain = sorted(claims, key=lambda each: each.sequence)
    assert [each.sequence for each in chain] == list(range(16))
    for earlier, later in itertools.pairwise(chain):
        assert later.previous == earlier.digest()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"envelope": b"\xff"}, RefusalCode.MALFORMED),
        ({"wrap": bytes(76)}, RefusalCode.UNKNOWN_SESSION),
        ({"wrap": b"short"}, RefusalCode.UNKNOWN_SESSION),
    ],
)
def test_a_job_that_is_not_admitted_is_refused_with_its_code(
    site: Site, change: dict, code: RefusalCode
) -> None:
    job = site.job(site.connect())
    header = Header(Kind.ASSIGN, job.job_id, 1, count=1, peer=PEER)
    values = {"envelope": job.envelope(), "wrap": job.wrap()} | change
    site.coordinator.send(header, values["envelope"], values["wrap"], *job.segments())
    answer, (refusal,) = site.coordinator.expect(Kind.JOB_REFUSED)
    assert (answer.job_id, answer.attempt) == (job.job_id, 1)
    assert Refusal.from_bytes(refusal).code is code


def test_a_replayed_assignment_does_not_run_again(site: Site) -> None:
    """The coordinator replays a finished job, with the same and with a higher attempt."""
    job = site.job(site.connect())
    site.assign(job)
    site.result(job)
    segments = [bytes(33)]  # Never looked at: the refusal comes first.
    for attempt in (1, 2):
        header = Header(Kind.ASSIGN, job.job_id, attempt, count=1, peer=PEER)
        site.coordinator.send(header, job.envelope(), job.wrap(), *segments)
        _, (refusal,) = site.coordinator.expect(Kind.JOB_REFUSED)
        assert Refusal.from_bytes(refusal).code is RefusalCode.REPLAYED


def test_a_revoked_job_says_nothing_more_and_may_come_again(site: Site) -> None:
    job = site.job(site.connect(), size=30_000)
    segments = job.segments()
    site.assign(job, inline=False)
    site.coordinator.expect(Kind.INPUT_CREDIT)
    site.coordinator.send(Header(Kind.INPUT, job.job_id, 1), segments[0])
    site.coordinator.send(Header(Kind.REVOKE, job.job_id, 1))
    header = Header(Kind.ASSIGN, job.job_id, 2, count=len(segments), peer=PEER)
    site.coordinator.send(header, job.envelope(), job.wrap(), *segments)
    site.coordinator.send(Header(Kind.OUTPUT_CREDIT, job.job_id, 2, count=100))
    header, _ = site.coordinator.expect(Kind.RESULT)
    assert header.attempt == 2
    assert not [h for h, _ in site.coordinator.kept if h.kind is Kind.JOB_REFUSED]


def test_a_coordinator_that_forgot_the_worker_gets_the_same_worker_and_its_result(
    site: Site,
) -> None:
    """G7: a result that was sent to a coordinator that crashed is sent again."""
    job = site.job(site.connect())
    site.assign(job)
    site.result(job)
    site.coordinator.refuse(RefusalCode.NOT_WELCOME)
    site.coordinator.wait(lambda: len(site.coordinator.hellos) == 2)
    first, second = site.coordinator.hellos
    assert first.instance == second.instance
    site.result(job)
    site.coordinator.send(Header(Kind.RECORDED, job.job_id, 1))
    site.coordinator.refuse(RefusalCode.NOT_WELCOME)
    site.coordinator.wait(lambda: len(site.coordinator.hellos) == 3)
    site.coordinator.pump(0.3)
    assert not site.coordinator.kept


def test_a_silent_coordinator_is_asked_again_and_running_jobs_go_on(
    site: Site, kernels: ModuleType
) -> None:
    kernels.WAITING.clear()
    kernels.GO_ON.clear()
    job = site.job(site.connect(), "test.wait")
    site.assign(job)
    assert kernels.WAITING.wait(10)
    site.coordinator.answers_heartbeats = False
    site.coordinator.wait(lambda: len(site.coordinator.hellos) >= 2)
    site.coordinator.answers_heartbeats = True
    kernels.GO_ON.set()
    site.result(job)


def test_a_draining_worker_finishes_its_job_refuses_the_next_and_leaves(
    site: Site, kernels: ModuleType
) -> None:
    kernels.WAITING.clear()
    kernels.GO_ON.clear()
    client = site.connect()
    job, late = site.job(client, "test.wait"), site.job(client)
    site.assign(job)
    assert kernels.WAITING.wait(10)
    site.runtime.request_stop()
    site.coordinator.expect(Kind.DRAINING)
    site.assign(late)
    header, (refusal,) = site.coordinator.expect(Kind.JOB_REFUSED)
    assert header.job_id == late.job_id
    assert Refusal.from_bytes(refusal).code is RefusalCode.DRAINING
    assert site.thread.is_alive()
    kernels.GO_ON.set()
    site.result(job)
    site.coordinator.send(Header(Kind.RECORDED, job.job_id, 1))
    site.thread.join(10)
    assert not site.thread.is_alive()


def test_a_second_request_to_stop_does_not_wait_for_a_kernel(
    site: Site, kernels: ModuleType
) -> None:
    kernels.WAITING.clear()
    kernels.GO_ON.clear()
    job = site.job(site.connect(), "test.wait")
    site.assign(job)
    assert kernels.WAITING.wait(10)
    site.runtime.request_stop()
    site.runtime.request_stop()
    started = time.monotonic()
    site.thread.join(10)
    assert not site.thread.is_alive()
    assert time.monotonic() - started < 5
    kernels.GO_ON.set()


def test_garbage_from_the_coordinator_changes_nothing(site: Site) -> None:
    for frames in ([b""], [bytes(48)], [Header(Kind.SUBMIT).to_bytes()], [b"x"] * 70):
        site.coordinator._socket.send_multipart([site.coordinator._worker, *frames])
    for kind in Kind:
        site.coordinator.send(Header(kind), b"\xff")
    site.coordinator.wait(lambda: len(site.coordinator.heartbeats) > 3)
    site.coordinator.kept.clear()
    job = site.job(site.connect())
    site.assign(job)
    site.result(job)


def test_challenges_of_one_window_share_evidence_and_two_windows_share_no_key(site: Site) -> None:
    """Design step 3: keys are drawn after the nonces, and attested once."""
    clients = [SimulatedClient() for _ in range(3)]
    for number, client in enumerate(clients):
        head = Header(Kind.END_TO_END, peer=bytes([number]) * 16)
        site.coordinator.tell(head, client.challenge())
    replies = {}
    for _ in clients:
        header, (frame,) = site.coordinator.expect(Kind.END_TO_END)
        replies[header.peer[0]] = AttestationReply.from_bytes(frame)
    for number, client in enumerate(clients):
        client.take_reply(replies[number])
    later = site.connect()
    assert later.keyset.keyset_id() not in {each.keyset.keyset_id() for each in clients}
    assert len({each.keyset.keyset_id() for each in clients}) <= 2


def test_a_session_that_was_opened_is_not_opened_again(site: Site) -> None:
    """A relay replays the opening message."""
    client = SimulatedClient()
    reply = site.coordinator.ask(PEER, client.challenge())
    client.take_reply(reply)
    message = client.open()
    assert isinstance(site.coordinator.ask(PEER, message), SessionAccepted)
    refused = site.coordinator.ask(PEER, message)
    assert isinstance(refused, SessionRefused)
    assert refused.code is RefusalCode.UNKNOWN_KEYSET
