"""Lost, repeated, swapped, late and corrupt messages; crashes and full disks in between.

Thousands of faults per run on the true core and the true store. After each storm the faults stop,
everybody reconnects, and then every accepted job must end with one result of its very inputs.
"""

from collections import Counter

import pytest

from attestation.wire.control import RefusalCode
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED
from tests.coordinator.simulated_broker import SimulatedBroker
from tests.faults.actors import MIXED, HonestClient, HonestWorker, Shape
from tests.faults.network import FaultyNetwork, Rates
from tests.faults.tally import tally

pytestmark = pytest.mark.usefixtures("small_messages")

RULES = Rules(
    memory_limit=64 * SEALED,
    window_bytes=4 * SEALED,
    lease_ms=2_000,
    heartbeat_ms=100,
    client_silence_ms=2_000,
    stall_ms=4_000,
    park_ms=100,
    max_attempts=10_000,
)

WEATHERS = {
    "a bad line": Rates(cut=0.02, delay=0.1),
    "a hostile network": Rates(lose=0.05, repeat=0.1, swap=0.1, delay=0.05, corrupt=0.01, cut=0.01),
    "crashes": Rates(crash=0.03, cut=0.01, delay=0.05),
    "a bad disk": Rates(disk=0.05, cut=0.005, crash=0.005),
    "peers that stop": Rates(freeze=0.02, delay=0.05),
    "everything": Rates(
        lose=0.02,
        repeat=0.05,
        swap=0.05,
        delay=0.05,
        corrupt=0.005,
        cut=0.01,
        freeze=0.005,
        crash=0.01,
        disk=0.01,
    ),
}
LIFETIME_MS = 40_000
"""A job whose CANCEL a hostile network swallowed waits for a client that gave it up: until then."""
STORM_STEPS = 250
CALM_STEPS = 3_000


def site(seed: int, *, shapes: tuple[Shape, ...] = MIXED * 3) -> tuple[FaultyNetwork, list]:
    clients = [
        HonestClient(shapes, seed=seed * 10 + n + 1, lifetime_ms=LIFETIME_MS) for n in range(2)
    ]
    workers = [HonestWorker(instance=n, run_ms=50 * n) for n in range(3)]
    # One book for all workers: two of them may not both be told that theirs is the result.
    for worker in workers[1:]:
        worker.recorded = workers[0].recorded
    network = FaultyNetwork(SimulatedBroker(RULES), *clients, *workers, seed=seed)
    return network, clients


def settle(network: FaultyNetwork, clients: list[HonestClient]) -> None:
    """Let the weather clear and every job come to its end."""
    network.calm()
    for _ in range(CALM_STEPS):
        network.step()
        if all(client.done for client in clients) and not network.broker.core.world.jobs:
            return
    waiting = [
        (wanted.number, wanted.accepted) for each in clients for wanted in each.jobs.values()
    ]
    kept = [(job.job_id.hex(), job.state) for job in network.broker.core.world.jobs.values()]
    raise AssertionError(f"not done in the calm: clients {waiting}, coordinator {kept}")


def check_all_delivered_once(network: FaultyNetwork, clients: list[HonestClient]) -> None:
    for client in clients:
        for wanted in client.wanted:
            assert wanted.delivered == 1, wanted
    broker = network.broker
    assert list(broker.store.jobs()) == [], "the store keeps what everybody has forgotten"
    assert not broker.files, "files without a job"
    assert broker.core.world.budget.used == 0, "memory that nobody gives back"
    assert broker.core.world.bodies.used == 0
    assert broker.core.world.spool_bytes == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weather", WEATHERS)
def test_every_job_ends_with_one_result_after_the_storm(
    request: pytest.FixtureRequest, weather: str, seed: int
) -> None:
    network, clients = site(seed)
    network.rates = WEATHERS[weather]
    for _ in range(STORM_STEPS):
        network.step()
    settle(network, clients)
    check_all_delivered_once(network, clients)
    tally(request, network.faults)
    assert network.faults.total() > 10


@pytest.mark.parametrize("seed", range(6))
def test_streaming_jobs_come_again_under_a_new_id(
    request: pytest.FixtureRequest, seed: int
) -> None:
    shapes = tuple(Shape(a, b, durable=False) for a in (False, True) for b in (False, True))
    network, clients = site(seed, shapes=shapes * 3)
    network.rates = WEATHERS["everything"]
    for _ in range(STORM_STEPS):
        network.step()
    settle(network, clients)
    check_all_delivered_once(network, clients)
    tally(request, network.faults)


ENDS_CLEARLY = {RefusalCode.NOT_AUTHENTIC, RefusalCode.MALFORMED}


@pytest.mark.parametrize("seed", range(6))
def test_a_network_that_alters_the_flow_of_segments_gets_refusals_and_no_false_result(
    request: pytest.FixtureRequest, seed: int
) -> None:
    """Lost and repeated segments end a job with a code; never in silence."""
    network, clients = site(seed)
    network.rates = Rates(segment=0.04, delay=0.05)
    for _ in range(STORM_STEPS):
        network.step()
    settle(network, clients)
    ends: Counter[bool] = Counter()
    for client in clients:
        for wanted in client.wanted:
            ends[wanted.delivered == 1] += 1
            if not wanted.delivered:
                assert set(wanted.refusals) <= ENDS_CLEARLY, wanted
    assert ends[True] > 0
    assert not network.broker.files
    tally(request, network.faults)
