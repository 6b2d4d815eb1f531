"""How many instructions one small job takes: a figure that no neighbour on the machine changes.

valgrind counts, without sockets: the client's and the worker's own parts, one after another. Its
processor has no VAES, and what is meant to be compared are two versions of this project, not two
machines. Python's start is in every count: the work is done a few and many times, and the
difference counts.

    valgrind --tool=cachegrind python -m tests.bench.instructions STAGE TIMES
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from attestation import limits
from attestation.client.keys import ClientKey
from attestation.client.numpy_tensors import to_tensor
from attestation.client.requests import JobSpec, SealedRequest, choose, seal_request
from attestation.client.results import Delivery, verify_and_open
from attestation.client.workers import ReadyWorker
from attestation.identifiers import SessionId
from attestation.sealing.recycled import RecycledBuffers
from attestation.wire.client_session import ClientSession
from attestation.wire.messages import AttestationReply, SessionAccepted, parse
from enclave_worker.admission import JobOffer
from enclave_worker.executor import JobExecution
from tests.fuzz import honest

STAGES: Final = {
    "seal": "the client plans, seals and signs",
    "run": "the worker admits, opens, computes, seals and signs",
    "open": "the client verifies the receipt and opens",
}
FEW: Final = 10
MANY: Final = 30
TIMEOUT: Final = 200

_COUNT: Final = re.compile(r"I\s+refs:\s+([\d,]+)")


class _Pair:
    """A client and a worker with an open session, in one process."""

    def __init__(self) -> None:
        site, self.key = honest.workshop(), ClientKey.of(None)
        self.buffers = RecycledBuffers()
        self.site = site
        self.admission = site.admission
        session = ClientSession(policy=honest.any_catalogue(), client_key=self.key.public_bytes)
        challenge = session.challenge(os.urandom(32)).to_bytes()
        site.attestations.receive(honest.PEER, challenge, site.now_ms)
        site.now_ms += 1000
        site.attestations.tick(site.now_ms)
        (answer,) = site.attestations.collected(site.wait_for_collection())
        assert isinstance(answer.record, AttestationReply)
        now = datetime.fromtimestamp(site.now_ms / 1000, UTC)
        accepted = session.receive_attestation(answer.record, now=now)
        opening = session.open(SessionId(os.urandom(16)), sign=self.key.sign)
        (answer,) = site.attestations.receive(honest.PEER, opening.to_bytes(), site.now_ms)
        confirmation = parse(answer.record.to_bytes())
        assert isinstance(confirmation, SessionAccepted)
        session.receive_accepted(confirmation)
        self.worker = ReadyWorker(
            worker_id=honest.WORKER_ID,
            description=honest.description(catalogue_digest=site.catalogue_digest),
            session=session,
            accepted=accepted,
        )
        tensor, array = to_tensor("x", np.arange(limits.KIB // 4, dtype=np.float32).reshape(-1, 2))
        self.spec = JobSpec(
            program=honest.KERNEL,
            parameters={},
            arrays={"x": array},
            specs={"x": tensor},
            durable=False,
            deadline_ms=1 << 50,
        )

    def seal(self) -> SealedRequest:
        return seal_request(self.spec, choose(self.spec, [self.worker], 1 << 30), self.key)

    def run(self, request: SealedRequest) -> tuple[bytes, ...]:
        site = self.site
        offer = JobOffer(
            job_id=request.job_id,
            attempt=1,
            input_segments=len(request.inline),
            envelope=request.envelope,
            wrap=dict(request.record.wraps)[honest.WORKER_ID],
        )
        admitted = self.admission.admit(offer, now_ms=site.now_ms)
        with JobExecution(
            admitted, engine=site.engine, pool=site.pool, clock=site.clock
        ) as execution:
            for index, segment in enumerate(request.inline):
                execution.add_segment(index, segment)
            execution.run()
            segments = [bytes(segment) for segment in execution.segments()]
            finished = execution.finish()
        (receipt,) = site.attestations.issuer(admitted.keyset_id).issue([finished.draft])
        return finished.result.to_bytes(), receipt.to_bytes(), *segments

    def open(self, request: SealedRequest, frames: tuple[bytes, ...]) -> None:
        delivery = Delivery(attempt=1, header=frames[0], receipt=frames[1], segments=frames[2:])
        verify_and_open(request, delivery, self.key.key_id, self.buffers)


def instructions() -> list[dict[str, Any]] | str:
    """Return the instructions of each stage of one job of 1 KiB, or why they cannot be counted."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    try:
        counts = {(stage, times): _count(stage, times) for stage in STAGES for times in (FEW, MANY)}
    except (CountError, subprocess.TimeoutExpired) as error:
        return str(error)
    return per_stage(counts)


def per_stage(counts: Mapping[tuple[str, int], int]) -> list[dict[str, Any]]:
    """Return what each stage adds to the stages before it, for one job."""
    found, before = [], 0.0
    for stage, work in STAGES.items():
        upto = (counts[stage, MANY] - counts[stage, FEW]) / (MANY - FEW)
        found.append({"work": f"1 KiB job: {work}", "instructions": upto - before})
        before = upto
    return found


class CountError(Exception):
    """valgrind did not count; the message says what it said instead."""


def _count(stage: str, times: int) -> int:
    done = subprocess.run(
        [
            *("valgrind", "--tool=cachegrind", "--cache-sim=no"),
            "--cachegrind-out-file=/dev/null",
            *(sys.executable, "-m", "tests.bench.instructions", stage, str(times)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
        # The order of sets, and with it the work, would differ from one start to the next.
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    found = _COUNT.search(done.stderr)
    if done.returncode or found is None:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise CountError(f"valgrind: {lines[-1][:200]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Do the stages up to the one asked for, so many times."""
    stage, times = sys.argv[1], int(sys.argv[2])
    upto = list(STAGES).index(stage)
    pair = _Pair()
    for _ in range(times):
        request = pair.seal()
        if upto >= 1:
            frames = pair.run(request)
            if upto >= 2:
                pair.open(request, frames)


if __name__ == "__main__":
    main()
