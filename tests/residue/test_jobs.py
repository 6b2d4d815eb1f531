"""G10: however a job ends, nothing of it is left in its worker's memory.

Every element of every tensor counts, in any form, and so do parameters, the names of steps, and
the job's key with all that is derived from it. Each test first finds them where they must be, so
that a search that finds nothing cannot pass. A worker is given half a second after the job
(enclave_worker/scrubbing.py).
"""

import struct
from collections.abc import Callable

import attrs
import pytest
from attrs import frozen

from attestation.sealing.content_key import ContentKey
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from enclave_worker.errors import DomainError
from tests.residue.gated_kernels import ODD_ARRAYS, ODD_LENGTH
from tests.residue.harness import LARGE, PEER, SMALL, Planted, ResidueWorker, keys_of
from tests.simulators.markers import all_forms, found_in
from tests.simulators.memory_scan import scan

SIZES = pytest.mark.parametrize("nbytes", [SMALL, LARGE], ids=["in-one-message", "streamed"])


def while_held(planted: Planted) -> dict[str, bytes]:
    """Return what the worker must hold while its kernel runs."""
    found = all_forms(planted.input, planted.output, planted.parameter, planted.step)
    raw = {name: form for name, form in found.items() if name.endswith((": raw", ": text"))}
    key = next(key for key in planted.keys if key.name == "content key")
    whole = key.forms
    return raw | {name: form for name, form in whole.items() if "bytes 8" in name}


@SIZES
def test_nothing_is_left_of_a_job_that_finished(worker: ResidueWorker, nbytes: int) -> None:
    planted = worker.plant("residue.hold", nbytes)
    worker.start(planted)
    worker.wait_to_see(while_held(planted))
    assert worker.result(planted) == ""
    assert worker.left(planted.forms) == []


@pytest.mark.parametrize(
    ("kernel", "nbytes", "code"),
    [
        ("residue.fail", LARGE, DomainError.code),
        ("residue.crash", SMALL, RefusalCode.KERNEL_FAILED.value),
    ],
)
def test_nothing_is_left_of_a_job_whose_kernel_failed(
    worker: ResidueWorker, kernel: str, nbytes: int, code: str
) -> None:
    """The exceptions quote every value that the kernel had."""
    planted = worker.plant(kernel, nbytes)
    worker.start(planted)
    worker.wait_to_see(while_held(planted))
    assert worker.result(planted) == code
    assert worker.left(planted.forms) == []


@SIZES
def test_nothing_is_left_of_a_job_that_is_cancelled_while_its_kernel_runs(
    worker: ResidueWorker, nbytes: int
) -> None:
    planted = worker.plant("residue.hold", nbytes)
    worker.start(planted)
    worker.wait_to_see(while_held(planted))
    worker.revoke(planted)
    worker.gate.touch()
    assert worker.left(planted.forms) == []


def test_nothing_is_left_of_a_job_that_is_revoked_before_its_inputs_are_whole(
    worker: ResidueWorker,
) -> None:
    planted = worker.plant("residue.hold", LARGE)
    worker.assign(planted)
    worker.feed(planted, dict(enumerate(planted.segments[:-1])))
    worker.wait_to_see({"raw": planted.input.shared})
    worker.revoke(planted)
    assert worker.left(planted.forms) == []


