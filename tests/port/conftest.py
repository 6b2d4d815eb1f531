"""Brokers to attack."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq.auth
from zmq.utils import z85

from coordinator import keys
from tests.port.ground import BrokerProcess, Curve, new_peer


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One process for all attacks of a module: each must leave it fit for the next."""
    broker = BrokerProcess(tmp_path_factory.mktemp("broker"))
    yield broker
    alive = broker.alive
    broker.stop()
    assert alive, "an attack ended the coordinator"


@pytest.fixture
def curve(tmp_path: Path) -> Curve:
    secret, public = keys.generate(tmp_path / "keys")
    server = zmq.auth.load_certificate(public)[0]
    allow = tmp_path / "allow"
    made = Curve(
        allow=allow,
        settings={"curve_key": secret, "allow": allow},
        server_key=z85.decode(server),
        peers=(new_peer(server), new_peer(server)),
    )
    made.allow_only(*made.peers)
    return made
