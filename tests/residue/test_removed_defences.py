"""Each defence against residue is needed: without it, the same search finds what it prevents."""

from pathlib import Path

import pytest

from tests.residue import worker_main
from tests.residue.harness import LARGE, SMALL, ResidueWorker
from tests.simulators.memory_scan import needs_root, scan

pytestmark = needs_root()

WHAT_STAYS = {
    # Names of steps, parameters and derived keys are small Python objects.
    worker_main.PLAIN_HEAP: (SMALL, "step: text"),
    # A kernel's own arrays of some kilobytes are blocks of the heap.
    worker_main.OVERWRITING: (SMALL, "input*2: raw"),
    # Its arrays below 1 KiB are in NumPy's cache.
    worker_main.SCRUBBING: (SMALL, "input*2: raw"),
    # Inputs and outputs lie in buffers that serve the next job.
    worker_main.WIPING: (LARGE, "input: raw"),
}


@pytest.mark.parametrize("defence", list(WHAT_STAYS))
def test_without_this_defence_residue_is_found(tmp_path: Path, defence: str) -> None:
    nbytes, form = WHAT_STAYS[defence]
    with ResidueWorker(tmp_path, without=defence) as worker:
        planted = worker.plant("residue.hold", nbytes)
        worker.start(planted)
        assert worker.result(planted) == ""
        worker.coordinator.pump(1.5)
        assert form in {sighting.form for sighting in scan(worker.pid, planted.forms)}
