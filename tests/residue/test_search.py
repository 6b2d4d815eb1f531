"""The searches that residue and blindness tests trust: they find what is there, in every form."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.simulators.markers import Key, Marker, Word, all_forms, every_text_of, found_in
from tests.simulators.memory_scan import Finder, memory_of, needs_root, scan

HOLDER = """
import sys
held = [bytes.fromhex(line) for line in sys.stdin.readline().split()]
print("up", flush=True)
sys.stdin.readline()
held.clear()
print("gone", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def marker() -> Marker:
    return Marker.draw("marker")


def test_every_form_of_a_marker_is_recognised(marker: Marker) -> None:
    forms = marker.forms
    for text in every_text_of(marker.array()):
        assert found_in(text, forms), text[:40]


def test_every_single_number_of_a_marker_is_recognised_wherever_it_lies(marker: Marker) -> None:
    forms = marker.forms
    for number in marker.array()[::37]:
        for text in every_text_of(np.array([number])):
            assert found_in(b"?" + text + b"!", forms), text


def test_what_is_no_form_of_a_marker_is_not_taken_for_one(marker: Marker) -> None:
    other = Marker.draw("other")
    for text in [
        *every_text_of(other.array()),
        *every_text_of(np.random.default_rng(1).random(512)),
    ]:
        assert found_in(text, marker.forms) == []


def test_a_marker_times_two_is_another_marker(marker: Marker) -> None:
    doubled = marker.times(2.0)
    for text in every_text_of(2.0 * marker.array()):
        assert found_in(text, doubled.forms)
    assert found_in((2.0 * marker.array()).tobytes(), marker.forms) == []


def test_half_a_key_is_recognised() -> None:
    key = Key(name="key", data=bytes(range(100, 132)))
    for start in (0, 8, 16):
        assert found_in(b"--" + key.data[start : start + 16], key.forms)
    assert found_in(key.data[:15], key.forms) == []


def test_the_finder_finds_what_a_plain_search_finds(marker: Marker) -> None:
    """At every alignment, at both ends, and nothing in what is too short."""
    forms = all_forms(marker, Word.draw("word"), Key(name="key", data=bytes(range(32))))
    finder = Finder(forms)
    noise = np.random.default_rng(2).bytes(1001)
    for name, form in forms.items():
        for data in (form, noise[:500] + form + noise[500:], noise + form, form + noise):
            assert finder.find(data)[name] == data.find(form)
    for data in (b"", b"a", noise, *(form[:-1] for form in forms.values())):
        expected = {name: data.find(form) for name, form in forms.items() if form in data}
        assert finder.find(data) == expected


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONMALLOC": "pymalloc_debug"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()
    return process.stdout.readline()


@needs_root()
def test_a_scan_finds_every_form_in_another_process(
    marker: Marker, holder: "subprocess.Popen[bytes]"
) -> None:
    word, key = Word.draw("word"), Key(name="key", data=np.random.default_rng(3).bytes(32))
    forms = all_forms(marker, word, key)
    # In pieces: one line of hex must not itself be found.
    assert tell(holder, b" ".join(form.hex().encode() for form in forms.values())) == b"up\n"
    found = {sighting.form for sighting in scan(holder.pid, forms)}
    assert found == set(forms)


@needs_root()
def test_a_scan_reads_all_that_a_process_has_written(holder: "subprocess.Popen[bytes]") -> None:
    """Counted by the kernel, for the mappings that can be written to."""
    tell(holder, b"")
    read = sum(len(data) for _, _, data in memory_of(holder.pid))
    written, writable = 0, False
    for line in Path(f"/proc/{holder.pid}/smaps").read_text().splitlines():
        first, second, *_ = line.split()
        if not first.endswith(":"):
            writable = "w" in second
        elif writable and first == "Private_Dirty:":
            written += 1024 * int(second)
    assert written > 0
    assert read >= written
