"""What docs and attacks rely on is really set on the live socket, not only written in a table."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from attestation import limits
from coordinator.broker import Broker
from coordinator.settings import Settings
from tests.port.ground import Curve

MIB = 1 << 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(Settings(state=tmp_path / "state", listen="tcp://127.0.0.1:0"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("option", "least", "most"),
    [
        # A frame may be as large as a segment of 16 MiB; -1 would be without limit.
        pytest.param(zmq.MAXMSGSIZE, limits.SEGMENT_BYTES_MAX + 32, 20 * MIB, id="MAXMSGSIZE"),
        # The default of 30 s lets 700 idle connections starve everybody.
        pytest.param(zmq.HANDSHAKE_IVL, 500, 2_000, id="HANDSHAKE_IVL"),
        pytest.param(zmq.HEARTBEAT_IVL, 1_000, 5_000, id="HEARTBEAT_IVL"),
        pytest.param(zmq.HEARTBEAT_TIMEOUT, 5_000, 15_000, id="HEARTBEAT_TIMEOUT"),
        pytest.param(zmq.HEARTBEAT_TTL, 5_000, 20_000, id="HEARTBEAT_TTL"),
        # In messages; 0 would be without limit.
        pytest.param(zmq.RCVHWM, 1, 128, id="RCVHWM"),
        pytest.param(zmq.SNDHWM, 512, 1_024, id="SNDHWM"),
        pytest.param(zmq.BACKLOG, 128, 4_096, id="BACKLOG"),
        pytest.param(zmq.LINGER, 0, 2_000, id="LINGER"),
    ],
)
def test_the_live_socket_has_what_the_attacks_ask_for(
    broker: Broker, option: int, least: int, most: int
) -> None:
    assert least <= broker._router.getsockopt(option) <= most


def test_a_message_to_nobody_is_an_error_and_not_lost_in_silence(broker: Broker) -> None:
    """ROUTER_MANDATORY cannot be read back."""
    with pytest.raises(zmq.ZMQError) as refusal:
        broker._router.send(b"\0none", zmq.SNDMORE)
    assert refusal.value.errno == zmq.EHOSTUNREACH


def test_a_curve_port_authenticates_everybody(tmp_path: Path, curve: Curve) -> None:
    broker = Broker(Settings(state=tmp_path / "s", listen="tcp://127.0.0.1:0", **curve.settings))
    try:
        router = broker._router
        assert router.getsockopt(zmq.MECHANISM) == zmq.CURVE
        assert router.getsockopt(zmq.CURVE_SERVER) == 1
        assert router.getsockopt(zmq.ZAP_DOMAIN) == b"enclave"
        assert router.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
    finally:
        broker.close()


def test_libzmq_is_not_one_with_known_holes() -> None:
    assert zmq.zmq_version_info() >= (4, 3, 5)


def test_a_coordinator_takes_all_the_descriptors_it_may_have(tmp_path: Path) -> None:
    """The usual soft limit of 1,024 is a thousand idle connections away."""
    code = (
        "import resource; from coordinator import cli;"
        "cli._raise_descriptor_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -S -n 256; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    assert int(done.stdout) == wanted
