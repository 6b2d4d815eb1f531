"""Reading metrics as Prometheus does, with the parser of its own library."""

import socket
import urllib.request
from collections.abc import Iterable

import pytest

parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client")

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""A name and its labels."""


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def ask(port: int, request: bytes) -> bytes:
    """Send any bytes and return everything that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def samples(text: str) -> dict[Sample, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def types(text: str) -> dict[str, str]:
    """The type of each family, under the name that it is written with."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in parser.text_string_to_metric_families(text)
    }


def growing(text: str) -> dict[Sample, float]:
    """The samples that must never become smaller."""
    grows = {name for name, kind in types(text).items() if kind in {"counter", "histogram"}}
    suffixes = ("_bucket", "_sum", "_count")
    return {
        key: value
        for key, value in samples(text).items()
        if key[0] in grows or (key[0].endswith(suffixes) and key[0].rpartition("_")[0] in grows)
    }


def total(text: str, name: str, **labels: str) -> float:
    """The sum over all samples of `name` that have `labels`."""
    wanted = set(labels.items())
    found = [
        value
        for (own, given), value in samples(text).items()
        if own == name and wanted <= set(given)
    ]
    assert found, f"no sample of {name}"
    return sum(found)


def label_values(texts: Iterable[str]) -> set[str]:
    return {value for text in texts for _, labels in samples(text) for _, value in labels}
