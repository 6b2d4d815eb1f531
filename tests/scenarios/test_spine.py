"""The whole journey over real sockets and processes: one coordinator, two workers, real clients.

The evidence is `insecure`, under a policy that spells that out. Workers and coordinators are killed
with SIGKILL, never asked.
"""

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zmq.utils import z85

from attestation.client.client import Client
from attestation.client.errors import (
    CoordinatorUnreachableError,
    JobTimeoutError,
    NoWorkerError,
    PolicyUnmetError,
)
from attestation.client.jobs import Job
from attestation.client.transport import CurveKeys
from attestation.errors import EnclaveError
from attestation.policy.loading import load_policy
from tests.scenarios.processes import EnclaveProcess, Site, enclave, wait_until

pytestmark = pytest.mark.scenario

RESULT_SECONDS = 60.0
RNG = np.random.default_rng(20260101)

STRICT_POLICY = """\
version = 1

[evidence]
kinds = ["tpm"]
max_age_seconds = 0

[keys]
max_lifetime_seconds = 3600

[catalogue]
digests = "any"

[tpm]
pcr_bank = "sha256"
attestation_keys = ["sha256:{key}"]

[tpm.pcrs]
0 = ["{pcr}"]
"""

PIPELINE = """\
version = 1
inputs = ["x"]

[steps.clean]
kernel = "stats.standardize"
inputs = { x = "x" }

[steps.reduce]
kernel = "linalg.pca"
inputs = { x = "clean.z" }

[outputs]
scores = "reduce.scores"
"""


def connect(site: Site, **options: Any) -> Client:
    return Client(site.url, policy=load_policy(site.policy_file), **options)


def run_enclave(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*enclave(), *arguments], input=stdin, capture_output=True, timeout=120, check=False
    )


def slow_matrix() -> "np.ndarray[Any, Any]":
    """Return an input that keeps one core busy for a second or more in linalg.svd."""
    return RNG.standard_normal((800, 800))


