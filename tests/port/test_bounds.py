"""The bookkeeping behind the defences, without a socket."""

from pathlib import Path

import pytest
import zmq
from attrs import define

from attestation.identifiers import JobId
from coordinator.connections import STRANGERS, UNFINISHED_BYTES, Connections, Observed
from coordinator.core.budget import Budget
from coordinator.core.quota import Quota
from coordinator.core.timers import PRUNE_AT, Alarm, Timers
from coordinator.errors import KeyFileError
from coordinator.keys import AllowList
from coordinator.send_queues import FORWARDS, FORWARDS_FROM_ONE, Forwards, SendQueues
from tests.port.ground import MIB, wait_until

MILESTONE = 256 * 1024

A, B = (b"", b"\0aaaa"), (b"", b"\0bbbb")

# -- connections ----------------------------------------------------------------------------------


def watching(**changes: int) -> Connections:
    return Connections(
        "tcp://127.0.0.1:1", **({"hello_ms": 1_000, "memory_limit": MIB * 64} | changes)
    )


def seen(number: int, received: int = 0) -> Observed:
    return Observed(descriptor=number, remote=("127.0.0.1", 1000 + number), received=received)


def ended(connections: Connections, now_ms: int, *welcome: bytes) -> list[tuple[int, str]]:
    return [(each.place[0], code) for each, code in connections.offenders(now_ms, set(welcome))]


def known(connections: Connections, routing_id: bytes, number: int) -> None:
    """As `note` does for a socket that is really there."""
    connections._places[routing_id] = (number, ("127.0.0.1", 1000 + number))


def test_bytes_before_a_message_was_delivered_are_not_unfinished() -> None:
    connections = watching()
    known(connections, b"one", 1)
    connections.spoke.add(b"one")
    connections.update(0, [seen(1, 10 * UNFINISHED_BYTES)])
    assert ended(connections, 0, b"one") == []
    connections.update(1, [seen(1, 11 * UNFINISHED_BYTES)])
    assert ended(connections, 1, b"one") == []
    connections.update(2, [seen(1, 11 * UNFINISHED_BYTES + 1)])
    assert ended(connections, 2, b"one") == [(1, "message-without-end")]


def test_the_largest_go_until_the_rest_fits() -> None:
    connections = watching(memory_limit=30)
    connections.update(0, [seen(1, 12), seen(2, 10), seen(3, 11), seen(4, 9)])
    assert ended(connections, 0) == [(1, "message-without-end")]


def test_a_reused_descriptor_is_another_connection() -> None:
    """Its bytes and its age are its own, and the old routing id does not vouch for it."""
    connections = watching()
    known(connections, b"old", 1)
    connections.update(0, [seen(1, 5)])
    other = Observed(descriptor=1, remote=("127.0.0.1", 9), received=3)
    connections.update(900, [other])
    assert b"old" not in connections
    assert ended(connections, 1_500, b"old") == []
    assert ended(connections, 1_901, b"old") == [(1, "no-hello")]


def test_only_those_who_said_hello_stay() -> None:
    connections = watching()
    for number, routing_id in ((1, b"peer"), (2, b"stranger")):
        known(connections, routing_id, number)
    connections.update(0, [seen(1), seen(2), seen(3)])
    assert ended(connections, 1_000, b"peer") == []
    assert ended(connections, 1_001, b"peer") == [(2, "no-hello"), (3, "no-hello")]


def test_of_too_many_strangers_the_oldest_go() -> None:
    connections = watching()
    connections.update(0, [seen(number) for number in range(2)])
    connections.update(5, [seen(number) for number in range(STRANGERS + 2)])
    assert sorted(ended(connections, 6)) == [(0, "no-hello"), (1, "no-hello")]


def test_what_is_no_tcp_port_is_not_looked_at() -> None:
    connections = Connections("ipc:///tmp/somewhere", hello_ms=1, memory_limit=1)
    assert b"anybody" in connections
    connections.look(10_000, set())
    connections.cut(b"anybody", "code")


# -- queues ---------------------------------------------------------------------------------------


@define
class Frame:
    """A frame on its way, as far as anybody asks."""

    done: bool = False


def test_a_queue_is_as_long_as_what_did_not_leave() -> None:
    queues, first, second = SendQueues(milestone=MILESTONE), Frame(), Frame()
    assert not queues.add(A, MILESTONE - 1)
    assert queues.add(A, 1)
    queues.watch(A, first)
    assert queues.add(A, 3 * MILESTONE)
    queues.watch(A, second)
    assert queues.size(A) == 4 * MILESTONE
    assert queues.size(B) == 0
    first.done = True
    assert queues.size(A) == 3 * MILESTONE
    second.done = True
    assert queues.total(above=0) == 0


def test_the_longest_queue_is_found_and_forgotten() -> None:
    queues = SendQueues(milestone=MILESTONE)
    for peer, times in ((A, 1), (B, 2)):
        assert queues.add(peer, times * MILESTONE)
        queues.watch(peer, Frame())
    assert queues.largest() == B
    queues.forget(B)
    assert queues.total(above=0) == MILESTONE
    queues.prune({B})
    assert queues.size(A) == MILESTONE, "what waits is counted although its peer is gone"


