"""A real coordinator and a real worker, scraped while they work."""

import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zmq

from attestation.client.client import Client
from attestation.client.errors import JobFailedError
from attestation.policy.loading import load_policy
from tests.observability.planted import Planted
from tests.observability.scrape import growing, label_values, scrape, total
from tests.scenarios.processes import EnclaveProcess, Site, free_port, wait_until

pytestmark = pytest.mark.scenario

RESULT_SECONDS = 60.0
SMALL, LARGE = 4096, 12 << 20
JOBS = 9
"""Jobs by themselves, the last of which fails."""
ITEMS = 20
"""Small batches of a map, which travel together."""
COORDINATOR, WORKER = "coordinator", "worker"


class Watched:
    """A site whose processes are scraped; every text is kept."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory)
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in (COORDINATOR, WORKER)}
        self.texts: dict[str, list[str]] = {name: [] for name in self.addresses}

    def start(self) -> tuple[EnclaveProcess, EnclaveProcess]:
        return (
            self.site.coordinator("--metrics", self.addresses[COORDINATOR]),
            self.site.worker("--metrics", self.addresses[WORKER]),
        )

    def look(self, name: str) -> str:
        text = scrape(self.addresses[name])
        self.texts[name].append(text)
        return text


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Iterator[Watched]:
    """Jobs of both sizes and kinds, one that fails and one peer that is refused."""
    watched = Watched(tmp_path_factory.mktemp("watched"))
    with watched.site as site:
        watched.start()
        for name in watched.addresses:
            watched.look(name)
        stop = threading.Event()

        def scrape_all_the_time() -> None:
            while not stop.wait(0.02):
                for name in watched.addresses:
                    watched.look(name)

        scraper = threading.Thread(target=scrape_all_the_time)
        scraper.start()
        try:
            _work(site, planted)
        finally:
            stop.set()
            scraper.join()
        # The last acknowledgement has no answer to wait for.
        wait_until(lambda: _all_acknowledged(watched.look(COORDINATOR)), "acknowledged")
        watched.look(WORKER)
        yield watched


def _all_acknowledged(text: str) -> bool:
    done, acknowledged = (
        total(text, f"enclave_coordinator_jobs_{name}_total") for name in ("done", "acknowledged")
    )
    return done == acknowledged


def _work(site: Site, planted: Planted) -> None:
    with Client(site.url, policy=load_policy(site.policy_file), key=planted.key) as client:
        jobs = [
            planted.submit(client, nbytes, durable=durable)
            for nbytes in (SMALL, SMALL, SMALL, LARGE)
            for durable in (True, False)
        ]
        for job in jobs:
            job.result(RESULT_SECONDS)
        batches = [{"x": np.full(4, number, dtype=np.float32)} for number in range(ITEMS)]
        for item in client.map("nn.affine", batches, parameters={"scale": 2.0, "shift": 0.0}):
            item.result()
        with pytest.raises(JobFailedError):
            planted.fail(client).result(RESULT_SECONDS)
    stranger: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    stranger.connect(site.url)
    stranger.send(b"not a header")
    assert stranger.poll(10_000)
    stranger.close(0)


def test_work_shows_in_the_numbers(watched: Watched) -> None:
    text = watched.texts[COORDINATOR][-1]
    jobs = total(text, "enclave_coordinator_jobs_done_total")
    assert JOBS < jobs <= JOBS + ITEMS
    for name in ("accepted", "assigned", "acknowledged"):
        assert total(text, f"enclave_coordinator_jobs_{name}_total") == jobs
    assert total(text, "enclave_coordinator_refusals_total", code="malformed") == 1
    assert total(text, "enclave_coordinator_commit_seconds_count") > 0
    assert total(text, "enclave_coordinator_received_bytes_total") > 4 * LARGE
    assert total(text, "enclave_coordinator_sent_bytes_total") > 4 * LARGE
    assert total(text, "enclave_coordinator_peers", role="worker") == 1
    assert total(text, "enclave_coordinator_jobs") == 0
    assert total(text, "enclave_coordinator_memory_bytes") == 0

    text = watched.texts[WORKER][-1]
    assert total(text, "enclave_worker_jobs_total", ending="done") == jobs - 1
    assert total(text, "enclave_worker_jobs_total", ending="failed") == 1
    assert total(text, "enclave_worker_items_total", ending="done") == JOBS - 1 + ITEMS
    assert total(text, "enclave_worker_items_total", ending="failed") == 1
    assert total(text, "enclave_worker_job_seconds_count") == jobs
    assert total(text, "enclave_worker_opened_bytes_total") > 2 * LARGE
    assert total(text, "enclave_worker_sealed_bytes_total") > 2 * LARGE
    assert total(text, "enclave_worker_collections_total", ending="done") >= 1
    assert total(text, "enclave_worker_keysets") >= 1
    for phase in ("admit", "wait", "open", "kernel", "seal"):
        assert total(text, "enclave_worker_job_phase_seconds_total", phase=phase) > 0
    phases = total(text, "enclave_worker_job_phase_seconds_total")
    assert phases <= total(text, "enclave_worker_job_seconds_sum") * 1.001


def test_a_job_that_runs_is_seen_running(watched: Watched) -> None:
    running = [total(text, "enclave_worker_jobs_running") for text in watched.texts[WORKER]]
    assert max(running) >= 1
    assert running[-1] == 0
    leased = [
        total(text, "enclave_coordinator_jobs", state="leased")
        + total(text, "enclave_coordinator_jobs", state="streaming-leased")
        for text in watched.texts[COORDINATOR]
    ]
    assert max(leased) >= 1


def test_what_is_counted_never_shrinks(watched: Watched) -> None:
    for texts in watched.texts.values():
        assert len(texts) > 3
        for before, after in pairwise(texts):
            later = growing(after)
            assert growing(before).keys() == later.keys()
            for sample, value in growing(before).items():
                assert later[sample] >= value, sample


def test_no_number_says_whose_job_it_was_or_what_was_in_it(
    watched: Watched, planted: Planted
) -> None:
    for texts in watched.texts.values():
        planted.assert_unseen({str(number): text for number, text in enumerate(texts)})
        public = planted.key.public_key().public_bytes_raw().hex()[:16]
        assert not any(public in text for text in texts)


def test_labels_are_words_of_ours_and_bounds(watched: Watched) -> None:
    """The same before and after the work: nothing that a peer sent became a label."""
    for texts in watched.texts.values():
        assert label_values(texts[:1]) == label_values(texts)
        for value in label_values(texts):
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*|[0-9.e+-]+|\+Inf", value)


def test_other_machines_are_not_served_unless_it_is_said(tmp_path: Path) -> None:
    for arguments in (
        ("coordinator", "--listen", "tcp://127.0.0.1:0", "--state", str(tmp_path / "state")),
        ("worker", "--coordinator", "tcp://127.0.0.1:1", "--attester", "insecure"),
    ):
        with Site(tmp_path) as site:
            process = site.start(arguments[0], [*arguments, "--metrics", "0.0.0.0:0"])
            assert process.popen.wait(30) == 3
            assert "--metrics-anywhere" in process.output


def test_nobody_listens_unless_metrics_were_asked_for(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        process = site.coordinator()
        assert "metrics.ready" not in process.output
        assert "metrics" not in _threads(process)


def _threads(process: EnclaveProcess) -> set[str]:
    tasks = Path(f"/proc/{process.popen.pid}/task")
    return {(task / "comm").read_text().strip() for task in tasks.iterdir()}
