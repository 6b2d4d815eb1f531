import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.observability import scraping
from attestation.observability.exposition import Family, gauge
from attestation.observability.scraping import (
    MetricsAddress,
    MetricsAddressError,
    ScrapeServer,
    metrics_address,
)
from tests.observability.scrape import ask, samples, scrape

ANY_PORT = MetricsAddress(host="127.0.0.1", port=0)


def one_family() -> Iterator[Family]:
    yield gauge("enclave_test_level", "A level.", 3)


@pytest.fixture
def server() -> Iterator[ScrapeServer]:
    served = ScrapeServer(ANY_PORT, one_family)
    yield served
    served.close()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:9464",
        "[::]:9464",
        "192.0.2.7:9464",
        "[2001:db8::1]:9464",
        "127.0.0.1.example.org:9464",
        "metrics.example.org:9464",
        ":9464",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:http",
        "",
    ],
)
def test_metrics_are_not_served_where_other_machines_can_read_them(address: str) -> None:
    """Also not at a name: what it stands for tomorrow is not ours to say."""
    with pytest.raises(MetricsAddressError):
        MetricsAddress.parse(address)


def test_metrics_are_served_elsewhere_when_that_is_said() -> None:
    found = MetricsAddress.parse("0.0.0.0:9464", anywhere=True)
    assert str(found) == "0.0.0.0:9464"
    with pytest.raises(MetricsAddressError):
        metrics_address(None, anywhere=True)
    assert metrics_address(None, anywhere=False) is None


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:0", "localhost:9464"])
def test_loopback_addresses_are_accepted(address: str) -> None:
    assert MetricsAddress.parse(address).port < 65536


@given(st.text(max_size=40))
def test_any_address_is_usable_or_refused(text: str) -> None:
    with suppress(MetricsAddressError):
        assert 0 <= MetricsAddress.parse(text).port < 65536


def test_an_address_that_is_taken_is_refused(server: ScrapeServer) -> None:
    with pytest.raises(MetricsAddressError):
        ScrapeServer(server.address, one_family)


def test_a_scrape_is_answered(server: ScrapeServer) -> None:
    for _ in range(3):
        assert samples(scrape(str(server.address))) == {("enclave_test_level", ()): 3}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/../secret HTTP/1.1", b"404"),
        (b"GET", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"\x00\xff", b"405"),
        (b"", b"405"),
    ],
)
def test_anything_else_is_refused_and_the_next_scrape_answered(
    server: ScrapeServer, request_line: bytes, status: bytes
) -> None:
    answer = ask(server.address.port, request_line + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert samples(scrape(str(server.address)))


def test_a_request_without_an_end_gets_nothing(server: ScrapeServer) -> None:
    endless = b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * scraping.REQUEST_BYTES
    with suppress(OSError):  # we hang up while it is still talking
        assert ask(server.address.port, endless) == b""
    assert ask(server.address.port, b"GET /metrics HTTP/1.1\r\n") == b""
    assert samples(scrape(str(server.address)))


def test_one_that_says_nothing_does_not_keep_others_out(
    server: ScrapeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "REQUEST_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.address.port)) as silent:
        silent.sendall(b"G")
        assert samples(scrape(str(server.address)))


def test_a_number_that_cannot_be_had_ends_no_other_scrape() -> None:
    states = iter([RuntimeError("changed size during iteration"), None])

    def families() -> Iterator[Family]:
        error = next(states)
        if error is not None:
            raise error
        yield from one_family()

    served = ScrapeServer(ANY_PORT, families)
    try:
        answer = ask(served.address.port, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500")
        assert b"changed size" not in answer
        assert samples(scrape(str(served.address)))
    finally:
        served.close()


def test_a_closed_server_lets_go_of_its_address() -> None:
    served = ScrapeServer(ANY_PORT, one_family)
    began = time.monotonic()
    served.close()
    assert time.monotonic() - began < 1
    ScrapeServer(served.address, one_family).close()