def test_forwards_are_few_and_fewer_from_each() -> None:
    forwards, frames = Forwards(64 * MIB), []
    for sender in range(FORWARDS // FORWARDS_FROM_ONE):
        for _ in range(FORWARDS_FROM_ONE):
            assert forwards.room(b"to", bytes([sender]), 10)
            frames.append(Frame())
            forwards.add(b"to", bytes([sender]), 10, frames[-1])
        assert not forwards.room(b"to", bytes([sender]), 10)
    assert not forwards.room(b"to", b"another", 10)
    assert forwards.room(b"elsewhere", b"another", 10)
    for frame in frames:
        frame.done = True
    assert forwards.room(b"to", b"\0", 10)


def test_forwards_are_bounded_in_bytes() -> None:
    forwards = Forwards(64 * MIB)
    for _ in range(4):
        assert forwards.room(b"to", b"from", 2 * MIB)
        forwards.add(b"to", b"from", 2 * MIB, Frame())
    assert not forwards.room(b"to", b"from", 1)
    forwards.prune()
    assert not forwards.room(b"to", b"from", 1)


def test_a_small_frame_is_watched_as_a_large_one_is(tmp_path: Path) -> None:
    """pyzmq copies what is below its threshold and says at once that it is gone."""
    from coordinator.broker import Broker  # noqa: PLC0415
    from coordinator.settings import Settings  # noqa: PLC0415

    broker = Broker(Settings(state=tmp_path, listen="tcp://127.0.0.1:0"))
    try:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        peer = context.socket(zmq.DEALER)
        peer.linger = 0
        # A peer that takes nothing: what does not fit between us is under way for as long as it is.
        peer.rcvhwm, peer.rcvbuf = 1, 4096
        peer.connect(broker.address)
        peer.send(b"hello")
        routing_id, _ = broker._router.recv_multipart()
        broker._router.send(routing_id, zmq.SNDMORE)
        trackers = [broker._router.send(b"small", copy=False, track=True)]
        for _ in range(900):
            broker._router.send(routing_id, zmq.SNDMORE)
            trackers.append(broker._router.send(bytes(20_000), copy=False, track=True))
        assert not all(each.done for each in trackers), "some are under way"
        peer.close()
        context.term()
        # The socket learns that the peer is gone when it is next looked at.
        wait_until(
            lambda: broker._router.poll(10) is not None and trackers[-1].done, "all are let go"
        )
    finally:
        broker.close()


# -- shares ---------------------------------------------------------------------------------------


def test_an_account_holds_its_share_and_no_more() -> None:
    quota = Quota(10, 6)
    assert quota.room(b"a", 6)
    quota.add(b"a", 6)
    assert not quota.room(b"a", 1)
    assert quota.room(b"b", 4)
    assert not quota.room(b"b", 5), "nor more than there is"
    quota.add(b"a", -6)
    assert quota.room(b"a", 6)
    assert quota.used == quota.total_held() == 0


def key(name: str) -> tuple[str, JobId]:
    return (name, JobId(bytes(16)))


def test_lines_are_served_in_turn_and_not_by_length() -> None:
    """A thousand requests of one account stand in one line, and another's single one in another."""
    budget, granted = Budget(10, share=10), []
    assert budget.hold(key("first"), 10, b"a")
    for number in range(1_000):
        name = f"a{number}"
        budget.request(key(name), 10, lambda name=name: granted.append(name), b"a")
    budget.request(key("b"), 10, lambda: granted.append("b"), b"b")
    for name in ("first", "a0", "b", "a1"):
        budget.release(key(name))
    assert granted == ["a0", "b", "a1", "a2"]


def test_an_account_at_its_share_waits_for_itself_only() -> None:
    budget, granted = Budget(10, share=5), []
    assert budget.hold(key("a1"), 5, b"a")
    budget.request(key("a2"), 1, lambda: granted.append("a2"), b"a")
    assert not budget.hold(key("a3"), 1, b"a")
    assert budget.hold(key("b1"), 5, b"b")
    assert granted == []
    budget.release(key("b1"))
    assert granted == [], "its own share is what it waits for"
    budget.release(key("a1"))
    assert granted == ["a2"]


def test_a_first_lane_may_be_larger_than_a_share() -> None:
    """Or a tiny budget would never move a large segment."""
    budget = Budget(10, share=5)
    assert budget.hold(key("large"), 9, b"a")
    assert not budget.hold(key("more"), 1, b"a")


# -- timers ---------------------------------------------------------------------------------------


def test_timers_of_ended_jobs_are_forgotten_long_before_they_ring() -> None:
    timers = Timers()
    alive = JobId(b"alive".ljust(16))
    for number in range(PRUNE_AT):
        timers.set(1 << 40, Alarm.RETENTION, JobId(number.to_bytes(16, "big")))
    timers.set(5, Alarm.LEASE, alive)
    timers.prune({alive})
    assert timers.next_ms() == 5
    assert timers.due(1 << 41) == [(Alarm.LEASE, alive)]


# -- the allow-list -------------------------------------------------------------------------------

ONE, TWO = "1" * 40, "2" * 40


def test_a_list_says_who_lost_its_place(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(f"{ONE} a\n{TWO} b\n")
    allowed = AllowList(path)
    assert allowed.refresh() == frozenset()
    path.write_text(f"{ONE} a\n")
    assert len(allowed.refresh()) == 1
    assert len(allowed.admitted) == 1


@pytest.mark.parametrize("text", [None, "", "# nobody\n", ONE[:-1]])
def test_an_unclear_list_lets_nobody_in_and_nobody_out(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "allow"
    path.write_text(f"{ONE} a\n{TWO} b\n")
    allowed = AllowList(path)
    path.unlink() if text is None else path.write_text(text)
    assert allowed.refresh() == frozenset()
    assert allowed.welcome == frozenset()
    assert len(allowed.admitted) == 2
    path.write_text(f"{TWO} b\n")
    assert len(allowed.refresh()) == 1, "who was taken off meanwhile is found then"


def test_a_missing_list_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        AllowList(tmp_path / "missing")
