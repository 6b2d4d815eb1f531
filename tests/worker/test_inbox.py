"""What a coordinator can make a job hold, and how long it can make it wait: both have an end."""

import threading

import pytest

from enclave_worker.inbox import Inbox, Segment
from enclave_worker.refusals import OverrunError, RevokedError, StalledError


def test_a_segment_without_credit_is_not_held() -> None:
    inbox = Inbox(stall_seconds=0.01)
    with pytest.raises(OverrunError):
        inbox.feed(Segment(0, b"unasked"))
    inbox.make_room(1)
    inbox.feed(Segment(0, b"asked"))
    with pytest.raises(OverrunError):
        inbox.feed(Segment(1, b"one more"))
    assert inbox.next_segment().data == b"asked"


def test_credit_without_end_lets_a_window_of_outputs_out_and_no_more() -> None:
    """It is a number, and what the socket takes is another."""
    inbox = Inbox(stall_seconds=0.01)
    for _ in range(1000):
        inbox.grant((1 << 32) - 1)
    for _ in range(4):
        inbox.take_credit(4)
    with pytest.raises(StalledError):
        inbox.take_credit(4)
    inbox.left()
    inbox.take_credit(4)


def test_an_output_that_nobody_wants_is_not_sealed() -> None:
    inbox = Inbox(stall_seconds=0.01)
    inbox.grant(1)
    inbox.take_credit(4)
    with pytest.raises(StalledError):
        inbox.take_credit(4)


def test_a_result_waits_until_its_outputs_have_left() -> None:
    inbox = Inbox(stall_seconds=0.01)
    inbox.wait_until_left()
    inbox.grant(1)
    inbox.take_credit(4)
    with pytest.raises(StalledError):
        inbox.wait_until_left()
    inbox.left()
    inbox.wait_until_left()


def test_a_job_that_is_stopped_waits_for_nothing_more() -> None:
    inbox = Inbox(stall_seconds=60)
    stopper = threading.Timer(0.05, inbox.stop, [RevokedError("enough")])
    stopper.start()
    with pytest.raises(RevokedError, match="enough"):
        inbox.next_segment()
    stopper.join()
    inbox.stop(OverrunError("later"))
    for wait in (inbox.next_segment, inbox.wait_until_left, inbox.require_wanted):
        with pytest.raises(RevokedError, match="enough"):
            wait()
    with pytest.raises(RevokedError, match="enough"):
        inbox.take_credit(1)
