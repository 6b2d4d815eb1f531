"""Two hundred durable jobs while coordinator, workers and other clients are killed at random."""

import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from attestation.client.client import Client
from attestation.policy.loading import load_policy
from tests.faults.runs import check_whole
from tests.faults.tally import tally
from tests.faults.workload import Workload
from tests.scenarios.processes import Site, enclave
from tests.simulators.storm import Storm

pytestmark = pytest.mark.scenario

JOBS = 200
KILLS = 10
SEED = 20261111
SECONDS = 90.0


@pytest.mark.timeout(180)
def test_two_hundred_jobs_survive_a_storm_of_kill_9(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    began = time.monotonic()
    thrown = tmp_path / "thrown.npy"
    np.save(thrown, np.ones((4, 4)))
    with Site(tmp_path, lease_seconds=1.5) as site:
        storm = Storm(site, seed=SEED)
        throwaway = [
            *("submit", "nn.affine", "-i", f"x={thrown}", "-p", "scale=1", "-p", "shift=1"),
            *("-o", str(tmp_path / "thrown"), "--coordinator", site.url),
            *("--policy", str(site.policy_file)),
        ]
        with Client(site.url, policy=load_policy(site.policy_file)) as client:
            workload = Workload(client)
            while storm.kills() < KILLS or workload.submitted < JOBS:
                workload.submit(min(JOBS - workload.submitted, JOBS // KILLS))
                if storm.kills() % 3 == 2:
                    storm.throw_away(throwaway)
                else:
                    storm.pause()
                storm.strike()
            sample = [job for number, job in workload.jobs if number % (JOBS // 4) == 0]
            workload.check(SECONDS - (time.monotonic() - began))
            assert workload.submitted == JOBS
            assert client.jobs() == [], "acknowledged and kept"
            proofs = [job.save_proof(tmp_path / "proofs") for job in sample]
        check_what_is_left(storm, site.directory / "state")
        check_offline(proofs, site.policy_file)
    assert time.monotonic() - began < SECONDS
    tally(request, storm.faults)
    assert storm.faults["coordinator killed"] >= 3
    assert storm.faults["worker killed"] >= 3


def check_what_is_left(storm: Storm, state: Path) -> None:
    """Only jobs of clients that were killed, and files of no others."""
    assert storm.coordinator.terminate() == 0, storm.coordinator.output
    check_whole(state)
    with sqlite3.connect(state / "jobs.sqlite") as database:
        kept = {job_id.hex() for (job_id,) in database.execute("SELECT job_id FROM jobs")}
    assert len(kept) <= storm.faults["client killed"]
    assert {path.name.split(".")[0] for path in (state / "spool").iterdir()} <= kept


def check_offline(proofs: list[tuple[Path, Path]], policy: Path) -> None:
    """An auditor sees it the same way, from files."""
    for receipt, evidence in proofs:
        verify = ["receipt", "verify", str(receipt), "--evidence", str(evidence)]
        verified = subprocess.run(
            [*enclave(), *verify, "--policy", str(policy)], capture_output=True, check=False
        )
        assert verified.returncode == 0, verified.stderr.decode()