def worker_that_runs(job: Job, workers: list[EnclaveProcess]) -> EnclaveProcess:
    """Wait until a worker says that it was given the job, and return it."""
    name = job.job_id.hex()[:16]

    def assigned(worker: EnclaveProcess) -> bool:
        return any("job.assigned" in line and name in line for line in worker.output.splitlines())

    wait_until(lambda: any(map(assigned, workers)), "no worker was given the job")
    return next(worker for worker in workers if assigned(worker))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A coordinator and two workers that every test here leaves as they are."""
    with Site(tmp_path_factory.mktemp("site")) as running:
        running.coordinator()
        running.workers(2)
        yield running


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Client]:
    with connect(site) as connected:
        yield connected


# -- the journey ----------------------------------------------------------------------------------


def test_three_client_processes_get_proven_results_from_two_workers(
    site: Site, tmp_path: Path
) -> None:
    inputs = [(RNG.standard_normal((20, 30)), RNG.standard_normal((30, 4))) for _ in range(3)]
    outcomes: list[subprocess.CompletedProcess[bytes]] = []

    def submit(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / "a.npy", inputs[number][0])
        np.savez(folder / "b.npz", b=inputs[number][1], other=np.zeros(3))
        outcomes.append(
            run_enclave(
                *("submit", "linalg.matmul", "--json"),
                *("-i", f"a={folder}/a.npy", "-i", f"b={folder}/b.npz:b"),
                *("-o", str(folder / "out"), "--coordinator", site.url),
                *("--policy", str(site.policy_file)),
                *(["--stream"] if number == 2 else []),
            )
        )

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        assert outcome.returncode == 0, outcome.stderr.decode()
        assert b"INSECURE" in outcome.stderr
        summary = json.loads(outcome.stdout)
        assert summary["insecure"] is True
        assert "INSECURE" in summary["warning"]
        assert summary["confidential"] is False
        verified = run_enclave(
            *("receipt", "verify", summary["receipt"], "--evidence", summary["evidence"]),
            *("--policy", str(site.policy_file)),
        )
        assert verified.returncode == 0, verified.stderr.decode()
    for number, (a, b) in enumerate(inputs):
        computed = np.load(tmp_path / str(number) / "out" / "c.npy", allow_pickle=False)
        np.testing.assert_allclose(computed, a @ b)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("rows", [3, 700])
def test_arrays_come_with_a_receipt_and_evidence_that_was_accepted(
    client: Client, tmp_path: Path, rows: int, durable: bool
) -> None:
    """Small jobs travel in one message, large ones segment by segment under credit."""
    a, b = RNG.standard_normal((rows, 900)), RNG.standard_normal((900, rows))
    job = client.submit("linalg.matmul", {"a": a, "b": b}, durable=durable)
    np.testing.assert_allclose(job.result(RESULT_SECONDS)["c"], a @ b)
    assert job.claims.job_id == job.job_id
    assert job.claims.client_key_id == client.key_id
    assert job.claims.evidence_digest == job.attestation.evidence_digest
    assert job.attestation.insecure
    receipt, evidence = job.save_proof(tmp_path)
    assert receipt.stat().st_size
    assert evidence.stat().st_size


def test_a_program_of_several_steps_runs_from_a_file_with_its_tensor_on_stdin(
    site: Site, tmp_path: Path
) -> None:
    program = tmp_path / "pipeline.toml"
    program.write_text(PIPELINE)
    source = tmp_path / "x.npy"
    np.save(source, RNG.standard_normal((50, 6)))
    outcome = run_enclave(
        *("submit", str(program), "-i", "x=-", "-p", "reduce.k=2", "-o", str(tmp_path / "out")),
        *("--coordinator", site.url, "--policy", str(site.policy_file)),
        stdin=source.read_bytes(),
    )
    assert outcome.returncode == 0, outcome.stderr.decode()
    assert np.load(tmp_path / "out" / "scores.npy", allow_pickle=False).shape == (50, 2)


def test_map_keeps_the_order_and_bounds_what_is_in_flight(client: Client) -> None:
    drawn = 0

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal drawn
        for number in range(40):
            drawn += 1
            yield {"x": np.full((4, 2), float(number))}

    means = []
    for done, job in enumerate(client.map("stats.describe", batches(), window=8), start=1):
        assert drawn - done <= 8
        means.append(job.result()["mean"][0])
    assert means == [float(number) for number in range(40)]


def test_a_commitment_that_binds_key_holders_too_is_verified(client: Client) -> None:
    job = client.submit("nn.softmax", {"x": np.ones((4, 4))}, commitment="sha256")
    job.result(RESULT_SECONDS)
    assert job.claims.commitment_kind == "sha256"


def test_nan_and_infinity_travel_like_any_other_number(client: Client) -> None:
    x = np.array([[np.nan, 1.0], [np.inf, -np.inf]])
    job = client.submit("nn.affine", {"x": x}, parameters={"scale": 2.0, "shift": 0.0})
    np.testing.assert_array_equal(job.result(RESULT_SECONDS)["y"], 2.0 * x)


def test_big_endian_and_strided_arrays_arrive_as_what_they_mean(client: Client) -> None:
    a = np.arange(24, dtype=">f8").reshape(4, 6)[:, ::2]
    b = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(3, 2))
    job = client.submit("linalg.matmul", {"a": a, "b": b})
    np.testing.assert_array_equal(job.result(RESULT_SECONDS)["c"], a.astype("<f8") @ b)


def test_plaintext_appears_in_nothing_that_coordinator_and_workers_write(
    site: Site, client: Client
) -> None:
    """Logs, store and spool are searched while the ciphertext of the job is on the disk."""
    marker = b"\x13\x37MARK\x00\x40"
    value = float(np.frombuffer(marker, dtype="<f8")[0])
    x = np.full((1000, 200), value)
    job = client.submit("stats.standardize", {"x": x})
    job.wait_accepted(RESULT_SECONDS)
    written = b"".join(path.read_bytes() for path in site.directory.rglob("*") if path.is_file())
    job.result(RESULT_SECONDS)
    written += b"".join(path.read_bytes() for path in site.directory.rglob("*") if path.is_file())
    assert marker * 2 not in written
    assert marker in x.tobytes()


# -- bad input: each with its code, nothing sent --------------------------------------------------

STRUCTURED = np.zeros(3, dtype=[("a", "f8")])
EYE = np.eye(3)

BAD_INPUT: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "objects": ("stats.describe", {"x": np.array([[object()]])}, {}, "tensor-dtype"),
    "structured": ("stats.describe", {"x": STRUCTURED}, {}, "tensor-dtype"),
    "dates": ("stats.describe", {"x": np.zeros((2, 2), "M8[s]")}, {}, "tensor-dtype"),
    "text": ("stats.describe", {"x": np.array([["a"]])}, {}, "tensor-dtype"),
    "ragged": ("stats.describe", {"x": [[1.0], [1.0, 2.0]]}, {}, "tensor-dtype"),
    "zero-dimensional": ("stats.describe", {"x": np.float64(1)}, {}, "shape-mismatch"),
    "empty": ("stats.describe", {"x": np.zeros((0, 3))}, {}, "tensor-empty"),
    "other-shapes": ("linalg.matmul", {"a": EYE, "b": np.eye(4)}, {}, "shape-mismatch"),
    "other-dtype": (
        "linalg.matmul",
        {"a": EYE, "b": EYE.astype("f4")},
        {},
        "dtype-mismatch",
    ),
    "missing-input": ("linalg.matmul", {"a": EYE}, {}, "input-missing"),
    "no-input": ("linalg.matmul", {}, {}, "input-missing"),
    "wrong-name": ("linalg.matmul", {"a": EYE, "b": EYE, "z": EYE}, {}, "input-unknown"),
    "unknown-kernel": ("linalg.nothing", {"a": EYE}, {}, "unknown-kernel"),
    "unknown-parameter": ("linalg.pca", {"x": EYE}, {"k": 1, "q": 2}, "parameter-unknown"),
    "parameter-range": ("linalg.pca", {"x": EYE}, {"k": 0}, "parameter-out-of-range"),
    "parameter-type": ("linalg.pca", {"x": EYE}, {"k": "two"}, "parameter-type"),
    "parameter-rule": ("linalg.pca", {"x": EYE}, {"k": 4}, "rule-broken"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused_with_its_code_before_anything_is_sent(
    client: Client, name: str
) -> None:
    program, inputs, parameters, code = BAD_INPUT[name]
    with pytest.raises(EnclaveError) as refused:
        client.submit(program, inputs, parameters=parameters)
    assert refused.value.code == code
    assert client.jobs() == []


def test_a_tensor_larger_than_every_worker_takes_is_refused_before_it_is_sent(
    tmp_path: Path,
) -> None:
    with Site(tmp_path) as site:
        site.coordinator()
        site.worker("--max-job-bytes", "100000")
        with connect(site) as client, pytest.raises(EnclaveError) as refused:
            client.submit("linalg.svd", {"a": np.zeros((100, 200))})
        assert refused.value.code == "too-large"


# -- nobody there ---------------------------------------------------------------------------------


def test_a_coordinator_that_is_down_is_said_so_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with pytest.raises(CoordinatorUnreachableError):
        connect(site, connect_timeout=0.5)
    outcome = run_enclave(
        "workers", "--coordinator", site.url, "--policy", str(site.policy_file), "--json"
    )
    assert outcome.returncode == 3
    assert json.loads(outcome.stdout)["error"]["code"] == "coordinator-unreachable"


def test_without_any_worker_submit_waits_says_so_and_gives_up(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.coordinator()
        with connect(site, worker_timeout=1.0) as client, pytest.raises(NoWorkerError):
            client.submit("stats.describe", {"x": EYE})
        np.save(tmp_path / "x.npy", EYE)
        outcome = run_enclave(
            *("submit", "stats.describe", "-i", f"x={tmp_path}/x.npy", "-o", str(tmp_path / "o")),
            *("--coordinator", site.url, "--policy", str(site.policy_file), "--timeout", "1"),
        )
        assert outcome.returncode == 3
        assert b"worker.waiting" in outcome.stderr
        assert b"error[no-worker]" in outcome.stderr
        assert b"Traceback" not in outcome.stderr
        assert not (tmp_path / "o").exists()


def test_ctrl_c_ends_a_waiting_command_with_130_and_no_traceback(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.coordinator()
        np.save(tmp_path / "x.npy", EYE)
        process = site.start(
            "submit",
            [
                *("submit", "stats.describe", "-i", f"x={tmp_path}/x.npy", "-o", str(tmp_path)),
                *("--coordinator", site.url, "--policy", str(site.policy_file)),
            ],
        )
        wait_until(lambda: "worker.waiting" in process.output, "submit does not wait")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(20) == 130
        assert "Traceback" not in process.output


def test_a_policy_that_no_worker_meets_names_the_check_that_failed_on_each(
    site: Site, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text(STRICT_POLICY.format(key="00" * 32, pcr="11" * 32))
    with Client(site.url, policy=load_policy(strict)) as client:
        with pytest.raises(PolicyUnmetError) as refused:
            client.submit("stats.describe", {"x": EYE})
        listed = {worker.entry.worker_id for worker in client.workers()}
    assert set(refused.value.refusals) == listed
    assert len(listed) == 2
    for (why,) in refused.value.refusals.values():
        assert (why.name, why.code) == ("kind", "kind-not-accepted")
    assert "kind: kind-not-accepted" in str(refused.value)
    for worker_id in listed:
        assert worker_id.hex()[:16] in str(refused.value)


# -- killed in mid-job ----------------------------------------------------------------------------


def kill_the_worker_of(
    submit: Callable[[Client], Job], directory: Path
) -> tuple[Job, bytes, dict[str, Any]]:
    """Run a job, kill its worker while it computes; returns the job, its first id, its result."""
    with Site(directory, lease_seconds=1.5) as site:
        site.coordinator()
        workers = site.workers(2)
        with connect(site) as client:
            job = submit(client)
            first_id = job.job_id
            worker_that_runs(job, workers).kill()
            assert not job.done()
            return job, first_id, job.result(RESULT_SECONDS)


def test_a_durable_job_moves_to_another_worker_when_its_own_is_killed(tmp_path: Path) -> None:
    """The client sends nothing again: the content key was wrapped for both workers."""
    a = slow_matrix()
    job, first_id, outputs = kill_the_worker_of(
        lambda client: client.submit("linalg.svd", {"a": a}), tmp_path
    )
    assert job.job_id == first_id
    assert job.claims.attempt >= 2
    np.testing.assert_allclose(outputs["s"], np.linalg.svd(a, compute_uv=False), rtol=1e-8)


def test_a_streaming_job_is_sealed_again_under_a_new_id_when_its_worker_is_killed(
    tmp_path: Path,
) -> None:
    a = slow_matrix()
    job, first_id, outputs = kill_the_worker_of(
        lambda client: client.submit("linalg.svd", {"a": a}, durable=False), tmp_path
    )
    assert job.job_id != first_id, "nothing may be sealed twice under one key"
    assert job.claims.job_id == job.job_id
    np.testing.assert_allclose(outputs["s"], np.linalg.svd(a, compute_uv=False), rtol=1e-8)


def test_a_worker_that_hangs_loses_its_lease_and_the_job_moves_on(tmp_path: Path) -> None:
    a = slow_matrix()
    with Site(tmp_path, lease_seconds=1.5) as site:
        site.coordinator()
        workers = site.workers(2)
        with connect(site) as client:
            job = client.submit("linalg.svd", {"a": a})
            worker_that_runs(job, workers).pause()
            job.result(RESULT_SECONDS)
            assert job.claims.attempt >= 2


def test_durable_jobs_survive_a_coordinator_that_is_killed_and_started_again(
    tmp_path: Path,
) -> None:
    """Three jobs: one small, one in the spool, one under way; the client only waits."""
    with Site(tmp_path, lease_seconds=1.5) as site:
        coordinator = site.coordinator()
        site.worker("--capacity", "1")
        with connect(site) as client:
            slow, x = slow_matrix(), RNG.standard_normal((400, 300))
            jobs = [
                client.submit("linalg.svd", {"a": slow}),
                client.submit("stats.standardize", {"x": x}),
                client.submit("stats.standardize", {"x": x[:10]}),
            ]
            for job in jobs:
                assert job.wait_accepted(RESULT_SECONDS)
            coordinator.kill()
            assert not jobs[-1].done()
            site.coordinator()
            results = [job.result(RESULT_SECONDS) for job in jobs]
            np.testing.assert_allclose(results[1]["z"].std(axis=0), 1.0, rtol=1e-6)
            assert results[2]["z"].shape == (10, 300)
            assert client.jobs() == [], "acknowledged results are forgotten"


def test_a_job_whose_deadline_passes_ends_with_a_timeout(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.coordinator()
        worker = site.worker()
        with connect(site) as client:
            client.submit("stats.describe", {"x": EYE}).result(RESULT_SECONDS)
            worker.pause()
            job = client.submit("stats.describe", {"x": EYE}, timeout=1.0)
            with pytest.raises(JobTimeoutError):
                job.result(0.2)
            assert not job.done()
            with pytest.raises(TimeoutError):
                job.result(RESULT_SECONDS)
            assert job.done()


def test_a_cancelled_job_is_taken_from_its_worker(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.coordinator()
        worker = site.worker()
        with connect(site) as client:
            job = client.submit("linalg.svd", {"a": slow_matrix()})
            worker_that_runs(job, [worker])
            assert job.cancel()
            assert job.cancelled()
            wait_until(lambda: client.jobs() == [], "the coordinator keeps a cancelled job")
            assert client.submit("stats.describe", {"x": EYE}).result(RESULT_SECONDS)


# -- outside loopback -----------------------------------------------------------------------------


def test_over_curve_only_keys_on_the_allow_list_get_in(tmp_path: Path) -> None:
    """The same journey with CURVE; a key that nobody allowed meets silence."""
    keys = tmp_path / "keys"
    for name, arguments in {
        "server": ["coordinator", "keygen"],
        "client": ["keygen", "--curve", "-o"],
        "stranger": ["keygen", "--curve", "-o"],
    }.items():
        made = run_enclave(*arguments, str(keys / name))
        assert made.returncode == 0, made.stderr.decode()
    server = keys / "server" / "coordinator.curve.pub"
    own = {name: keys / name / "client.curve" for name in ("client", "stranger")}
    curve = {name: CurveKeys.load(path, server) for name, path in own.items()}
    allowed = tmp_path / "allowed"
    allowed.write_text(f"{z85.encode(curve['client'].public).decode()} a client and a worker\n")
    with Site(tmp_path) as site:
        site.coordinator(
            *("--curve-key", str(keys / "server" / "coordinator.curve"), "--allow", str(allowed))
        )
        site.worker("--curve-key", str(own["client"]), "--coordinator-key", str(server))
        with connect(site, curve=curve["client"]) as client:
            assert client.submit("stats.describe", {"x": EYE}).result(RESULT_SECONDS)
        for wrong in (curve["stranger"], None):
            with pytest.raises(CoordinatorUnreachableError):
                connect(site, curve=wrong, connect_timeout=1.0)
