"""`enclave demo`: the whole journey on real data, with a death on the way, and an audit."""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click

from attestation.cli.demo_audit import audit
from attestation.cli.demo_cluster import Cluster, choose_kind
from attestation.cli.demo_dataset import splits
from attestation.cli.demo_jobs import run_jobs, wait_for_workers
from attestation.cli.demo_processes import (
    DemoProcessError,
    DemoProcesses,
    enclave_command,
    ended_like_ctrl_c,
)
from attestation.cli.demo_story import Story, facts
from attestation.cli.output import emit_json, json_option
from attestation.client.client import Client
from attestation.policy.loading import load_policy

SUMMARY: Final = "demo.json"
REPEATS: Final = 2

_MARKER: Final = ".enclave-demo"

_EPILOG: Final = """\b
Examples:
  enclave demo
  enclave demo --output demo-output --workers 3
  enclave demo --attester insecure --json

\b
Exit status: 0 all jobs done and verified, 1 something was refused or differs, 2 wrong usage,
3 a process or the software TPM is missing, 130 interrupted. No process is left in any case.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--workers", type=click.IntRange(2, 8), default=2, show_default=True, help="Worker processes."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where policy, receipts, evidence and logs are kept. Default: a new temporary directory.",
)
@click.option(
    "--attester",
    type=click.Choice(["auto", "tpm", "insecure"]),
    default="auto",
    show_default=True,
    help="What workers attest with. auto: a software TPM where it is installed, else insecure.",
)
@json_option
def demo(workers: int, output: Path | None, attester: str, *, as_json: bool) -> None:
    """Compute on real data through a coordinator and workers that prove what they did.

    Seals a cross-validated cancer diagnosis (569 biopsies) to the workers, kills one of them with
    -9 in mid-run, compares the results with plain NumPy, and verifies every receipt as an auditor
    would.
    """
    started = time.monotonic()
    kind, fallback = choose_kind(attester)
    directory = _prepare(output)
    story = Story(silent=as_json)
    with ended_like_ctrl_c(), DemoProcesses(directory / "logs") as processes:
        cluster = Cluster.start(
            processes,
            kind=kind,
            workers=workers,
            output=directory,
            catalogue=catalogue_digest(),
        )
        document = _run(cluster, processes, story, fallback=fallback, directory=directory)
    document |= {"output": str(directory), "seconds": round(time.monotonic() - started, 1)}
    (directory / SUMMARY).write_text(json.dumps(document, indent=2))
    story.ended(directory, document["seconds"])
    if as_json:
        emit_json(document)


def _run(
    cluster: Cluster, processes: DemoProcesses, story: Story, *, fallback: str, directory: Path
) -> dict[str, Any]:
    policy = load_policy(cluster.policy)
    story.begin(cluster, fallback, policy.digest())
    with Client(cluster.url, policy=policy) as client:
        wait_for_workers(client, processes, len(cluster.workers))
        story.accepted(len(cluster.workers))
        work = list(splits(repeats=REPEATS))
        story.submitting(len(work))
        done = run_jobs(client, cluster, processes, work)
        story.done(done)
        proofs = done.save(directory / "proofs")
    found = audit(proofs, cluster.policy)
    story.audited(found)
    return facts(cluster.kind, done, found)


def catalogue_digest() -> bytes:
    """Ask the installed worker which kernels it has: these, and no others, go into the policy."""
    result = subprocess.run(  # noqa: S603 - our own command line, no shell
        [*enclave_command(), "kernels", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if result.returncode != 0:
        raise DemoProcessError(f"enclave kernels failed:\n{result.stderr}")
    return bytes.fromhex(json.loads(result.stdout)["catalogue_digest"])


def _prepare(output: Path | None) -> Path:
    if output is None:
        directory = Path(tempfile.mkdtemp(prefix="enclave-demo-"))
    else:
        directory = output
        if directory.exists() and any(directory.iterdir()):
            # Only what an earlier demo made is ever deleted.
            if not (directory / _MARKER).is_file():
                raise click.BadParameter(f"{directory} holds other files", param_hint="--output")
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARKER).touch()
    return directory
