from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.observability.exposition import (
    Histogram,
    counter,
    gauge,
    histogram,
    render,
)
from tests.observability.scrape import samples, types


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


def test_a_label_cannot_hold_what_was_made_while_the_process_runs() -> None:
    """A job id, a key or a tensor's name is a string; only members of an enumeration get in."""
    for value in ("red", b"\x00" * 16, 7):
        with pytest.raises(TypeError):
            gauge("enclave_test_things", "Things.", {value: 1}, label="colour")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", ["things", "enclave_", "enclave_a{b=c}", "enclave_a\nb 1", "Enclave_a_b"]
)
def test_a_name_that_would_break_the_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        gauge(name, "Things.", 1)


def test_a_counter_that_is_not_named_as_one_is_refused() -> None:
    with pytest.raises(ValueError, match="_total"):
        counter("enclave_test_things", "Things.", 1)


def test_another_implementation_reads_what_we_write() -> None:
    seconds = Histogram((0.1, 1, 10))
    for value in (0.05, 0.1, 0.5, 100):
        seconds.observe(value)
    text = render(
        [
            gauge("enclave_test_level", "A level.", 1.5),
            counter(
                "enclave_test_things_total",
                "Things.",
                {Colour.RED: 2, Colour.GREEN: 0},
                label="colour",
            ),
            histogram("enclave_test_seconds", "Seconds.", seconds),
        ]
    )
    assert types(text) == {
        "enclave_test_level": "gauge",
        "enclave_test_things_total": "counter",
        "enclave_test_seconds": "histogram",
    }
    assert samples(text) == {
        ("enclave_test_level", ()): 1.5,
        ("enclave_test_things_total", (("colour", "red"),)): 2,
        ("enclave_test_things_total", (("colour", "green"),)): 0,
        # The bound itself belongs to its bucket.
        ("enclave_test_seconds_bucket", (("le", "0.1"),)): 2,
        ("enclave_test_seconds_bucket", (("le", "1"),)): 3,
        ("enclave_test_seconds_bucket", (("le", "10"),)): 3,
        ("enclave_test_seconds_bucket", (("le", "+Inf"),)): 4,
        ("enclave_test_seconds_sum", ()): pytest.approx(100.65),
        ("enclave_test_seconds_count", ()): 4,
    }


@given(st.lists(st.floats(min_value=0, max_value=1e12)))
def test_buckets_never_fall_and_end_with_everything(values: list[float]) -> None:
    found = Histogram((0.001, 1.0, 1e6))
    for value in values:
        found.observe(value)
    counts = found.cumulative()
    assert list(counts) == sorted(counts)
    assert counts[-1] == len(values)
    for bound, count in zip(found.bounds, counts, strict=False):
        assert count == sum(value <= bound for value in values)
