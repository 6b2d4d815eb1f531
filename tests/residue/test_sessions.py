"""G10: session keys end with their key set, and everything ends before the process does."""

import os
import signal
from pathlib import Path

from tests.residue.harness import LARGE, SMALL, ResidueWorker, session_keys_of
from tests.simulators.markers import all_forms
from tests.simulators.memory_scan import needs_root
from tests.worker.simulated_client import SimulatedClient

pytestmark = needs_root()

KEYSET_SECONDS = 6


def test_session_keys_are_gone_when_their_key_set_expires(tmp_path: Path) -> None:
    """Nobody tells a worker that a client left: the key set's end is what ends its sessions."""
    with ResidueWorker(tmp_path, keyset_seconds=KEYSET_SECONDS) as worker:
        planted = worker.plant("residue.hold", SMALL)
        secret, wrap = session_keys_of(worker.client)
        # The secret is derived from at once and kept by nobody; the wrap key serves every job.
        worker.wait_to_see({"wrap key": wrap.data})
        assert worker.left(secret.forms) == []
        worker.start(planted)
        assert worker.result(planted) == ""
        worker.coordinator.pump(KEYSET_SECONDS)
        assert worker.left(all_forms(secret, wrap) | planted.forms) == []


def test_a_worker_that_was_asked_to_end_holds_nothing_when_its_work_is_done(tmp_path: Path) -> None:
    """SIGTERM in the middle of a job: the job ends, then every key goes, then the process."""
    with ResidueWorker(tmp_path) as worker:
        second = SimulatedClient()
        worker.open_session(second)
        sessions = [key for client in (worker.client, second) for key in session_keys_of(client)]
        planted = worker.plant("residue.hold", LARGE)
        worker.start(planted)
        wraps = {f"wrap key {index}": key.data for index, key in enumerate(sessions[1::2])}
        worker.wait_to_see(wraps | {"input": planted.input.shared})
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.result(planted) == ""
        worker.coordinator.wait(worker.done.exists)
        assert worker.process.poll() is None, "the process must still be there to be searched"
        assert worker.left(all_forms(*sessions) | planted.forms) == []