def test_nothing_is_left_of_a_job_that_is_revoked_while_its_outputs_wait(
    worker: ResidueWorker,
) -> None:
    """No credit comes: the kernels have finished and nothing is sealed."""
    planted = worker.plant("residue.hold", LARGE)
    worker.assign(planted)
    worker.gate.touch()
    worker.feed(planted, dict(enumerate(planted.segments)))
    worker.wait_to_see({"raw": planted.output.shared})
    worker.revoke(planted)
    assert worker.left(planted.forms) == []


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_nothing_is_left_of_inputs_with_a_bad_tag(worker: ResidueWorker, place: str) -> None:
    """OpenSSL has written the whole plaintext when it finds that the tag does not fit."""
    planted = worker.plant("residue.hold", LARGE)
    count = len(planted.segments)
    bad = {"first": 0, "middle": count // 2, "last": count - 1}[place]
    worker.assign(planted)
    worker.feed(planted, dict(enumerate(planted.segments[:bad])))
    if bad:
        worker.wait_to_see({"raw": planted.input.shared})
    changed = bytearray(planted.segments[bad])
    changed[-1] ^= 1
    worker.feed(planted, {bad: changed})
    refusal = worker.refusal()
    assert refusal.code is RefusalCode.NOT_AUTHENTIC
    assert worker.left(planted.forms) == []


# -- refused before anything ran -------------------------------------------------------------------


def _another_step(planted: Planted) -> None:
    """The body names parameters of a step that is not there: read, and refused."""
    body = attrs.evolve(planted.job.body, parameters=b"\xa1\x63abc\xa1\x63def\xfb" + _raw(planted))
    planted.job.body = body
    planted.job.change_header(parameters_commitment=body.commitment())


def _other_parameters(planted: Planted) -> None:
    """The body opens, and holds other parameters than the client committed to."""
    planted.job.body = attrs.evolve(planted.job.body, salt=bytes(32))


def _other_key(planted: Planted) -> None:
    """The wrapped key is not the one that was committed to."""
    commitment = ContentKey.generate().commitment(planted.job.job_id)
    planted.job.change_header(content_key_commitment=commitment)


def _raw(planted: Planted) -> bytes:
    return planted.parameter.shared[::-1] + bytes(2)


@frozen
class _Refused:
    change: Callable[[Planted], None]
    code: RefusalCode


REFUSED = {
    "parameters-of-no-step": _Refused(_another_step, RefusalCode.PROGRAM_INVALID),
    "parameters-not-committed-to": _Refused(_other_parameters, RefusalCode.PROGRAM_INVALID),
    "key-not-committed-to": _Refused(_other_key, RefusalCode.NOT_AUTHENTIC),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_nothing_is_left_of_a_body_that_is_refused_and_the_refusal_quotes_nothing(
    worker: ResidueWorker, case: _Refused
) -> None:
    planted = worker.plant("residue.hold", SMALL)
    case.change(planted)
    job = planted.job
    header = Header(Kind.ASSIGN, job.job_id, 1, count=1, peer=PEER)
    worker.coordinator.send(header, job.envelope(), job.wrap(), *planted.segments)
    refusal = worker.refusal()
    assert refusal.code is case.code
    # The keys depend on the header, which has changed.
    forms = attrs.evolve(planted, keys=keys_of(job)).forms
    assert found_in(refusal.to_bytes(), forms) == []
    assert worker.left(forms) == []


# -- the limit that docs/worker.md names -----------------------------------------------------------


def test_of_a_kernels_own_array_at_most_the_last_number_stays(worker: ResidueWorker) -> None:
    """glibc overwrites a freed block of some sizes up to its last 8 bytes only."""
    planted = worker.plant("residue.odd", SMALL)
    worker.start(planted)
    assert worker.result(planted) == ""
    last = struct.pack("<d", 2.0 * planted.input.number(ODD_LENGTH - 1))
    raw = next(name for name, form in planted.forms.items() if form == planted.output.shared)
    others = {name: form for name, form in planted.forms.items() if name != raw}
    assert worker.left(others) == []
    stays = scan(worker.pid, {"any": planted.output.shared, "last": last})
    counts = {sighting.form: sighting.count for sighting in stays}
    assert counts.get("any", 0) == counts.get("last", 0) <= ODD_ARRAYS


# -- several at once -------------------------------------------------------------------------------


def test_nothing_is_left_of_a_job_while_another_one_still_runs(worker: ResidueWorker) -> None:
    """A cache that is only cleared by an idle worker would keep what the first one left."""
    ended, running = worker.plant("residue.hold", LARGE), worker.plant("residue.hold", SMALL)
    worker.start(running)
    worker.assign(ended)
    worker.feed(ended, dict(enumerate(ended.segments[:-1])))
    worker.wait_to_see(while_held(running) | {"ended": ended.input.shared})
    worker.revoke(ended)
    assert worker.left(ended.forms) == []
    worker.wait_to_see(while_held(running))
    assert worker.result(running) == ""
    assert worker.left(running.forms) == []


def test_a_kernel_that_quotes_its_input_writes_nothing_of_it_to_the_log(
    worker: ResidueWorker,
) -> None:
    planted = worker.plant("residue.crash", SMALL)
    worker.start(planted)
    assert worker.result(planted) == RefusalCode.KERNEL_FAILED.value
    written = worker.log.read_bytes()
    assert b"worker.ready" in written
    assert found_in(written, planted.forms) == []
