"""Log lines hold ids, sizes, codes and digests, whatever somebody passes to them."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog

from attestation.logging import FORMATS, configure, get_logger, public_values


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to standard error since the last call."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_both_kinds_of_logger_write_the_same_json(stderr: Callable[[], str]) -> None:
    configure("json")
    structlog.get_logger("coordinator").info("job.accepted", job_id=bytes(range(16)), count=3)
    get_logger("attestation.client").info("job.accepted", job_id=bytes(range(16)), count=3)
    one, two = (json.loads(line) for line in stderr().splitlines())
    for line in (one, two):
        assert line["event"] == "job.accepted"
        assert line["job_id"] == "0001020304050607"
        assert line["count"] == 3
        assert line["level"] == "info"
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_format", FORMATS)
def test_arrays_and_long_texts_never_reach_a_line(
    stderr: Callable[[], str], log_format: str
) -> None:
    configure(log_format, "debug")  # type: ignore[arg-type]
    for logger in (structlog.get_logger("a"), get_logger("b")):
        logger.info("x.y", array=np.full(4, 13.37), text="s" * 10_000, key=b"k" * 4096, o=object())
    written = stderr()
    assert "13.37" not in written
    assert "s" * 300 not in written
    assert "6b" * 20 not in written
    assert "<ndarray>" in written


def test_levels_are_obeyed(stderr: Callable[[], str]) -> None:
    configure("json", "warning")
    get_logger("a").info("quiet.event")
    structlog.get_logger("b").info("quiet.event")
    assert stderr() == ""


def test_a_library_that_nobody_configured_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    get_logger("attestation.quiet").info("quiet.event", job_id=b"x")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_values_are_shortened_inside_lists_too() -> None:
    event = public_values(None, "", {"codes": ["a" * 500, b"\xff" * 100, {"a": 1}], "n": None})
    assert event == {"codes": ["a" * 200, "ff" * 8, "<dict>"], "n": None}


_EVENT = re.compile(
    r"""\b(?:log|logger|_log)\.(?:debug|info|warning|error)\(\s*"([a-z]+\.[a-z_]+)"
    |\bnote\(\s*"([a-z]+\.[a-z_]+)"
    """,
    re.VERBOSE,
)


def test_every_event_in_the_code_is_on_the_public_list(repository: Path) -> None:
    documented = set(
        re.findall(r"`([a-z]+\.[a-z_]+)`", (repository / "docs/logging.md").read_text())
    )
    written = {
        first or second
        for package in ("attestation", "coordinator", "enclave_worker")
        for path in (repository / package).rglob("*.py")
        for first, second in _EVENT.findall(path.read_text())
    }
    assert len(written) > 30
    assert written - documented == set()
